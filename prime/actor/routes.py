"""Which routee of a router gets a message. Pure: what the routees look like now in, a choice out.

A route is a value that says how to choose; its `Chooser` keeps the little state of one router (whose turn it is, the
ring). Nothing here reads a clock, draws a random number or uses `hash()`, so the same messages meet the same routees in
each run and on each machine.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import Any, Literal, Protocol

import attrs

from prime.errors import ActorUsageError, RefusedError

Key = str | bytes | int
"""What a message can be placed by."""

POINTS = 64
"""Points of each routee on a ring: with 64 the busiest of ten gets about 1.3 times its share."""

Choice = Literal["all", "any"] | int
"""An index into the routees; `"all"` of them; or `"any"` that has room first, because none has it now."""


class Routee(Protocol):
    """A routee as a chooser sees it: its lasting name, what it has to do, and whether it takes one more now."""

    @property
    def name(self) -> str:
        """Return its node and path."""
        ...

    @property
    def load(self) -> int:
        """Return how many messages it has to do."""
        ...

    @property
    def ready(self) -> bool:
        """Tell whether it takes one more now."""
        ...


@attrs.frozen
class RouteeState:
    """A routee that stands still: what a chooser of one's own is tested with."""

    name: str
    load: int = 0
    ready: bool = True


class Chooser(Protocol):
    """The choice of one router, message after message."""

    def choose(self, message: Any, routees: Sequence[Routee], *, asks: bool) -> Choice:
        """Choose for one message among at least one routee; raises `RefusedError` for a message with no place."""
        ...


class Route(Protocol):
    """How a router chooses: `RoundRobin`, `LeastLoaded`, `ConsistentHash`, `Broadcast`, or one of your own."""

    def chooser(self) -> Chooser:
        """Return a fresh chooser."""
        ...


@attrs.frozen
class RoundRobin:
    """Each in turn; one without room is passed over."""

    def chooser(self) -> Chooser:
        """See `Route.chooser`."""
        return _Turns()


@attrs.frozen
class LeastLoaded:
    """The one with the least to do: waiting and in hand when it is local, on its way there when it is far.

    Among equals it is each one's turn.
    """

    def chooser(self) -> Chooser:
        """See `Route.chooser`."""
        return _Loads()


@attrs.frozen
class ConsistentHash:
    """The same routee for the same `key(message)`, as long as it lives; a change of routees moves few keys.

    With n routees a newcomer takes over about 1/(n+1) of the keys and one that leaves gives up only its own (Karger et
    al., 1997). A routee without room makes the messages for it wait, and no others.
    """

    key: Callable[[Any], Key]
    points: int = attrs.field(default=POINTS)

    @points.validator
    def _has_points(self, _: Any, value: int) -> None:
        if value < 1:
            raise ActorUsageError(f"a ring with {value} points for each routee", hint=f"1 or more; {POINTS} is usual")

    def chooser(self) -> Chooser:
        """See `Route.chooser`."""
        return _Places(self.key, self.points)


@attrs.frozen
class Broadcast:
    """Every routee gets every message. An ask is refused: it has one answer."""

    def chooser(self) -> Chooser:
        """See `Route.chooser`."""
        return _Everyone()


class Ring:
    """A circle with some points of each name on it; a key belongs to the next point."""

    def __init__(self, names: Sequence[str], points: int = POINTS) -> None:
        if not names:
            raise ActorUsageError("a ring without names", hint="give it at least one")
        placed = sorted((_place(f"{name}\0{i}".encode()), name) for name in set(names) for i in range(points))
        self._places = [place for place, _ in placed]
        self._names = [name for _, name in placed]

    def owner(self, key: Key) -> str:
        """Return the name that `key` belongs to."""
        index = bisect_right(self._places, _place(_key_bytes(key)))
        return self._names[index % len(self._names)]


class _Turns:
    def __init__(self) -> None:
        self._next = 0

    def choose(self, message: Any, routees: Sequence[Routee], *, asks: bool) -> Choice:  # noqa: ARG002 - any
        count = len(routees)
        for step in range(count):
            index = (self._next + step) % count
            if routees[index].ready:
                self._next = index + 1
                return index
        return "any"


class _Loads:
    def __init__(self) -> None:
        self._next = 0

    def choose(self, message: Any, routees: Sequence[Routee], *, asks: bool) -> Choice:  # noqa: ARG002 - any
        count = len(routees)
        turns = [(self._next + step) % count for step in range(count)]
        ready = [index for index in turns if routees[index].ready]
        if not ready:
            return "any"
        index = min(ready, key=lambda i: routees[i].load)  # the first of equals: whose turn it is
        self._next = index + 1
        return index


class _Places:
    def __init__(self, key: Callable[[Any], Key], points: int) -> None:
        self._key = key
        self._points = points
        self._names: tuple[str, ...] = ()
        self._ring: Ring | None = None

    def choose(self, message: Any, routees: Sequence[Routee], *, asks: bool) -> Choice:  # noqa: ARG002 - any
        names = tuple(routee.name for routee in routees)
        if self._ring is None or names != self._names:
            self._names, self._ring = names, Ring(names, self._points)
        return names.index(self._ring.owner(self._key_of(message)))

    def _key_of(self, message: Any) -> Key:
        try:
            key = self._key(message)
        except Exception as error:  # the user's function over anyone's message: it must not fail the router
            raise RefusedError(
                f"no key for {type(message).__name__}: {type(error).__name__}: {error}",
                hint="the key function of ConsistentHash must take every message of the protocol",
            ) from error
        if not isinstance(key, str | bytes | int):
            raise RefusedError(
                f"the key of {type(message).__name__} is a {type(key).__name__}", hint="return a str, bytes or int"
            )
        return key


class _Everyone:
    def choose(self, message: Any, routees: Sequence[Routee], *, asks: bool) -> Choice:  # noqa: ARG002 - any
        if asks:
            raise RefusedError(
                f"{type(message).__name__} is an ask, and a broadcast has no one answer",
                hint="tell it, or ask each routee by its own ref",
            )
        return "all"


def _key_bytes(key: Key) -> bytes:
    """Return the key as bytes, different for the text "1" and the number 1."""
    if isinstance(key, int):
        return b"i%d" % key
    return b"s" + key.encode("utf-8", "surrogatepass") if isinstance(key, str) else b"b" + key


def _place(data: bytes) -> int:
    return int.from_bytes(blake2b(data, digest_size=8).digest(), "big")
