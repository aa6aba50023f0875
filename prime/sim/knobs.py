"""A failing plan as a row of knobs, each of which can be turned down: an action dropped, a time rounded, a fault off.

At the top of all its knobs a plan is itself; at 0 a knob has its simplest value. So what searches for a smaller plan
that still fails, Hypothesis or a plain walk, sees nothing but small whole numbers.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from typing import Any, Final

import attrs

from prime.sim.notation import special, to_plain
from prime.sim.plan import Action, DiskFaults, NetworkFaults, Plan, Space, nodes_of

_SHORT: Final = (1.0, 0.1)
"""Durations that are tried in the place of longer ones, in seconds."""
_MOMENTS: Final = (0.0, 1.0, 3.0, 8.0)
"""Times that are tried for actions, in seconds; a storm that ends soon after them is shorter."""
_STORMS: Final = (1.0, 2.0, 5.0, 10.0)
_COUNTS: Final = (0, 1, 2, 3, 5, 10, 20, 50, 100)


@attrs.frozen
class Knob:
    """One thing that may become simpler: `steps` are its values, the simplest first, the plan's own last.

    `place` says where: `("keep", index)` of an action, `("node", name)`, `("plan" | "network" | "disk" | "params", field)`
    or `(index, field)` of an action.
    """

    place: tuple[Any, Any]
    steps: tuple[Any, ...]

    @property
    def top(self) -> int:
        """The level at which the plan is itself."""
        return len(self.steps) - 1


@attrs.frozen
class Knobs:
    """A plan, and all that may become simpler in it."""

    plan: Plan
    space: Space
    knobs: tuple[Knob, ...]

    @classmethod
    def of(cls, plan: Plan, space: Space) -> Knobs:
        """Return the knobs of a plan; those that take most away come first."""
        return cls(plan, space, tuple(knob for knob in _knobs(plan, space) if knob.top > 0))

    @property
    def tops(self) -> tuple[int, ...]:
        """The levels at which the plan is itself."""
        return tuple(knob.top for knob in self.knobs)

    def turned(self, levels: Sequence[int]) -> Plan:
        """Return the plan with its knobs at these levels; a level above the top is the top."""
        at = {knob.place: knob.steps[min(level, knob.top)] for knob, level in zip(self.knobs, levels, strict=True)}
        plan = self.plan
        without = self._without(at)
        actions = [
            _changed(action, index, at)
            for index, action in enumerate(plan.actions)
            if at.get(("keep", index), True) and not set(nodes_of(action)) & set(without)
        ]
        return attrs.evolve(
            plan,
            network=_changed(plan.network, "network", at),
            disk=_changed(plan.disk, "disk", at),
            actions=tuple(sorted(actions, key=lambda action: (action.at_s, repr(action)))),
            storm_s=at.get(("plan", "storm_s"), plan.storm_s),
            params={name: at.get(("params", name), value) for name, value in plan.params.items()},
            without=without,
        )

    def _without(self, at: dict[tuple[Any, Any], Any]) -> tuple[str, ...]:
        """Return the nodes to be left out; as many stay as the scenario needs."""
        gone = list(self.plan.without)
        for node in self.space.nodes:
            if not at.get(("node", node), True) and len(self.space.nodes) - len(gone) > _least(self.space):
                gone.append(node)
        return tuple(gone)


def cost(plan: Plan) -> tuple[Any, ...]:
    """Return how far a plan is from nothing; the smaller of two is the one that a person would rather read."""
    fields = sum(len(special(action)) for action in plan.actions)
    settings = len(special(plan.network)) + len(special(plan.disk))
    params = sum(abs(value) for value in plan.params.values())
    text = json.dumps(to_plain(plan), sort_keys=True)
    return len(plan.actions) + settings, fields, -len(plan.without), params, plan.storm_s, len(text), text


def _least(space: Space) -> int:
    return len(space.nodes) if space.nodes_min is None else space.nodes_min


def _knobs(plan: Plan, space: Space) -> Iterator[Knob]:
    yield from (Knob(("keep", index), (False, True)) for index in range(len(plan.actions)))
    for name, value in special(plan.network).items():
        yield Knob(("network", name), _distinct(getattr(NetworkFaults(), name), _rounded(value), value))
    for name, value in special(plan.disk).items():
        yield Knob(("disk", name), _distinct(getattr(DiskFaults(), name), value))
    if len(space.nodes) - len(plan.without) > _least(space):
        yield from (Knob(("node", node), (False, True)) for node in space.nodes if node not in plan.without)
    yield from (Knob(("params", name), _counts(number)) for name, number in plan.params.items())
    yield Knob(("plan", "storm_s"), _times(plan.storm_s, _STORMS))
    for index, action in enumerate(plan.actions):
        yield from (Knob((index, field), steps) for field, steps in _steps(action))


def _steps(action: Action) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """Yield the values that each field of an action may have, the simplest first."""
    for name, value in special(action).items():
        match name:
            case "at_s":
                sooner = (moment for moment in _MOMENTS if moment < value)
                yield name, _distinct(*sooner, float(math.floor(value)), round(value, 1), value)
            case "for_s" | "down_s":
                yield name, _times(value, _SHORT)
            case "steps":
                yield name, _counts(value)
            case "offset_s":
                yield name, _distinct(float(round(value)), round(value, 1), value)
            case "side":
                yield name, _distinct(*((node,) for node in value), value)
            case "node" | "source" | "target":
                pass
            case _:  # what has a default
                yield name, _distinct(getattr(attrs.fields_dict(type(action)).get(name), "default", value), value)


def _times(value: float, simple: tuple[float, ...]) -> tuple[Any, ...]:
    return _distinct(*(step for step in simple if step < value), _rounded(value), value)


def _counts(value: int) -> tuple[Any, ...]:
    sign = -1 if value < 0 else 1
    near = (abs(value) // 2, abs(value) - 1)
    below = sorted({step for step in (*_COUNTS, *near) if 0 <= step < abs(value)})
    return _distinct(*(sign * step for step in below), value)


def _rounded(value: float) -> float:
    """Return an amount with one digit."""
    return float(f"{value:.1g}") if math.isfinite(value) else value


def _distinct(*values: Any) -> tuple[Any, ...]:
    """Return the values, each once, up to the last, which is the plan's own."""
    return (*dict.fromkeys(value for value in values[:-1] if value != values[-1]), values[-1])


def _changed(value: Any, owner: object, at: dict[tuple[Any, Any], Any]) -> Any:
    changes = {field.name: at[owner, field.name] for field in attrs.fields(type(value)) if (owner, field.name) in at}
    return attrs.evolve(value, **changes)
