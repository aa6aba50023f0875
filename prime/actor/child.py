"""One child as its supervisor sees it: an actor (`ActorChild`), or another supervisor (`BranchChild`)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextvars import Context as Variables
from typing import TYPE_CHECKING, Any, Protocol

import trio

from prime.actor.cell import DORMANT, Cell
from prime.actor.facts import ActorPassivated, ActorStarted
from prime.actor.life import Failure, Life, Order
from prime.actor.restart import ChildKind
from prime.errors import ActorUsageError

if TYPE_CHECKING:
    from prime.actor.actor import Actor
    from prime.actor.supervisor import Supervisor


class Parent(Protocol):
    """What a child needs of its supervisor."""

    @property
    def children_nursery(self) -> trio.Nursery:
        """Where the tasks of its children run."""
        ...

    @property
    def variables(self) -> Variables:
        """The context variables that its children see."""
        ...

    def child_ended(self, child: Child, failure: Failure | None) -> None:
        """Hear that an incarnation of a child ended, by itself or because it was asked to (`Child.expected`)."""
        ...


class Child:
    """What both kinds have in common. `begin`, `halt` and `die` are what differs."""

    __slots__ = (
        "attempted",
        "due",
        "expected",
        "failure",
        "kind",
        "name",
        "parent",
        "running",
        "settled",
        "started_once",
    )

    def __init__(self, parent: Parent, name: str, kind: ChildKind) -> None:
        self.parent = parent
        self.name = name
        self.kind: ChildKind = kind
        self.settled: trio.Event | None = None
        """Set, where someone waits, once it has started for the first time or is known never to."""
        self.attempted: trio.Event | None = None
        """Set, where someone waits, when the present incarnation has started or ended."""
        self.failure: Failure | None = None
        self.running = False
        self.expected = False
        """Whether its supervisor asked it to end, so that the end is no event to decide on."""
        self.due: object | None = None
        """The restart that it waits for: of all that were decided on, the latest."""
        self.started_once = False

    @property
    def path(self) -> str:
        """Return its path."""
        raise NotImplementedError

    def begin(self) -> None:
        """Start an incarnation."""
        raise NotImplementedError

    def note_restart(self) -> None:
        """Count a restart, and forget what the next incarnation shall not see."""
        raise NotImplementedError

    def note_restarting(self, due: object) -> None:
        """Show that it waits for its restart, `due`."""
        raise NotImplementedError

    async def halt(self) -> None:
        """Stop the present incarnation in order; returns when it has ended."""
        raise NotImplementedError

    def halt_nowait(self) -> bool:
        """Stop the present incarnation at once if nothing of its own has to run for that."""
        raise NotImplementedError

    def die(self, reason: str) -> None:
        """End for good."""
        raise NotImplementedError

    def has_started(self) -> None:
        """Wake whoever waits for the start."""
        self.failure = None
        self.started_once = True
        if self.settled is not None:
            self.settled.set()
        if self.attempted is not None:
            self.attempted.set()

    def has_ended(self, failure: Failure | None) -> None:
        """Record the end of an incarnation and leave the decision to the supervisor."""
        self.running = False
        self.failure = failure
        if self.attempted is not None:
            self.attempted.set()
        self.parent.child_ended(self, failure)


class ActorChild(Child):
    """An actor: its cell, and the factory that makes each incarnation."""

    __slots__ = ("cell", "factory")

    def __init__(
        self, parent: Parent, name: str, kind: ChildKind, cell: Cell, factory: Callable[[], Actor[Any]]
    ) -> None:
        super().__init__(parent, name, kind)
        self.cell = cell
        self.factory = factory
        cell.owner = self

    @property
    def path(self) -> str:
        """See `Child.path`."""
        return self.cell.path

    def begin(self) -> None:
        """See `Child.begin`. A task is made only for an actor that has something to do in `started`."""
        self.running = True
        self.expected, self.due = False, None
        self.cell.state = "starting"
        variables = self.parent.variables.copy()
        try:
            actor = variables.run(self.factory)
            if not hasattr(actor, "__prime_stops__"):
                raise ActorUsageError(
                    f"the factory of {self.path} returned a {type(actor).__name__}, which is no actor",
                    hint="return a fresh actor; one that takes time to make belongs in started()",
                )
            life = Life(self.cell, actor, self.parent.children_nursery, variables)
        except Exception as error:  # noqa: BLE001 - the supervisor border: a factory's failure becomes a decision
            self.has_ended(Failure.of(self.cell, error, "its factory"))
            return
        if life.starts_plainly:
            life.come_up()
            self.has_come_up()
            life.lie_dormant()
        else:
            life.start_task(self)

    def awaken(self) -> None:
        """See `Owner.awaken`."""
        if self.cell.life is None:
            self.begin()
        else:
            self.cell.life.start_task(self)

    def is_over(self, outcome: Failure | Order | None) -> None:
        """See `Born.is_over`."""
        if outcome is Order.PASSIVATE and not self.expected:
            self._lie_passive()
        else:
            self.has_ended(outcome if isinstance(outcome, Failure) else None)

    def _lie_passive(self) -> None:
        cell = self.cell
        cell.state = "passive"
        cell.parked = DORMANT
        cell.system.emit(ActorPassivated(cell.path))
        if cell.queue:
            cell.wake()

    def has_come_up(self) -> None:
        """See `Born.has_come_up`."""
        if self.cell.system.observed:
            self.cell.system.emit(ActorStarted(self.cell.path, self.cell.restarts))
        self.has_started()

    def note_restart(self) -> None:
        """See `Child.note_restart`."""
        self.cell.restarts += 1
        if self.cell.mailbox.on_restart == "clear":
            self.cell.clear("the actor restarts with an empty mailbox")

    def note_restarting(self, due: object) -> None:
        """See `Child.note_restarting`."""
        self.due = due
        self.cell.state = "restarting"

    async def halt(self) -> None:
        """See `Child.halt`."""
        self.expected = True
        if self.cell.life is not None:
            await self.cell.life.halt()
        self.running = False

    def halt_nowait(self) -> bool:
        """See `Child.halt_nowait`."""
        life = self.cell.life
        if life is not None and not life.retire():
            return False
        if life is None and self.running and self.cell.state != "passive":
            return False
        self.expected = True
        self.running = False
        self.cell.parked = None
        return True

    def die(self, reason: str) -> None:
        """See `Child.die`."""
        self.cell.die(reason)
        self.cell.system.unregister(self.cell)


class BranchChild(Child):
    """A supervisor under a supervisor; `start` spawns its children, anew for each incarnation."""

    __slots__ = ("_ended", "_path", "_scope", "make", "restarts", "start", "supervisor")

    def __init__(
        self,
        parent: Parent,
        name: str,
        kind: ChildKind,
        path: str,
        make: Callable[[], Supervisor],
        start: Callable[[Supervisor], Awaitable[object]],
    ) -> None:
        super().__init__(parent, name, kind)
        self._path = path
        self.make = make
        self.start = start
        self.restarts = 0
        self.supervisor: Supervisor | None = None
        self._scope: trio.CancelScope | None = None
        self._ended: trio.Event | None = None

    @property
    def path(self) -> str:
        """See `Child.path`."""
        return self._path

    def begin(self) -> None:
        """See `Child.begin`."""
        self.running = True
        self.expected, self.due = False, None
        self._scope, self._ended = scope, ended = trio.CancelScope(), trio.Event()
        nursery, variables = self.parent.children_nursery, self.parent.variables
        variables.copy().run(lambda: nursery.start_soon(self._live, scope, ended, name=self._path))

    async def _live(self, scope: trio.CancelScope, ended: trio.Event) -> None:
        failure: Failure | None = None
        try:
            with scope:
                await self._supervise()
        except Exception as error:  # noqa: BLE001 - the supervisor border: a branch's failure is its parent's to decide
            failure = Failure.plain(error, "its children")
        finally:
            self.supervisor = None
            ended.set()
            self.has_ended(failure)

    async def _supervise(self) -> None:
        supervisor = self.make()
        async with supervisor.serving():
            self.supervisor = supervisor
            await self.start(supervisor)
            self.has_started()
            await trio.sleep_forever()

    def note_restart(self) -> None:
        """See `Child.note_restart`."""
        self.restarts += 1

    def note_restarting(self, due: object) -> None:
        """See `Child.note_restarting`."""
        self.due = due

    async def halt(self) -> None:
        """See `Child.halt`: its children stop in reverse order, each within its own time."""
        self.expected = True
        if self._scope is not None and self._ended is not None:
            self._scope.cancel()
            await self._ended.wait()

    def halt_nowait(self) -> bool:
        """See `Child.halt_nowait`."""
        return not self.running

    def die(self, reason: str) -> None:
        """See `Child.die`; its children have died with the incarnation."""
