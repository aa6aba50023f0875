"""Refs: the only way to reach an actor, the same near and far."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, overload

import trio

from prime.actor.cell import BURST, Afar
from prime.actor.deadlines import not_a_time
from prime.actor.facts import kind_of
from prime.actor.mailbox import Envelope
from prime.actor.slots import Slot
from prime.errors import ActorUsageError, DeadlineError, MailboxFullError, NoSuchActorError, RefusedError

if TYPE_CHECKING:
    from prime.actor.cell import Cell
    from prime.actor.contract import Network, PeerId
    from prime.actor.system import System
    from prime.wire import Asked

M_contra = TypeVar("M_contra", contravariant=True)
N = TypeVar("N")
N2 = TypeVar("N2")
N3 = TypeVar("N3")
N4 = TypeVar("N4")
R = TypeVar("R")


class Ref(Protocol[M_contra]):
    """A typed handle on an actor. `Ref[A | B]` can be used where a `Ref[A]` is wanted: a narrower ref is a capability.

    Two refs are equal when they name the same actor: same node, same path, same rights. A ref may stand in a message,
    also in one to another machine, which can use it from there.
    """

    @property
    def path(self) -> str:
        """Return the actor's path on its node, e.g. `/kv/store`."""
        ...

    @property
    def peer(self) -> str:
        """Return the id of the actor's node; empty for an actor of this system."""
        ...

    async def tell(self, message: M_contra) -> None:
        """Send without an answer; waits while the mailbox (`full="wait"`) or the far mailbox's credit has no room.

        A message to a local actor that is dead becomes a dead letter. Raises `MailboxFullError` (policy `reject`),
        `AskCycleError` (the wait could never end), and for far actors `UnreachableError`, `LinkLostError`,
        `LocalProtocolError`.
        """
        ...

    def tell_nowait(self, message: M_contra) -> None:
        """Send at once or raise `MailboxFullError`; local actors only."""
        ...

    async def ask(self, message: Asked[M_contra, R], *, timeout: float) -> R:
        """Send and wait for the reply, at most `timeout` seconds. An ask whose deadline passed is not run.

        Raises `DeadlineError`, `NoSuchActorError`, `ActorCrashedError` (it failed on this message), `RefusedError`,
        and what `tell` raises. Asking oneself, directly or through others that wait, here or on other nodes, is an
        `AskCycleError` at once.
        """
        ...

    # Past four classes a type checker would take what they have in common, `object`: it is told nothing then.
    @overload
    def narrow(self, kind: type[N], /) -> Ref[N]: ...
    @overload
    def narrow(self, kind: type[N], kind2: type[N2], /) -> Ref[N | N2]: ...
    @overload
    def narrow(self, kind: type[N], kind2: type[N2], kind3: type[N3], /) -> Ref[N | N2 | N3]: ...
    @overload
    def narrow(self, kind: type[N], kind2: type[N2], kind3: type[N3], kind4: type[N4], /) -> Ref[N | N2 | N3 | N4]: ...
    @overload
    def narrow(self, *kinds: type[Any]) -> Ref[Any]: ...
    def narrow(self, *kinds: type[Any]) -> Ref[Any]:
        """Return a ref to the same actor that takes these message classes only.

        Sent to another machine it stays as narrow: what else comes through it is refused on this side.
        """
        ...


class ReliableRef(Ref[M_contra], Protocol[M_contra]):
    """A ref whose messages are told reliably: over lost links each is in the far mailbox once, in the order told.

    `tell` returns when the message is kept on this side and waits while as many as may be are. Over a restart of the far
    node a message may come to its new mailbox once more; a restart of this node ends what it had told. An ask is an
    ordinary ask: its answer is its acknowledgement.
    """

    async def flushed(self, *, timeout: float) -> None:
        """Wait until all that was told is in the far mailbox, at most `timeout` seconds.

        Raises `DeadlineError`: it is still being sent, or was given up, which the text says.
        """
        ...


class LocalRef(Generic[M_contra]):
    """A ref to an actor of this system."""

    __slots__ = ("_cell",)

    def __init__(self, cell: Cell) -> None:
        self._cell = cell

    @property
    def cell(self) -> Cell:
        """Return the cell behind it: for the runtime's own modules."""
        return self._cell

    @property
    def path(self) -> str:
        """Return the actor's path."""
        return self._cell.path

    @property
    def peer(self) -> str:
        """Return an empty string: the actor is here."""
        return ""

    async def tell(self, message: M_contra) -> None:
        """See `Ref.tell`."""
        cell = self._cell
        system = cell.system
        system.sends += 1
        if system.sends >= BURST:
            system.sends = 0
            await trio.lowlevel.checkpoint()
        if len(cell.queue) < cell.capacity and not cell.waiting:  # `put_nowait` without the price of a call
            cell.queue.append(message)
            if cell.parked is not None:
                cell.wake()
        elif cell.waiting or not cell.put_nowait(message):
            await cell.wait_for_room(message)

    def tell_nowait(self, message: M_contra) -> None:
        """See `Ref.tell_nowait`."""
        if not self._cell.put_nowait(message):
            raise MailboxFullError(
                f"the mailbox of {self._cell.path} is full", hint="use `await ref.tell(...)`, which waits for room"
            )

    async def ask(self, message: Asked[M_contra, R], *, timeout: float) -> R:
        """See `Ref.ask`."""
        cell = self._cell
        system = cell.system
        system.sends += 1
        if system.sends >= BURST:
            system.sends = 0
            await trio.lowlevel.checkpoint()
        else:
            await trio.lowlevel.checkpoint_if_cancelled()
        if cell.parked is not None:
            handler = cell.inline.get(type(message))
            if handler is not None and cell.life is not None and timeout > 0:
                answer: Any = cell.life.answer_inline(handler, message)
                if type(answer) is Slot:
                    answer = await self._await_put_off(answer, message, timeout)
                return answer  # type: ignore[no-any-return]
        return await self._ask_queued(message, timeout)  # type: ignore[no-any-return]

    async def _ask_queued(self, message: Any, timeout: float) -> Any:
        cell = self._cell
        deadline = trio.current_time() + timeout
        if math.isnan(deadline):
            raise not_a_time(f"an answer of {cell.path}")
        slot = Slot()
        asker = cell.system.running.get(trio.lowlevel.current_task())
        if asker is not None:
            cell.check_cycle(asker)
            asker.asks(cell, slot)
        try:
            entry = Envelope(message, slot, deadline, "", None, asker)
            if not cell.put_nowait(entry):
                await self._put_before(entry, deadline, timeout)
                if asker is not None:
                    asker.asks(cell, slot)
            return await self._await(slot, message, deadline, timeout)
        finally:
            if asker is not None:
                asker.asked()

    async def _await_put_off(self, slot: Slot, message: Any, timeout: float) -> Any:
        """Wait for an answer that did not come in the handler."""
        asker = self._cell.system.running.get(trio.lowlevel.current_task())
        if asker is not None:
            asker.asks(self._cell, slot)
        try:
            return await self._await(slot, message, trio.current_time() + timeout, timeout)
        finally:
            if asker is not None:
                asker.asked()

    async def _await(self, slot: Slot, message: Any, deadline: float, timeout_s: float) -> Any:
        system = self._cell.system
        slot.arm(system.deadlines, deadline, self._cell.path, kind_of(message), timeout_s)
        system.asks_open += 1
        try:
            return await slot.wait()
        finally:
            system.asks_open -= 1

    async def _put_before(self, entry: Envelope, deadline: float, timeout_s: float) -> None:
        with trio.CancelScope(deadline=deadline) as scope:
            await self._cell.put(entry)
        if scope.cancelled_caught:
            raise DeadlineError(
                f"the mailbox of {self._cell.path} had no room within {timeout_s:g} s",
                hint="it handles messages slower than they come: `prime status` shows its depth",
            )

    # ------------------------------------- what routers and other forwarders hand on through

    def put_nowait(self, entry: Any) -> bool:
        """Put a whole mailbox entry, its reply slot included; `False` when a `wait` mailbox is full."""
        return self._cell.put_nowait(entry)

    async def put(self, entry: Any) -> None:
        """As `put_nowait`, but waits for room."""
        await self._cell.put(entry)

    @property
    def has_room(self) -> bool:
        """Tell whether the mailbox takes one more entry now, at the price of no other sender's wait."""
        return self._cell.has_room

    @property
    def load(self) -> int:
        """Return how many messages wait or are in hand."""
        return self._cell.load

    def narrow(self, *kinds: type[Any]) -> Ref[Any]:
        """See `Ref.narrow`."""
        return NarrowRef(self._cell, frozenset(kinds))

    def watch(self, notify: Callable[[str], None]) -> Callable[[], None]:
        """Call `notify(reason)` once when the actor ends for good."""
        return self._cell.watch(notify)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LocalRef) and type(other) is type(self) and other._cell is self._cell

    def __hash__(self) -> int:
        return hash(self._cell.path)

    def __repr__(self) -> str:
        return f"<Ref {self._cell.path}>"


class NarrowRef(LocalRef[M_contra]):
    """A ref to an actor of this system that takes some message classes only."""

    __slots__ = ("kinds",)

    def __init__(self, cell: Cell, kinds: frozenset[type]) -> None:
        super().__init__(cell)
        if not kinds:
            raise ActorUsageError(f"a ref to {cell.path} that takes nothing", hint="name the classes it shall take")
        self.kinds = kinds

    async def tell(self, message: M_contra) -> None:
        """See `Ref.tell`."""
        check_kind(self._cell.path, self.kinds, message)
        await super().tell(message)

    def tell_nowait(self, message: M_contra) -> None:
        """See `Ref.tell_nowait`."""
        check_kind(self._cell.path, self.kinds, message)
        super().tell_nowait(message)

    async def ask(self, message: Asked[M_contra, R], *, timeout: float) -> R:
        """See `Ref.ask`."""
        check_kind(self._cell.path, self.kinds, message)
        return await super().ask(message, timeout=timeout)

    def narrow(self, *kinds: type[Any]) -> Ref[Any]:
        """See `Ref.narrow`; a ref never takes more than the one it was made of."""
        return NarrowRef(self._cell, self.kinds.intersection(kinds))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, NarrowRef) and other._cell is self._cell and other.kinds == self.kinds

    def __hash__(self) -> int:
        return hash((self._cell.path, self.kinds))

    def __repr__(self) -> str:
        return f"<Ref {self._cell.path} for {', '.join(sorted(kind.__name__ for kind in self.kinds))}>"


class FarRef(Generic[M_contra]):
    """A ref to an actor on another node. `kinds` is what it takes, or `None` for all; its node holds to that too."""

    __slots__ = ("_kinds", "_network", "_path", "_peer", "_system")

    def __init__(
        self, system: System, network: Network, peer: PeerId, path: str, kinds: frozenset[type] | None = None
    ) -> None:
        self._system = system
        self._network = network
        self._peer = peer
        self._path = path
        self._kinds = kinds

    @property
    def path(self) -> str:
        """Return the actor's path on its node."""
        return self._path

    @property
    def peer(self) -> str:
        """Return the id of the actor's node."""
        return self._peer

    async def tell(self, message: M_contra) -> None:
        """See `Ref.tell`."""
        if self._kinds is not None:
            check_kind(self._path, self._kinds, message)
        with contextlib.suppress(NoSuchActorError):  # one of our own that is gone: a dead letter, as on any other node
            await self._network.tell(self._peer, self._path, message)

    def tell_nowait(self, message: M_contra) -> None:
        """Raise: whether a far mailbox has room cannot be known without waiting."""
        raise ActorUsageError(
            f"tell_nowait({type(message).__name__}) to {self._path}, which is on another node",
            hint="use `await ref.tell(...)`",
        )

    async def ask(self, message: Asked[M_contra, R], *, timeout: float) -> R:
        """See `Ref.ask`."""
        if self._kinds is not None:
            check_kind(self._path, self._kinds, message)
        asker = self._system.running.get(trio.lowlevel.current_task())
        if asker is not None:
            return await self._ask_for(asker, message, timeout)  # type: ignore[no-any-return]
        answer: R = await self._network.ask(self._peer, self._path, message, timeout_s=timeout)
        return answer

    async def _ask_for(self, asker: Cell, message: Any, timeout: float) -> Any:
        """Ask as an actor that waits for the answer: who waits for that actor travels with it."""
        asker.asks(Afar(f"{self._peer}{self._path}"), None)
        try:
            return await self._network.ask(self._peer, self._path, message, timeout_s=timeout, chain=asker.chain())
        finally:
            asker.asked()

    def narrow(self, *kinds: type[Any]) -> Ref[Any]:
        """See `Ref.narrow`. Only this side holds to it: the far side knows the ref that this one was made of."""
        wanted = frozenset(kinds) if self._kinds is None else self._kinds.intersection(kinds)
        return FarRef(self._system, self._network, self._peer, self._path, wanted)

    def watch(self, notify: Callable[[str], None]) -> Callable[[], None]:
        """Call `notify(reason)` once when the actor ends or its link is lost."""
        return self._network.watch(self._peer, self._path, notify)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, FarRef) and (other._peer, other._path, other._kinds) == (
            self._peer,
            self._path,
            self._kinds,
        )

    def __hash__(self) -> int:
        return hash((self._peer, self._path))

    def __repr__(self) -> str:
        return f"<Ref {self._peer}{self._path}>"


class LocalReliableRef(LocalRef[M_contra]):
    """A reliable ref to an actor of this system, where nothing is between a teller and the mailbox."""

    __slots__ = ()

    async def flushed(self, *, timeout: float) -> None:  # noqa: ARG002 - as `ReliableRef`
        """See `ReliableRef.flushed`: what was told is in the mailbox already."""
        await trio.lowlevel.checkpoint()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LocalRef) and not isinstance(other, NarrowRef) and other._cell is self._cell

    def __hash__(self) -> int:
        return hash(self._cell.path)


class FarReliableRef(FarRef[M_contra]):
    """A reliable ref to an actor on another node."""

    __slots__ = ()

    async def tell(self, message: M_contra) -> None:
        """See `ReliableRef`."""
        if self._kinds is not None:
            check_kind(self._path, self._kinds, message)
        await self._network.tell_reliably(self._peer, self._path, message)

    async def flushed(self, *, timeout: float) -> None:
        """See `ReliableRef.flushed`."""
        await self._network.flush(self._peer, self._path, timeout_s=timeout)

    def narrow(self, *kinds: type[N]) -> Ref[N]:
        """See `FarRef.narrow`; it stays reliable."""
        wanted = frozenset(kinds) if self._kinds is None else self._kinds.intersection(kinds)
        return FarReliableRef(self._system, self._network, self._peer, self._path, wanted)


def check_kind(path: str, kinds: frozenset[type], message: Any) -> None:
    """Raise `RefusedError` for a message that a ref does not take."""
    if not isinstance(message, tuple(kinds)):
        raise RefusedError(
            f"this ref to {path} takes {', '.join(sorted(kind.__name__ for kind in kinds))}, not {kind_of(message)}",
            hint="whoever gave it out narrowed it: ask for one that takes more",
        )
