"""What the outer loop costs in loss, and what it saves in bytes: a small character model over several members.

Run: python tests/bench/outer.py [--json] [--case NAME ...] [--sweep] [--large] [--steps 2000] [--seed 0] [--plot FILE] [--processes 2]

Each case is a run of its own from the same first parameters over the same number of tokens, in one process and without a
network: the members' replicas, ledgers, numbers and outer optimiser are those of a swarm. `value` is the held-out loss in
nats a character, `off` how far it is from the synchronous run's, relative; what it may be is `off_reach`. `bytes` is
what one member sends in all; `ratio` is the synchronous loss by ours. `--sweep` tries outer settings instead of the cases.
`--large` takes a model of four times as many parameters, on which none of the settings were chosen.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import functools
import json
import multiprocessing
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
from _report import machine, say, show

MEMBERS = 4
INNER_STEPS = 20
MARKS = 20
BATCHES = 24
SYNCHRONOUS = "outer_synchronous"
EXACT = {"codec": "none", "gather_codec": "none"}
SMALL = {"model": {"width": 48, "layers": 1}}
BASE: dict[str, Any] = {
    "model": "charlm",
    "data": "stdlib",
    "options": json.dumps(SMALL),
    "batch_size": 8,
    "context": 32,
    "learning_rate": 3e-3,
    "inner_steps": INNER_STEPS,
    "overlap_steps": 0,
    "outer_learning_rate": 0.7,
    "outer_momentum": 0.7,
}

LARGE: dict[str, Any] = {
    "options": json.dumps({"model": {"width": 96, "layers": 2}}),
    "context": 48,
    "learning_rate": 2e-3,
}


@attrs.frozen
class Case:
    """One run: keys of its `TrainingConfig`, how many members it has, and how far off its loss may be."""

    name: str
    settings: dict[str, Any]
    members: int = MEMBERS
    off_reach: float | None = None


CASES = (
    Case(SYNCHRONOUS, EXACT | {"inner_steps": 1, "outer_optimiser": "average"}),
    Case("outer_diloco", EXACT),
    Case("outer_diloco_int8", {"codec": "int8"}, off_reach=0.02),
    Case("outer_diloco_int4", {"codec": "int4"}, off_reach=0.02),
    Case("outer_streaming_int4", {"codec": "int4", "fragments": 4, "overlap_steps": 5}, off_reach=0.02),
    Case("outer_average_int8", {"codec": "int8", "outer_optimiser": "average"}),
    Case("outer_federated_int8", {"codec": "int8", "outer_optimiser": "average", "participation": 0.5}, members=8),
    Case("outer_sparse", {"codec": "topk", "outer_optimiser": "sgd", "outer_learning_rate": 1.0}),
)


def _nesterov(eta: float, mu: float) -> Case:
    return Case(f"nesterov_{eta:g}_{mu:g}", EXACT | {"outer_learning_rate": eta, "outer_momentum": mu})


SWEEP = (
    CASES[0],
    Case("average", EXACT | {"outer_optimiser": "average"}),
    *(_nesterov(eta, mu) for eta, mu in ((0.7, 0.5), (0.7, 0.7), (0.7, 0.9), (1.0, 0.5))),
)
"""Without a codec, so that nothing but the outer optimiser differs."""


class Member:
    """One member: its replica, and what it owes."""

    def __init__(self, config: Any, rank: int, fragments: Any) -> None:
        from prime.trainer.replica import Replica
        from prime.trainer.swarm.carry import Ledgers

        self.replica = Replica(config, rank)
        self.ledgers: Any = Ledgers(fragments.of_round)
        self.sent_bytes = 0


class Run:
    """All members of one run, and the state that they share."""

    def __init__(self, case: Case, seed: int) -> None:
        import numpy as np

        from prime.trainer.metadata import TrainingConfig
        from prime.trainer.outer.fragments import Fragments
        from prime.trainer.outer.optimisers import outer_optimiser
        from prime.trainer.replica import Replica
        from prime.trainer.round.view import Member as Seat
        from prime.trainer.round.view import view_of
        from prime.trainer.swarm.float32 import Float32

        self.config = config = TrainingConfig(**BASE | case.settings | {"seed": seed})
        self.theta = Replica(config, 0).initial
        self.fragments = Fragments(self.theta.size, config.fragments)
        self.optimiser = outer_optimiser(config)
        self.slots = tuple(np.zeros_like(self.theta) for _ in range(self.optimiser.slots))
        self.numbers = Float32.of(config)
        self.members = [Member(config, rank, self.fragments) for rank in range(case.members)]
        self.view = view_of("bench", 1, [Seat(str(rank), (), 1.0, 1) for rank in range(case.members)])

    def asked(self, round_: int) -> list[Member]:
        """Return the members that work for a round."""
        chosen = self.view.chosen(round_, self.config.participation)
        return [member for rank, member in enumerate(self.members) if str(rank) in chosen]

    def train(self, steps: int) -> Iterator[tuple[int, float]]:
        """Train for so many steps; yield the step and the held-out loss at each of the marks."""
        step, round_, marks = 0, 1, [steps * (i + 1) // MARKS for i in range(MARKS)]
        due, landing = self.fragments.steps_of(1, self.config.inner_steps), None
        while step < steps:
            stop = min(due, *marks, *([landing[0]] if landing else []), steps)
            for member in self.asked(round_):
                member.replica.train(stop - step, lambda: False)
            step = stop
            if landing is not None and step >= landing[0]:
                self._apply(*landing[1:])
                landing = None
            if step >= due:
                landing = (step + self.config.overlap_steps, round_, self._exchange(round_))
                round_ += 1
                due += self.fragments.steps_of(round_, self.config.inner_steps)
                if not self.config.overlap_steps:
                    self._apply(*landing[1:])
                    landing = None
            if marks and step >= marks[0]:
                marks.pop(0)
                marks = marks or [steps]
                yield step, self.members[0].replica.evaluate(self.theta, BATCHES)

    def _exchange(self, round_: int) -> Any:
        """Return what the round makes of the contributions: encoded, reduced and decoded as between nodes."""
        cut, whole = self.fragments.cut_of(round_), slice(0, self.fragments.elements_of(round_))
        asked, encoded, weights = self.asked(round_), [], []
        for member in asked:
            delta = self.theta[cut] - member.replica.take_snapshot(cut)
            frozen = member.ledgers.of(round_).freeze(round_, delta, 1.0)
            data = self.numbers.encode(frozen.y, whole)
            residual = self.numbers.residual(frozen.y, [(whole, data)]) if self.numbers.feeds_back else None
            member.ledgers.of(round_).commit(round_, included=True, residual=residual)
            encoded.append(data)
            weights.append(frozen.weight)
        result = self.numbers.reduce(encoded, weights, whole)
        self._count(asked, encoded, result)
        room = self.numbers.room(whole.stop)
        room.decode(result, whole)
        return room.vector()

    def _count(self, asked: list[Member], encoded: list[memoryview], result: memoryview) -> None:
        """Count what each sends: its contribution but for its own part, and the part that it reduced to all others."""
        others = len(self.members) - 1
        for member, data in zip(asked, encoded, strict=True):
            member.sent_bytes += len(data) * others // len(self.members)
        for member in self.members:
            member.sent_bytes += len(result) * others // len(self.members)

    def _apply(self, round_: int, aggregate: Any) -> None:
        cut = self.fragments.cut_of(round_)
        into = tuple(vector[cut] for vector in (self.theta, *self.slots))
        self.optimiser.apply_into(into[0], into[1:], aggregate, into)
        for member in self.members:
            member.replica.rebase(into[0], cut.start)


def run_case(case: Case, steps: int, seed: int) -> dict[str, Any]:
    """Train one case from start to end."""
    run = Run(case, seed)
    curve = list(run.train(steps))
    sent = sum(member.sent_bytes for member in run.members) / len(run.members)
    return {"curve": curve, "bytes": sent, "parameters": run.theta.size}


def measured(cases: list[Case], steps: int, processes: int, seed: int) -> dict[str, dict[str, Any]]:
    """Run the cases, some at a time, each in a fresh process with one thread."""
    os.environ["OMP_NUM_THREADS"] = "1"
    context = multiprocessing.get_context("spawn")
    found: dict[str, dict[str, Any]] = {}
    with concurrent.futures.ProcessPoolExecutor(processes, context, max_tasks_per_child=1) as pool:
        work = {pool.submit(functools.partial(run_case, case, steps, seed)): case for case in cases}
        for done in concurrent.futures.as_completed(work):
            found[work[done].name] = done.result()
            say(f"{work[done].name}: {found[work[done].name]['curve'][-1][1]:.4f}")
    return found


def row_of(case: Case, ours: dict[str, Any], exact: dict[str, Any]) -> dict[str, Any]:
    """Return what is printed of a case."""
    loss, reference = ours["curve"][-1][1], exact["curve"][-1][1]
    return {
        "case": case.name,
        "value": loss,
        "unit": "nats",
        "against": "synchronous",
        "against_value": reference,
        "ratio": reference / loss,
        "off": loss / reference - 1,
        "off_reach": case.off_reach,
        "bytes": ours["bytes"],
        "bytes_ratio": exact["bytes"] / ours["bytes"],
        "curve": ours["curve"],
    }


def chosen(arguments: argparse.Namespace) -> list[Case]:
    """Return the cases that are asked for, with the synchronous one that they are measured against."""
    cases = SWEEP if arguments.sweep else CASES
    if arguments.large:
        cases = tuple(attrs.evolve(case, settings=LARGE | case.settings) for case in cases)
    unknown = set(arguments.case) - {case.name for case in cases}
    if unknown:
        raise SystemExit(
            f"no case is called {', '.join(sorted(unknown))}: there are {', '.join(c.name for c in cases)}"
        )
    return [case for case in cases if not arguments.case or case.name in (*arguments.case, SYNCHRONOUS)]


def main() -> None:
    """Run the bench."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("--case", action="append", default=[], help="a case to run; again for more")
    parser.add_argument("--sweep", action="store_true", help="try outer settings instead of the cases")
    parser.add_argument("--large", action="store_true", help="train the larger model")
    parser.add_argument("--steps", type=int, default=2000, help="inner steps of each member")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=2, help="cases that run at the same time")
    parser.add_argument("--plot", type=Path, help="draw the curves into this file")
    arguments = parser.parse_args()
    before, cases = machine(), chosen(arguments)
    found = measured(cases, arguments.steps, arguments.processes, arguments.seed)
    results = [row_of(case, found[case.name], found[SYNCHRONOUS]) for case in cases]
    for row in results:
        say(f"{row['case']:22} {row['value']:.4f} nats, {row['off']:+.2%}; {row['bytes']:,.0f} bytes a member, "
            f"{row['bytes_ratio']:.1f} times fewer")  # fmt: skip
    if arguments.plot is not None:
        from _curves import draw

        draw(results, arguments.plot)
    show("outer", results, before, as_json=arguments.json)


if __name__ == "__main__":
    main()
