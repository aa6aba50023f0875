"""A cell: the lasting identity of one local actor (path, mailbox, watchers) across its incarnations (`life.py`).

The sending half of the hot path lives here: a deque, and one parked task that is made ready directly.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol

import trio

from prime.actor.facts import kind_of, words_of
from prime.actor.mailbox import Envelope, LaneQueue, Mailbox
from prime.actor.slots import Slot
from prime.actor.timing import Timing
from prime.errors import AskCycleError, MailboxFullError, NoSuchActorError

if TYPE_CHECKING:
    from prime.actor.life import Life
    from prime.actor.system import System

BURST: Final = 64
"""Messages handled, or sent, between two checkpoints."""

CHAIN_MAX: Final = 16
"""Of more actors that wait for one another, the last ones to ask travel with an ask to another node."""
CHAIN_CHARS_MAX: Final = 4096
"""All of an ask chain."""
MARK_BITS: Final = 32
_NAME_CHARS: Final = 80
_PEER_CHARS: Final = 8

State = Literal["starting", "running", "suspended", "stopping", "passive", "restarting", "dead"]

NO_HANDLERS: Mapping[type, Any] = MappingProxyType({})


class Dormant:
    """Stands in the place of a parked task for an actor that has none: nothing ever needed it to run."""


DORMANT: Final = Dormant()


class Afar:
    """Stands in the place of the cell that an actor waits for when that is on another node."""

    __slots__ = ("path",)

    def __init__(self, path: str) -> None:
        self.path = path


Waiter = tuple[trio.lowlevel.Task, Any, "RoomWait | None"]
"""Who waits for room, with what, and whether in other lines as well."""


class Owner(Protocol):
    """Who gives a dormant cell a task: its place in its supervisor."""

    def awaken(self) -> None:
        """Start the task."""


class Cell:
    """One local actor, from its spawn to its death."""

    __slots__ = (
        "asking",
        "awaiting",
        "capacity",
        "dropped",
        "eager",
        "grants",
        "groups",
        "handled",
        "held",
        "inline",
        "last_failure",
        "life",
        "mailbox",
        "mark",
        "owner",
        "parked",
        "passivate_s",
        "path",
        "paused",
        "queue",
        "remote",
        "restarts",
        "serial",
        "shutdown_s",
        "started_at",
        "stash",
        "state",
        "suspended",
        "system",
        "system_queue",
        "timing",
        "waiting",
        "watch_count",
        "watchers",
    )

    def __init__(
        self, system: System, path: str, mailbox: Mailbox, shutdown_s: float, remote: frozenset[type] | None = None
    ) -> None:
        self.system = system
        self.path = path
        self.mailbox = mailbox
        self.shutdown_s = shutdown_s
        self.remote = remote
        """What far nodes may send to its path; `None`: whatever it handles."""
        self.state: State = "starting"
        self.owner: Owner | None = None
        self.life: Life | None = None
        self.queue: deque[Any] | LaneQueue = mailbox.queue()
        self.capacity = mailbox.capacity
        """How many may wait; 0 once dead, so that one comparison finds both."""
        self.system_queue: deque[Any] | None = None
        self.parked: trio.lowlevel.Task | Dormant | None = None
        """Who waits for a message: its task, `DORMANT` for one to be made, or nobody."""
        self.paused: trio.lowlevel.Task | None = None
        """Its task while it is suspended: only system messages wake that."""
        self.inline: Mapping[type, Callable[[Any, Any], Any]] = NO_HANDLERS
        """Handlers that an asker may run in its own task while the actor is parked."""
        self.eager: Callable[[Any], bool] | None = None
        """A forwarder's way to take an entry in the sender's task while it is parked itself."""
        self.passivate_s: float | None = None
        """How long it may be idle before its incarnation ends; the next message starts another."""
        self.suspended = False
        self.held = False
        self.stash: deque[Any] | None = None
        self.waiting: deque[Waiter] | None = None
        self.watchers: dict[int, Callable[[str], None]] | None = None
        self.watch_count = 0
        self.asking: Cell | Afar | None = None
        """Whom the message in hand waits for."""
        self.awaiting: Slot | None = None
        """Where the answer comes, if that is an ask of a local actor."""
        self.mark = ""
        """The ask it waits in, as an ask chain names it; empty until one does."""
        self.groups: dict[str, None] | None = None
        self.grants: list[str] | None = None
        self.handled = 0
        self.dropped = 0
        self.restarts = 0
        self.serial = system.next_serial()
        """Which cell it is among all that ever had its path."""
        self.started_at = 0.0
        self.last_failure = ""
        self.timing: Timing | None = None

    # ---------------------------------------------------------------- sending

    def put_nowait(self, entry: Any) -> bool:
        """Queue a message or an envelope; `False` when a `wait` mailbox is full."""
        if len(self.queue) >= self.capacity:
            return self._put_full(entry)
        self.queue.append(entry)
        if self.parked is not None:
            self.wake()
        return True

    async def put(self, entry: Any) -> None:
        """As `put_nowait`, but waits for room; senders get room in the order they came. Cancelled, it put nothing."""
        system = self.system
        system.sends += 1
        if system.sends >= BURST:
            system.sends = 0
            await trio.lowlevel.checkpoint()
        if self.waiting or not self.put_nowait(entry):
            await self.wait_for_room(entry)

    def put_system(self, entry: Any) -> None:
        """Queue a system message (`Down`, stop): it overtakes, and no policy drops it."""
        if self.state == "dead":
            return
        if self.system_queue is None:
            self.system_queue = deque()
        self.system_queue.append(entry)
        if self.parked is not None:
            self.wake()
        else:
            self.wake_paused()

    def wake_paused(self) -> None:
        """Let a suspended actor look up: for what its supervisor says, or to fail."""
        if self.paused is not None:
            task, self.paused = self.paused, None
            trio.lowlevel.reschedule(task)

    @property
    def has_room(self) -> bool:
        """Tell whether one more entry would be taken at once, and is nobody else's turn."""
        if len(self.queue) < self.capacity and not self.waiting:
            return True
        return self.mailbox.full.startswith("drop")

    @property
    def load(self) -> int:
        """Return how many messages wait or are in hand; a forwarder's are also those it took and is not done with."""
        waiting, life = len(self.queue) + len(self.waiting or ()), self.life
        if life is None:
            return waiting
        beyond: int = getattr(life.actor, "load", 0) if hasattr(life.actor, "take_entry") else 0
        return waiting + (life.now is not None) + beyond

    def hold(self, *, held: bool) -> None:
        """Give a forwarder no entries while it is held; a stop reaches it all the same."""
        self.held = held
        if not held and self.parked is not None:
            self.wake()

    def put_back(self, entries: Sequence[Any]) -> None:
        """Queue entries again, before all others: they were taken and nobody has handled them."""
        self.queue.extendleft(reversed(entries))

    def wake(self) -> None:
        """Let the actor run: reschedule its parked task, or have one made."""
        if self.eager is not None and self.queue and self._hand_on(self.eager):
            return
        task, self.parked = self.parked, None
        if task is DORMANT:
            if self.owner is not None:
                self.owner.awaken()
        elif task is not None:
            trio.lowlevel.reschedule(task)  # type: ignore[arg-type]

    def _hand_on(self, take: Callable[[Any], bool]) -> bool:
        """Let a parked forwarder take the next entry here and now; `False` if its own task must run."""
        if self.held or self.system_queue:
            return False
        entry = self.queue.popleft()
        self.eager = None  # what comes back to it meanwhile is for its task: two routers of each other must not recurse
        try:
            taken = take(entry)
        finally:
            self.eager = take
        if taken:
            self.handled += 1
        else:
            self.put_back((entry,))
        return not self.queue

    def _put_full(self, entry: Any) -> bool:
        if self.state == "dead":
            self.bury(entry, "the actor is dead")
            return True
        match self.mailbox.full:
            case "reject":
                self.dropped += 1
                raise MailboxFullError(
                    f"the mailbox of {self.path} is full ({self.capacity} messages)",
                    hint="send slower, raise its capacity, or use full='wait'",
                )
            case "drop_oldest":
                victim = self.queue.popleft() if isinstance(self.queue, deque) else self.queue.pop_victim()
                self.queue.append(entry)
                self.bury(victim, "the mailbox was full (drop_oldest)")
                return True
            case "drop_newest":
                self.bury(entry, "the mailbox was full (drop_newest)")
                return True
        return False

    async def wait_for_room(self, entry: Any) -> None:
        """Wait until the entry is in the mailbox, or the actor is dead and it is a dead letter."""
        task = trio.lowlevel.current_task()
        waiter = (task, entry, None)
        asker = self.system.running.get(task)
        if asker is not None:
            self.check_cycle(asker)
            asker.asking = self
        queue = self.line_up(waiter)

        def abort(_: Any) -> trio.lowlevel.Abort:
            queue.remove(waiter)
            return trio.lowlevel.Abort.SUCCEEDED

        try:
            await trio.lowlevel.wait_task_rescheduled(abort)
        finally:
            if asker is not None:
                asker.asking = None

    def line_up(self, waiter: Waiter) -> deque[Waiter]:
        """Let an entry and its task wait for room, last; returns where they stand."""
        if self.waiting is None:
            self.waiting = deque()
        self.waiting.append(waiter)
        return self.waiting

    def admit(self) -> None:
        """Let those in who wait for room, as far as there is any."""
        while self.waiting and len(self.queue) < self.capacity:
            task, entry, wait = self.waiting.popleft()
            if wait is not None:
                wait.placed = True
                wait.forget()
            self.queue.append(entry)
            asker = self.system.running.get(task)
            if asker is not None and asker.awaiting is None:
                asker.asking = None  # it told: from now on it waits for its turn only
            trio.lowlevel.reschedule(task)

    # ------------------------------------------------------------- who waits for whom

    @property
    def waits_for(self) -> Cell | Afar | None:
        """Return whom it waits for; `None` also once the answer is there and its task has not had its turn."""
        if self.awaiting is not None and self.awaiting.done:
            return None
        return self.asking

    def asks(self, whom: Cell | Afar, slot: Slot | None) -> None:
        """Note that the message in hand waits for an answer."""
        self.asking, self.awaiting = whom, slot

    def asked(self) -> None:
        """Note that it waits no more."""
        self.asking = self.awaiting = None
        self.mark = ""

    def check_cycle(self, asker: Cell) -> None:
        """Raise `AskCycleError` if this actor waits, itself or through others, for `asker` or for who waits for it."""
        waiting = self._waiting()
        if asker in waiting:
            raise _cycle([asker.path, *_paths(waiting, asker)])
        if self.waits_for is not None:
            self._check_behind(asker, waiting)

    def check_chain(self, chain: Sequence[str], behind: Sequence[str] = ()) -> None:
        """Raise `AskCycleError` if this actor waits, itself or through others, for the answer of who is in `chain`.

        `behind` are the paths of those who ask because of that chain, the first one first.
        """
        waiting = self._waiting()
        for cell in waiting:
            if cell.mark and cell.mark in chain:
                asked = [_name(mark) for mark in chain[chain.index(cell.mark) :]]
                raise _cycle([*asked, *behind, *_paths(waiting, cell)])

    def chain(self) -> tuple[str, ...]:
        """Return who waits for the ask that it is making: marks, itself last."""
        marks = deque((self.marked(),))
        cell = self
        while len(marks) < CHAIN_MAX:
            behind = cell.asked_by()
            if not isinstance(behind, Cell):
                marks.extendleft(reversed(behind or ()))
                break
            cell = behind
            marks.appendleft(cell.marked())
        return _bounded(marks)

    def asked_by(self) -> Cell | tuple[str, ...] | None:
        """Return who waits for the message in hand: a local actor, or a chain that came from another node."""
        life = self.life
        entry = None if life is None or life.kept else life.now  # whoever put the answer off does not owe it now
        if type(entry) is not Envelope or getattr(entry.slot, "done", False):
            return None
        behind: Cell | tuple[str, ...] | None = entry.chain
        return behind

    def marked(self) -> str:
        """Return the ask that it makes now as a chain names it: node, path, and a number that cannot be guessed."""
        if not self.mark:
            self.mark = f"{self.system.peer}{self.path}#{self.system.random.getrandbits(MARK_BITS):x}"
        return self.mark

    def _waiting(self) -> list[Cell]:
        """Return this actor, whom it waits for, and so on, as far as they are here."""
        waiting: list[Cell] = []
        cell: Cell | Afar | None = self
        while isinstance(cell, Cell):
            waiting.append(cell)
            cell = cell.waits_for
        return waiting

    def _check_behind(self, asker: Cell, waiting: list[Cell]) -> None:
        """See `check_cycle`: for those who wait for `asker` and do not show it, as something handed their ask on."""
        names = [asker.path]
        behind = asker.asked_by()
        while isinstance(behind, Cell) and len(names) < CHAIN_MAX:
            names.insert(0, behind.path)
            if behind in waiting:
                raise _cycle([*names, *_paths(waiting, behind)])
            behind = behind.asked_by()
        if isinstance(behind, tuple):
            self.check_chain(behind, names)

    def bury(self, entry: Any, reason: str) -> None:
        """Turn a queued entry into a dead letter; an ask among them fails."""
        self.dropped += 1
        message = entry
        if type(entry) is Envelope:
            message = entry.message
            if entry.slot is not None:
                entry.slot.fail(NoSuchActorError(f"{self.path}: {reason}", hint="watch the ref to hear when it ends"))
        self.system.dead_letter(self.path, message, reason)

    # --------------------------------------------------------------- watching

    def watch(self, notify: Callable[[str], None]) -> Callable[[], None]:
        """Call `notify(reason)` once, when this actor ends for good; returns the unwatch."""
        if self.state == "dead":
            notify("it was already dead")
            return _nothing
        if self.watchers is None:
            self.watchers = {}
        watchers = self.watchers
        self.watch_count += 1
        key = self.watch_count
        watchers[key] = notify

        def unwatch() -> None:
            watchers.pop(key, None)

        return unwatch

    # ----------------------------------------------------------------- ending

    def clear(self, reason: str) -> None:
        """Turn all that waits into dead letters, and let in who waited for room."""
        queued = list(self.queue)
        self.queue.clear()
        for entry in queued:
            self.bury(entry, reason)
        self.admit()

    def die(self, reason: str) -> None:
        """End for good: what is queued becomes dead letters, and each watcher hears once."""
        if self.state == "dead":
            return
        self.state = "dead"
        self.capacity = 0
        self.parked = None
        self.inline = NO_HANDLERS
        self.leave_groups()
        if self.queue:
            self.clear(f"the actor ended: {reason}")
        while self.waiting:
            task, entry, wait = self.waiting.popleft()
            if wait is not None:
                wait.again()
                continue
            self.bury(entry, f"the actor ended: {reason}")
            trio.lowlevel.reschedule(task)
        watchers, self.watchers = self.watchers, None
        for notify in list(watchers.values()) if watchers else ():
            self.system.notify(notify, reason)

    def leave_groups(self) -> None:
        """Leave every group it has joined."""
        for group in tuple(self.groups or ()):
            self.system.groups.leave(group, self)

    # ------------------------------------------------------------ introspection

    def note_failure(self, error: BaseException) -> str:
        """Keep the failure for introspection and return it in words."""
        self.last_failure = words_of(error)
        return self.last_failure

    def __repr__(self) -> str:
        return f"<Cell {self.path} {self.state}>"


class RoomWait:
    """One entry that stands in the line of each of several full mailboxes, and goes into the first that has room."""

    __slots__ = ("_cells", "_entry", "_waiter", "placed")

    def __init__(self, cells: Sequence[Cell], entry: Any) -> None:
        self._cells = cells
        self._entry = entry
        self._waiter: Waiter | None = None
        self.placed = False
        """Whether the entry is in a mailbox."""

    async def wait(self) -> bool:
        """Return `True` once the entry is in a mailbox, `False` after `again`. Cancelled, it put nothing."""
        self._waiter = waiter = (trio.lowlevel.current_task(), self._entry, self)
        for cell in self._cells:
            cell.line_up(waiter)

        def abort(_: Any) -> trio.lowlevel.Abort:
            self.forget()
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)
        return self.placed

    def again(self) -> None:
        """End the wait with nothing put: there may be another place to go, or one less to wait for."""
        if self._waiter is not None:
            task = self._waiter[0]
            self.forget()
            trio.lowlevel.reschedule(task)

    def forget(self) -> None:
        """Leave all lines."""
        waiter, self._waiter = self._waiter, None
        for cell in self._cells:
            if cell.waiting and waiter is not None and waiter in cell.waiting:
                cell.waiting.remove(waiter)


def _nothing() -> None:
    pass


def chain_of(behind: Cell | tuple[str, ...] | None) -> tuple[str, ...]:
    """Return the ask chain that travels with an ask handed on to another node; see `Envelope.chain`."""
    return behind.chain() if isinstance(behind, Cell) else behind or ()


def _bounded(marks: deque[str]) -> tuple[str, ...]:
    while len(marks) > CHAIN_MAX or sum(map(len, marks)) > CHAIN_CHARS_MAX:
        marks.popleft()
    return tuple(marks)


def _paths(waiting: Sequence[Cell], last: Cell) -> list[str]:
    return [cell.path for cell in waiting[: waiting.index(last) + 1]]


def _name(mark: str) -> str:
    """Return the path in a mark, and the end of its node's id, for people."""
    peer, _, path = mark.rpartition("#")[0].partition("/")
    return f"/{path[-_NAME_CHARS:]} on …{peer[-_PEER_CHARS:]}" if peer else f"/{path[-_NAME_CHARS:]}"


def _cycle(path: Sequence[str]) -> AskCycleError:
    """Return the error for an ask that its last actor makes; `path` is who asks whom, and ends where it begins."""
    through = f" through {' -> '.join(path)}" if len(path) > 2 else ""
    return AskCycleError(
        f"{path[0]} asks itself{through}: it would wait for ever",
        hint="answer later (ctx.defer), tell instead of ask, or call the method itself",
    )


def last_words(message: Any) -> str:
    """Return the class name of what was in hand, for a death notice."""
    return kind_of(message.message) if type(message) is Envelope else kind_of(message)


class TracedCell(Cell):
    """A cell of a system with a tracer: each message carries the context that the tracer gave it."""

    __slots__ = ()

    def __init__(
        self, system: System, path: str, mailbox: Mailbox, shutdown_s: float, remote: frozenset[type] | None = None
    ) -> None:
        super().__init__(system, path, mailbox, shutdown_s, remote)
        self.queue = TracedQueue(self.queue, system, path)  # type: ignore[assignment]


class TracedQueue:
    """A queue that puts what is appended into an envelope with its trace; what is put back has one."""

    def __init__(self, queue: deque[Any] | LaneQueue, system: System, path: str) -> None:
        self._queue = queue
        self._system = system
        self._path = path
        self.popleft = queue.popleft
        self.extendleft = queue.extendleft
        self.clear = queue.clear
        self.pop_victim = queue.pop_victim if isinstance(queue, LaneQueue) else queue.popleft

    def append(self, entry: Any) -> None:
        """Put an entry last."""
        envelope = entry if type(entry) is Envelope else Envelope(entry)
        tracer = self._system.tracer
        if envelope.trace is None and tracer is not None:
            envelope.trace = tracer.sending(self._path, kind_of(envelope.message))
        self._queue.append(envelope)

    def __len__(self) -> int:
        return len(self._queue)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._queue)
