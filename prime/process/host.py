"""Process actors as their parent sees them: an ordinary actor of its supervisor, whose incarnation is a child process.

The forwarder hands each message of its mailbox on over a pair, within a window, and answers asks as the child does. The
child's failure, or its death, is the forwarder's own failure; so restarts, watches and stops are those of any actor. What
was handed on and not begun goes back into the mailbox; what is in doubt is a dead letter and is never sent twice.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import attrs
import trio

from prime import errors
from prime.actor.cell import chain_of, last_words
from prime.actor.contract import PeerId, ProcessOptions, ProcessOutput
from prime.actor.facts import DeadLetter, kind_of
from prime.actor.forwarder import Forwarder
from prime.actor.groups import one_error
from prime.actor.mailbox import Envelope
from prime.actor.slots import expired
from prime.errors import (
    ActorCrashedError,
    ActorUsageError,
    DeadlineError,
    LinkLostError,
    LocalProtocolError,
    PrimeError,
    UnreachableError,
)
from prime.process.launch import Child, check_clock, launch
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
from prime.process.names import Target, pack_args, target_of
from prime.process.network import Routes
from prime.process.output import Output
from prime.process.window import WINDOW, Flight, Window
from prime.transport.carrier import Carrier, Receipt
from prime.transport.facts import LinkDown
from prime.transport.identity import KeyPair
from prime.transport.links import Links
from prime.transport.pair import PAIR_ADDRESS, Pair
from prime.wire import to_plain
from prime.wire.signed import Signatory

if TYPE_CHECKING:
    from prime.actor.contract import ReplySlot
    from prime.actor.system import System

EXIT_S = 5.0
"""How long a process may take to end once it has said that its actor has ended."""
CUT_S = 1.0
"""The same once its link is lost: it is dying, or it is stuck."""
_ERRORS = {
    kind.__name__: kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, PrimeError)
}
_CUT_OFF = (LinkLostError, UnreachableError)


T = TypeVar("T")


@attrs.frozen
class Plan:
    """What every incarnation of one process actor starts; times in seconds."""

    target: Target
    args: bytes
    buffers: tuple[memoryview, ...]
    starting_s: float
    silent_s: float
    window: int
    output: ProcessOutput
    environment: Mapping[str, str]

    @classmethod
    def of(cls, actor: str | Callable[..., Any], options: ProcessOptions) -> Plan:
        """Check what a user asked for. Raises `ActorUsageError`."""
        window = options.get("window", WINDOW)
        if not 1 <= window <= WINDOW:
            raise ActorUsageError(f"impossible window: {window}", hint=f"from 1 to {WINDOW} messages")
        args, buffers = pack_args(options.get("args", ()))
        return cls(
            target_of(actor),
            args,
            buffers,
            options.get("starting", 60.0),
            options.get("silent", 30.0),
            window,
            options.get("output", "show"),
            dict(options.get("environment", {})),
        )


class Processes:
    """The process host of one system; see `prime.actor.contract.ProcessHost`. `key` is the system's identity."""

    def __init__(self, system: System, key: KeyPair) -> None:
        self._system = system
        self._key = key
        self._routes: Routes | None = None

    def factory(self, actor: str | Callable[..., Any], options: ProcessOptions) -> Callable[[], ProcessActor]:
        """See `ProcessHost.factory`."""
        check_clock()
        plan = Plan.of(actor, options)
        if self._routes is None:
            self._routes = Routes(self._system.network, self._key.peer)
            self._system.network = self._routes
        routes = self._routes
        signatory = self._system.signatory
        return lambda: ProcessActor(plan, self._key, routes, signatory)


class ProcessActor(Forwarder[Any]):
    """One incarnation: it starts the process, hands messages on, and ends with it."""

    def __init__(self, plan: Plan, key: KeyPair, routes: Routes, signatory: Signatory | None = None) -> None:
        self._plan = plan
        self._key = key
        self._signatory = signatory
        self._routes = routes
        self._window = Window(plan.window)
        self._serving = trio.Event()
        self._said_ended = trio.Event()
        self._final: ActorEnded | None = None
        self._stopped = False
        self._killed = False
        self._cut = ""
        self._arrived: Arrived | None = None
        self._carrier: Carrier | None = None
        self._peer = PeerId("")
        self.process = 0
        """The process id, for introspection."""

    # ------------------------------------------------------------------------------------------------ its life

    @property
    def stands_for(self) -> str:
        """See `Forwarder.stands_for`."""
        return self._plan.target.factory

    async def started(self) -> None:
        """Start the process and wait until the actor in it has started."""
        plan = self._plan
        child = launch(plan.environment)
        self.process = child.pid
        self._links = Links(
            Pair(child.socket, dials=True),
            self._key,
            limits=pair_limits(plan.silent_s),
            emit=self._hear_of_link,
            housed=True,
            signatory=self._signatory,
        )
        self._output = Output(child.printed, self.ctx.path, self.ctx.emit, plan.output)
        self.ctx.start_soon(self.child_process, child)
        failed = None
        with trio.move_on_after(plan.starting_s) as scope:
            await self._serving.wait()
            failed = await self._start_actor()
        if scope.cancelled_caught:
            raise DeadlineError(
                f"the process of {self.ctx.path} did not start {plan.target} within {plan.starting_s:g} s"
                f"{self._output.said()}",
                hint="its import or started() takes longer: raise starting=",
            )
        if failed is not None:
            raise self._failure(failed)
        self._carrier = self._links.carrier(self._peer)

    async def _start_actor(self) -> Failed | None:
        plan = self._plan
        try:
            self._peer = await self._links.dial(PAIR_ADDRESS)
            self._routes.add(self._peer, self._links)
            start = StartActor(
                plan.target.module,
                plan.target.factory,
                plan.target.script,
                self.ctx.path,
                plan.args,
                plan.buffers,
                self._cell.shutdown_s / 2,
            )
            failed: Failed | None = await self._ask_child(start)
        except _CUT_OFF:
            await trio.sleep_forever()  # it is dead or dying: whoever waits for its end knows more, and ends this
            raise
        return failed

    async def _ask_child(self, question: Any) -> Any:
        return await self._links.ask(self._peer, CONTROL_PATH, question, timeout_s=math.inf)

    async def child_process(self, child: Child) -> None:
        """Hold the process, its link and its output until it has ended; then settle what was handed on."""
        try:
            async with one_error(), trio.open_nursery() as nursery:
                nursery.start_soon(self._output.collect, child.pid)
                await nursery.start(self._links.serve, _Ears(self.ctx.system, self))
                self._serving.set()
                await self._until_ended(child)
                await self._output.rest()
                nursery.cancel_scope.cancel()
        finally:
            in_hand = self._window.first
            with trio.CancelScope(shield=True):
                how = self._end_of(await child.reap())
                await self._output.aclose()
            self._routes.remove(self._peer)
            self._settle(how)
        if self._final is None:
            raise ActorCrashedError(
                self._how_it_ended(how),
                hint="its last output, if any, says why; signal SIGKILL may be the OOM killer",
                last_message="no message" if in_hand is None else last_words(in_hand),
            )
        if self._final.failed is not None:
            raise self._failure(self._final.failed)
        self.ctx.stop()

    async def _until_ended(self, child: Child) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._limit_goodbye, nursery.cancel_scope)
            await child.ended()
            nursery.cancel_scope.cancel()

    async def _limit_goodbye(self, scope: trio.CancelScope) -> None:
        """Wait no longer for the end of a process that has said goodbye, or whose link is lost."""
        await self._said_ended.wait()
        await trio.sleep(CUT_S if self._final is None else EXIT_S)
        self._killed = True
        scope.cancel()

    def _hear_of_link(self, fact: Any) -> None:
        """Note that the link ended: with the process, or because that gave no sign of life, and then it is killed."""
        if isinstance(fact, LinkDown):
            self._cut = fact.reason
            self._said_ended.set()
            self.hold(held=True)

    async def stopping(self) -> None:
        """Let the actor stop in order; bounded by the shutdown time, and then the process is killed."""
        if self._carrier is None or self._final is not None:
            return
        try:
            self._arrived = await self._ask_child(StopActor())
            self._stopped = True
        except PrimeError:
            pass  # it died meanwhile; what it had in hand is settled with its process

    # ------------------------------------------------------------------------------------------------ messages

    @property
    def load(self) -> int:
        """See `Forwarder.load`: what the child has and is not known to have handled."""
        return self._window.load

    async def take_entry(self, entry: Any) -> None:
        """Hand one entry on."""
        whole = type(entry) is Envelope
        message = entry.message if whole else entry
        if whole and entry.deadline is not None and entry.deadline <= trio.current_time():
            self._late(entry)
            return
        if _given_up(entry):
            self.ctx.system.dead_letter(self.ctx.path, message, "whoever asked has given up")
            return
        payloads: list[memoryview] = []
        try:
            body = to_plain(message, payloads, self._signatory)
        except PrimeError as error:
            self._refuse(entry, message, error)
            return
        if whole and entry.slot is not None:
            self._ask(entry, body, payloads)
        else:
            await self._tell(entry, entry.sender if whole else "", body, payloads)
        self._regulate()

    def _ask(self, entry: Envelope, body: list[Any], payloads: list[memoryview]) -> None:
        carrier = self._carrier
        assert carrier is not None  # noqa: S101 - set by `started`, before the first entry
        now_s = trio.current_time()
        flight = self._window.add_ask(entry, now_s)
        left_s = math.inf if entry.deadline is None else entry.deadline - now_s
        answer, kind, sender = _Answer(self, flight), type(entry.message), entry.sender or None
        chain = chain_of(entry.chain)
        if not payloads and sender is None:
            flight.token = carrier.ask_now(self.ctx.path, kind, body, answer, left_s, chain)
        if not flight.token:
            flight.token = carrier.ask(self.ctx.path, body, payloads, answer, kind, left_s, sender=sender, chain=chain)

    async def _tell(self, entry: Any, sender: str, body: list[Any], payloads: list[memoryview]) -> None:
        """Hand a tell on and wait until it has left: what has not left is not lost with the process."""
        carrier = self._carrier
        assert carrier is not None  # noqa: S101 - as above
        flight = self._window.add_tell(entry)
        kind = type(entry.message if type(entry) is Envelope else entry)
        if not payloads and not sender and carrier.tell_now(self.ctx.path, kind, body):
            return
        receipt = Receipt()
        token = carrier.submit(self.ctx.path, body, payloads, receipt, sender=sender or None)
        try:
            if not receipt.done:
                await receipt.wait()
            receipt.raise_if_failed()
        except LocalProtocolError as error:
            self._window.recall(flight)
            self._refuse(entry, entry.message if type(entry) is Envelope else entry, error)
        except PrimeError:
            self._window.recall(flight)
            self.put_back([entry])
            self.hold(held=True)
        except trio.Cancelled:
            self._window.recall(flight)
            self.put_back([entry])
            raise
        finally:
            carrier.withdraw(token)

    def _late(self, entry: Envelope) -> None:
        self.ctx.system.dead_letter(self.ctx.path, entry.message, "its deadline passed before it was run")
        if entry.slot is not None:
            entry.slot.fail(expired(self.ctx.path))

    def _refuse(self, entry: Any, message: Any, error: PrimeError) -> None:
        """Answer a message that cannot leave this process."""
        self.ctx.system.dead_letter(self.ctx.path, message, str(error))
        if type(entry) is Envelope and entry.slot is not None:
            entry.slot.fail(error)

    def _regulate(self) -> None:
        carrier = self._carrier
        self.hold(held=self._window.full or carrier is None or not carrier.link.up)

    # ------------------------------------------------------------------------------------ what the child says

    def answered(self, flight: Flight) -> None:
        """Hear that an ask is over."""
        self._window.answered(flight)
        self.took(trio.current_time() - flight.begun_s)
        self._regulate()

    def hear(self, message: Any, slot: ReplySlot | None) -> None:
        """Take a control message of the child's."""
        if isinstance(message, Progress):
            self._window.hear(message.arrived)
            self._regulate()
        elif isinstance(message, Undelivered):
            self.ctx.system.emit(DeadLetter(message.path, message.kind, message.reason))
        elif isinstance(message, ActorEnded) and slot is not None:
            self._final = message
            self._arrived = message.arrived
            self._said_ended.set()
            self.hold(held=True)
            slot.reply(None)

    # ------------------------------------------------------------------------------------------------ its end

    def _settle(self, how: str) -> None:
        """Give back what was never begun, and fail the rest."""
        certain = self._arrived is not None
        if self._arrived is not None:
            self._window.hear(self._arrived)
        untaken, asked = self._window.end()
        reason = self._why(how)
        for entry in asked:
            self._lose(entry, reason)
        if certain:
            self.put_back([entry for entry in untaken if not _given_up(entry)])
            return
        for entry in untaken:
            self._lose(entry, reason)

    def _lose(self, entry: Any, reason: str) -> None:
        message = entry
        if type(entry) is Envelope:
            message = entry.message
            if entry.slot is not None:
                entry.slot.fail(
                    ActorCrashedError(
                        f"{self.ctx.path} ended while it had {kind_of(message)}: {reason}",
                        hint="whether it was handled is not known",
                    )
                )
                return
        self.ctx.system.dead_letter(self.ctx.path, message, f"in doubt: {reason}")

    def _why(self, how: str) -> str:
        if self._stopped or (self._final is not None and self._final.failed is None):
            return "it was stopped"
        if self._final is not None and self._final.failed is not None:
            return f"{self._final.failed.code}: {self._final.failed.text}"
        return self._how_it_ended(how)

    def _end_of(self, status: str) -> str:
        return f"{status}, killed because of its link: {self._cut}" if self._killed and self._cut else status

    def _how_it_ended(self, how: str) -> str:
        return f"process {self.process} ended with {how}{self._output.said()}"

    def _failure(self, failed: Failed) -> PrimeError:
        """Return this side's error for the child's: by a fixed table, never a class that it names."""
        kind = _ERRORS.get(failed.code)
        if kind is None or issubclass(kind, ActorCrashedError):
            error: PrimeError = ActorCrashedError(
                f"{failed.code}: {failed.text} (in process {self.process})",
                hint=failed.hint,
                remote_traceback=failed.trace,
                last_message=failed.last_message,
                causes=failed.causes,
            )
        else:
            error = kind(failed.text, hint=failed.hint)
        error.add_note(f"In process {self.process}:\n{failed.trace}")
        return error


class _Answer:
    """Where the answer to an ask that was handed on comes back."""

    __slots__ = ("_actor", "_flight")

    def __init__(self, actor: ProcessActor, flight: Flight) -> None:
        self._actor = actor
        self._flight = flight

    def reply(self, value: Any) -> None:
        """See `ReplySlot.reply`."""
        self._flight.entry.slot.reply(value)
        self._actor.answered(self._flight)

    def fail(self, error: BaseException) -> None:
        """See `ReplySlot.fail`; a lost link is no answer: the end of the process says more."""
        if isinstance(error, LinkLostError):
            return
        self._flight.entry.slot.fail(error)
        self._actor.answered(self._flight)


class _Ears:
    """The parent's system as the child may reach it, and beside it the control messages."""

    def __init__(self, system: System, actor: ProcessActor) -> None:
        self._system = system
        self._actor = actor

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
            self._actor.hear(message, slot)
            return True
        return self._system.deliver_nowait(
            path, message, slot=slot, deadline=deadline, sender=sender, trace=trace, chain=chain
        )

    async def deliver(
        self,
        path: str,
        message: Any,
        *,
        slot: ReplySlot | None,
        deadline: float | None,
        sender: PeerId,
        trace: str | None = None,
        chain: tuple[str, ...] = (),
    ) -> None:
        """See `Inbound.deliver`."""
        await self._system.deliver(path, message, slot=slot, deadline=deadline, sender=sender, trace=trace, chain=chain)

    def decoded(self, decode: Callable[..., T], *args: Any) -> T:
        """See `Inbound.decoded`."""
        return self._system.decoded(decode, *args)

    def watch_path(self, path: str, notify: Callable[[str], None]) -> Callable[[], None]:
        """See `Inbound.watch_path`."""
        return self._system.watch_path(path, notify)


def _given_up(entry: Any) -> bool:
    """Tell whether nobody waits for the answer of an ask any more."""
    return type(entry) is Envelope and bool(getattr(entry.slot, "done", False))
