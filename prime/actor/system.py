"""A system: the actors of one node, by path, and what they share (timers, randomness, facts, the network)."""

from __future__ import annotations

import contextlib
import random as random_module
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Unpack, overload

import attrs
import trio

from prime.actor.child import ActorChild
from prime.actor.contract import PeerId, ProcessOptions
from prime.actor.deadlines import Deadlines
from prime.actor.facts import ActorFailed, DeadLetter, causes_of, kind_of, words_of
from prime.actor.mailbox import Envelope
from prime.actor.passport import Passports, decode_in
from prime.actor.portal import Portal
from prime.actor.ref import FarRef, FarReliableRef, LocalRef, LocalReliableRef, NarrowRef, Ref, ReliableRef, check_kind
from prime.actor.registry import Groups
from prime.actor.restart import Restart, Strategy
from prime.actor.supervisor import Supervisor
from prime.actor.timing import Timing
from prime.errors import ActorUsageError, NoSuchActorError, RefusedError
from prime.wire.message import sign, signed, signed_or_none

if TYPE_CHECKING:
    from prime.actor.actor import Actor
    from prime.actor.cell import Cell
    from prime.actor.contract import Network, ProcessHost, ReplySlot, Tracer
    from prime.actor.life import Failure
    from prime.wire.signed import Signatory, Signed

M_contra = TypeVar("M_contra", contravariant=True)
T = TypeVar("T")

_RESTART = Restart()


@attrs.frozen
class ActorInfo:
    """One actor as introspection shows it.

    `mailbox` counts waiting messages and `oldest_s` is how long the oldest was seen waiting; `age_s` is of this
    incarnation; `p50_s` and `p99_s` are of the time to handle a message, right within a factor of two; `dropped`
    counts its dead letters and refusals; `process` is the id of the child process it lives in, if any. Without
    statistics, times and rates are 0.
    """

    path: str
    actor: str
    state: str
    age_s: float
    restarts: int
    mailbox: int
    handled: int
    last_failure: str
    oldest_s: float = 0.0
    rate_per_s: float = 0.0
    p50_s: float = 0.0
    p99_s: float = 0.0
    dropped: int = 0
    waits_for: str = ""
    """The path of the actor that the message in hand waits for, behind the id of its node if that is another; or empty."""
    process: int = 0


@attrs.frozen
class SupervisorInfo:
    """One supervisor and the actors among its children, in start order; a supervisor under it has its own entry."""

    path: str
    strategy: str
    state: str
    children: tuple[ActorInfo, ...]
    restarts_left: int = 0


class System:
    """The root of the actors of one node. Make one with `prime.open_system`."""

    def __init__(
        self,
        *,
        network: Network | None = None,
        random: random_module.Random | None = None,
        secret: bytes = b"",
        tracer: Tracer | None = None,
        statistics: bool = True,
        signatory: Signatory | None = None,
    ) -> None:
        self.network = network
        self.signatory = signatory
        """Who signs what this node says."""
        self.process_host: ProcessHost | None = None
        self.parent = ""
        """In the process of a process actor, the id of the node that started it; else empty."""
        self.random = random if random is not None else random_module.Random()  # noqa: S311 - jitter, no secret
        self.tracer = tracer
        self.deadlines = Deadlines()
        self.passports = Passports(secret)
        self.groups = Groups()
        self.running: dict[trio.lowlevel.Task, Cell] = {}
        """Which actor a task is the loop of."""
        self.dead_letters = 0
        self.asks_open = 0
        self.sends = 0
        """Messages sent since some sender last gave the others a turn, to whichever actors."""
        self._statistics = statistics
        self._serial = 0
        self._cells: dict[str, Cell] = {}
        self._supervisors: dict[str, Supervisor] = {}
        self._observers: list[Callable[[Any], None]] = []
        self._portals: list[Portal] = []
        self._ended = False

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run timers and the network until cancelled. `prime.open_system` calls it."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.deadlines.run)
            if self.network is not None:
                await nursery.start(self.network.serve, self)
            task_status.started()
            try:
                await trio.sleep_forever()
            finally:
                for portal in self._portals:
                    portal.close()

    def end(self) -> None:
        """Take no supervisor any more, and fail those that are left in other tasks: no timer of theirs would fire."""
        self._ended = True
        for supervisor in tuple(self._supervisors.values()):
            supervisor.outlive()

    # ---------------------------------------------------------------- actors

    @property
    def peer(self) -> str:
        """Return this node's id; empty without a network."""
        return self.network.peer if self.network is not None else ""

    @property
    def addresses(self) -> tuple[str, ...]:
        """Return the multiaddrs this node listens on."""
        return self.network.addresses if self.network is not None else ()

    @contextlib.asynccontextmanager
    async def supervisor(
        self, name: str, *, strategy: Strategy = "one_for_one", restart: Restart = _RESTART
    ) -> AsyncIterator[Supervisor]:
        """Run a supervisor at `/name` for the length of the block; its children stop, last first, at the end.

        Raises `RestartLimitError` when its children fail more often than `restart` allows, and a failure that
        `restart` calls hopeless as it is.
        """
        supervisor = Supervisor(self, f"/{name}", strategy, restart)
        async with supervisor.serving():
            yield supervisor

    def add_supervisor(self, supervisor: Supervisor) -> None:
        """Give a supervisor its path."""
        self.check_path(supervisor.path)
        if self._ended:
            raise ActorUsageError(
                f"the system of {supervisor.path} has ended", hint="open supervisors inside the block of open_system"
            )
        self._supervisors[supervisor.path] = supervisor

    def remove_supervisor(self, supervisor: Supervisor) -> None:
        """Free the path of a supervisor that has ended."""
        if self._supervisors.get(supervisor.path) is supervisor:
            del self._supervisors[supervisor.path]

    def check_path(self, path: str) -> None:
        """Raise `ActorUsageError` if a supervisor or an actor has that path."""
        if path in self._supervisors:
            raise ActorUsageError(f"a supervisor at {path} already runs", hint="choose another name")
        if path in self._cells:
            raise ActorUsageError(f"an actor at {path} already runs", hint="choose another name, or stop it first")

    @overload
    def ref(
        self, peer: str, path: str, actor: type[Actor[M_contra]], *, reliable: Literal[False] = False
    ) -> Ref[M_contra]: ...

    @overload
    def ref(
        self, peer: str, path: str, actor: type[Actor[M_contra]], *, reliable: Literal[True]
    ) -> ReliableRef[M_contra]: ...

    @overload
    def ref(self, peer: str, path: str, actor: type[Actor[M_contra]], *, reliable: bool) -> Ref[M_contra]: ...

    def ref(
        self,
        peer: str,
        path: str,
        actor: type[Actor[M_contra]],  # noqa: ARG002 - types it
        *,
        reliable: bool = False,
    ) -> Ref[M_contra]:
        """Return a ref to the actor at `path` on node `peer`; `actor` gives its protocol to the type checker.

        A `reliable` one keeps what is told until the far node has it, and sends it again after a lost link.

        Nothing is sent: whether it exists shows at the first message. An empty or own `peer` means this system,
        and then `NoSuchActorError` is raised at once if nothing lives there.
        """
        if not peer or peer == self.peer:
            return (LocalReliableRef if reliable else LocalRef)(self._cell(path))
        if self.network is None:
            raise ActorUsageError(
                f"a ref to node {peer} in a system without a network", hint="open_system(transport=prime.Tcp(...))"
            )
        return (FarReliableRef if reliable else FarRef)(self, self.network, PeerId(peer), path)

    @overload
    def in_process(
        self, actor: Callable[..., Actor[M_contra]], **options: Unpack[ProcessOptions]
    ) -> Callable[[], Actor[M_contra]]: ...

    @overload
    def in_process(self, actor: str, **options: Unpack[ProcessOptions]) -> Callable[[], Actor[Any]]: ...

    def in_process(
        self, actor: str | Callable[..., Actor[Any]], **options: Unpack[ProcessOptions]
    ) -> Callable[[], Actor[Any]]:
        """Return a factory for `spawn` or `spawn_pool` whose actors live in child processes, one each.

        `actor` is a class or a function at the top of a module, or its name, `"module:factory"`; the child imports
        it and calls it with `args`. Raises `ActorUsageError` where no child could import it, where the arguments
        have no wire form, and in a system that was not made by `prime.open_system`.
        """
        if self.process_host is None:
            raise ActorUsageError("this system cannot start processes", hint="make it with prime.open_system")
        unknown = sorted(options.keys() - ProcessOptions.__annotations__.keys())
        if unknown:
            known = ", ".join(ProcessOptions.__annotations__)
            raise ActorUsageError(f"a process actor has no option {', '.join(unknown)}", hint=f"it has {known}")
        found: Callable[[], Actor[Any]] = self.process_host.factory(actor, options)
        return found

    def whereis(self, path: str) -> Ref[Any] | None:
        """Return a ref to the local actor at `path`, or `None`."""
        cell = self._cells.get(path)
        return LocalRef(cell) if cell is not None else None

    def group(self, name: str) -> tuple[Ref[Any], ...]:
        """Return refs to the actors in a group, in the order they joined; empty if there is none of that name."""
        return tuple(LocalRef(cell) for cell in self.groups.members(name))

    def received(self, peer: PeerId, path: str) -> Ref[Any]:
        """Return the ref that a message named: to an actor here, or to one that the network reaches.

        Anybody can name a path, so a ref to one of our own allows what its path allows other nodes, and no more: else
        they would have us say for them what they may not say themselves.
        """
        if self.network is None:
            raise ActorUsageError("a ref came to a system without a network", hint="decode messages where they arrive")
        if peer == self.peer:
            cell = self._cells.get(path)
            found = _as_others_may(cell) if cell is not None else self.passports.ref_at(path)
            if found is not None:
                return found
        return FarRef(self, self.network, peer, path)  # one of our own that is gone, or closed: its first use says so

    def watch(self, ref: Ref[Any], notify: Callable[[str], None]) -> Callable[[], None]:
        """Call `notify(reason)` exactly once when the actor behind `ref` ends or its link is lost."""
        if not isinstance(ref, LocalRef | FarRef):
            raise ActorUsageError(f"cannot watch a {type(ref).__name__}", hint="watch a ref from spawn or system.ref")
        return ref.watch(notify)

    def sign(self, message: T, *, audience: str | None = None) -> T:
        """Return an equal message that carries this node's signature: to be handed on by others, or to be kept.

        It is for anyone, or for the node `audience` alone; each node takes it once. A message that is told or asked
        needs no such call: it is signed for the node that it goes to. Raises `LocalProtocolError` for a class that was
        not declared with `signed=True`.
        """
        return sign(message, self._signing(), audience)

    def signed(self, message: Any) -> Signed:
        """Return the signature that a message carries; one that was made here, and has none, is signed for this.

        Raises `LocalProtocolError` for a class that was not declared with `signed=True`.
        """
        return signed_or_none(message) or signed(self.sign(message))

    def _signing(self) -> Signatory:
        if self.signatory is None:
            raise ActorUsageError("this system has no key to sign with", hint="make it with prime.open_system")
        return self.signatory

    def portal(self) -> Portal:
        """Return what other threads tell and ask through; it ends with this system. Call it in Trio's thread."""
        if not self._portals:
            self._portals.append(Portal())
        return self._portals[0]

    def learn(self, peer: str, addresses: tuple[str, ...]) -> None:
        """Remember where a peer may be dialled."""
        if self.network is not None:
            self.network.learn(PeerId(peer), addresses)

    def tree(self) -> tuple[SupervisorInfo, ...]:
        """Return every supervisor and its actors as they are now."""
        now = trio.current_time()
        return tuple(
            SupervisorInfo(s.path, s.strategy, s.state, tuple(_infos(s, now)), s.restarts_left)
            for s in self._supervisors.values()
        )

    def leftovers(self) -> dict[str, int]:
        """Count what is alive now, by kind; what a block leaves behind is the difference."""
        return {
            "actors": len(self._cells),
            "supervisors": len(self._supervisors),
            "tasks": len(self.running),
            "timers": len(self.deadlines),
            "asks": self.asks_open,
            "watches": sum(len(cell.watchers or ()) for cell in self._cells.values()),
            "passports": len(self.passports),
        }

    # ----------------------------------------------------------------- facts

    @property
    def observed(self) -> bool:
        """Tell whether anybody hears facts: a fact that nobody hears need not be made."""
        return bool(self._observers)

    def emit(self, fact: Any) -> None:
        """Give a fact to every observer."""
        for observer in self._observers[:]:
            try:
                observer(fact)
            except Exception as error:  # noqa: BLE001 - the supervisor border: who watches must not fail who is watched
                self._observers.remove(observer)
                print(f"prime: an observer failed and is dropped: {error!r}", file=sys.stderr)  # noqa: T201

    def notify(self, notify: Callable[[str], None], reason: str) -> None:
        """Tell a watcher. Its failure is its own: others wait for the same notice."""
        try:
            notify(reason)
        except Exception as error:  # noqa: BLE001 - the supervisor border: who watches must not fail who is watched
            print(f"prime: a watcher failed on {reason!r}: {error!r}", file=sys.stderr)  # noqa: T201

    def subscribe(self, observer: Callable[[Any], None]) -> Callable[[], None]:
        """Call `observer(fact)` for each fact from now on; it must not block. Returns the unsubscribe."""
        self._observers.append(observer)

        def unsubscribe() -> None:
            if observer in self._observers:
                self._observers.remove(observer)

        return unsubscribe

    def dead_letter(self, path: str, message: Any, reason: str) -> None:
        """Count and report a message that nobody will handle."""
        self.dead_letters += 1
        if self._observers:
            self.emit(DeadLetter(path, kind_of(message), reason))

    def report_failure(self, path: str, failure: Failure, decision: str) -> None:
        """Emit the death notice of one incarnation."""
        error = words_of(failure.error)
        causes = causes_of(failure.error)
        self.emit(ActorFailed(path, self.peer, failure.last_message, error, failure.traceback, decision, causes))

    # -------------------------------------------------------------- registry

    def next_serial(self) -> int:
        """Return a number that no other cell of this system had."""
        self._serial += 1
        return self._serial

    def register(self, cell: Cell) -> None:
        """Give a cell its path; a path names one actor at a time."""
        if cell.path in self._cells or cell.path in self._supervisors:
            self.check_path(cell.path)
        self._cells[cell.path] = cell
        if self._statistics:
            cell.timing = Timing(trio.current_time())

    def unregister(self, cell: Cell) -> None:
        """Free the path of a dead cell."""
        if self._cells.get(cell.path) is cell:
            del self._cells[cell.path]
        if cell.grants:
            self.passports.forget(cell)

    def _cell(self, path: str) -> Cell:
        cell = self._cells.get(path)
        if cell is None:
            raise NoSuchActorError(f"no actor at {path}", hint="`prime status` lists the paths of a node")
        return cell

    # --------------------------------------------- what the network delivers

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
        """See `contract.Inbound.deliver_nowait`."""
        cell = self._cells.get(path)
        if cell is None or cell.remote is not None:
            cell = self._inbound(path, message)
        if chain:
            cell.check_chain(chain)
        if len(cell.queue) >= cell.capacity:
            return cell.put_nowait(Envelope(message, slot, deadline, sender, trace, chain))
        cell.queue.append(Envelope(message, slot, deadline, sender, trace, chain))
        if cell.parked is not None:
            cell.wake()
        return True

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
        """See `contract.Inbound.deliver`."""
        cell = self._inbound(path, message)
        if chain:
            cell.check_chain(chain)
        await cell.put(Envelope(message, slot, deadline, sender, trace, chain))

    def decoded(self, decode: Callable[..., T], *args: Any) -> T:
        """See `contract.Inbound.decoded`."""
        return decode_in(self, decode, *args)

    def watch_path(self, path: str, notify: Callable[[str], None]) -> Callable[[], None]:
        """See `contract.Inbound.watch_path`."""
        cell = self._cells.get(path)
        if cell is None:
            granted = self.passports.ref_at(path)
            cell = granted.cell if granted is not None else None
        if cell is None:
            notify(f"no actor at {path}")
            return lambda: None
        return cell.watch(notify)

    def _inbound(self, path: str, message: Any) -> Cell:
        cell = self._cells.get(path)
        if cell is not None:
            if cell.remote is not None:
                self._check_allowed(cell, message)
            return cell
        cell = self.passports.cell_at(path, message) if "!" in path else None
        if cell is None:
            self.dead_letter(path, message, "no actor at this path")
            raise NoSuchActorError(f"no actor at {path}", hint="`prime status` lists the paths of a node")
        return cell

    def _check_allowed(self, cell: Cell, message: Any) -> None:
        allowed = cell.remote
        if not allowed:
            self.dead_letter(cell.path, message, "it takes nothing from other nodes by its path")
            raise RefusedError(
                f"{cell.path} takes nothing from other nodes by its path", hint="get a ref from its node"
            )
        check_kind(cell.path, allowed, message)


def _as_others_may(cell: Cell) -> LocalRef[Any] | None:
    """Return a ref with the rights that other nodes have at an actor's path; `None` if they have none."""
    if cell.remote is None:
        return LocalRef(cell)
    return NarrowRef(cell, cell.remote) if cell.remote else None


def _infos(supervisor: Supervisor, now: float) -> Iterator[ActorInfo]:
    for child in supervisor.children:
        if isinstance(child, ActorChild):
            yield _info(child.cell, now)


def _shown(actor: Actor[Any]) -> str:
    """Return the class of an actor as introspection shows it."""
    return str(getattr(actor, "stands_for", type(actor).__qualname__))


def _info(cell: Cell, now: float) -> ActorInfo:
    timing = cell.timing or Timing(now)
    return ActorInfo(
        path=cell.path,
        actor=_shown(cell.life.actor) if cell.life is not None else "",
        state=cell.state,
        age_s=now - cell.started_at,
        restarts=cell.restarts,
        mailbox=len(cell.queue),
        handled=cell.handled,
        last_failure=cell.last_failure,
        oldest_s=timing.oldest_s(cell.handled, len(cell.queue), now),
        rate_per_s=timing.rate_per_s(cell.handled, now),
        p50_s=timing.percentile_s(0.5),
        p99_s=timing.percentile_s(0.99),
        dropped=cell.dropped,
        waits_for=cell.waits_for.path if cell.waits_for is not None else "",
        process=getattr(cell.life.actor, "process", 0) if cell.life is not None else 0,
    )
