"""What each rule of aggregation holds against: a character model trained by nine members, some of them liars.

Run: python tests/bench/robust.py [--json] [--case NAME ...] [--rounds 40] [--plot FILE]

One process, no network: every honest member is a `Replica` with its own order of the data, and what it contributes
takes the way of a round: encoded in int8, checked, weighed by the leader's coefficients from the Gram matrix, reduced
chunk by chunk, encoded again, applied by the outer step. The liars (`_attacks.py`) know what everyone else sends. As
many lie as the rule admits of nine; under plain mean, which admits none, one does.

Cases, by rule: mean, mean_gate (with the gate at 3), median, trimmed-mean, krum, multi-krum, centred-clipping; and
`speed`, how much slower an owner is than with a mean. `value` is the highest final held-out loss in nats a character
over all attacks, `against` the same rule's with nine honest members, `ratio` that one by the value; `losses` has each.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import timeit
from pathlib import Path
from typing import Any, Final

import numpy as np
from _attacks import ATTACKS, Liars
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
    model="charlm",
    options=json.dumps({"model": {"width": 32, "layers": 1, "heads": 2}}),
    inner_steps=20,
    batch_size=16,
    context=32,
    learning_rate=1.5e-3,
    warmup_steps=20,
    outer_optimiser="average",
)


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


def trained(rule: Rule, plan: str, rounds: int) -> tuple[float, list[float]]:
    """Train with liars that follow a plan (empty: nobody lies); return the final held-out loss and its course."""
    liars = Liars(plan, liars_of(rule), rule.norm_gate)
    members = [Replica(CONFIG, rank) for rank in range(MEMBERS - liars.count)]
    outer, theta = outer_optimiser(CONFIG), members[0].initial.copy()
    slots = tuple(np.zeros_like(theta) for _ in range(outer.slots))
    course = []
    for round_ in range(rounds):
        for member in members:
            member.train(CONFIG.inner_steps, lambda: False)
        honest = [theta - member.take_snapshot() for member in members]
        if not all(np.isfinite(delta).all() for delta in honest):
            return math.inf, course  # training diverged
        delta = aggregate(rule, [*liars.send(np.array(honest)), *honest], theta.size)
        if delta is not None:
            theta, slots = outer.apply(theta, slots, delta)
        for member in members:
            member.load(theta)
        if round_ % 5 == 4 or round_ == rounds - 1:
            course.append(members[0].evaluate(theta, 16))
    final = members[0].evaluate(theta, 64)
    return (final if math.isfinite(final) else math.inf), course


def case(name: str, rule: Rule, rounds: int) -> dict[str, Any]:
    """Train clean and under every attack."""
    clean, course = trained(rule, "", rounds)
    say(f"{name}: clean {clean:.3f}")
    losses, courses = {}, {"clean": course}
    for plan in ATTACKS:
        losses[plan], courses[plan] = trained(rule, plan, rounds)
        say(f"{name}: {liars_of(rule)} of {MEMBERS} {plan}: {losses[plan]:.3f} ({losses[plan] / clean:.3f} of clean)")
    worst = max(losses.values())
    holds = rule.name != "mean"
    return {
        "case": name,
        "value": min(worst, 1e9),
        "unit": "nats",
        "ratio": clean / worst,
        "against": "nobody lying",
        "reach": 1 / WITHIN if holds else None,
        "value_reach": None,
        "liars": liars_of(rule),
        "members": MEMBERS,
        "rounds": rounds,
        "clean": clean,
        "losses": {plan: min(loss, 1e9) for plan, loss in losses.items()},
        "courses": {plan: [min(x, 1e9) if math.isfinite(x) else 1e9 for x in xs] for plan, xs in courses.items()},
    }


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
    trained_ = [result for result in results if "losses" in result]
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
    parser.add_argument("--case", action="append", choices=[*rules(), "speed"], help="run only this case")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--plot", type=Path, help="draw the losses into this file")
    options = parser.parse_args()
    before = machine()
    wanted = options.case or [*rules(), "speed"]
    results = [case(name, rule, options.rounds) for name, rule in rules().items() if name in wanted]
    if "speed" in wanted:
        results += speed()
    show("robust", results, before, as_json=options.json)
    if options.plot:
        draw(results, options.plot)


if __name__ == "__main__":
    main()
