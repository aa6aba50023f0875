"""What goes wrong in one run, as data: how bad the network and the disks are, and what happens to whom and when (pure).

A plan is drawn from a seed (`draw`), written by hand, or found by shrinking; the same plan, seed and scenario make the
same run. Swarm testing: each seed draws which faults are on at all, then how hard, so that some runs have one fault
alone and none drowns the others. Source: Groce et al., "Swarm Testing", ISSTA 2012.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from random import Random
from typing import Literal

import attrs

from prime.errors import UsageError
from prime.sim.streams import Streams

Kind = Literal[
    "latency",
    "jitter",
    "loss",
    "duplication",
    "reordering",
    "corruption",
    "bandwidth",
    "cut",
    "partition",
    "slow_reader",
    "unsynced",
    "torn",
    "bit_flip",
    "disk_full",
    "disk_gone",
    "crash",
    "skew",
    "pause",
]
"""Every fault there is; `Space.kinds` names those that a scenario may meet.

`duplication` and `reordering` are of datagrams (`HeapNode.send`): a scenario of real actors, whose links are streams,
meets neither.
"""

NETWORK: frozenset[Kind] = frozenset(
    {
        "latency",
        "jitter",
        "loss",
        "duplication",
        "reordering",
        "corruption",
        "bandwidth",
        "cut",
        "partition",
        "slow_reader",
    }
)
DISK: frozenset[Kind] = frozenset({"unsynced", "torn", "bit_flip", "disk_full", "disk_gone"})
NODE: frozenset[Kind] = frozenset({"crash", "skew", "pause"})
ALL: frozenset[Kind] = NETWORK | DISK | NODE


@attrs.frozen
class NetworkFaults:
    """How bad every link is; times in seconds, the others chances for each message or write on a stream.

    `loss` ends a stream (what was under way on it is lost) and drops a datagram. `duplication` and `reordering` are of
    datagrams: a stream has neither, and so a scenario of real actors meets neither. `corruption` ends a stream, as an authenticated one does, and changes a datagram; with
    `sealed=False` streams have no seal, so that one bit of the write changes and nobody is told.
    """

    latency_s: float = 0.001
    jitter_s: float = 0.0
    loss: float = 0.0
    duplication: float = 0.0
    reordering: float = 0.0
    corruption: float = 0.0
    bandwidth_bytes_per_s: float = math.inf
    sealed: bool = True


@attrs.frozen
class DiskFaults:
    """What a crash and time do to every disk.

    `unsynced`: a crash of the machine takes what was not synced (without it, the disk keeps all that was written; what a
    process wrote outlives the process in any case); `torn`: it may leave a part of that; `latency_s`: how long each call
    to the disk takes.
    """

    unsynced: bool = False
    torn: bool = False
    latency_s: float = 0.0


STEPS_WITHIN_S = 1.0
"""Virtual seconds after which a `Crash` waits for no more steps."""


@attrs.frozen
class Crash:
    """The node's process ends at `at_s`, or `steps` task steps later, and starts again after `down_s`.

    A node that hardly runs does not outrun it: a crash with `steps` comes 1 s after `at_s` at the latest. Where several
    wait on one node, the first to come ends the life that the others waited in, and they come no more. With an infinite
    `down_s` the node stays down, in the quiet period too.
    With `machine` its whole machine is off, so that nobody hears of it; else its peers see their streams break. `disk`
    says whether it comes back with its disk.
    """

    node: str
    at_s: float
    down_s: float = 1.0
    steps: int = 0
    machine: bool = False
    disk: Literal["kept", "lost"] = "kept"


@attrs.frozen
class Pause:
    """The node stands still: nothing in it runs, while time goes on and its sockets stay open."""

    node: str
    at_s: float
    for_s: float


@attrs.frozen
class Skew:
    """The node's clock (`Node.clock`) is wrong by `offset_s` and runs `rate` times as fast from `at_s` on.

    At the end of the storm it runs as fast as time again; by what it is wrong then, it stays wrong.
    """

    node: str
    at_s: float
    offset_s: float
    rate: float = 1.0


@attrs.frozen
class Cut:
    """Nothing goes from `source` to `target`; the other way is open."""

    source: str
    target: str
    at_s: float
    for_s: float


@attrs.frozen
class Partition:
    """Nothing goes between the nodes of `side` and the others."""

    side: tuple[str, ...]
    at_s: float
    for_s: float


@attrs.frozen
class SlowReader:
    """The node's sockets are read no faster than `bytes_per_s`."""

    node: str
    at_s: float
    for_s: float
    bytes_per_s: float = 1000.0


@attrs.frozen
class DiskFull:
    """The node's disk takes no more bytes."""

    node: str
    at_s: float
    for_s: float


@attrs.frozen
class DiskGone:
    """Every call to the node's disk fails."""

    node: str
    at_s: float
    for_s: float


@attrs.frozen
class BitFlip:
    """One bit of what lies on the node's disk changes."""

    node: str
    at_s: float


Action = Crash | Pause | Skew | Cut | Partition | SlowReader | DiskFull | DiskGone | BitFlip


def _in_order(actions: Iterable[Action]) -> tuple[Action, ...]:
    """Return actions in the order of their times; those of one time stay as they are."""
    given = tuple(actions)
    if all(map(_is_timed, given)):
        return tuple(sorted(given, key=lambda action: action.at_s))
    return given  # no plan: it is told below what is wrong


def _is_timed(action: object) -> bool:
    return isinstance(action, Action) and _is_number(action.at_s)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


@attrs.frozen
class Plan:
    """All that goes wrong in a run: faults that hold throughout the storm, and actions in the order of their times.

    Raises `UsageError` for what cannot go wrong, such as a chance of 2 or a time that is no number.
    """

    network: NetworkFaults = NetworkFaults()
    disk: DiskFaults = DiskFaults()
    actions: tuple[Action, ...] = attrs.field(default=(), converter=_in_order)
    storm_s: float = 20.0
    """When all faults end and everything is mended; the scenario's quiet period begins."""
    params: Mapping[str, int] = attrs.field(factory=dict, hash=False)
    """What `World.choose` returns, by name; what is not named is drawn from the seed."""
    without: tuple[str, ...] = ()
    """Nodes of the scenario that are left out, if it allows that."""

    def __attrs_post_init__(self) -> None:
        """Check what was given. Raises `UsageError`."""
        _check("the plan", "storm_s", self.storm_s)
        for part in (self.network, self.disk, *self.actions):
            _check_part(part)


def _check_part(part: object) -> None:
    """Raise `UsageError` for faults or an action that there cannot be."""
    if not isinstance(part, NetworkFaults | DiskFaults | Action):
        raise UsageError(f"{part!r:.60} is no fault", hint="an action is one of Crash, Pause, Skew, Cut and so on")
    for field in attrs.fields(type(part)):
        _check(type(part).__name__, field.name, getattr(part, field.name))
    if isinstance(part, Cut) and part.source == part.target:
        raise UsageError(f"Cut: {part.source} is cut off from itself", hint="name two nodes")
    if isinstance(part, Partition) and not part.side:
        raise UsageError("Partition: its side is empty", hint="name the nodes of one side")


def _check(owner: str, name: str, value: float) -> None:
    if name in _RULES:
        wanted, holds = _RULES[name]
        if not _is_number(value) or not holds(value):  # nothing holds for what is not a number
            raise UsageError(f"{owner}: {name} is {value!r:.40}", hint=f"give it {wanted}")


_Rule = tuple[str, Callable[[float], bool]]
_MOMENT: _Rule = ("a number from 0", lambda value: 0 <= value < math.inf)
_TIME: _Rule = ("a number from 0, or math.inf", lambda value: value >= 0)
_CHANCE: _Rule = ("a chance, from 0 to 1", lambda value: 0 <= value <= 1)
_RATE: _Rule = ("a number above 0", lambda value: value > 0)
_RULES: Mapping[str, _Rule] = {
    **dict.fromkeys(("at_s", "storm_s", "latency_s", "jitter_s"), _MOMENT),
    **dict.fromkeys(("for_s", "down_s", "steps"), _TIME),
    **dict.fromkeys(("loss", "duplication", "reordering", "corruption"), _CHANCE),
    **dict.fromkeys(("bandwidth_bytes_per_s", "bytes_per_s"), _RATE),
    "rate": ("a finite number above 0", lambda value: 0 < value < math.inf),
    "offset_s": ("a finite number", math.isfinite),
}
"""What each field that is a number may be, by its name."""


@attrs.frozen
class Space:
    """What a scenario may meet, from which a plan is drawn."""

    nodes: tuple[str, ...]
    kinds: frozenset[Kind] = ALL
    storm_s: float = 20.0
    actions_max: int = 12
    nodes_min: int | None = None
    """How many nodes the scenario can do with; all of them, where it does not say."""


def nodes_of(action: Action) -> tuple[str, ...]:
    """Return the names of the nodes that an action is about."""
    match action:
        case Cut():
            return action.source, action.target
        case Partition():
            return action.side
        case _:
            return (action.node,)


def draw(seed: int, space: Space) -> Plan:
    """Return the plan of a seed: about half of the kinds are on, each as hard as was drawn."""
    streams = Streams(seed)
    on = {kind for kind in sorted(space.kinds) if streams.stream("plan", "on", kind).random() < 0.5}
    actions = [
        action
        for kind in sorted(on - {"latency", "jitter", "loss", "duplication", "reordering", "corruption", "bandwidth"})
        for action in _actions(kind, space, streams.stream("plan", "actions", kind))
    ]
    if len(actions) > space.actions_max:
        chosen = streams.stream("plan", "chosen").sample(range(len(actions)), space.actions_max)
        actions = [actions[index] for index in sorted(chosen)]
    return Plan(
        network=_network(on, streams),
        disk=DiskFaults(
            unsynced="unsynced" in on,
            torn="torn" in on,
            latency_s=_log(streams.stream("plan", "disk"), 1e-4, 0.05) if space.kinds & DISK else 0.0,
        ),
        actions=tuple(sorted(actions, key=lambda action: (action.at_s, repr(action)))),
        storm_s=space.storm_s,
    )


def _network(on: set[Kind], streams: Streams) -> NetworkFaults:
    def amount(kind: Kind, low: float, high: float) -> float:
        return _log(streams.stream("plan", kind), low, high) if kind in on else 0.0

    return NetworkFaults(
        latency_s=amount("latency", 0.001, 0.5) or 0.001,
        jitter_s=amount("jitter", 0.001, 0.5),
        loss=amount("loss", 0.001, 0.1),
        duplication=amount("duplication", 0.01, 0.3),
        reordering=amount("reordering", 0.01, 0.5),
        corruption=amount("corruption", 0.001, 0.05),
        bandwidth_bytes_per_s=amount("bandwidth", 2e3, 1e7) or math.inf,
    )


def _log(random: Random, low: float, high: float) -> float:
    """Draw between two amounts so that each order of magnitude is as likely as another; a few digits, to be read."""
    return float(f"{low * (high / low) ** random.random():.3g}")


def _actions(kind: Kind, space: Space, random: Random) -> list[Action]:
    made = (_action(kind, space, random) for _ in range(random.randint(1, 4)))
    return [action for action in made if action is not None]


def _action(kind: Kind, space: Space, random: Random) -> Action | None:  # noqa: PLR0911 - one line for each kind
    node, at_s = random.choice(space.nodes), round(random.uniform(0, space.storm_s), 3)
    for_s = min(_log(random, 0.05, 10.0), round(max(space.storm_s - at_s, 0.05), 3))
    others = [other for other in space.nodes if other != node]
    match kind:
        case "crash":
            return Crash(
                node,
                at_s,
                for_s,
                steps=random.randint(0, 200),
                machine=random.random() < 0.3,
                disk="lost" if random.random() < 0.2 else "kept",
            )
        case "pause":
            return Pause(node, at_s, for_s)
        case "skew":
            return Skew(node, at_s, round(random.gauss(0, 5), 3), round(random.uniform(0.9, 1.1), 3))
        case "slow_reader":
            return SlowReader(node, at_s, for_s, _log(random, 100, 1e6))
        case "disk_full":
            return DiskFull(node, at_s, for_s)
        case "disk_gone":
            return DiskGone(node, at_s, for_s)
        case "bit_flip":
            return BitFlip(node, at_s)
        case "cut" if others:
            return Cut(node, random.choice(others), at_s, for_s)
        case "partition" if others:
            side = random.sample(space.nodes, random.randint(1, len(others)))
            return Partition(tuple(sorted(side)), at_s, for_s)
        case _:
            return None
