"""Many asks in flight to one actor, their answers in order: what hides the way there and back.

An ask at a time costs a journey each. Here the next ones travel while the first is answered; never more than
`in_flight` of them are unanswered or not yet taken, so a slow consumer slows the asking.
"""

from __future__ import annotations

import contextlib
import math
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import trio

from prime.actor.groups import one_error
from prime.actor.mailbox import Envelope
from prime.actor.ref import LocalRef, Ref
from prime.actor.slots import SLOW
from prime.errors import ActorUsageError, DeadlineError

if TYPE_CHECKING:
    from prime.wire import Asked

M = TypeVar("M")
R = TypeVar("R")

IN_FLIGHT = 64


@contextlib.asynccontextmanager
async def pipeline(
    ref: Ref[M],
    messages: Iterable[Asked[M, R]] | AsyncIterable[Asked[M, R]],
    *,
    timeout: float,
    in_flight: int = IN_FLIGHT,
) -> AsyncIterator[AsyncIterator[R]]:
    """Ask `ref` all the messages, in their order; iterate over what the block gives to get the answers in that order.

    `timeout` is of each ask, in seconds from its sending. The first failure ends it: the answers before it come, then
    it is raised, and no further message is sent; those that were on their way may still be handled. The same holds for
    leaving the block early. Raises what `Ref.ask` raises, and `ActorUsageError` for an impossible `in_flight`.
    """
    if in_flight < 1:
        raise ActorUsageError(f"a pipeline with {in_flight} asks in flight", hint="1 or more; 64 is usual")
    answers = _Answers[R](ref, in_flight, timeout)
    async with one_error(), trio.open_nursery() as nursery:
        nursery.start_soon(answers.feed, messages, nursery)
        try:
            yield answers
        finally:
            nursery.cancel_scope.cancel()


async def ask_all(
    ref: Ref[M], messages: Iterable[Asked[M, R]], *, timeout: float, in_flight: int = IN_FLIGHT
) -> list[R]:
    """Ask `ref` all the messages, `in_flight` at a time, and return the answers in order; see `pipeline`."""
    async with pipeline(ref, messages, timeout=timeout, in_flight=in_flight) as answers:
        return [answer async for answer in answers]


class _Answer:
    """Where one answer goes: a `ReplySlot`."""

    __slots__ = ("_came", "deadline", "done", "error", "timeout_s", "value")

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline
        self.done = False
        self.value: Any = None
        self.error: BaseException | None = None
        self._came: trio.Event | None = None

    def reply(self, value: Any) -> None:
        """Answer with a value; only the first answer counts."""
        if not self.done:
            self.value = value
            self._finish()

    def fail(self, error: BaseException) -> None:
        """Answer with an error; only the first answer counts."""
        if not self.done:
            self.error = error
            self._finish()

    def _finish(self) -> None:
        self.done = True
        if self._came is not None:
            self._came.set()

    async def wait(self) -> bool:
        """Wait for it; `False` when its deadline came first."""
        if self.done:
            await trio.lowlevel.checkpoint()
            return True
        self._came = trio.Event()
        with trio.CancelScope(deadline=self.deadline):
            await self._came.wait()
        return self.done


class _Answers(Generic[R]):
    """The answers in order: the first of `_open` is the next to be taken."""

    def __init__(self, ref: Ref[Any], in_flight: int, timeout_s: float) -> None:
        self._ref = ref
        self._in_flight = in_flight
        self._timeout_s = timeout_s
        self._open: deque[_Answer] = deque()
        self._fed = False
        self._news = trio.Event()

    def __aiter__(self) -> AsyncIterator[R]:
        return self

    async def __anext__(self) -> R:
        while not self._open:
            if self._fed:
                raise StopAsyncIteration
            await self._wait_for_news()
        answer = self._open[0]
        if not await answer.wait():
            answer.fail(DeadlineError(f"no answer from {self._ref.path} within {self._timeout_s:g} s", hint=SLOW))
        if answer.error is not None:
            self._fed = True
            self._open.clear()
            raise answer.error
        self._open.popleft()
        self._tell_news()
        value: R = answer.value
        return value

    async def _wait_for_news(self) -> None:
        await self._news.wait()

    def _tell_news(self) -> None:
        news, self._news = self._news, trio.Event()
        news.set()

    # ----------------------------------------------------------------- asking

    async def feed(self, messages: Iterable[Any] | AsyncIterable[Any], nursery: trio.Nursery) -> None:
        """Send every message, as there is room for its answer; what fails here is raised where answers are taken."""
        try:
            async with contextlib.aclosing(_each(messages)) as source:
                async for message in source:
                    while len(self._open) >= self._in_flight:
                        await self._wait_for_news()
                    if self._fed or not await self._send(message, nursery):
                        break
        except Exception as error:  # noqa: BLE001 - the caller's iterator: its failure is raised in its turn
            self._add(math.inf).fail(error)
        self._fed = True
        self._tell_news()

    def _add(self, deadline: float) -> _Answer:
        answer = _Answer(deadline)
        self._open.append(answer)
        self._tell_news()
        return answer

    async def _send(self, message: Any, nursery: trio.Nursery) -> bool:
        """Send one message; `False` when that failed already."""
        deadline = trio.current_time() + self._timeout_s
        answer = self._add(deadline)
        ref = self._ref
        if type(ref) is LocalRef:
            with trio.CancelScope(deadline=deadline):
                await self._put(ref, Envelope(message, answer, deadline))
        else:
            begun = trio.Event()
            nursery.start_soon(self._ask, message, answer, begun)
            await begun.wait()  # so that the next one does not overtake it
        return answer.error is None

    async def _put(self, ref: LocalRef[Any], entry: Envelope) -> None:
        try:
            await ref.put(entry)
        except Exception as error:  # noqa: BLE001 - it is this ask's answer
            entry.slot.fail(error)

    async def _ask(self, message: Any, answer: _Answer, begun: trio.Event) -> None:
        begun.set()
        try:
            answer.reply(await self._ref.ask(message, timeout=self._timeout_s))
        except Exception as error:  # noqa: BLE001 - it is this ask's answer
            answer.fail(error)


async def _each(messages: Iterable[Any] | AsyncIterable[Any]) -> AsyncGenerator[Any, None]:
    """Yield them; an async generator of the caller's is closed with this one, in Trio's sight."""
    if isinstance(messages, AsyncGenerator):
        async with contextlib.aclosing(messages) as source:
            async for message in source:
                yield message
    elif isinstance(messages, AsyncIterable):
        async for message in messages:
            yield message
    else:
        for message in messages:
            yield message
