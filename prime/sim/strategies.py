"""Hypothesis strategies of what goes wrong: `@given(plans(scenario.space))`. Needs Hypothesis (`[testing]`).

What is simpler is drawn first, so that a failing example shrinks to fewer faults, rounder times and lower rates.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from prime.errors import MissingExtraError
from prime.sim import plan as p

try:
    from hypothesis import strategies as st
except ModuleNotFoundError as error:
    if error.name != "hypothesis":
        raise
    raise MissingExtraError(f"{__name__} needs hypothesis", hint="pip install 'prime-actors[testing]'") from error

Drawn = st.SearchStrategy[Any]
_AMOUNTS: Mapping[p.Kind, tuple[str, float, float, float]] = {
    "latency": ("latency_s", 0.001, 0.001, 0.5),
    "jitter": ("jitter_s", 0.0, 0.001, 0.5),
    "loss": ("loss", 0.0, 0.001, 0.1),
    "duplication": ("duplication", 0.0, 0.01, 0.3),
    "reordering": ("reordering", 0.0, 0.01, 0.5),
    "corruption": ("corruption", 0.0, 0.001, 0.05),
    "bandwidth": ("bandwidth_bytes_per_s", math.inf, 2e3, 1e7),
}
"""The field of each fault of the network: how it stands where it is off, its least and its greatest amount."""
_DURATION_S_MAX = 10.0


def plans(space: p.Space, **params: st.SearchStrategy[int]) -> st.SearchStrategy[p.Plan]:
    """Draw plans of a scenario's space; each of `params` draws what `World.choose` returns for its name."""
    return st.builds(
        p.Plan,
        network=_network(space),
        disk=_disk(space),
        actions=st.lists(_actions(space), max_size=space.actions_max).map(in_order) if _kinds(space) else st.just(()),
        storm_s=st.just(space.storm_s),
        params=st.fixed_dictionaries(params),
    )


def in_order(actions: list[p.Action]) -> tuple[p.Action, ...]:
    """Return actions as a plan has them, the first first."""
    return tuple(sorted(actions, key=lambda action: (action.at_s, repr(action))))


def _network(space: p.Space) -> Drawn:
    return st.builds(
        p.NetworkFaults,
        **{
            field: st.just(off) | st.floats(low, high).map(_short)
            for kind, (field, off, low, high) in _AMOUNTS.items()
            if kind in space.kinds
        },
    )


def _short(amount: float) -> float:
    """Return an amount with a few digits, to be read."""
    return float(f"{amount:.3g}")


def _disk(space: p.Space) -> Drawn:
    faults = {kind: st.booleans() for kind in ("unsynced", "torn") if kind in space.kinds}
    latency_s = st.sampled_from([0.0, 1e-4, 1e-3, 0.01, 0.05])
    return st.builds(p.DiskFaults, **faults, latency_s=latency_s if p.DISK & space.kinds else st.just(0.0))


def _kinds(space: p.Space) -> list[p.Kind]:
    """Return the faults that are actions and that can happen among so many nodes."""
    among = {"cut", "partition"} if len(space.nodes) < 2 else set()
    return [kind for kind in _MAKERS if kind in space.kinds and kind not in among]


def _actions(space: p.Space) -> Drawn:
    return st.one_of([_MAKERS[kind](space) for kind in _kinds(space)])


def _node(space: p.Space) -> Drawn:
    return st.sampled_from(space.nodes)


def _at(space: p.Space) -> Drawn:
    return _seconds(space.storm_s, 0.001)


def _seconds(high_s: float, step_s: float) -> Drawn:
    return st.integers(0, max(round(high_s / step_s) - 1, 0)).map(lambda steps: round(steps * step_s, 3))


def _for() -> Drawn:
    return _seconds(_DURATION_S_MAX, 0.05).map(lambda seconds: round(seconds + 0.05, 3))


def _crash(space: p.Space) -> Drawn:
    disk = st.sampled_from(["kept", "lost"])
    return st.builds(p.Crash, _node(space), _at(space), _for(), st.integers(0, 200), st.booleans(), disk)


def _pause(space: p.Space) -> Drawn:
    return st.builds(p.Pause, _node(space), _at(space), _for())


def _skew(space: p.Space) -> Drawn:
    offset_s = st.integers(-15_000, 15_000).map(lambda thousandths: thousandths / 1000)
    return st.builds(p.Skew, _node(space), _at(space), offset_s, st.sampled_from([1.0, 0.9, 1.1]))


def _slow_reader(space: p.Space) -> Drawn:
    return st.builds(p.SlowReader, _node(space), _at(space), _for(), st.sampled_from([1e3, 100.0, 1e4, 1e6]))


def _cut(space: p.Space) -> Drawn:
    pairs = [(source, target) for source in space.nodes for target in space.nodes if source != target]
    return st.builds(
        lambda pair, at_s, for_s: p.Cut(pair[0], pair[1], at_s, for_s), st.sampled_from(pairs), _at(space), _for()
    )


def _partition(space: p.Space) -> Drawn:
    side = st.lists(_node(space), min_size=1, max_size=len(space.nodes) - 1, unique=True)
    return st.builds(p.Partition, side.map(lambda names: tuple(sorted(names))), _at(space), _for())


def _disk_full(space: p.Space) -> Drawn:
    return st.builds(p.DiskFull, _node(space), _at(space), _for())


def _disk_gone(space: p.Space) -> Drawn:
    return st.builds(p.DiskGone, _node(space), _at(space), _for())


def _bit_flip(space: p.Space) -> Drawn:
    return st.builds(p.BitFlip, _node(space), _at(space))


_MAKERS: Mapping[p.Kind, Any] = {
    "pause": _pause,
    "crash": _crash,
    "cut": _cut,
    "partition": _partition,
    "slow_reader": _slow_reader,
    "skew": _skew,
    "disk_full": _disk_full,
    "disk_gone": _disk_gone,
    "bit_flip": _bit_flip,
}
"""How each action is drawn, the milder first: shrinking goes that way."""
