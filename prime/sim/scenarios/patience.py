"""How much longer than it should something may take on a node that stood still (pure)."""

from __future__ import annotations

from prime.sim.plan import Pause, Plan, Skew


def stood_still_s(plan: Plan, node: str, since: float, until: float) -> float:
    """Return how long a node may have stood still, or its clock have been put back, between two times (seconds)."""
    total_s = 0.0
    for action in plan.actions:
        if isinstance(action, Pause) and action.node == node:
            total_s += max(min(until, action.at_s + action.for_s) - max(since, action.at_s), 0.0)
        elif isinstance(action, Skew) and action.node == node and since <= action.at_s <= until:
            total_s += max(-action.offset_s, 0.0)
    return total_s
