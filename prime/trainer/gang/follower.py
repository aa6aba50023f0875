"""A host that follows: it starts the processes that the first host's gang wants here, and ends with the run.

It decides nothing. When the connection to the first host is lost its processes are gone before it says so.
"""

from __future__ import annotations

import functools
import math
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Literal

import attrs
import trio

from prime.actor import Actor, Restart, on
from prime.errors import (
    ConfigError,
    ConflictError,
    DeadlineError,
    LinkLostError,
    PrimeError,
    RefusedError,
    RunFailedError,
    WorldError,
)
from prime.trainer.gang.gathering import FILE, Gathering, open_networked, read_gathering, resolve
from prime.trainer.gang.hosts import MEMBERS, NAME, SUPERVISOR, quietly, start_process
from prime.trainer.gang.interfaces import interface_of, own_address_towards
from prime.trainer.gang.launch import Launch
from prime.trainer.gang.messages import AskStop, EndHost, JoinHost, Setup, StartMember, StopMember, Welcome
from prime.trainer.gang.ranks import looked_up, setup_of
from prime.trainer.gang.trainer import world_of
from prime.trainer.job import Job
from prime.trainer.threads import threads_of

if TYPE_CHECKING:
    from prime.actor.ref import Ref
    from prime.actor.supervisor import Supervisor

AGAIN_S: Final = 0.5
"""Between two tries to join."""
JOIN_S: Final = 30.0
_LISTEN: Final = "/ip4/127.0.0.1/tcp/0"
"""Nobody connects to a follower; it connects."""


@attrs.frozen
class Followed:
    """How the run ended that a host followed."""

    outcome: Literal["done", "stopped"]
    step: int


@attrs.frozen(eq=False)
class _Starting:
    """A process that starts, and may be stopped before it runs."""

    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    over: trio.Event = attrs.field(factory=trio.Event)


class Follower(Actor[StartMember | StopMember | EndHost]):
    """Starts and stops members for the first host."""

    def __init__(self, members: Supervisor, setup: Setup, threads: int, over: Callable[[EndHost], None]) -> None:
        self._supervisor = members
        self._setup = setup
        self._environment = threads_of(threads)
        self._over = over
        self._starting: dict[int, _Starting] = {}
        self._refs: dict[int, Ref[Any]] = {}

    @on(StartMember)
    def start_member(self, order: StartMember) -> Any:
        """Start a process; answers when it runs."""
        answer = self.ctx.defer()
        starting = self._starting[order.number] = _Starting()
        self.ctx.start_soon(self._start, order, starting, answer)

    async def _start(self, order: StartMember, starting: _Starting, answer: Any) -> None:
        number = order.number
        try:
            with starting.scope:
                self._refs[number] = await start_process(
                    self._supervisor, number, self._setup, order.start_s, self._environment
                )
                answer.reply(True)
                return
            answer.fail(RefusedError(f"member {number} was stopped while it started", hint="it was not needed"))
        except PrimeError as error:
            answer.fail(error)
        finally:
            del self._starting[number]
            starting.over.set()

    @on(StopMember)
    def stop_member(self, order: StopMember) -> Any:
        """End a process, even while it starts; answers when it is gone."""
        answer = self.ctx.defer()
        self.ctx.start_soon(self._stop, order.number, answer)

    async def _stop(self, number: int, answer: Any) -> None:
        if (starting := self._starting.get(number)) is not None:
            starting.scope.cancel()
            await starting.over.wait()
        ref = self._refs.pop(number, None)
        if ref is not None:
            await self._supervisor.stop(ref)
        answer.reply(True)

    @on(EndHost)
    def end(self, order: EndHost) -> bool:
        """Take note of how the run ended."""
        self._over(order)
        return True


class Following:
    """One host that follows the first. `say` takes what happens, as sentences."""

    def __init__(self, job: Job, launch: Launch, say: Callable[[str], None]) -> None:
        self._job = job
        self._launch = launch
        self._say = say
        self._folder = job.run_folder.absolute()
        self._world = world_of(job, launch)
        self._ranks = self._world // launch.hosts
        self._search = trio.CancelScope()
        self._joined = False
        self._stop_asked = trio.Event()
        self._stop_reason = ""

    def stop(self, reason: str) -> None:
        """Ask the first host to end the run in order, now or as soon as it is found."""
        self._stop_reason = self._stop_reason or reason
        self._stop_asked.set()
        if not self._joined:
            self._search.cancel()

    async def run(self) -> Followed:
        """Find the first host, and follow it until the run is over.

        Raises `DeadlineError` if it is not found in time, `ConfigError` if this host does not fit it, `LinkLostError`
        when it is lost, and `RunFailedError` for a run that failed.
        """
        host_s = self._job.supervision.host_s
        self._say(f"host {self._launch.host} of {self._launch.hosts}: looks for the first host, {self._launch.leader}")
        why = f"there is no {FILE} of this run in {self._folder}: the first host has not started, or the folder is not shared"
        self._search.deadline = trio.current_time() + host_s
        with self._search:
            while True:
                gathering = await looked_up(read_gathering, self._folder, self._launch.run)
                if gathering is not None:
                    try:
                        return await self._follow(gathering)
                    except WorldError as error:
                        if self._joined:
                            raise
                        why = str(error)
                await trio.sleep(AGAIN_S)
        if self._stop_reason:
            return Followed("stopped", 0)
        raise DeadlineError(
            f"host {self._launch.host} has not found the first host, {self._launch.leader}, within {host_s:g} s: {why}",
            hint="start the run on all hosts, with one folder that they share, and see to MASTER_ADDR",
        )

    async def _follow(self, gathering: Gathering) -> Followed:
        """Connect, join, and follow; the search is over as soon as this host is taken in."""
        first = gathering.key(0).peer
        reached = await resolve(self._launch.leader)
        async with (
            open_networked(gathering.key(self._launch.host), _LISTEN, [first]) as system,
            system.supervisor(MEMBERS, restart=Restart(max=0)) as members,
            system.supervisor(SUPERVISOR, restart=Restart(max=0)) as sup,
        ):
            assert system.network is not None  # noqa: S101 - it was opened with one
            kind = "ip6" if ":" in reached else "ip4"
            await system.network.dial(f"/{kind}/{reached}/tcp/{gathering.port}/p2p/{first}")
            ended = _Ended()
            follower = functools.partial(
                Follower, members, setup_of(self._job, self._folder, self._world), self._job.parallel.threads, ended.end
            )
            await sup.spawn(follower, NAME, kind="temporary", remote=(StartMember, StopMember, EndHost))
            ranks: Ref[Any] = system.ref(first, gathering.path, Actor)
            system.watch(ranks, ended.lose)
            self._heed(await ranks.ask(self._join(reached), timeout=JOIN_S))
            self._joined = True
            self._search.deadline = math.inf
            self._say(
                f"host {self._launch.host} of {self._launch.hosts}: follows {self._launch.leader}, in {self._folder}"
            )
            return await self._wait(ended, ranks)

    def _join(self, reached: str) -> JoinHost:
        launch = self._launch
        return JoinHost(
            host=launch.host,
            hosts=launch.hosts,
            name=launch.name or socket.gethostname(),
            ranks=self._ranks,
            local=launch.local,
            reached=reached,
            interface=interface_of(own_address_towards(reached)),
            job=self._job.to_json(),
        )

    def _heed(self, welcome: Welcome) -> None:
        if welcome.refusal:
            raise ConfigError(welcome.refusal, hint=welcome.hint)
        if not welcome.taken:
            raise ConflictError(
                f"host {self._launch.host} is there already", hint="it is taken in once the other one is gone"
            )

    async def _wait(self, ended: _Ended, ranks: Ref[Any]) -> Followed:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._pass_stops_on, ranks)
            await ended.event.wait()
            nursery.cancel_scope.cancel()
        order = ended.order
        if order is None:
            raise LinkLostError(
                f"the first host's trainer, on {self._launch.leader}, is gone: {ended.why}",
                hint="its own output says why; started again on all hosts, the run goes on from its newest checkpoint",
            )
        if order.outcome == "failed":
            raise RunFailedError(order.text, hint=f"the first host, {self._launch.leader}, has the report")
        return Followed("done" if order.outcome == "done" else "stopped", order.step)

    async def _pass_stops_on(self, ranks: Ref[Any]) -> None:
        await self._stop_asked.wait()
        reason = f"{self._stop_reason} on host {self._launch.host}"
        await quietly(ranks.ask(AskStop(reason), timeout=JOIN_S))


class _Ended:
    """How it ended for a follower: in order, or by a lost connection."""

    def __init__(self) -> None:
        self.event = trio.Event()
        self.order: EndHost | None = None
        self.why = ""

    def end(self, order: EndHost) -> None:
        self.order = self.order or order
        self.event.set()

    def lose(self, why: str) -> None:
        self.why = self.why or why
        self.event.set()


async def follow(job: Job, launch: Launch, say: Callable[[str], None] = lambda _text: None) -> Followed:
    """Follow the first host of a run; see `Following.run`."""
    return await Following(job, launch, say).run()
