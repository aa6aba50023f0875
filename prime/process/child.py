"""A child process in which one actor lives, started by its parent through `entry.py`.

It runs a whole system whose network is the pair to its parent. It ends when its actor has ended, and at once when the
parent is gone: by the kernel's death signal (also while it is stopped), or by the end of the pair.
"""

from __future__ import annotations

import contextlib
import faulthandler
import importlib
import importlib.util
import math
import os
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import trio

from prime.actor.contract import PeerId
from prime.actor.facts import ActorFailed, ActorStopped, DeadLetter, causes_of, words_of
from prime.actor.mailbox import Envelope, Mailbox
from prime.actor.system import System
from prime.errors import ActorUsageError, PrimeError
from prime.process.limits import pair_limits
from prime.process.messages import (
    CONTROL_PATH,
    ActorEnded,
    Arrived,
    Failed,
    Progress,
    StartActor,
    StopActor,
    Undelivered,
)
from prime.process.names import unpack_args
from prime.process.window import WINDOW
from prime.transport.facts import LinkDown, LinkUp
from prime.transport.identity import KeyPair
from prime.transport.links import Links
from prime.transport.pair import Pair

if TYPE_CHECKING:
    from prime.actor.actor import Actor
    from prime.actor.contract import ReplySlot
    from prime.actor.ref import Ref
    from prime.actor.supervisor import Supervisor

PAUSE_S = (0.001, 0.05)
"""Between two looks at how far the actor is, while messages wait for it: the shortest and the longest."""
LOSSES_MAX = 256
"""Dead letters of which the parent has not been told yet."""
TEXT_MAX = 4_000
CAUSE_MAX = 500
TRACE_MAX = 16_000
_NOBODY = PeerId("")
SCRIPT_MODULE = "__prime_main__"
"""Under this name a script is run for its classes: its `if __name__ == "__main__":` part is left out."""


class ChildSystem(System):
    """The child's system: it counts what its one actor takes, and hears control messages."""

    def __init__(self, control: Callable[[Any, ReplySlot | None], None]) -> None:
        super().__init__()
        self._control = control
        self._main = ""
        self._tells = 0
        self._ask = 0
        self._open_asks = 0
        self._numbers: dict[int, tuple[int, Any]] = {}
        """The number of each tell, by the identity of its message, until it is known to be begun."""
        self._unbegun_tells: list[int] = []
        self._unbegun_asks: list[int] = []
        self.failed: ActorFailed | None = None
        self.told = trio.Event()
        """Set by each message to the one actor."""
        self.ended = trio.Event()
        self.subscribe(self._observe)

    def expect(self, path: str) -> None:
        """Count what the actor at `path` takes."""
        self._main = path

    def arrived(self) -> Arrived:
        """Return what has come for the actor and waits; the message in hand counts as waiting until the actor ends."""
        if self.ended.is_set():
            return Arrived(self._tells, self._ask, tuple(self._unbegun_tells), tuple(self._unbegun_asks))
        cell = self._cells.get(self._main)
        if cell is None:
            return Arrived(self._tells, self._ask)
        stash = list(cell.stash or ())
        in_hand = cell.life.now if cell.life is not None else None
        # What has no envelope came from this process itself, as a timer's message does: the parent knows nothing of it.
        waiting = [entry for entry in (*stash, in_hand, *cell.queue) if type(entry) is Envelope]
        tells = {id(entry.message): number for entry in waiting if (number := self._numbers.get(id(entry.message)))}
        asks = tuple(entry.slot.correlation for entry in waiting if type(entry.slot) is _MainSlot)
        self._numbers = tells
        aside = sum(type(entry) is Envelope for entry in stash)
        return Arrived(self._tells, self._ask, tuple(number for number, _ in tells.values()), asks, aside)

    def is_news(self, now: Arrived, said: Arrived) -> bool:
        """Tell whether the parent should hear of it: answers tell it of most asks."""
        return _without_ask(now) != _without_ask(said) or self._open_asks > 0

    def lost(self, fact: DeadLetter) -> None:
        """Hear of a tell that is no message here: it has come all the same."""
        if fact.path == self._main:
            self._tells += 1
            self.told.set()
        self.emit(fact)

    def deliver_nowait(
        self,
        path: str,
        message: Any,
        *,
        slot: ReplySlot | None,
        deadline: float | None,
        sender: PeerId,
        trace: str | None = None,
        chain: tuple[str, ...] = (),
    ) -> bool:
        """See `Inbound.deliver_nowait`."""
        if path == CONTROL_PATH:
            self._control(message, slot)
            return True
        if path == self._main:
            if self.ended.is_set():
                return True  # never begun, and never counted: the parent keeps it
            slot = self._note(message, slot)
            if sender == self.parent:
                sender = _NOBODY  # the parent names a far sender; what it hands on without one came from its own actors
        return super().deliver_nowait(
            path, message, slot=slot, deadline=deadline, sender=sender, trace=trace, chain=chain
        )

    def dead_letter(self, path: str, message: Any, reason: str) -> None:
        """Count a message that the ended actor never began: the parent keeps it. Others are dead letters here."""
        if path == self._main and self._is_dead() and not self.ended.is_set():
            if id(message) in self._numbers:
                self._unbegun_tells.append(self._numbers[id(message)][0])
        else:
            super().dead_letter(path, message, reason)

    def _note(self, message: Any, slot: Any) -> Any:
        self.told.set()
        if slot is None:
            self._tells += 1
            self._numbers[id(message)] = (self._tells, message)
            return None
        self._ask = slot.correlation
        self._open_asks += 1
        return _MainSlot(self, slot)

    def answered(self) -> None:
        """Count an ask that is over."""
        self._open_asks -= 1

    def unbegun(self, correlation: int) -> bool:
        """Tell whether an ask fails because the actor died before it began: then the parent keeps it."""
        if not self._is_dead():
            return False
        self._unbegun_asks.append(correlation)
        return True

    def _is_dead(self) -> bool:
        cell = self._cells.get(self._main)
        return cell is not None and cell.state == "dead"

    def _observe(self, fact: Any) -> None:
        if isinstance(fact, ActorFailed) and fact.path == self._main:
            self.failed = fact
        elif isinstance(fact, ActorStopped) and fact.path == self._main:
            self.ended.set()


def _without_ask(arrived: Arrived) -> tuple[Any, ...]:
    return arrived.tells, arrived.waiting_tells, arrived.waiting_asks, arrived.aside


class _MainSlot:
    """The slot of an ask for the one actor."""

    __slots__ = ("_done", "_slot", "_system", "correlation")

    def __init__(self, system: ChildSystem, slot: Any) -> None:
        self._system = system
        self._slot = slot
        self._done = False
        self.correlation: int = slot.correlation

    def reply(self, value: Any) -> None:
        """See `ReplySlot.reply`."""
        self._finish()
        self._slot.reply(value)

    def fail(self, error: BaseException) -> None:
        """See `ReplySlot.fail`."""
        if not self._system.unbegun(self.correlation):
            self._finish()
            self._slot.fail(error)

    def _finish(self) -> None:
        if not self._done:
            self._done = True
            self._system.answered()


class Household:
    """The life of the child process: its system, its one actor, and what it tells its parent."""

    def __init__(self, pair: socket.socket) -> None:
        self._system = ChildSystem(self._hear)
        self._links = Links(
            Pair(pair, dials=False),
            KeyPair.generate(),
            limits=pair_limits(math.inf),
            emit=self._hear_of_link,
            vouched=True,
        )
        self._orders, self._ordered = trio.open_memory_channel[tuple[StartActor, Any]](1)
        self._stopping = False
        self._supervisor: Supervisor | None = None
        self._ref: Ref[Any] | None = None
        self._nursery: trio.Nursery | None = None
        self._lost, self._losses = trio.open_memory_channel[Undelivered](LOSSES_MAX)
        self._system.subscribe(self._hear_of_loss)

    async def run(self) -> None:
        """Live until the actor has ended and the parent knows."""
        self._system.network = self._links
        self._system.signatory = self._links.signatory
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            await nursery.start(self._system.serve)
            start, slot = await self._ordered.receive()
            await self._live(start, slot)
            nursery.cancel_scope.cancel()

    def _hear(self, message: Any, slot: ReplySlot | None) -> None:
        """Take a control message of the parent's."""
        if isinstance(message, StartActor):
            self._orders.send_nowait((message, slot))
        elif isinstance(message, StopActor) and slot is not None and self._nursery is not None:
            self._nursery.start_soon(self._stop, slot)

    def _hear_of_link(self, fact: Any) -> None:
        if isinstance(fact, DeadLetter):
            self._system.lost(fact)
        elif isinstance(fact, LinkUp):
            self._system.parent = fact.peer
        elif isinstance(fact, LinkDown):
            end(0)  # the parent is gone, or has let go: nothing here is worth waiting for

    def _hear_of_loss(self, fact: Any) -> None:
        if isinstance(fact, DeadLetter):
            with contextlib.suppress(trio.WouldBlock):  # it is counted here; the parent hears of as many as it can
                self._lost.send_nowait(Undelivered(fact.path, fact.kind, fact.reason))

    async def _report_losses(self) -> None:
        async for loss in self._losses:
            await self._tell_parent(loss, asks=False)

    # ------------------------------------------------------------------------------------------------ the actor

    async def _live(self, start: StartActor, slot: ReplySlot) -> None:
        supervisor, _, name = start.path.rpartition("/")
        self._system.expect(start.path)
        try:
            factory = await trio.to_thread.run_sync(_find, start)
            args = unpack_args(start.args, start.buffers)
            async with self._system.supervisor(supervisor.lstrip("/")) as self._supervisor:
                await self._spawn(self._supervisor, lambda: factory(*args), name, start.shutdown_s)
                slot.reply(None)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._report)
                    nursery.start_soon(self._report_losses)
                    await self._system.ended.wait()
                    nursery.cancel_scope.cancel()
        except Exception as error:
            if self._ref is not None:
                raise  # the actor is up, and it was not its failure: the process ends, with this as its last words
            slot.reply(self._failed(error))
            await trio.sleep_forever()  # the parent lets go
        await self._say_ended()

    async def _spawn(self, sup: Supervisor, factory: Callable[[], Actor[Any]], name: str, shutdown_s: float) -> None:
        mailbox = Mailbox(2 * WINDOW)  # the parent's window is smaller: it is never full
        try:
            self._ref = await sup.spawn(factory, name, mailbox=mailbox, kind="temporary", shutdown=shutdown_s)
        except PrimeError as error:
            raise error.__cause__ or error from None

    async def _say_ended(self) -> None:
        if self._stopping:
            await trio.sleep_forever()  # the parent asked for it, and lets go
        failed = self._system.failed
        said = None if failed is None else _said(failed)
        await self._tell_parent(ActorEnded(said, self._system.arrived()), asks=True)

    def _failed(self, error: BaseException) -> Failed:
        return failure(error, "started()")

    async def _stop(self, slot: ReplySlot) -> None:
        self._stopping = True
        if self._supervisor is not None and self._ref is not None:
            await self._supervisor.stop(self._ref)
        slot.reply(self._system.arrived())

    async def _report(self) -> None:
        """Tell the parent how far the actor is, soon after it has got there: looked at, so that no actor pays for it."""
        system = self._system
        said = Arrived()
        while True:
            await system.told.wait()
            system.told = trio.Event()
            pause_s, longest_s = PAUSE_S
            waits = True
            while waits:
                await trio.sleep(pause_s)
                now = system.arrived()
                pause_s = PAUSE_S[0] if now != said else min(2 * pause_s, longest_s)
                if now != said and system.is_news(now, said):
                    await self._tell_parent(Progress(now), asks=False)
                said = now
                waits = bool(now.waiting_tells or now.waiting_asks)

    async def _tell_parent(self, message: Any, *, asks: bool) -> None:
        parent = PeerId(self._system.parent)
        if asks:
            await self._links.ask(parent, CONTROL_PATH, message, timeout_s=math.inf)
        else:
            await self._links.tell(parent, CONTROL_PATH, message)


def _causes(causes: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(_text(cause)[:CAUSE_MAX] for cause in causes)


def failure(error: BaseException, last_message: str) -> Failed:
    """Return an error in the form that crosses: bounded, and with nothing that UTF-8 cannot say."""
    hint = error.hint if isinstance(error, PrimeError) else ""
    trace = _text("".join(traceback.format_exception(error)))
    return Failed(
        type(error).__name__,
        _text(words_of(error).partition(": ")[2])[:TEXT_MAX],
        hint,
        trace[-TRACE_MAX:],
        last_message,
        _causes(causes_of(error)),
    )


def _said(fact: ActorFailed) -> Failed:
    code, _, text = fact.error.partition(": ")
    return Failed(
        code, _text(text)[:TEXT_MAX], "", _text(fact.traceback)[-TRACE_MAX:], fact.last_message, _causes(fact.causes)
    )


def _text(text: str) -> str:
    return text.encode(errors="backslashreplace").decode()


def _find(start: StartActor) -> Callable[..., Actor[Any]]:
    """Import the factory, in a thread: so that a slow import is not taken for a hang."""
    module = _run_script(start.script) if start.script else importlib.import_module(start.module)
    found: Any = module
    for name in start.factory.split("."):
        found = getattr(found, name, None)
    if not callable(found):
        raise ActorUsageError(f"{start.module} has no {start.factory}", hint="name a class or a function there")
    return found  # type: ignore[no-any-return]


def _run_script(path: str) -> Any:
    spec = importlib.util.spec_from_file_location(SCRIPT_MODULE, Path(path))
    if spec is None or spec.loader is None:
        raise ActorUsageError(f"{path} is no Python file", hint="put the actor into a module")
    module = importlib.util.module_from_spec(spec)
    sys.modules[SCRIPT_MODULE] = module
    spec.loader.exec_module(module)
    return module


def end(status: int) -> NoReturn:
    """End the process without waiting for any thread; what was printed is flushed."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _exit_status(code: Any) -> int:
    if code is None or isinstance(code, int):
        return code or 0
    print(code, file=sys.stderr)  # noqa: T201 - as Python does for `sys.exit("text")`
    return 1


def live(descriptor: int) -> NoReturn:
    """Be a child process whose end of the pair is `descriptor`; `entry.py` calls it."""
    faulthandler.enable()
    signal.signal(
        signal.SIGINT, lambda *_: None
    )  # the parent decides; a handler, so that programs it starts get theirs
    try:
        trio.run(Household(socket.socket(fileno=descriptor)).run)
    except SystemExit as left:
        end(_exit_status(left.code))
    except BaseException:  # noqa: BLE001 - the process border: written for the parent, which reports it
        traceback.print_exc()
        end(1)
    end(0)
