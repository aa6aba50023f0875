"""What each rule of aggregation holds against: a classifier of digits trained by nine members, some of them liars.

Run: python tests/bench/robust.py [--json] [--case NAME ...] [--rounds 40] [--plot FILE]

One process, no network: every honest member is a `Replica` with its own order of the data, and what it contributes
takes the way of a round: encoded in int8, checked, weighed by the leader's coefficients from the Gram matrix, reduced
chunk by chunk, encoded again, applied by the outer step. The liars (`_attacks.py`) know what everyone else sends. As
many lie as the rule admits of nine; under plain mean, which admits none, one does.

Cases, by rule: mean, mean_gate (with the gate at 3), median, trimmed-mean, krum, multi-krum, centred-clipping. `value` is
the highest final held-out loss in nats over all attacks, `against` the same rule's with nine honest members, `ratio`
that one by the value; `losses` has each. `spread` is how far honest contributions lie from their mean, by its length,
over the rounds: here a round is one pass over the data in large batches. `noisy_…` is the same with small batches, where
contributions differ more than they agree: what then is left of each rule. `speed_…`: an owner's work against a mean's.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import timeit
from pathlib import Path
from typing import Any, Final

import attrs
import numpy as np
from _attacks import ATTACKS, Liars, Rows
from _report import machine, say, show

from prime.errors import DecodeError, LocalProtocolError
from prime.trainer.codec import Vector
from prime.trainer.metadata import TrainingConfig
from prime.trainer.outer.optimisers import outer_optimiser
from prime.trainer.replica import Replica
from prime.trainer.robust.rules import Rule, byzantine_admitted, coefficients
from prime.trainer.swarm.float32 import Float32

MEMBERS: Final = 9
WITHIN: Final = 1.05
"""How much higher than the clean run's a final loss may be."""
GATE: Final = 3.0
SPEED_ELEMENTS: Final = 1 << 21
CONFIG: Final = TrainingConfig(
    model="mlp",
    data="digits",
    options=json.dumps({"model": {"width": 32}}),
    inner_steps=3,
    batch_size=479,
    learning_rate=3e-3,
    warmup_steps=10,
    outer_optimiser="average",
)
NOISY: Final = attrs.evolve(CONFIG, batch_size=16)
"""A thirtieth of the data in each round: what a member sends is mostly noise of its own."""


def rules() -> dict[str, Rule]:
    """Return the rule of each case."""
    robust = ("median", "trimmed-mean", "krum", "multi-krum", "centred-clipping")
    found = {name: Rule(name, byzantine_admitted(name, MEMBERS), GATE) for name in robust}
    return {"mean": Rule(), "mean_gate": Rule("mean", 0, GATE), **found}


def liars_of(rule: Rule) -> int:
    """Return how many of the members lie: as many as the rule admits, and one where it admits none."""
    return max(rule.byzantine_max, 1)


# ------------------------------------------------------------------------------------------------------ one round


def aggregate(rule: Rule, sent: list[Vector | None], elements: int) -> Vector | None:
    """Return what a round makes of what its members send; None where it is aborted."""
    numbers, room = Float32(), Float32().room(elements)
    cuts = [slice(at, min(at + numbers.chunk_elements, elements)) for at in range(0, elements, numbers.chunk_elements)]
    candidates = [chunks for y in sent if (chunks := _accepted(numbers, y, cuts)) is not None]
    if rule.fault(len(candidates), len(sent)):
        return None
    weights = [1.0] * len(candidates)
    if rule.measured:
        verdicts = coefficients(rule, _gram(numbers, candidates, cuts), weights)
        weights = [verdict.coefficient for verdict in verdicts]
    counted = [(chunks, weight) for chunks, weight in zip(candidates, weights, strict=True) if weight]
    if not counted:
        return None
    for i, cut in enumerate(cuts):
        data = numbers.reduce([chunks[i] for chunks, _ in counted], [weight for _, weight in counted], cut, rule)
        room.decode(data, cut)
    return room.vector()


def _accepted(numbers: Float32, y: Vector | None, cuts: list[slice]) -> list[memoryview] | None:
    """Return a contribution's chunks as an owner holds them; None for one that it refuses."""
    try:
        chunks = [_forged(cut) if y is None else numbers.encode(y, cut) for cut in cuts]
        for chunk, cut in zip(chunks, cuts, strict=True):
            numbers.check(chunk, cut)
    except (DecodeError, LocalProtocolError):
        return None
    return chunks


def _forged(cut: slice) -> memoryview:
    """Return a chunk whose last scale is NaN."""
    data = bytearray(Float32().encode(np.ones(cut.stop - cut.start, np.float32), slice(0, cut.stop - cut.start)))
    data[-4:] = b"\xff" * 4
    return memoryview(data)


def _gram(numbers: Float32, candidates: list[list[memoryview]], cuts: list[slice]) -> list[list[float]]:
    n = len(candidates)
    gram = np.zeros((n, n))
    for i, cut in enumerate(cuts):
        gram[np.triu_indices(n)] += numbers.multiply([chunks[i] for chunks in candidates], cut)
    return [[float(x) for x in row] for row in np.triu(gram) + np.triu(gram, 1).T]


# -------------------------------------------------------------------------------------------------------- training


@attrs.frozen
class Course:
    """How a run went: held-out losses in nats, the last one over all that is held out, and the spread of each round."""

    final: float
    losses: tuple[float, ...]
    spreads: tuple[float, ...]


def trained(rule: Rule, plan: str, rounds: int, config: TrainingConfig = CONFIG) -> Course:
    """Train with liars that follow a plan (empty: nobody lies)."""
    liars = Liars(plan, liars_of(rule), rule.norm_gate)
    members = [Replica(config, rank) for rank in range(MEMBERS - liars.count)]
    outer, theta = outer_optimiser(config), members[0].initial.copy()
    slots = tuple(np.zeros_like(theta) for _ in range(outer.slots))
    losses, spreads = [], []
    for round_ in range(rounds):
        for member in members:
            member.train(config.inner_steps, lambda: False)
        honest = [theta - member.take_snapshot() for member in members]
        if not all(np.isfinite(delta).all() for delta in honest):
            return Course(math.inf, tuple(losses), tuple(spreads))  # training diverged
        spreads.append(_spread(np.array(honest)))
        delta = aggregate(rule, [*liars.send(np.array(honest)), *honest], theta.size)
        if delta is not None:
            theta, slots = outer.apply(theta, slots, delta)
        for member in members:
            member.load(theta)
        if round_ % 5 == 4 or round_ == rounds - 1:
            losses.append(members[0].evaluate(theta, 16))
    final = members[0].evaluate(theta, 64)
    return Course(final if math.isfinite(final) else math.inf, tuple(losses), tuple(spreads))


def _spread(honest_ND: Rows) -> float:  # noqa: N803 - shape suffix
    mean = honest_ND.mean(axis=0)
    return float(np.linalg.norm(honest_ND - mean, axis=1).mean() / np.linalg.norm(mean))


def case(name: str, rule: Rule, rounds: int, config: TrainingConfig = CONFIG) -> dict[str, Any]:
    """Train clean and under every attack."""
    clean = trained(rule, "", rounds, config)
    spread = float(np.median(clean.spreads))
    say(f"{name}: clean {clean.final:.4f}, spread {spread:.2f}")
    found = {}
    for plan in ATTACKS:
        found[plan] = trained(rule, plan, rounds, config)
        over = 100 * (found[plan].final / clean.final - 1)
        say(f"{name}: {liars_of(rule)} of {MEMBERS} {plan}: {found[plan].final:.4f} ({over:+.1f} %)")
    worst = max(course.final for course in found.values())
    return {
        "case": name,
        "value": _shown(worst),
        "unit": "nats",
        "ratio": clean.final / worst,
        "against": "nobody lying",
        "reach": 1 / WITHIN if rule.name != "mean" and config is CONFIG else None,
        "value_reach": None,
        "liars": liars_of(rule),
        "members": MEMBERS,
        "rounds": rounds,
        "spread": spread,
        "clean": clean.final,
        "losses": {plan: _shown(course.final) for plan, course in found.items()},
        "courses": {
            "clean": [_shown(x) for x in clean.losses],
            **{plan: [_shown(x) for x in course.losses] for plan, course in found.items()},
        },
    }


def _shown(loss: float) -> float:
    """Return a loss that JSON can hold."""
    return min(loss, 1e9) if math.isfinite(loss) else 1e9


# ----------------------------------------------------------------------------------------------------------- speed


def speed() -> list[dict[str, Any]]:
    """Time an owner's work on one part of nine members: chunk by chunk, one core."""
    numbers, cut = Float32(), slice(0, SPEED_ELEMENTS)
    rng = np.random.default_rng(0)
    cuts = [slice(at, at + numbers.chunk_elements) for at in range(0, SPEED_ELEMENTS, numbers.chunk_elements)]
    sent = [rng.normal(size=cut.stop).astype(np.float32) for _ in range(MEMBERS)]
    rows = [[numbers.encode(y, c) for y in sent] for c in cuts]
    ones = [1.0] * MEMBERS

    def reduced(rule: Rule) -> None:
        for row, c in zip(rows, cuts, strict=True):
            numbers.reduce(row, ones, c, rule)

    def multiplied() -> None:
        for row, c in zip(rows, cuts, strict=True):
            numbers.multiply(row, c)

    works = {
        "mean": functools.partial(reduced, Rule()),
        "median": functools.partial(reduced, Rule("median", 4)),
        "trimmed-mean": functools.partial(reduced, Rule("trimmed-mean", 3)),
        "gram": multiplied,
    }
    seconds = {}
    for name, work in works.items():
        work()
        seconds[name] = min(timeit.repeat(work, number=1, repeat=5))
        say(f"{name}: {1e3 * seconds[name]:.1f} ms for {SPEED_ELEMENTS} elements of {MEMBERS} members")
    return [
        {
            "case": f"speed_{name}",
            "value": SPEED_ELEMENTS * MEMBERS / took,
            "unit": "elements/s",
            "ratio": seconds["mean"] / took,
            "against": "the weighted mean",
            "reach": None,
            "value_reach": None,
        }
        for name, took in seconds.items()
    ]


def draw(results: list[dict[str, Any]], path: Path) -> None:
    """Draw each rule's losses over its clean one, attack by attack."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "prime", "font.family": "sans-serif", "font.size": 9})
    trained_ = [result for result in results if "losses" in result and not result["case"].startswith("noisy")]
    figure = Figure(figsize=(9.5, 4.2), layout="constrained")
    axes = figure.add_subplot()
    width = 0.8 / max(len(trained_), 1)
    for i, result in enumerate(trained_):
        over = [max(min(loss / result["clean"], 4) - 1, 0.001) * 100 for loss in result["losses"].values()]
        places = [x + i * width for x in range(len(over))]
        axes.bar(places, over, width, label=f"{result['case']}, {result['liars']} of {MEMBERS} lie")
    axes.axhline(100 * (WITHIN - 1), color="black", linewidth=0.8)
    axes.set_yscale("log")
    axes.set_xticks([x + 0.4 - width / 2 for x in range(len(ATTACKS))], list(ATTACKS))
    axes.set_ylabel("final loss above the clean run's, %")
    axes.legend(fontsize=7, ncols=2)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130, metadata={"Date": None} if path.suffix == ".svg" else None)


def main() -> None:
    """Run the cases that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("--case", action="append", choices=[*rules(), "noisy", "speed"], help="run only this case")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--plot", type=Path, help="draw the losses into this file")
    options = parser.parse_args()
    before = machine()
    wanted = options.case or [*rules(), "noisy", "speed"]
    results = [case(name, rule, options.rounds) for name, rule in rules().items() if name in wanted]
    if "noisy" in wanted:
        robust = {name: rule for name, rule in rules().items() if rule.name != "mean"}
        results += [case(f"noisy_{name}", rule, options.rounds, NOISY) for name, rule in robust.items()]
    if "speed" in wanted:
        results += speed()
    show("robust", results, before, as_json=options.json)
    if options.plot:
        draw(results, options.plot)


if __name__ == "__main__":
    main()
