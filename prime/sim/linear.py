"""Is a recorded history linearizable: did every operation take effect at one moment between its call and its answer (pure).

Record in a scenario, check at its end::

    history = linear.History(trio.current_time, note=world.note)
    with history.operation("c1", "x", "cas", (1, 2)) as op:
        op.returned(await store.ask(Swap("x", 1, 2)))
    history.check(linear.CompareAndSet(initial=0)).require()

Each key is an object of its own, since a history is linearizable when that of each object is (Herlihy and Wing,
"Linearizability", TOPLAS 1990). The search is Wing and Gong's ("Testing and Verifying Concurrent Objects", 1993), with
Lowe's just-in-time linearization ("Testing for linearizability", 2017): operations take effect only when an answer
needs it. What was reached is remembered, and of two that differ only in which unknown operations were used, the one
that used fewer is kept: it can do all that the other can. The question is NP-complete, so the work is bounded.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, get_args

import attrs

from prime.errors import RefusedError, UsageError, ViolationError
from prime.sim.objects import CompareAndSet, FencedRegister, Grant, Held, Lease, Model, Operation, Outcome, Register

__all__ = [
    "CompareAndSet",
    "Counterexample",
    "FencedRegister",
    "Grant",
    "Held",
    "History",
    "KeyVerdict",
    "Lease",
    "Model",
    "Operation",
    "Outcome",
    "Recorded",
    "Register",
    "Verdict",
    "check",
]

WORK_MAX = 1_000_000
"""How many steps of the model one key may take: some seconds."""


# ---------------------------------------------------------------------------------------------------------- recording


@attrs.define(slots=True, eq=False)
class Recorded:
    """An operation under way: say what became of it, once."""

    _history: History
    _index: int
    _settles_s: float

    def returned(self, result: Any = None) -> None:
        """Say that it took effect, and answered `result`, now."""
        self._history._end(self._index, "returned", result=result)  # noqa: SLF001 - the two halves of one recorder

    def failed(self) -> None:
        """Say that it certainly never took effect, and never will."""
        self._history._end(self._index, "failed")  # noqa: SLF001 - see above

    def unknown(self) -> None:
        """Say that it may have taken effect, may yet do so until it settles, or never."""
        self._history._end(self._index, "unknown", self._settles_s)  # noqa: SLF001 - see above


class History:
    """The operations of every client, in the order in which they began and ended.

    `clock` returns seconds on one clock for all clients (`trio.current_time`), not a node's skewed one. An operation
    that was never ended counts as unknown. `note` (`World.note`) puts calls and ends into the history of the run too.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        *,
        note: Callable[..., object] | None = None,
        operations_max: int = 100_000,
    ) -> None:
        self._clock = clock
        self._note = note
        self._max = operations_max
        self._operations: list[Operation] = []
        self._open: dict[int, None] = {}
        self._moments = 0

    @property
    def operations(self) -> tuple[Operation, ...]:
        """All of them, in the order in which they began."""
        return tuple(self._operations)

    @contextmanager
    def operation(
        self,
        client: str,
        key: Hashable,
        name: str,
        arguments: tuple[Any, ...] = (),
        *,
        refusals: tuple[type[BaseException], ...] = (RefusedError,),
        settles_s: float = math.inf,
    ) -> Iterator[Recorded]:
        """Record what happens in the block. Left by one of `refusals` it failed; by another exception it is unknown.

        Cancellation is such an exception: who crashed or waited too long does not know. A block that ends well says
        what came of it (`returned`, `failed`, `unknown`), or `UsageError` says so. `settles_s` is how long after its
        end an unknown operation may still take effect: say it where it is known, since it keeps the check quick.
        """
        if not settles_s >= 0:  # so that NaN is refused too
            raise UsageError(f"settles_s is {settles_s}", hint="give seconds from 0 on, or math.inf for never")
        index = self._begin(client, key, name, arguments)
        recorded = Recorded(self, index, settles_s)
        try:
            yield recorded
        except BaseException as error:
            if index in self._open:
                recorded.failed() if isinstance(error, refusals) else recorded.unknown()
            raise
        if index in self._open:
            raise UsageError(
                f"nothing was said about how {name!r} of {client!r} ended",
                hint="call op.returned(result), op.failed() or op.unknown() in the block",
            )

    def check(self, model: Model, *, work_max: int = WORK_MAX) -> Verdict:
        """See `check`."""
        return check(self._operations, model, work_max=work_max)

    def _begin(self, client: str, key: Hashable, name: str, arguments: tuple[Any, ...]) -> int:
        index = len(self._operations)
        if index >= self._max:
            raise UsageError(f"more than {self._max} operations", hint="record fewer, or raise operations_max")
        _require_hashable(name, key, arguments)
        began = self._moment()
        self._operations.append(
            Operation(client, key, name, arguments, self._clock(), outcome="unknown", began=began),
        )
        self._open[index] = None
        self._tell("calls", index)
        return index

    def _end(self, index: int, outcome: Outcome, settles_s: float = 0.0, *, result: Any = None) -> None:
        if index not in self._open:
            raise UsageError("an operation ends once", hint="call one of returned, failed and unknown, once")
        del self._open[index]
        self._operations[index] = attrs.evolve(
            self._operations[index],
            returned_at=self._clock() + settles_s,
            ended=math.inf if settles_s else self._moment(),
            outcome=outcome,
            result=result,
        )
        self._tell("ends", index)

    def _tell(self, kind: str, index: int) -> None:
        if self._note is not None:
            one = self._operations[index]
            self._note(kind, f"{one.client}: {one.call if kind == 'calls' else one}", key=one.key)

    def _moment(self) -> int:
        self._moments += 1
        return self._moments


# ------------------------------------------------------------------------------------------------------------ verdicts


@attrs.frozen
class Counterexample:
    """The shortest prefix of one key's operations that no order explains.

    `culprit` is the operation whose answer cannot be; `operations` all that began before it answered; `states` what the
    object could have been in when the operation before it had answered, each with an order that leads there.
    """

    key: Hashable
    culprit: Operation
    operations: tuple[Operation, ...]
    states: tuple[tuple[Hashable, tuple[Operation, ...]], ...]

    def __str__(self) -> str:
        return "\n".join(_told(self))


@attrs.frozen
class KeyVerdict:
    """What was found about one key: `order` is the witness of "ok", `at` the operation where "unknown" gave up."""

    key: Hashable
    verdict: Literal["ok", "violated", "unknown"]
    steps: int
    order: tuple[Operation, ...] = ()
    counterexample: Counterexample | None = None
    at: Operation | None = None
    ways_max: int = 0
    """The most ways in which a prefix could have happened, of those told apart."""


@attrs.frozen
class Verdict:
    """What was found: "violated" if one key's history is, "unknown" if the work ran out before that was known."""

    verdict: Literal["ok", "violated", "unknown"]
    operations: int
    steps: int
    keys: tuple[KeyVerdict, ...]

    @property
    def ok(self) -> bool:
        """Whether the whole history is known to be linearizable."""
        return self.verdict == "ok"

    @property
    def counterexample(self) -> Counterexample | None:
        """The one whose culprit answered first."""
        found = [key.counterexample for key in self.keys if key.counterexample]
        return min(found, key=lambda one: (one.culprit.returned_at, one.culprit.ended), default=None)

    def require(self) -> None:
        """Raise `ViolationError` with the whole text unless the history is linearizable."""
        if not self.ok:
            raise ViolationError(str(self), name="linearizable")

    def __str__(self) -> str:
        if self.counterexample:
            return str(self.counterexample)
        did = f"{self.operations} operations on {len(self.keys)} keys, {self.steps} steps"
        if self.ok:
            return f"linearizable: {did}"
        gave_up = [key for key in self.keys if key.verdict == "unknown"]
        lines = [f"unknown whether linearizable, the work ran out: {did}"]
        lines += [f"  key {key.key!r}: gave up at {key.at} with {key.ways_max} ways open" for key in gave_up]
        return "\n".join([*lines, "check fewer operations at a time, or raise work_max"])


# ------------------------------------------------------------------------------------------------------------ the search


def check(operations: Iterable[Operation], model: Model, *, work_max: int = WORK_MAX) -> Verdict:
    """Judge a history, key by key, with at most `work_max` steps of the model for each key."""
    by_key: dict[Hashable, list[Operation]] = {}
    for operation in operations:
        _require_sound(operation)
        by_key.setdefault(operation.key, []).append(operation)
    keys = tuple(_Search(model, key, done, work_max).run() for key, done in by_key.items())
    verdicts = {key.verdict for key in keys}
    verdict = "violated" if "violated" in verdicts else "unknown" if "unknown" in verdicts else "ok"
    return Verdict(
        verdict=verdict,  # type: ignore[arg-type]
        operations=sum(map(len, by_key.values())),
        steps=sum(key.steps for key in keys),
        keys=keys,
    )


def _require_sound(operation: Operation) -> None:
    """Refuse what no client can have done: the search would give a verdict all the same."""
    if operation.outcome not in get_args(Outcome):
        raise _unsound(operation, f"its outcome is {operation.outcome!r}", f"say one of {', '.join(get_args(Outcome))}")
    if not operation.invoked_at <= operation.returned_at:  # so that NaN is refused too
        times = f"it lasts from {operation.invoked_at} to {operation.returned_at}"
        raise _unsound(operation, times, "give seconds of one clock for all clients, the call before the end")
    _require_hashable(operation.name, operation.key, operation.arguments)


def _unsound(operation: Operation, why: str, hint: str) -> UsageError:
    return UsageError(f"{operation.call} of {operation.client!r} cannot be checked: {why}", hint=hint)


def _require_hashable(name: str, key: object, arguments: object) -> None:
    try:
        hash((key, arguments))
    except TypeError:
        raise UsageError(
            f"the key or an argument of {name!r} cannot be hashed: {key!r}, {arguments!r}",
            hint="give tuples, bytes or frozen classes",
        ) from None


_Order = tuple[Operation, "_Order"] | None
"""An order of operations, the latest first, as a chain that many ways share."""


@attrs.frozen(slots=True, eq=False)
class _Way:
    """One way in which the history so far can have happened: which of the pending operations took effect, and the state."""

    state: Any
    mask: int
    order: _Order


class _OutOfWorkError(Exception):
    """The bound on the model's steps is reached."""


class _Fewest:
    """Ways that were seen, without those that only used more unknown operations than another."""

    def __init__(self) -> None:
        self._masks: dict[tuple[Any, int], list[int]] = {}

    def add(self, way: _Way, unknown: int) -> bool:
        """Take a way up unless one at least as good was seen."""
        used = way.mask & unknown
        masks = self._masks.setdefault((way.state, way.mask & ~unknown), [])
        if any(mask & used == mask for mask in masks):
            return False
        masks.append(used)
        return True


class _Search:
    """The ways in which one key's operations can have happened, from answer to answer."""

    def __init__(self, model: Model, key: Hashable, operations: list[Operation], work_max: int) -> None:
        self._model = model
        self._key = key
        self._operations = [operation for operation in operations if operation.outcome != "failed"]
        self._work_max = work_max
        self._steps = 0
        self._ways_max = 1
        self._pending: dict[int, Operation] = {}
        """By the bit that stands for it in a mask."""
        self._unknown = 0
        """The bits of the operations that need not take effect."""
        self._twins: dict[int, int] = {}
        """An unknown operation's bit, and that of the one alike that began and settles before it: to be used first."""
        self._latest: dict[tuple[str, tuple[Any, ...]], int] = {}
        self._free: list[int] = []
        self._bits = 0

    def run(self) -> KeyVerdict:
        """Go through the calls and answers in their order."""
        ways = [_Way(self._model.start(), 0, None)]
        bits: dict[int, int] = {}
        for is_end, index in _moments(self._operations):
            operation = self._operations[index]
            if not is_end:
                bits[index] = self._begin(operation)
                continue
            try:
                after = self._end(ways, bits[index])
            except _OutOfWorkError:
                return self._verdict("unknown", at=operation)
            if not after:
                return self._verdict("violated", counterexample=self._counterexample(ways, operation))
            ways = after
            self._ways_max = max(self._ways_max, len(ways))
        return self._verdict("ok", order=_in_order(ways[0].order))

    def _verdict(self, verdict: Literal["ok", "violated", "unknown"], **found: Any) -> KeyVerdict:
        return KeyVerdict(self._key, verdict, self._steps, ways_max=self._ways_max, **found)

    def _begin(self, operation: Operation) -> int:
        if not self._free:
            self._free.append(1 << self._bits)
            self._bits += 1
        bit = self._free.pop()
        self._pending[bit] = operation
        if operation.outcome == "unknown":
            alike = (operation.name, operation.arguments)
            self._unknown |= bit
            before = self._latest.get(alike, 0)
            if before and _at_end(self._pending[before]) > _at_end(operation):
                return bit  # it settles first, so it can be the one that is needed while the other may still come
            self._twins[bit] = before
            self._latest[alike] = bit
        return bit

    def _end(self, ways: list[_Way], bit: int) -> list[_Way]:
        """Return the ways in which the operation of `bit`, pending no more, took effect by now; if known, it must have."""
        kept, seen = _Fewest(), _Fewest()
        without = [way for way in ways if bit & self._unknown and not way.mask & bit]
        done = [way for way in without if kept.add(way, self._unknown)]
        queue = deque(way for way in ways if seen.add(way, self._unknown))
        while queue:
            way = queue.popleft()
            if way.mask & bit:
                way = _Way(way.state, way.mask & ~bit, way.order)
                if kept.add(way, self._unknown):
                    done.append(way)
                continue
            for after, costs in self._steps_from(way):
                if seen.add(after, self._unknown):
                    # Those that used fewer unknown operations come first, so that they rule the others out.
                    (queue.append if costs else queue.appendleft)(after)
            self._ways_max = max(self._ways_max, len(queue))
        if done:
            self._forget(bit)
        return done

    def _forget(self, bit: int) -> None:
        operation = self._pending.pop(bit)
        self._free.append(bit)
        if not bit & self._unknown:
            return
        self._unknown &= ~bit
        before, alike = self._twins.pop(bit, 0), (operation.name, operation.arguments)
        self._twins = {twin: before if first == bit else first for twin, first in self._twins.items()}
        if self._latest.get(alike) == bit:
            self._latest[alike] = before

    def _steps_from(self, way: _Way) -> Iterator[tuple[_Way, bool]]:
        """Yield what follows if one more pending operation takes effect, and whether it is an unknown one."""
        for bit, operation in self._pending.items():
            if way.mask & bit or self._twins.get(bit, 0) & ~way.mask:
                continue
            self._steps += 1
            if self._steps > self._work_max:
                raise _OutOfWorkError
            for state in self._model.step(way.state, operation):
                yield _Way(state, way.mask | bit, (operation, way.order)), bool(bit & self._unknown)

    def _counterexample(self, ways: list[_Way], culprit: Operation) -> Counterexample:
        began = [one for one in self._operations if _at_call(one) < _at_end(culprit)]
        states = {way.state: _in_order(way.order) for way in reversed(ways)}
        return Counterexample(self._key, culprit, tuple(sorted(began, key=_at_call)), tuple(states.items()))


def _at_call(operation: Operation) -> tuple[float, float]:
    return operation.invoked_at, operation.began


def _at_end(operation: Operation) -> tuple[float, float]:
    return operation.returned_at, operation.ended


def _moments(operations: list[Operation]) -> list[tuple[bool, int]]:
    """Return the calls (False) and the ends (True) in their order, with the index of the operation."""
    calls = [(_at_call(one), False, index) for index, one in enumerate(operations)]
    ends = [(_at_end(one), True, index) for index, one in enumerate(operations) if one.returned_at < math.inf]
    return [(is_end, index) for _, is_end, index in sorted(calls + ends)]


def _in_order(order: _Order) -> tuple[Operation, ...]:
    found: list[Operation] = []
    while order is not None:
        operation, order = order
        found.append(operation)
    return tuple(reversed(found))


# ------------------------------------------------------------------------------------------------------------- the text

ROWS_MAX = 16
"""How many operations a timeline shows: the latest ones."""
STATES_MAX = 4
ORDER_MAX = 6


def _told(found: Counterexample) -> Iterator[str]:
    culprit, count = found.culprit, len(found.operations)
    yield f"not linearizable: key {found.key!r}, {count} operations; no order explains {culprit} of {culprit.client}"
    yield ""
    yield from _timeline(found)
    yield ""
    yield "before it, the object could be:"
    for state, order in found.states[:STATES_MAX]:
        tail = " < ".join(f"{one.client}: {one}" for one in order[-ORDER_MAX:])
        yield f"  {state!r}" + (f"  after {'… < ' if len(order) > ORDER_MAX else ''}{tail}" if order else "  at first")
    if len(found.states) > STATES_MAX:
        yield f"  … and {len(found.states) - STATES_MAX} other states"


def _timeline(found: Counterexample) -> Iterator[str]:
    """Yield a line for each operation, drawn from its call to its answer by the order of these."""
    culprit = found.culprit
    shown = _shown(found)
    if len(shown) < len(found.operations):
        yield f"  … {len(found.operations) - len(shown)} operations before these"
    moments = sorted({*map(_at_call, shown), *(_at_end(one) for one in shown if _ends_by(one, culprit))})
    column = {moment: 2 * index for index, moment in enumerate(moments)}
    width, client_width = 2 * len(moments), max(len(one.client) for one in shown)
    for one in shown:
        start = column[_at_call(one)]
        end = column[_at_end(one)] if _ends_by(one, culprit) else width
        bar = " " * start + "├" + "─" * (end - start - 1) + ("┤" if end < width else "┄")
        mark = "  ✗" if one is culprit else ""
        yield f"  {one.client:<{client_width}}  {bar:<{width + 1}}  {_times(one):<17}  {one}{mark}"


def _ends_by(operation: Operation, culprit: Operation) -> bool:
    return operation.outcome == "returned" and _at_end(operation) <= _at_end(culprit)


def _shown(found: Counterexample) -> list[Operation]:
    """Choose the culprit, what overlaps it, and the latest others, as far as there is room."""
    culprit = found.culprit

    def weight(one: Operation) -> tuple[bool, bool, float, float]:
        return one is culprit, _at_end(one) > _at_call(culprit), *_at_call(one)

    chosen = sorted(found.operations, key=weight)[-ROWS_MAX:]
    return sorted(chosen, key=_at_call)


def _times(operation: Operation) -> str:
    end = f"{operation.returned_at:.3f}" if operation.returned_at < math.inf else "…"
    return f"{operation.invoked_at:.3f}..{end} s"
