"""A router: one ref in front of many. It hands each message on and is in nobody's way after that.

To a local routee the mailbox entry itself goes on, so an answer returns straight to the asker and costs no task. What
must wait (for a far routee, or for the one routee that a key belongs to) waits in that routee's lane: a bounded backlog
and one side task. When a lane is full the router waits for it, its own mailbox fills, and its senders wait in turn.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import attrs
import trio

from prime.actor.cell import RoomWait
from prime.actor.forwarder import Forwarder
from prime.actor.mailbox import Envelope
from prime.actor.ref import LocalRef, NarrowRef, Ref, check_kind
from prime.actor.routes import Chooser, RoundRobin, Route
from prime.errors import (
    ActorUsageError,
    AskCycleError,
    DeadlineError,
    MailboxFullError,
    NoSuchActorError,
    PrimeError,
    RefusedError,
)
from prime.wire import Ask

if TYPE_CHECKING:
    from prime.actor.cell import Cell

M_contra = TypeVar("M_contra", contravariant=True)
M = TypeVar("M")

BACKLOG = 64
"""Messages that may wait in one lane."""
IN_FLIGHT = 256
"""Asks on their way to one far routee."""

_ROUND_ROBIN = RoundRobin()


@attrs.frozen
class Routees(Ask[None], Generic[M]):
    """Told or asked of a router: from now on these are its routees, and no others.

    What waits in the lanes of others is rerouted. It has no tag: only this system's own actors can say it.
    """

    refs: tuple[Ref[M], ...]


class Router(Forwarder[M_contra]):
    """Hands every message on to one of `refs` (to all, for `Broadcast`), chosen by `route`.

    With `group` its routees are the actors in that group of this system, as they join and leave. Near and far refs
    may be mixed. A routee that ends, or whose link is lost, leaves the router. When none is left an
    ask fails with `NoSuchActorError` and a tell is a dead letter. Each routee's mailbox policy holds: one without room
    is passed over where the route allows it; `reject` fails the ask and makes a tell a dead letter.
    """

    def __init__(
        self,
        refs: Sequence[Ref[M_contra]] = (),
        *,
        group: str = "",
        route: Route = _ROUND_ROBIN,
        backlog: int = BACKLOG,
        in_flight: int = IN_FLIGHT,
    ) -> None:
        if backlog < 1 or in_flight < 1:
            raise ActorUsageError(f"impossible router: {backlog=}, {in_flight=}", hint="both are 1 or more")
        if group and refs:
            raise ActorUsageError("a router of refs and of a group", hint="give it one of the two")
        self._refs = tuple(refs)
        self._group = group
        self._chooser: Chooser = route.chooser()
        self._backlog = backlog
        self._in_flight = in_flight
        self._lanes: list[_Lane] = []
        self._waits: dict[RoomWait, None] = {}
        """The entries for which no routee has room."""
        self._stale = bool(group)
        self._unwatch_group: Callable[[], None] | None = None

    @property
    def load(self) -> int:
        """See `Forwarder.load`: what waits in the lanes, and the asks on their way to far routees."""
        return sum(lane.held for lane in self._lanes)

    @property
    def routees(self) -> tuple[Ref[M_contra], ...]:
        """Return the routees that are left, in the order they came."""
        return tuple(lane.ref for lane in self._lanes)

    async def started(self) -> None:
        """Watch the routees."""
        if self._group:
            self._unwatch_group = self.ctx.system.groups.watch(self._group, self._note_group)
        self._set_routees(self._refs)

    async def stopping(self) -> None:
        """Fail every ask that was not handed on."""
        if self._unwatch_group is not None:
            self._unwatch_group()
        self._set_routees(())

    async def take_entry(self, entry: Any) -> None:
        """See `Forwarder.take_entry`."""
        message = entry.message if type(entry) is Envelope else entry
        if type(message) is Routees:
            self._set_routees(message.refs)
            if type(entry) is Envelope and entry.slot is not None:
                entry.slot.reply(None)
            return
        try:
            await self.dispatch(entry)
        except BaseException:
            self.bury(entry, _ended_with(self.ctx.path))
            raise

    def take_entry_now(self, entry: Any) -> bool:
        """See `Forwarder.take_entry_now`: most entries go straight to a local routee that has room."""
        message, asks = entry, False
        if type(entry) is Envelope:
            message, asks = entry.message, entry.slot is not None
        if type(message) is Routees or not self._present():
            return False
        try:
            choice = self._chooser.choose(message, self._lanes, asks=asks)
            lane = self._lanes[choice] if type(choice) is int else None
        except Exception:  # noqa: BLE001 - a user's route may fail with anything: then this router does, in its own task
            return False
        return lane is not None and lane.take_now(entry)

    async def dispatch(self, entry: Any) -> None:
        """Choose for one entry and hand it on; waits while nobody may take it."""
        message, asks = entry, False
        if type(entry) is Envelope:
            message, asks = entry.message, entry.slot is not None
        while self._present():
            try:
                choice = self._chooser.choose(message, self._lanes, asks=asks)
            except PrimeError as error:
                self.bury(entry, error)
                return
            if choice == "any":
                if await self._wait_for_any(entry):
                    return
                continue
            if choice == "all":
                for lane in self._lanes[:]:
                    await lane.take(entry, only_here=True)
            else:
                await self._lanes[choice].take(entry)
            return
        self.bury(entry, NoSuchActorError(f"{self.ctx.path} has no routees left", hint="they ended; see their facts"))

    async def _wait_for_any(self, entry: Any) -> bool:
        """Wait in the line of every full mailbox; `False` to look at all of them again."""
        for lane in self._lanes:
            if lane.ready:
                return lane.take_now(entry)
        near = [lane for lane in self._lanes if lane.cell is not None and not lane.busy]
        cells = [lane.cell for lane in near if lane.cell is not None and lane.cell.mailbox.full == "wait"]
        if not cells and len(near) == len(self._lanes):
            return near[0].take_now(entry)  # no mailbox here lets anybody wait, and it says so
        wait = RoomWait(cells, entry)
        try:
            self._note_whom(cells)
        except AskCycleError as error:
            self.bury(entry, error)
            return True
        self._waits[wait] = None
        try:
            with trio.CancelScope(deadline=deadline_of(entry)) as scope:
                return await wait.wait()
        finally:
            self._waits.pop(wait, None)
            self._cell.asking = None
        if scope.cancelled_caught:
            self.bury(entry, _too_late(self.ctx.path))
        return True

    def _note_whom(self, cells: Sequence[Cell]) -> None:
        """Where there is one routee alone to wait for, say so. Raises `AskCycleError` if that waits for this router."""
        if len(self._lanes) == 1 and cells:
            cells[0].check_cycle(self._cell)
            self._cell.asking = cells[0]

    def look_again(self) -> None:
        """Choose again for all that wait: there may be room elsewhere, or fewer to wait for."""
        for wait in tuple(self._waits):
            wait.again()

    # ---------------------------------------------------------------- routees

    def _present(self) -> bool:
        """Follow the group, if it is one's; tell whether there is any routee."""
        if self._stale:
            self._stale = False
            me = self.ctx.self_ref
            members = tuple(ref for ref in self.ctx.system.group(self._group) if ref != me)
            if members != self._refs:
                self._refs = members
                self._set_routees(members)
        return bool(self._lanes)

    def _note_group(self) -> None:
        self._stale = True
        self.look_again()

    def _set_routees(self, refs: Sequence[Ref[Any]]) -> None:
        known = {lane.ref: lane for lane in self._lanes}
        wanted = dict.fromkeys(refs)
        for ref, lane in known.items():
            if ref not in wanted:
                lane.leave()
        self._lanes = [known.get(ref) or self._lane(ref) for ref in wanted]
        for lane in self._lanes[:]:
            lane.watch()
        self.look_again()

    def _lane(self, ref: Ref[Any]) -> _Lane:
        if ref == self.ctx.self_ref:
            raise ActorUsageError(f"{self.ctx.path} routes to itself", hint="leave its own ref out of its routees")
        return _Lane(self, ref, self._backlog, self._in_flight)

    def drop(self, lane: _Lane) -> None:
        """Forget a routee that ended; what waits in its lane goes to another."""
        if lane in self._lanes:
            self._lanes.remove(lane)

    # ------------------------------------------------------------- handing on

    async def put(self, local: LocalRef[Any], entry: Any) -> None:
        """Put an entry into a local mailbox, waiting for room if that is its policy."""
        try:
            await local.put(entry)
        except MailboxFullError as error:
            self.bury(entry, error)

    def bury(self, entry: Any, error: PrimeError) -> None:
        """End an entry that goes nowhere: an ask fails, and the message is a dead letter."""
        message, slot = (entry.message, entry.slot) if type(entry) is Envelope else (entry, None)
        if slot is not None:
            slot.fail(error)
        self.ctx.system.dead_letter(self.ctx.path, message, str(error))


class _Lane:
    """The way to one routee."""

    def __init__(self, router: Router[Any], ref: Ref[Any], backlog: int, in_flight: int) -> None:
        self.ref = ref
        self.local = ref if isinstance(ref, LocalRef) else None
        self.cell = None if self.local is None else self.local.cell
        self.name = f"{ref.peer}{ref.path}"
        self.waiting: deque[tuple[Any, bool]] = deque()
        """Entries, and whether each is for this routee or for nobody."""
        self.busy = False
        self.left = False
        self._router = router
        self._backlog = backlog
        self._asks = trio.Semaphore(in_flight)
        self._asking = 0
        self._moved = trio.Event()
        self._unwatch: Callable[[], None] | None = None

    @property
    def held(self) -> int:
        """Return how many entries are still the router's."""
        return len(self.waiting) + self._asking

    @property
    def load(self) -> int:
        """See `Routee.load`."""
        return self.held if self.cell is None else self.held + self.cell.load

    @property
    def ready(self) -> bool:
        """See `Routee.ready`."""
        if self.cell is None:
            return len(self.waiting) < self._backlog
        return not self.busy and self.cell.has_room

    def watch(self) -> None:
        """Hear once when the routee ends; harmless when it is watched already."""
        if self._unwatch is None and not self.left:
            self._unwatch = self._router.ctx.system.watch(self.ref, self._ended)

    def _ended(self, _reason: str) -> None:
        self.left = True
        self._router.drop(self)
        self._note_move()

    def leave(self) -> None:
        """Watch it no more; the lane's task reroutes what waits."""
        self.left = True
        if self._unwatch is not None:
            self._unwatch()
        self._note_move()

    async def take(self, entry: Any, *, only_here: bool = False) -> None:
        """Hand the entry on, or let it wait here; waits itself only while the lane is full.

        An entry that is `only_here` is not rerouted when the routee leaves.
        """
        while not self.take_now(entry, only_here=only_here):
            await self.until_room()

    def take_now(self, entry: Any, *, only_here: bool = False) -> bool:
        """As `take`, but `False` where that would wait."""
        if isinstance(self.ref, NarrowRef) and self._is_refused(self.ref, entry):
            return True
        if self.cell is not None and not self.busy and self._put_now(self.cell, entry):
            return True
        if len(self.waiting) >= self._backlog and not self.left:
            return False
        self.waiting.append((entry, only_here))
        if not self.busy:
            self.busy = True
            self._router.ctx.start_soon(self._drain)
        return True

    def _is_refused(self, ref: NarrowRef[Any], entry: Any) -> bool:
        """End an entry that the routee's ref does not take: a router has no more rights than the refs it was given."""
        try:
            check_kind(ref.path, ref.kinds, entry.message if type(entry) is Envelope else entry)
        except RefusedError as error:
            self._router.bury(entry, error)
            return True
        return False

    def _put_now(self, cell: Cell, entry: Any) -> bool:
        try:
            return cell.put_nowait(entry)
        except MailboxFullError as error:
            self._router.bury(entry, error)
            return True

    async def until_room(self) -> None:
        """Wait until the lane has moved on by one, or its routee is gone."""
        await self._moved.wait()

    def _note_move(self) -> None:
        moved, self._moved = self._moved, trio.Event()
        moved.set()
        self._router.look_again()

    # ------------------------------------------------------------ the lane's task

    async def _drain(self) -> None:
        """Hand on what waits, in order; reroute it when the routee has left."""
        entry: Any = None
        try:
            while self.waiting:
                entry, only_here = self.waiting.popleft()
                self._note_move()
                await self._hand_on(entry, only_here=only_here)
                entry = None
        finally:
            self.busy = False
            self._abandon(entry)
            self._note_move()

    def _abandon(self, entry: Any) -> None:
        """Fail what is still here when the router ends under its lanes."""
        left = [each for each, _ in self.waiting]
        self.waiting.clear()
        for each in left if entry is None else [entry, *left]:
            self._router.bury(each, _ended_with(self._router.ctx.path))

    async def _hand_on(self, entry: Any, *, only_here: bool) -> None:
        due = deadline_of(entry)
        with trio.CancelScope(deadline=due) as scope:
            if self.left and only_here:
                self._router.bury(entry, NoSuchActorError(f"{self.name} ended", hint="it left its router"))
            elif self.left:
                await self._router.dispatch(entry)
            elif self.local is not None:
                await self._router.put(self.local, entry)
            else:
                await self._send(entry)
        if scope.cancelled_caught:
            self._router.bury(entry, _too_late(self.name))

    async def _send(self, entry: Any) -> None:
        if type(entry) is Envelope and entry.slot is not None:
            await self._asks.acquire()
            self._asking += 1
            begun = trio.Event()
            self._router.ctx.start_soon(self._ask, entry, begun)
            await begun.wait()  # so that what follows does not overtake it
            return
        try:
            await self.ref.tell(entry.message if type(entry) is Envelope else entry)
        except PrimeError as error:
            self._router.bury(entry, error)

    async def _ask(self, entry: Envelope, begun: trio.Event) -> None:
        """Ask the far routee for the asker, whose deadline goes along."""
        error: PrimeError = _ended_with(self._router.ctx.path)
        answered = False
        begun.set()
        try:
            answer = await self.ref.ask(entry.message, timeout=deadline_of(entry) - trio.current_time())
            answered = True
        except PrimeError as failed:
            error = failed
        finally:
            self._asks.release()
            self._asking -= 1
            entry.slot.reply(answer) if answered else entry.slot.fail(error)


def deadline_of(entry: Any) -> float:
    """Return when an entry's ask ends, on the system's clock; infinite for one without."""
    deadline = entry.deadline if type(entry) is Envelope else None
    return math.inf if deadline is None else deadline


def _too_late(where: str) -> DeadlineError:
    return DeadlineError(f"the ask waited for room at {where} past its deadline", hint="more routees, or more time")


def _ended_with(path: str) -> NoSuchActorError:
    return NoSuchActorError(f"{path} ended before it handed this on", hint="watch the ref to hear when it ends")
