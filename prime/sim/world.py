"""The world of one run: its nodes, its network, its disks, its faults, and what must hold in it.

A scenario is an async function of a world. It starts a program on each node, drives it, and says what must hold; the
world carries out the plan meanwhile. A node that crashes loses its tasks and streams at once: what its `finally`
blocks still do reaches neither the network nor the disk.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextvars import ContextVar
from functools import partial
from random import Random
from typing import TYPE_CHECKING, Any, Final, Literal, NoReturn

import trio

from prime.actor.contract import ProcessOptions
from prime.actor.system import System
from prime.errors import ActorUsageError, UsageError, ViolationError, WorldError
from prime.node.system import serving
from prime.sim import history as h
from prime.sim import plan as p
from prime.sim.disk import Disk
from prime.sim.history import History
from prime.sim.invariants import Check, Spell, told, words
from prime.sim.invariants import problem as problem_of
from prime.sim.network import Network
from prime.sim.schedule import Scheduler
from prime.sim.streams import Streams
from prime.sim.transport import Courier, Fabric, SimTransport, has_come
from prime.transport.identity import KeyPair
from prime.transport.links import LinkLimits, Links
from prime.transport.signing import KeySignatory

if TYPE_CHECKING:
    from prime.actor.cell import Cell

Main = Callable[["Node"], Awaitable[None]]


EPOCH_S: Final = 1_700_000_000
"""The time of day, in seconds since 1970 (UTC), at which every world begins."""

_LIFE: ContextVar[tuple[Node | None, int]] = ContextVar("_LIFE", default=(None, 0))
"""In which life of which node a task was begun."""


class NodeClock:
    """What a node takes the time to be: virtual time, wrong by an offset and too fast or too slow."""

    def __init__(self) -> None:
        self._base_s = 0.0
        self._since_s = 0.0
        self._rate = 1.0
        self._is_wrong = False

    def current_time(self) -> float:
        """See `contract.Clock`."""
        now = trio.current_time()
        return self._base_s + (now - self._since_s) * self._rate if self._is_wrong else now

    def wall_s(self) -> float:
        """Return the time of day, as wrong as the clock is: seconds since 1970 (UTC)."""
        return EPOCH_S + self.current_time()

    def skew(self, offset_s: float, rate: float) -> None:
        """Be wrong by so much more from now on, and run `rate` times as fast as time."""
        if not self._is_wrong and not offset_s and rate == 1.0:
            return
        now = trio.current_time()
        self._base_s, self._since_s, self._rate = self.current_time() + offset_s, now, rate
        self._is_wrong = True


class Node:
    """One machine: what survives a crash (its key, its disk, its clock), and the program that runs on it."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.clock = NodeClock()
        self.machine_disk = Disk(name, world.streams, world.plan.disk)
        """The disk as the world sees it, whatever life the node is in."""
        self.machine_disk.guard = self._refuse_remnants
        self.is_up = False
        self.lives = 0
        self.running: Mapping[trio.lowlevel.Task, Cell] = {}
        """Which actor a task is the loop of, in the system that was opened last."""
        self._key = KeyPair.from_seed(world.streams.number("key", name).to_bytes(8, "big") * 4)
        self.peer: Final = self._key.peer
        """This node's id, the same in all its lives."""
        self.address: Final = f"/memory/{name}/p2p/{self.peer}"
        """Where its system can be dialled."""
        self._main: Main | None = None
        self._scope = trio.CancelScope()
        self._starts_at = math.inf
        self._held_until = 0.0

    @property
    def disk(self) -> Disk:
        """This node's disk; what is left of a life that has crashed has none (`WorldError`)."""
        self._refuse_remnants()
        return self.machine_disk

    @property
    def comes_back(self) -> bool:
        """Whether it is down and will start again by itself."""
        return self._starts_at < math.inf

    @property
    def _is_remnant(self) -> bool:
        """Whether the running task is what is left of a life of this node that has crashed."""
        of, life = _LIFE.get()
        return of is self and (life != self.lives or not self.is_up)

    def _refuse_remnants(self) -> None:
        if self._is_remnant:
            raise WorldError(f"{self.name} has crashed: its earlier life has no machine", hint="nothing: it is over")

    @property
    def is_paused(self) -> bool:
        """Whether it stands still."""
        return self._held_until > 0

    def random(self, *purpose: str) -> Random:
        """Return this node's random stream for a purpose."""
        return self.world.random("node", self.name, *purpose)

    def note(self, kind: str, subject: str = "", **detail: object) -> None:
        """Put an event of this node into the history; a life that has crashed notes nothing."""
        _check_verb(kind)
        if self._is_alive():
            self.world.record(self.name, kind, subject, words(detail))

    def start(self, main: Main) -> None:
        """Run `main(node)` on this node, and again after each crash, until the world ends."""
        if self._main is not None:
            raise ActorUsageError(f"{self.name} has a program already", hint="start each node once")
        self._main = main
        self._begin()

    @contextlib.asynccontextmanager
    async def system(
        self, *, limits: LinkLimits | None = None, version: str = "", statistics: bool = False, traced: bool = True
    ) -> AsyncIterator[System]:
        """Open this node's system of actors on the simulated network; as `prime.open_system`.

        It knows where the other nodes are: `system.ref(world.node("n2").peer, path, Kind)` needs no introduction.
        Without `traced` its messages are no events of the history, and take the shorter ways through the runtime that
        those of a program without a tracer take.
        """
        self._refuse_remnants()
        life = str(self.lives)
        random = self.random("runtime", life)
        tracer = _Follower(self) if traced else None
        signatory = KeySignatory(self._key, self.clock.wall_s)
        system = System(
            random=random, secret=random.randbytes(32), tracer=tracer, statistics=statistics, signatory=signatory
        )
        self.running = system.running
        system.process_host = _NoProcesses()
        system.subscribe(self._heard)
        system.network = Links(
            SimTransport(self.world.fabric, self.name),
            self._key,
            limits=limits,
            emit=system.emit,
            version=version,
            clock=self.clock,
            instance=random.getrandbits(62) + 1,
            tracer=tracer,
            signatory=signatory,
            wall_s=self.clock.wall_s,
        )
        for other in self.world.nodes:
            if other is not self:
                system.learn(other.peer, (other.address,))
        async with serving(system):
            yield system

    # ---- what is done to it

    def crash(self, down_s: float = 1.0, *, machine: bool = False, disk: Literal["kept", "lost"] = "kept") -> None:
        """End the node's process now, and start it again after `down_s` (never, if infinite). See `plan.Crash`."""
        if not self.is_up or self._is_remnant:
            return
        world, now = self.world, trio.current_time()
        world.record(self.name, h.CRASHES, "machine" if machine else "process", f"disk {disk}")
        self.is_up = False
        self.release()
        world.scheduler.forget_steps(self.name)
        if machine:
            world.fabric.switch_off(self.name)
        endpoint = world.fabric.listener(self.name)
        if endpoint is not None:
            world.fabric.leave(endpoint)
            endpoint.die(silently=machine)
        if disk == "lost":
            self.machine_disk.wipe()
        else:
            self.machine_disk.crash(power=machine)
        self._scope.cancel()
        self._starts_at = now + down_s
        if down_s < math.inf:
            world.courier.at(self._starts_at, self._start_again)

    def restart(self) -> None:
        """Start the node's program again now, if it has crashed."""
        if self._is_remnant:
            return
        self._starts_at = min(self._starts_at, trio.current_time())
        self._start_again()

    def pause(self, for_s: float) -> None:
        """Let nothing in the node run for so long; its sockets stay open."""
        if not self.is_up or self._is_remnant:
            return
        self.world.record(self.name, h.PAUSES, "", f"for {for_s:g} s")
        self._held_until = max(self._held_until, trio.current_time() + for_s)
        self.world.scheduler.hold(self.name)
        self.world.courier.at(self._held_until, self._release_if_due)

    def release(self) -> None:
        """End a pause."""
        if self._held_until:
            self._held_until = 0.0
            self.world.record(self.name, h.GOES_ON)
            self.world.scheduler.release(self.name)

    # ---- its lives

    def _is_alive(self) -> bool:
        """Tell whether it runs, and whoever asks is no remnant of a life that has crashed."""
        return self.is_up and not self._scope.cancel_called and not self._is_remnant

    def _begin(self) -> None:
        self.lives += 1
        self.is_up = True
        self._scope = trio.CancelScope()
        self._starts_at = math.inf
        self.world.record(self.name, h.STARTS, "", f"life {self.lives}")
        self.world.nursery.start_soon(self._live, self._scope, name=f"{self.name} life {self.lives}")

    async def _live(self, scope: trio.CancelScope) -> None:
        main, world = self._main, self.world
        if main is None:
            return
        world.scheduler.own(self.name)
        _LIFE.set((self, self.lives))
        try:
            with scope:
                await main(self)
        except BaseExceptionGroup as group:
            ended, rest = group.split(trio.Cancelled)  # the run may end while a dead node is still coming down
            self._fell(scope, rest)
            if ended is not None:
                raise ended from None
        except Exception as error:  # noqa: BLE001 - the border of a node: what its program raises ends the run
            self._fell(scope, error)
        finally:
            world.scheduler.disown()

    def _fell(self, scope: trio.CancelScope, error: BaseException | None) -> None:
        if error is not None and scope is self._scope and self._is_alive():
            self.world.fail(error, f"the program of {self.name} failed")

    def _start_again(self) -> None:
        if not self.is_up and self._main is not None and has_come(self._starts_at):
            self.world.fabric.switch_on(self.name)
            self._begin()

    def _release_if_due(self) -> None:
        if self._held_until and has_come(self._held_until):
            self.release()

    def _heard(self, fact: Any) -> None:
        subject = getattr(fact, "path", "") or self.world.name_of(getattr(fact, "peer", ""))
        self.note(h.REPORTS, f"{type(fact).__name__} {subject}".rstrip())


class World:
    """What a scenario is given. Made by `prime.sim.run`."""

    def __init__(self, seed: int, space: p.Space, plan: p.Plan, history: History, nursery: trio.Nursery) -> None:
        self.seed = seed
        self.plan = plan
        self.history = history
        self.nursery = nursery
        self.streams = Streams(seed)
        self.scheduler = Scheduler(self._spins)
        self.courier = Courier()
        self.network = Network(self.streams, plan.network)
        self.fabric = Fabric(self.network, self.courier, history)
        self.nodes = tuple(Node(self, name) for name in space.nodes if name not in plan.without)
        self._names = {str(node.peer): node.name for node in self.nodes}
        self.failure: BaseException | None = None
        self.chosen: dict[str, int] = {}
        """What `choose` has returned so far."""
        self._over = trio.Event()
        self._always: dict[str, Check] = {}
        self._fault_ends_at: dict[tuple[str, str], float] = {}

    # ---- what a scenario reads

    @property
    def now(self) -> float:
        """Virtual seconds since the run began."""
        return trio.current_time()

    def node(self, name: str) -> Node:
        """Return the node of that name."""
        for node in self.nodes:
            if node.name == name:
                return node
        raise ActorUsageError(f"no node is called {name}", hint=", ".join(node.name for node in self.nodes))

    def name_of(self, peer: str) -> str:
        """Return the name of the node with that id, or the id if none has it."""
        return self._names.get(peer, peer)

    def random(self, *name: str) -> Random:
        """Return the random stream of a name: a new draw in one place shifts no other."""
        return self.streams.stream("scenario", *name)

    def choose(self, name: str, low: int, high: int) -> int:
        """Return a number of the scenario's own from `low` to `high`, e.g. how many writes there are.

        It is drawn from the seed, or given by the plan, so that shrinking makes it smaller too: let smaller be simpler.
        The same name gives the same number.
        """
        if low > high:
            raise ActorUsageError(f"{name} cannot be from {low} to {high}", hint="the lower bound comes first")
        if name not in self.chosen:
            given = self.plan.params.get(name)
            drawn = self.streams.stream("choice", name).randint(low, high) if given is None else given
            self.chosen[name] = min(max(drawn, low), high)
        return self.chosen[name]

    def start(self, main: Main) -> None:
        """Run `main(node)` on every node."""
        for node in self.nodes:
            node.start(main)

    def note(self, kind: str, subject: str = "", **detail: object) -> None:
        """Put an event of the world into the history."""
        _check_verb(kind)
        self.record("", kind, subject, words(detail))

    def record(self, node: str, kind: str, subject: str = "", detail: str = "") -> None:
        """Put an event into the history."""
        self.history.add(trio.current_time(), node, kind, subject, detail)

    # ---- what must hold

    def always(self, name: str, check: Check) -> None:
        """Call `check()` after each step of each task, so let it be quick: it must not return `False` or raise."""
        if not name or name in self._always:
            raise UsageError(
                f"{name!r} cannot be the name of a check", hint="each has a name of its own: it is what fails"
            )
        if not self._always:
            self.scheduler.each_step(self._check_all)
        self._always[name] = check

    def never_again(self, name: str, condition: Callable[[], bool]) -> None:
        """Once `condition()` has been true and then false, it must not become true again."""
        spell = Spell(condition)
        self.always(name, spell.check)

    async def eventually(self, name: str, check: Check, within_s: float) -> None:
        """Wait until `check()` returns a true value, or neither `False` nor an assertion error, for at most so long."""
        deadline = self.now + within_s
        while True:
            problem = problem_of(check)
            if problem is None:
                return
            if self.now >= deadline:
                raise ViolationError(f"{name}: not within {within_s:g} s{problem}", name=name)
            await trio.sleep(min(0.1, max(deadline - self.now, 0.0)))

    def fail(self, error: BaseException, text: str = "") -> None:
        """End the run as failed; the first failure counts."""
        error = told(error)
        if self.failure is None and not self.history.is_closed:
            if text and not isinstance(error, ViolationError):
                error.add_note(text)
            self.failure = error
            name = error.name if isinstance(error, ViolationError) else type(error).__name__
            self.history.add(trio.current_time(), "", h.VIOLATES, name)
            self.history.is_closed = True  # what the end undoes is not part of the run
        self.nursery.cancel_scope.cancel()

    def whereabouts(self) -> str:
        """Tell which node and actor the running task belongs to; empty for the scenario itself."""
        task: trio.lowlevel.Task | None = trio.lowlevel.current_task()
        name = self.scheduler.node_of(task)
        if name is None:
            return ""
        running = self.node(name).running
        while task is not None:
            if task in running:
                return f"node {name}, actor {running[task].path}"
            task = task.parent_nursery.parent_task if task.parent_nursery is not None else None
        return f"node {name}"

    # ---- the weather

    async def storm(self) -> None:
        """Wait until the storm is over: no faults any more, all is mended, and every node runs.

        Two things stay: a node that a `Crash` put down for ever is down, and a clock that was set wrong is wrong by as
        much as it then is, though it runs as fast as time again.
        """
        await self._over.wait()

    async def weather(self) -> None:
        """Carry out the plan."""
        for action in self.plan.actions:
            if action.at_s >= self.plan.storm_s:
                break
            await trio.sleep_until(action.at_s)
            self._do(action)
        await trio.sleep_until(self.plan.storm_s)
        self._calm()

    def _do(self, action: p.Action) -> None:
        match action:
            case p.Crash():
                self._crash_soon(action)
            case p.Pause():
                self.node(action.node).pause(action.for_s)
            case p.Skew():
                self.record(action.node, h.SKEWS, "", f"by {action.offset_s:g} s, rate {action.rate:g}")
                self.node(action.node).clock.skew(action.offset_s, action.rate)
            case p.Cut():
                self.record(action.source, h.CUT_OFF, action.target, f"for {action.for_s:g} s")
                again = partial(self.record, action.source, h.REACHES, action.target)
                self._cut([(action.source, action.target)], action.for_s, again)
            case p.Partition():
                self._part(action)
            case p.SlowReader():
                self.record(action.node, h.READS_SLOWLY, "", f"{action.bytes_per_s:g} bytes/s")
                self.fabric.slow[action.node] = action.bytes_per_s
                self._at_last(
                    action.node, "reads slowly", action.for_s, lambda: self.fabric.slow.pop(action.node, None)
                )
            case p.DiskFull() | p.DiskGone():
                what: Literal["full", "gone"] = "full" if isinstance(action, p.DiskFull) else "gone"
                self._ail(self.node(action.node), what, action.for_s)
            case p.BitFlip():
                self._flip(self.node(action.node))

    def _flip(self, node: Node) -> None:
        flip = node.disk.flip()
        if flip is not None:
            self.record(node.name, h.FLIPS, flip.path, f"{flip.bit} of byte {flip.at}")

    def _ail(self, node: Node, what: Literal["full", "gone"], for_s: float) -> None:
        """Make a node's disk full or gone for so long."""
        setattr(node.disk, what, True)
        self.record(node.name, h.DISK_FULL if what == "full" else h.DISK_GONE, "", f"for {for_s:g} s")

        def mend() -> None:
            if getattr(node.disk, what):
                setattr(node.disk, what, False)
                self.record(node.name, h.DISK_NOT_FULL if what == "full" else h.DISK_NOT_GONE)

        self._at_last(node.name, what, for_s, mend)

    def _at_last(self, node: str, fault: str, for_s: float, end: Callable[[], object]) -> None:
        """End a fault of a node in so long, unless another of its kind, which began before or since, still holds."""
        ends_at = self.now + for_s
        self._fault_ends_at[node, fault] = max(self._fault_ends_at.get((node, fault), 0.0), ends_at)

        def end_if_last() -> None:
            if has_come(self._fault_ends_at[node, fault]):
                end()

        self._later(for_s, end_if_last)

    def _crash_soon(self, crash: p.Crash) -> None:
        node = self.node(crash.node)
        act = partial(node.crash, crash.down_s, machine=crash.machine, disk=crash.disk)
        if not crash.steps or not node.is_up:
            act()
            return
        self.scheduler.after_steps(crash.node, crash.steps, act)
        life = node.lives

        def at_the_latest() -> None:
            if node.lives == life and not self._over.is_set():
                act()

        self._later(p.STEPS_WITHIN_S, at_the_latest)

    def _part(self, partition: p.Partition) -> None:
        names = [node.name for node in self.nodes]
        sides = " | ".join(
            " ".join(name for name in names if (name in partition.side) is inside) for inside in (True, False)
        )
        self.record("", h.PARTS, sides, f"for {partition.for_s:g} s")
        again = partial(self.record, "", h.JOINS, sides)
        self._cut(self.network.across(partition.side, names), partition.for_s, again)

    def _cut(self, pairs: list[tuple[str, str]], for_s: float, again: Callable[[], None]) -> None:
        for source, target in pairs:
            self.network.cut(source, target)

        def mend() -> None:
            if not self._over.is_set():
                for source, target in pairs:
                    self.network.mend(source, target)
                again()
                self.fabric.ways_changed()

        self._later(for_s, mend)

    def _later(self, delay_s: float, act: Callable[[], object]) -> None:
        self.courier.at(trio.current_time() + delay_s, act)

    def _calm(self) -> None:
        self.record("", h.CALMS)
        self._over.set()
        self.network.faults = p.NetworkFaults()
        self.network.mend_all()
        self.fabric.slow.clear()
        for node in self.nodes:
            node.disk.mend()
            self.scheduler.forget_steps(node.name)
            node.clock.skew(0.0, 1.0)
            node.release()
            if node.comes_back:
                node.restart()
        self.fabric.ways_changed()

    # ---- checks

    def _check_all(self) -> None:
        if self.failure is not None:
            return
        for name, check in self._always.items():
            try:
                problem = problem_of(check)
            except Exception as error:  # noqa: BLE001 - a check that cannot be made has not held
                self.fail(error, f"while {name!r} was checked")
                return
            if problem is not None:
                self.fail(ViolationError(f"{name}{problem}", name=name))
                return

    def check(self) -> None:
        """Check now what must always hold, once more at the end."""
        self._check_all()

    def _spins(self) -> None:
        spins = ViolationError("the program spins, or waits for ever: virtual time goes no further", name="it ends")
        self.fail(spins)
        if self.failure is None:  # it is in its end that it does not end
            self.failure = spins


def _check_verb(kind: str) -> None:
    if kind == h.VIOLATES:
        raise ActorUsageError(f"no note can be of kind {kind}", hint="it is the world's own word: take another verb")


class _Follower:
    """A node's tracer: every message of the world has a number, and its sending and handling are events."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._count = 0

    def sending(self, path: str, kind: str) -> str | None:
        """See `contract.Tracer`."""
        node = self._node
        if not node._is_alive():  # noqa: SLF001 - the node's own
            return None
        self._count += 1
        number = f"{node.name}.{node.lives}.{self._count}"
        node.world.record(node.name, h.SENDS, path, f"{kind} {number}")
        return number

    def handling(self, path: str, kind: str, trace: str | None) -> contextlib.AbstractContextManager[object]:
        """See `contract.Tracer`."""
        node = self._node
        if node._is_alive():  # noqa: SLF001 - the node's own
            node.world.record(node.name, h.HANDLES, path, f"{kind} {trace or ''}".rstrip())
        return _NOTHING


_NOTHING: contextlib.AbstractContextManager[object] = contextlib.nullcontext()


class _NoProcesses:
    """A simulation has one process."""

    def factory(self, actor: str | Callable[..., Any], options: ProcessOptions) -> NoReturn:  # noqa: ARG002
        """See `ProcessHost.factory`."""
        raise ActorUsageError(
            f"{actor!r} cannot have a process of its own inside a simulation",
            hint="spawn the actor itself there: sup.spawn(...)",
        )
