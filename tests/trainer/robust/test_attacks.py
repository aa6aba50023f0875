"""Every attack on every rule at its largest f: nine members fit a line of many coefficients, over int8, as a round does.

The bench does the same with a real model (`tests/bench/robust.py`); its liars are these.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prime.trainer.robust.rules import Rule, byzantine_admitted, coefficients
from prime.trainer.swarm.float32 import Float32

MEMBERS, D, ROUNDS = 9, 512, 45
ROBUST = ("median", "trimmed-mean", "krum", "multi-krum", "centred-clipping")


def attacks() -> Any:
    path = Path(__file__).parents[2] / "bench" / "_attacks.py"
    spec = importlib.util.spec_from_file_location("_attacks", path)
    assert spec is not None and spec.loader is not None
    module = sys.modules["_attacks"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


LIES = attacks()


def combined(rule: Rule, sent: list[Any]) -> np.ndarray:
    """Return what a round makes of these contributions; those that no codec can write are no candidates."""
    numbers, cut, room = Float32(), slice(0, D), Float32().room(D)
    inputs = [numbers.encode(y, cut) for y in sent if y is not None]
    assert rule.fault(len(inputs), MEMBERS) == ""
    weights = [1.0] * len(inputs)
    if rule.measured:
        gram = np.zeros((len(inputs), len(inputs)))
        gram[np.triu_indices(len(inputs))] = numbers.multiply(inputs, cut)
        weights = [v.coefficient for v in coefficients(rule, (gram + np.triu(gram, 1).T).tolist(), weights)]
    counted = [(data, weight) for data, weight in zip(inputs, weights, strict=True) if weight]
    room.decode(numbers.reduce([d for d, _ in counted], [w for _, w in counted], cut, rule), cut)
    return room.vector()


def final_loss(rule: Rule, plan: str, liars: int) -> float:
    """Descend on |theta - 1|^2 / D + 1, each member's gradient with noise of its own; return the last loss."""
    group, rng = LIES.Liars(plan, liars, rule.norm_gate), np.random.default_rng(1)
    theta = np.zeros(D, np.float32)
    for _ in range(ROUNDS):
        slope = 0.1 * (theta - 1)
        noise = 0.2 * np.linalg.norm(slope) / np.sqrt(D)
        honest = [(slope + noise * rng.normal(size=D)).astype(np.float32) for _ in range(MEMBERS - group.count)]
        theta = theta - combined(rule, [*group.send(np.array(honest)), *honest])
        if np.abs(theta).max() > 1e6:
            break  # it is lost
    return float(np.mean((theta.astype(np.float64) - 1) ** 2)) + 1


@pytest.mark.parametrize("plan", list(LIES.ATTACKS))
@pytest.mark.parametrize("name", ROBUST)
def test_at_the_largest_f_the_final_loss_is_within_5_percent_of_the_clean_one(name: str, plan: str) -> None:
    rule = Rule(name, byzantine_admitted(name, MEMBERS), 3.0)
    assert final_loss(rule, plan, rule.byzantine_max) <= 1.05 * final_loss(rule, "", 0)


@pytest.mark.parametrize("plan", ["scaled", "within the gate"])
def test_a_plain_mean_breaks(plan: str) -> None:
    assert final_loss(Rule(), plan, 4) > 1.3 * final_loss(Rule(), "", 0)


def test_the_gate_alone_keeps_out_what_is_far_too_long() -> None:
    for plan in ("scaled", "random"):
        assert final_loss(Rule("mean", 0, 3.0), plan, 4) <= 1.05 * final_loss(Rule(), "", 0)
