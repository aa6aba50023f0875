"""Streams: an answer of many parts, never further ahead of its consumer than the consumer's credit.

The producer is an async generator that runs as a side task of its actor. The consumer pulls: each pull says how many
items there may be in all (`taken + credit`) and brings back those that are there. Pulls are asks like others, so a
stream works near and far alike, and a lost link, a dead actor or a deadline end it as they end an ask. A producer that
hears nothing for a while (its lease) gives up, so a consumer that vanished costs nothing for long.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import sys
import traceback
import typing
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, TypeVar, get_args, get_origin

import attrs
import trio

from prime.actor.actor import Actor
from prime.actor.facts import words_of
from prime.actor.groups import one_error
from prime.actor.handlers import on
from prime.actor.messages import (
    BATCH_ITEMS_MAX,
    CREDIT_MAX,
    Items,
    StreamBatch,
    StreamLeft,
    StreamOpened,
    StreamPull,
    StreamRenewed,
)
from prime.actor.ref import Ref
from prime.errors import (
    ActorCrashedError,
    ActorUsageError,
    DeadlineError,
    MessageError,
    NotFoundError,
    PrimeError,
    RefusedError,
    RemoteProtocolError,
)
from prime.wire import Ask, Payload
from prime.wire.codec import compile_codec

if TYPE_CHECKING:
    from typing import Self

    from prime.actor.slots import Later

Item = TypeVar("Item")
Item_co = TypeVar("Item_co", covariant=True)
Kind_co = TypeVar("Kind_co", covariant=True)
M = TypeVar("M")
M_contra = TypeVar("M_contra", contravariant=True)
S = TypeVar("S")

CREDIT = 32
LEASE_OPEN_S = 30.0
"""How long a new stream waits for its first pull."""
LEASE_TIMES = 3.0
"""A lease, in the consumer's timeouts: it speaks at least once in each."""
LEASE_S_MAX = 24 * 3600.0
LEAVE_S = 1.0
"""How long saying goodbye may take; a producer that does not hear it ends with its lease."""
BATCH_BYTES = 2**20
"""About how much one answer holds; a single item may be bigger."""
TURN = 64
"""Items between two checkpoints of a producer that never waits."""


class Stream(Ask[StreamOpened], Generic[Item_co]):
    """A message whose answer is many items: `class Lines(Stream[str])`. Open it with `open_stream`."""

    __slots__ = ()

    if TYPE_CHECKING:

        def __streamed__(self) -> tuple[Self, Item_co]:
            """Exist for type checkers alone: see `Streamed`."""
            raise NotImplementedError


class Streamed(Protocol[Kind_co, Item_co]):
    """What a type checker knows of a stream's message: that it is a `Kind_co`, and that its items are `Item_co`."""

    def __streamed__(self) -> tuple[Kind_co, Item_co]:
        """Exist for type checkers alone: no object has it at run time."""
        ...


def item_type(cls: type) -> Any:
    """Return the items' type of a message that derives from `Stream[T]`; raises `MessageError` for any other class."""
    for each in inspect.getmro(cls):
        for base in getattr(each, "__orig_bases__", ()):
            if get_origin(base) is Stream:
                scope = {**vars(sys.modules.get(cls.__module__, typing)), cls.__name__: cls}
                return _unsigned(cls, _resolved(get_args(base)[0], scope))
    raise MessageError(f"{cls.__qualname__} is no Stream", hint="derive it from Stream[T]")


def _unsigned(cls: type, items: Any) -> Any:
    """Return the items' type. Raises `MessageError` if they are signed: a batch would have many signatures to verify."""
    try:
        is_signed = compile_codec(items).signed
    except MessageError:  # they have no wire form: a stream within this system
        is_signed = False
    if is_signed:
        raise MessageError(
            f"{cls.__qualname__}: a signed message is no item of a stream",
            hint="make it a Stream[bytes] of `prime.signed_bytes(message)`",
        )
    return items


def _resolved(argument: Any, scope: dict[str, Any]) -> Any:
    if isinstance(argument, typing.ForwardRef):
        hints = typing.get_type_hints(type("_", (), {"__annotations__": {"it": argument}}), scope, include_extras=True)
        return hints["it"]
    return argument


# ----------------------------------------------------------------------------------------------------- the producer


def streams(
    kind: type[Streamed[M, Item]],
) -> Callable[[Callable[[S, M], AsyncIterator[Item]]], Callable[[S, M], StreamOpened]]:
    """Mark an async generator method of a `Streaming` actor as what answers a `Stream` message.

    It runs beside the actor, not instead of it: between two items, and while it waits, other messages are handled.
    """
    stream_kind: type[Any] = kind
    item_type(stream_kind)

    def mark(method: Callable[[Any, Any], AsyncIterator[Any]]) -> Callable[[Any, Any], StreamOpened]:
        if not inspect.isasyncgenfunction(method):
            raise MessageError(
                f"{getattr(method, '__qualname__', method)} is no async generator",
                hint="write `async def` with a `yield` in it",
            )

        @functools.wraps(method)
        def opened(self: Any, message: Any) -> StreamOpened:
            if not isinstance(self, Streaming):
                raise ActorUsageError(f"{type(self).__qualname__} streams", hint="derive it from Streaming")
            return self.open_source(method(self, message), item_type(type(message)), stream_kind.__name__)

        marked: Callable[[Any, Any], StreamOpened] = on(stream_kind)(opened)
        return marked

    return mark


class Streaming(Actor[M_contra]):
    """An actor that answers streams: mark an async generator method with `@streams(Lines)`.

    At most `streams_max` are open at a time; more are refused. A generator that fails fails its stream with
    `ActorCrashedError` and then the actor, like any handler; `RefusedError` and `NotFoundError` are answers.
    """

    streams_max: ClassVar[int] = 1024

    __sources: dict[int, _Source] | None = None

    def open_source(self, generator: AsyncGenerator[Any, None], annotation: Any, kind: str) -> StreamOpened:
        """Start a stream; `streams` calls it. Raises `RefusedError` when too many are open."""
        sources = self.__sources = {} if self.__sources is None else self.__sources
        if len(sources) >= self.streams_max:
            raise RefusedError(f"{self.ctx.path} has {len(sources)} streams open", hint="read them, or leave some")
        stream = self.ctx.system.random.getrandbits(63)
        sources[stream] = source = _Source(self, generator, annotation, kind)
        source.forget = lambda: sources.pop(stream, None)
        self.ctx.start_soon(source.run)
        return StreamOpened(stream)

    def _source(self, stream: int) -> _Source | None:
        source = (self.__sources or {}).get(stream)
        return source if source is not None and source.peer == self.ctx.sender else None

    @on(StreamPull)
    def pull_stream(self, m: StreamPull) -> Any:
        """Answer with the items that are there, or as soon as there is one."""
        source = self._source(m.stream)
        if source is None:
            raise NotFoundError(f"{self.ctx.path} has no such stream", hint="it ended, or the actor was restarted")
        return source.pulled(m)

    @on(StreamRenewed)
    def renew_stream(self, m: StreamRenewed) -> None:
        """Keep a stream whose consumer takes its time."""
        source = self._source(m.stream)
        if source is not None:
            source.renew(m.lease_s)

    @on(StreamLeft)
    def leave_stream(self, m: StreamLeft) -> None:
        """End a stream that nobody reads any more."""
        source = self._source(m.stream)
        if source is not None:
            source.scope.cancel()


class _Source:
    """The producing side of one stream."""

    def __init__(self, actor: Streaming[Any], generator: AsyncGenerator[Any, None], annotation: Any, kind: str) -> None:
        self.scope = trio.CancelScope()
        self.peer = actor.ctx.sender
        self.forget: Callable[[], object] = lambda: None
        self._actor = actor
        self._path = actor.ctx.path
        self._generator = generator
        self._annotation = annotation
        self._kind = kind
        self._ready: deque[Any] = deque()
        self._made = self._sent = self._allowed = 0
        self._done = False
        self._failure: PrimeError | None = None
        self._pull: Later | None = None
        self._moved = trio.Event()
        self._told = False

    # What the actor's handlers call.

    def pulled(self, m: StreamPull) -> Any:
        """Take a pull: answer now, or keep it until there is something."""
        self.renew(m.lease_s)
        self._allowed = max(self._allowed, min(m.allowed, self._sent + CREDIT_MAX))
        self._move()
        if self._ready or (self._done and self._failure is None):
            return self._batch()
        before, self._pull = self._pull, self._actor.ctx.defer()
        if before is not None:
            before.fail(RefusedError("another pull came for this stream", hint="pull once at a time"))
        self._answer()  # with the failure, if it has failed by now
        return None

    def renew(self, lease_s: float) -> None:
        """Give up later."""
        self.scope.deadline = trio.current_time() + min(max(lease_s, 0.0), LEASE_S_MAX)

    # The side task.

    async def run(self) -> None:
        """Make items up to what is allowed, and see to it that the consumer hears the end."""
        error: Exception | None = None
        self.renew(LEASE_OPEN_S)
        try:
            with self.scope:
                async with contextlib.aclosing(self._generator):
                    try:
                        await self._produce()
                    except (RefusedError, NotFoundError) as answer:
                        self._failure = answer
                    except Exception as failed:  # noqa: BLE001 - the user's code: told to the consumer, then raised
                        error = failed
                        self._failure = self._crashed(failed)
                self._done = True
                self._answer()
                while not self._told:
                    await self._moved.wait()
        finally:
            self.forget()
        if error is not None:
            raise error

    async def _produce(self) -> None:
        while True:
            while self._made >= self._allowed:
                await self._moved.wait()
            try:
                item = await anext(self._generator)
            except StopAsyncIteration:
                return
            self._made += 1
            self._ready.append(item)
            self._answer()
            if self._made % TURN == 0:
                await trio.lowlevel.checkpoint()

    def _crashed(self, error: Exception) -> ActorCrashedError:
        return ActorCrashedError(
            f"{self._path} failed while streaming {self._kind}: {words_of(error)}",
            hint="its supervisor decides about a restart; open the stream anew",
            remote_traceback="".join(traceback.format_exception(error)),
        )

    def _answer(self) -> None:
        """Answer the pull that waits, if there is something to say."""
        pull = self._pull
        if pull is None or not (self._ready or self._done):
            return
        self._pull = None
        if self._failure is not None and not self._ready:
            self._note_told()
            pull.fail(self._failure)
        else:
            pull.reply(self._batch())

    def _batch(self) -> StreamBatch:
        items: list[Any] = []
        size_bytes = 0
        while self._ready and len(items) < BATCH_ITEMS_MAX and size_bytes < BATCH_BYTES:
            item = self._ready.popleft()
            size_bytes += _size_of(item)
            items.append(item)
        self._sent += len(items)
        done = self._done and not self._ready and self._failure is None
        if done:
            self._note_told()
        if _is_payload(self._annotation):
            return StreamBatch(Items(self._annotation, ()), tuple(items), done)
        return StreamBatch(Items(self._annotation, items), (), done)

    def _note_told(self) -> None:
        self._told = True
        self._move()

    def _move(self) -> None:
        moved, self._moved = self._moved, trio.Event()
        moved.set()


def _is_payload(annotation: Any) -> bool:
    return bool(annotation is memoryview or annotation == Payload)


def _size_of(item: Any) -> int:
    """Return about how many bytes an item is, as far as that shows without encoding it."""
    if isinstance(item, memoryview):
        return item.nbytes
    if isinstance(item, bytes | bytearray | str | list | tuple | dict):
        return len(item)
    if attrs.has(type(item)):
        return sum(_size_of(getattr(item, field.name)) for field in attrs.fields(type(item)))
    return 16


# ----------------------------------------------------------------------------------------------------- the consumer


@contextlib.asynccontextmanager
async def open_stream(
    ref: Ref[M], message: Streamed[M, Item], *, timeout: float, credit: int = CREDIT
) -> AsyncIterator[AsyncIterator[Item]]:
    """Open a stream and iterate over its items; leaving the block ends the producer.

    At most `credit` items are made ahead of those taken. `timeout` bounds the opening and then the wait for each next
    item, in seconds; a consumer may take as long as it likes between two. Raises, here or where items are taken, what
    `Ref.ask` raises: `DeadlineError`, `LinkLostError`, `ActorCrashedError` with the producer's traceback as text, and
    what the producer answered with (`RefusedError`, `NotFoundError`). Items made before a failure come before it.
    """
    if not 1 <= credit <= CREDIT_MAX:
        raise ActorUsageError(f"a stream with a credit of {credit}", hint=f"1 to {CREDIT_MAX}; {CREDIT} is usual")
    anyone: Ref[Any] = ref
    opening: Any = message
    opened: StreamOpened = await anyone.ask(opening, timeout=timeout)
    items = _Taken[Item](anyone, opened.stream, item_type(type(message)), credit, timeout)
    async with one_error(), trio.open_nursery() as nursery:
        nursery.start_soon(items.fill)
        try:
            yield items
        finally:
            nursery.cancel_scope.cancel()
            await items.leave()


_SAID = (ActorCrashedError, NotFoundError, RefusedError)
"""Failures that the producer told: it has ended already."""


class _Taken(Generic[Item]):
    """The consuming side of one stream."""

    def __init__(self, ref: Ref[Any], stream: int, annotation: Any, credit: int, timeout_s: float) -> None:
        self._ref = ref
        self._stream = stream
        self._annotation = annotation
        self._credit = credit
        self._timeout_s = timeout_s
        self._lease_s = timeout_s * LEASE_TIMES
        self._buffer: deque[Item] = deque()
        self._taken = self._received = 0
        self._ended = False
        self._error: BaseException | None = None
        self._spoke_at = trio.current_time()
        self._moved = trio.Event()

    def __aiter__(self) -> AsyncIterator[Item]:
        return self

    async def __anext__(self) -> Item:
        if self._taken % TURN == TURN - 1:
            await trio.lowlevel.checkpoint()
        while not self._buffer:
            if self._error is not None:
                raise self._error
            if self._ended:
                raise StopAsyncIteration
            await self._moved.wait()
        item = self._buffer.popleft()
        self._taken += 1
        self._move()
        return item

    async def fill(self) -> None:
        """Pull items until the end, as far as the credit allows."""
        try:
            while not self._ended:
                await self._until_wanted()
                self._take_in(await self._pull())
        except Exception as error:  # noqa: BLE001 - it is raised where items are taken
            self._error = error
            self._ended = True
        self._move()

    async def _until_wanted(self) -> None:
        """Wait until half the credit is free; say often enough that the stream is still wanted."""
        while self._buffer and self._credit - len(self._buffer) < max(1, self._credit // 2):
            with trio.CancelScope(deadline=self._spoke_at + self._timeout_s) as scope:
                await self._moved.wait()
            if scope.cancelled_caught:
                self._spoke_at = trio.current_time()
                await self._ref.tell(StreamRenewed(self._stream, self._lease_s))

    async def _pull(self) -> StreamBatch:
        self._spoke_at = trio.current_time()
        pull = StreamPull(self._stream, self._taken + self._credit, self._lease_s)
        try:
            batch: StreamBatch = await self._ref.ask(pull, timeout=self._timeout_s)
        except DeadlineError as error:
            raise DeadlineError(
                f"no item from {self._ref.path} within {self._timeout_s:g} s", hint="allow more time, or look there"
            ) from error
        return batch

    def _take_in(self, batch: StreamBatch) -> None:
        items: Sequence[Any] = batch.payloads
        if not _is_payload(self._annotation):
            items = batch.items.values(self._annotation)
        self._received += len(items)
        if self._received > self._taken + self._credit:
            raise RemoteProtocolError(f"{self._ref.path} sent more than its credit", hint="it is broken or hostile")
        self._buffer.extend(items)
        self._ended = batch.done
        self._move()

    async def leave(self) -> None:
        """Tell the producer to end, unless it has."""
        if self._ended and (self._error is None or isinstance(self._error, _SAID)):
            return
        with trio.move_on_after(LEAVE_S, shield=True), contextlib.suppress(PrimeError):
            await self._ref.tell(StreamLeft(self._stream))

    def _move(self) -> None:
        moved, self._moved = self._moved, trio.Event()
        moved.set()
