"""What an atomic object may answer: the models that a recorded history is checked against (pure).

A model is a sequential object: `step(state, operation)` returns every state that the object may be in after the
operation gave its answer, none if it could not have given it. Of an operation whose outcome is unknown, any answer fits.
States are hashable and compared by value.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable
from typing import Any, Literal, Protocol

import attrs

from prime.errors import UsageError

Outcome = Literal["returned", "failed", "unknown"]
"""`returned`: it took effect and answered; `failed`: it certainly never took effect; `unknown`: perhaps, by `returned_at`."""


@attrs.frozen
class Operation:
    """One call of one client on the object `key`, from `invoked_at` to `returned_at` (seconds of one clock for all).

    Of one whose outcome is unknown, `returned_at` is when it can no longer take effect; mostly never (infinite).
    Where two times are equal, `began` and `ended` say which came first; left out, the two overlap.
    """

    client: str
    key: Hashable
    name: str
    arguments: tuple[Any, ...]
    invoked_at: float
    returned_at: float = math.inf
    outcome: Outcome = "returned"
    result: Any = None
    began: float = -math.inf
    ended: float = math.inf

    @property
    def call(self) -> str:
        """The call without its answer: `cas(1, 2)`."""
        return f"{self.name}({', '.join(map(repr, self.arguments))})"

    def __str__(self) -> str:
        return f"{self.call} → {self.result!r}" if self.outcome == "returned" else f"{self.call}, {self.outcome}"


class Model(Protocol):
    """A sequential object."""

    def start(self) -> Hashable:
        """Return the state before the first operation."""

    def step(self, state: Any, operation: Operation) -> Iterable[Hashable]:
        """Return the states that may follow; none if `operation` could not have answered so."""


def _fits(operation: Operation, result: object) -> bool:
    return operation.outcome == "unknown" or bool(operation.result == result)


def _no_such(model: object, operation: Operation, known: str) -> UsageError:
    return UsageError(
        f"{type(model).__name__} has no operation {operation.name!r} with {len(operation.arguments)} arguments",
        hint=f"it knows {known}; write a model of your own for another object",
    )


@attrs.frozen
class Register:
    """A value: `read()` answers it, `write(value)` replaces it."""

    initial: Hashable = None

    def start(self) -> Hashable:
        """Return the initial value."""
        return self.initial

    def step(self, state: Hashable, operation: Operation) -> tuple[Hashable, ...]:
        """See `Model.step`."""
        match operation.name, operation.arguments:
            case "read", ():
                return (state,) if _fits(operation, state) else ()
            case "write", (value,):
                return (value,)
        raise _no_such(self, operation, "read() and write(value)")


@attrs.frozen
class CompareAndSet:
    """A register that also has `cas(old, new)`: True if the value was `old` and is now `new`, else False."""

    initial: Hashable = None

    def start(self) -> Hashable:
        """Return the initial value."""
        return self.initial

    def step(self, state: Hashable, operation: Operation) -> tuple[Hashable, ...]:
        """See `Model.step`."""
        match operation.name, operation.arguments:
            case "read", ():
                return (state,) if _fits(operation, state) else ()
            case "write", (value,):
                return (value,)
            case "cas", (old, new):
                swaps = state == old
                return (new if swaps else state,) if _fits(operation, swaps) else ()
        raise _no_such(self, operation, "read(), write(value) and cas(old, new)")


@attrs.frozen
class FencedRegister:
    """A value behind a fence: `write(token, value)` is taken (True) unless a higher token was seen (False).

    `read()` answers the value. Source: Kleppmann, "How to do distributed locking", 2016: a lease alone does not keep a
    late holder from writing, the store that refuses old tokens does.
    """

    initial: Hashable = None

    def start(self) -> tuple[float, Hashable]:
        """Return the lowest fence and the initial value."""
        return (-math.inf, self.initial)

    def step(self, state: tuple[float, Hashable], operation: Operation) -> tuple[tuple[float, Hashable], ...]:
        """See `Model.step`."""
        fence, current = state
        match operation.name, operation.arguments:
            case "read", ():
                return (state,) if _fits(operation, current) else ()
            case "write", (token, value):
                takes = token >= fence
                return ((token, value) if takes else state,) if _fits(operation, takes) else ()
        raise _no_such(self, operation, "read() and write(token, value)")


@attrs.frozen
class Grant:
    """What a lease's arbiter answers: the fencing token, and until when the lease holds (seconds, the history's clock)."""

    token: int
    until: float


@attrs.frozen
class Held:
    """The state of a lease: who had it last, under which token, until when at the least and at the most.

    `at` is the earliest time at which all that has happened can have happened. Of a grant that nobody heard of, `until`
    is known only by its bounds, and `ttl_s` is what was asked for; of one that was heard of it is 0.
    """

    at: float = -math.inf
    holder: Hashable = None
    token: int = 0
    until: float = -math.inf
    until_max: float = -math.inf
    ttl_s: float = 0.0


@attrs.frozen
class Lease:
    """A lease (with `ttl_s` infinite, a lock) that ends by itself, and whose grants have rising fencing tokens.

    `acquire(holder, ttl_s)` and `renew(holder, token, ttl_s)` answer a `Grant`, or None if it is somebody's, or lost;
    `release(holder, token)` answers True, or False if it was lost; `use(holder, token)` says that its caller acted as
    the holder then, and fits only while the lease is held so. A grant may be shorter than was asked for, never longer;
    whoever holds it may acquire again, under the same token or a higher one; every other grant has a higher one. A
    renewal that nobody heard of shortens no lease, and nobody uses the token of a grant that nobody heard of.
    `slack_s` is how far the arbiter's clock may be off the history's. A holder is anything but None.
    """

    slack_s: float = 0.0

    def start(self) -> Held:
        """Return the state of a lease that nobody ever had."""
        return Held()

    def step(self, state: Held, operation: Operation) -> tuple[Held, ...]:
        """See `Model.step`. An operation happens between its invocation and its return, and no sooner than those before."""
        state = self._until_now(state, operation)
        match operation.name, operation.arguments:
            case "acquire", (holder, ttl_s):
                after = self._acquired(state, operation, holder, ttl_s)
            case "renew", (holder, token, ttl_s):
                after = self._renewed(state, operation, (holder, token), ttl_s)
            case "release", (holder, token):
                after = self._released(state, operation, (holder, token))
            case "use", (holder, token):
                after = state if self._holds(state, (holder, token)) else None
            case _:
                names = (
                    "acquire(holder, ttl_s), renew(holder, token, ttl_s), release(holder, token) and use(holder, token)"
                )
                raise _no_such(self, operation, names)
        return () if after is None or after.at > operation.returned_at else (after,)

    def _until_now(self, state: Held, operation: Operation) -> Held:
        """Time is now at least the invocation; a grant that nobody heard of came before this operation's end.

        For an operation that nobody heard of time stands still, which forgives a little, and keeps the states few.
        """
        until_max = state.until_max
        if state.ttl_s:
            until_max = max(state.until, min(until_max, operation.returned_at + state.ttl_s + self.slack_s))
        at = state.at if operation.outcome == "unknown" else max(state.at, operation.invoked_at)
        return attrs.evolve(state, at=at, until_max=until_max)

    def _is_held(self, state: Held) -> bool:
        return state.holder is not None and state.at < state.until_max + self.slack_s

    def _holds(self, state: Held, claim: tuple[Hashable, int]) -> bool:
        return (state.holder, state.token) == claim and self._is_held(state)

    def _expired(self, state: Held) -> Held:
        """Wait until the lease is over, if it is not."""
        over_at = state.until - self.slack_s if state.holder is not None else -math.inf
        return attrs.evolve(state, at=max(state.at, over_at))

    def _acquired(self, state: Held, operation: Operation, holder: Hashable, ttl_s: float) -> Held | None:
        if operation.outcome == "returned" and operation.result is None:
            return attrs.evolve(state, until=max(state.until, state.at)) if self._is_held(state) else None
        again = state.holder == holder and self._is_held(state)
        state = state if again else self._expired(state)
        if operation.outcome == "unknown":
            until = max(state.until, state.at) if again else state.at
            return attrs.evolve(state, holder=holder, until=until, until_max=math.inf, ttl_s=ttl_s)
        grant: Grant = operation.result
        if grant.token < state.token or (grant.token == state.token and not again):
            return None
        return self._granted(state, holder, grant, ttl_s, had=again)

    def _renewed(self, state: Held, operation: Operation, claim: tuple[Hashable, int], ttl_s: float) -> Held | None:
        holds = self._holds(state, claim)
        if operation.outcome == "unknown":
            until = max(state.until, state.at)
            return attrs.evolve(state, until=until, until_max=math.inf, ttl_s=ttl_s) if holds else state
        grant: Grant | None = operation.result
        if grant is None:
            return self._lost(state, claim)
        after = self._granted(state, claim[0], grant, ttl_s, had=True)
        in_time = after.at < state.until_max + self.slack_s
        return after if holds and in_time and grant.token == claim[1] else None

    def _released(self, state: Held, operation: Operation, claim: tuple[Hashable, int]) -> Held | None:
        if operation.outcome == "returned" and not operation.result:
            return self._lost(state, claim)
        matches = (state.holder, state.token) == claim
        free = attrs.evolve(state, holder=None, until=-math.inf, until_max=-math.inf, ttl_s=0.0)
        return free if matches else state if operation.outcome == "unknown" else None

    def _granted(self, state: Held, holder: Hashable, grant: Grant, ttl_s: float, *, had: bool) -> Held:
        """Take a grant up: no longer than was asked for, so given no sooner than `until - ttl_s`, unless it was had."""
        told_when = ttl_s < math.inf and not (had and grant.until <= state.until_max)
        at = max(state.at, grant.until - ttl_s - self.slack_s) if told_when else state.at
        return Held(at, holder, grant.token, grant.until, grant.until)

    def _lost(self, state: Held, claim: tuple[Hashable, int]) -> Held | None:
        """Wait, if need be, until the lease is not the claimant's."""
        return self._expired(state) if (state.holder, state.token) == claim else state
