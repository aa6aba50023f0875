"""An actor whose state survives it: what happened is stored as events, and a new incarnation applies them again.

A handler decides, stores what it decided with `persist`, and only then does the state change, in the methods marked
with `@applies`; these are pure, because they run again at each recovery. A snapshot now and then keeps recovery short.
Event sourcing as in Akka Persistence Typed, without its separate state type: the state is the actor's attributes.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable
from typing import Any, ClassVar, Generic, NoReturn, TypeVar, Union, get_args, get_origin

import attrs
import trio

from prime.actor.actor import Actor
from prime.actor.contract import EventStore
from prime.errors import (
    ActorUsageError,
    ConflictError,
    CorruptedError,
    DecodeError,
    LocalProtocolError,
    MessageError,
    WorldError,
)
from prime.wire import Limits, dumps, from_plain, loads, tag_of, to_plain
from prime.wire.frame import FrameParser, pack

K = TypeVar("K")
S = TypeVar("S")
M_contra = TypeVar("M_contra", contravariant=True)
E_contra = TypeVar("E_contra", contravariant=True)

Applier = Callable[[Any, Any], None]

_MARK = "__prime_applies__"
_LIMITS = Limits()


@attrs.frozen
class StateRecovered:
    """A persistent actor has its state again: from a snapshot at number `snapshot` (0: none) and the `events` after."""

    path: str
    key: str
    snapshot: int
    events: int


@attrs.frozen
class SnapshotFailed:
    """A snapshot could not be stored. Nothing is lost, the events are there; the next one is tried in its turn."""

    path: str
    key: str
    sequence: int
    error: str


def applies(kind: type[K], /) -> Callable[[Callable[[S, K], None]], Callable[[S, K], None]]:
    """Mark a method as what one class of event does to the state.

    It is sync and pure: it changes the actor's attributes by the event alone, sends nothing and reads no clock.
    """

    def mark(method: Callable[[S, K], None]) -> Callable[[S, K], None]:
        setattr(method, _MARK, (*getattr(method, _MARK, ()), kind))
        return method

    return mark


def appliers_of(cls: type) -> dict[type, Applier]:
    """Collect the `@applies` methods of a class, its bases' included; two for one event are an error."""
    table: dict[type, Applier] = {}
    for owner in reversed(cls.__mro__):
        own: dict[type, str] = {}
        for name, method in vars(owner).items():
            for kind in getattr(method, _MARK, ()):
                if kind in own:
                    raise MessageError(
                        f"{owner.__qualname__} applies {kind.__name__} twice: {own[kind]} and {name}",
                        hint="keep one @applies method for each class of event",
                    )
                _check_applier(owner, name, method, kind)
                own[kind] = name
                table[kind] = method
    return table


def _check_applier(owner: type, name: str, method: Any, kind: type) -> None:
    if inspect.iscoroutinefunction(method):
        raise MessageError(
            f"{owner.__qualname__}.{name} applies {kind.__name__} and is async",
            hint="make it a plain def that only changes the state; do the waiting in the handler",
        )
    _check_tagged(owner, kind)


def _check_tagged(owner: type, kind: type) -> None:
    try:
        tag_of(kind)
    except LocalProtocolError as error:
        raise MessageError(f"{owner.__qualname__} stores {kind.__name__}: {error}", hint=error.hint) from None


class Persistent(Actor[M_contra], Generic[M_contra, E_contra]):
    """An actor that recovers its state from a store. `Persistent[Deposit | Balance, Deposited]`: messages, then events.

    Call `super().__init__(store, key)` with the store and the key of this actor's events; one key has one living
    actor. Override `recovered` instead of `started`. With `snapshot_every`, override `snapshot` and `restore` too.
    A failure to store ends this incarnation, also when a handler catches it: the next one knows what was stored.
    """

    __prime_appliers__: ClassVar[dict[type, Applier]] = {}

    _store: EventStore | None = None
    _recovered = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.__prime_appliers__ = appliers_of(cls)
        if cls.started is not Persistent.started:
            raise MessageError(
                f"{cls.__qualname__} overrides started(), which recovers its state",
                hint="override recovered(): it runs after that, and before the first message",
            )
        missing = [kind.__name__ for kind in _events_of(cls) if kind not in cls.__prime_appliers__]
        if missing:
            raise MessageError(
                f"{cls.__qualname__} promises {', '.join(missing)} among its events but has no @applies method for it",
                hint="add a method marked with @applies, or take the class out of Persistent[...]",
            )

    def __init__(
        self,
        store: EventStore,
        key: str,
        *,
        snapshot_every: int | None = None,
        events_kept: int | None = None,
        limits: Limits = _LIMITS,
    ) -> None:
        """Bind the actor to its events.

        A snapshot is made after every `snapshot_every` events (`None`: never), beside the actor's work. Behind each,
        all events but the last `events_kept` that are in it are deleted (`None`: none is). `limits` bounds what one
        event or snapshot may take, stored and read.
        """
        has_snapshots = type(self).snapshot is not Persistent.snapshot and type(self).restore is not Persistent.restore
        if snapshot_every is not None and (snapshot_every < 1 or not has_snapshots):
            raise ActorUsageError(
                f"{type(self).__name__} cannot have snapshot_every={snapshot_every}",
                hint="a number above 0, and both snapshot() and restore() overridden",
            )
        if events_kept is not None and (events_kept < 0 or snapshot_every is None):
            raise ActorUsageError(
                f"{type(self).__name__} cannot have events_kept={events_kept}",
                hint="0 or more, and snapshot_every set: only what is in a snapshot can be deleted",
            )
        self._store = store
        self._key = key
        self._snapshot_every = snapshot_every
        self._events_kept = events_kept
        self._limits = limits
        self._sequence = 0
        self._snapshot_at = 0
        self._saving = False
        self._turn = trio.Lock()
        self._broken: Exception | None = None

    @property
    def key(self) -> str:
        """Return the key of this actor's events."""
        return self._key

    @property
    def sequence(self) -> int:
        """Return the number of the last event that is stored and applied; 0 before the first."""
        return self._sequence

    # ----------------------------------------------------------------------------------------- what a user overrides

    async def recovered(self) -> None:
        """Run once the state is there, before the first message; a failure here is the supervisor's to decide."""

    def snapshot(self) -> Any:
        """Return the whole state as a tagged message."""
        raise NotImplementedError

    def restore(self, snapshot: Any) -> None:
        """Take the state out of what `snapshot` once returned. It runs on a fresh actor, before any event."""
        raise NotImplementedError

    # --------------------------------------------------------------------------------------------- what a user calls

    async def persist(self, *events: E_contra) -> None:
        """Store events, all of them or none, then apply them in order. When it returns, they are on the disk.

        If it raises `Cancelled`, nothing was applied; should the store have them nevertheless, the next `persist`
        fails with `ConflictError`. Raises what the store raises, after which this incarnation ends; `ActorUsageError`
        for an event without an `@applies` method; `LocalProtocolError` for one over the limits.
        """
        bodies = [self._encoded(event) for event in events]
        async with self._turn:
            store = self._ready()
            try:
                last = await store.append(self._key, self._sequence, bodies)
            except Exception as error:
                self._break(error)
                raise
            for number, event in enumerate(events, self._sequence + 1):
                self._apply(event, number)
            if last != self._sequence:
                counted = f"{type(store).__name__} counted {last}, not {self._sequence} events"
                self._break(ActorUsageError(counted, hint="its append() returns the number of the key's last event"))
            self._snapshot_when_due()

    # ------------------------------------------------------------------------------------------------------ recovery

    async def started(self) -> None:
        """Recover the state: the latest snapshot, then the events behind it, page by page; then call `recovered`."""
        if self._store is None:
            raise ActorUsageError(
                f"{type(self).__name__} has no store", hint="call super().__init__(store, key) in its __init__"
            )
        await self._recover_snapshot(self._store)
        while page := await self._store.events(self._key, self._sequence):
            for body in page:
                number = self._sequence + 1
                self._apply(self._decoded(body, f"event number {number}"), number)
            await trio.lowlevel.checkpoint()
        self._recovered = True
        self.ctx.emit(StateRecovered(self.ctx.path, self._key, self._snapshot_at, self._sequence - self._snapshot_at))
        await self.recovered()

    async def _recover_snapshot(self, store: EventStore) -> None:
        saved = await store.snapshot(self._key)
        if saved is None:
            return
        if type(self).restore is Persistent.restore:
            raise ActorUsageError(f"{self._key} has a snapshot, and {type(self).__name__} no restore()", hint="add it")
        self.restore(self._decoded(saved.body, f"the snapshot at number {saved.sequence}"))
        self._sequence = self._snapshot_at = saved.sequence

    def _apply(self, event: Any, number: int) -> None:
        applier = type(self).__prime_appliers__.get(type(event))
        if applier is None:
            self._unreadable(
                f"event number {number}",
                f"{type(self).__name__} does not apply {type(event).__name__}",
                "keep an @applies method for each class of event that was ever stored",
            )
        try:
            applier(self, event)
        except Exception as error:
            error.add_note(f"while applying event number {number} of {self._key!r}, a {type(event).__name__}")
            if self._recovered:
                self._break(error)
            raise
        self._sequence = number

    # ------------------------------------------------------------------------------------------------------- failing

    def _ready(self) -> EventStore:
        if self._broken is not None:
            raise self._broken
        if self._store is None or not self._recovered:
            raise ActorUsageError(
                f"{type(self).__name__} persists before it has recovered", hint="do it in recovered()"
            )
        return self._store

    def _break(self, error: Exception) -> None:
        """End this incarnation whatever the handler does with the error: its state may differ from what is stored."""
        self._broken = error
        self._beside(_fail, error)

    def _beside(self, function: Callable[..., Any], *args: Any) -> bool:
        """Run a task beside the actor; `False` if it is ending, and the task would be too late."""
        try:
            self.ctx.start_soon(function, *args)
        except ActorUsageError:
            return False
        return True

    # ----------------------------------------------------------------------------------------------------- snapshots

    def _snapshot_when_due(self) -> None:
        due = self._snapshot_every is not None and self._sequence - self._snapshot_at >= self._snapshot_every
        if due and not self._saving:
            body = encoded(self.snapshot(), self._limits)
            self._saving = self._beside(self._save, self._sequence, body)

    async def _save(self, sequence: int, body: bytes) -> None:
        store = self._ready()
        self._snapshot_at = sequence
        try:
            await store.save_snapshot(self._key, sequence, body)
            if self._events_kept is not None:
                await store.delete_events(self._key, max(sequence - self._events_kept, 0))
        except (ConflictError, CorruptedError):
            raise
        except WorldError as error:
            self.ctx.emit(SnapshotFailed(self.ctx.path, self._key, sequence, f"{type(error).__name__}: {error}"))
        finally:
            self._saving = False

    # --------------------------------------------------------------------------------------------------------- bytes

    def _encoded(self, event: Any) -> bytes:
        if type(event) not in type(self).__prime_appliers__:
            raise ActorUsageError(
                f"{type(self).__name__} does not apply {type(event).__name__}, so it cannot store one",
                hint="add a method marked with @applies",
            )
        return encoded(event, self._limits)

    def _decoded(self, body: bytes, what: str) -> Any:
        try:
            return decoded(body, self._limits)
        except DecodeError as error:
            self._unreadable(what, str(error), error.hint, error)

    def _unreadable(self, what: str, why: str, hint: str, cause: BaseException | None = None) -> NoReturn:
        raise CorruptedError(f"{self._key!r}: {what} cannot be read: {why}", hint=hint) from cause


def encoded(message: Any, limits: Limits = _LIMITS) -> bytes:
    """Return a tagged message as the bytes of one frame; raises `LocalProtocolError` over the limits."""
    payloads: list[memoryview] = []
    header = dumps(to_plain(message, payloads), limits)
    return b"".join(pack(header, payloads, limits))


def decoded(body: bytes, limits: Limits = _LIMITS) -> Any:
    """Return the message of one frame; raises `DecodeError` for anything but exactly one."""
    parser = FrameParser(limits)
    parser.feed(body)
    frame = parser.next()
    if frame is None or frame.size_bytes != len(body):
        raise DecodeError("it is not exactly one frame", hint="the program that stored it is broken or another one")
    return from_plain(loads(frame.header, limits), frame.payloads, limits)


async def _fail(error: Exception) -> None:
    await trio.lowlevel.checkpoint()  # the handler that let the error out is the better witness of it
    raise error


def _events_of(cls: type) -> tuple[type, ...]:
    """Return the classes of events named in `Persistent[...]`, as far as they are plain classes."""
    for base in getattr(cls, "__orig_bases__", ()):
        if get_origin(base) is Persistent:
            _, events = get_args(base)
            is_union = isinstance(events, types.UnionType) or get_origin(events) is Union
            members = get_args(events) if is_union else (events,)
            return tuple(member for member in members if isinstance(member, type) and member is not Any)
    return ()
