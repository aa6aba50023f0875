"""The actor that owns the rank processes of a run: it tells the gang what happens, and does what the gang says."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import attrs
import trio

from prime.actor import Actor, on
from prime.errors import (
    ActorCrashedError,
    ConfigError,
    LinkLostError,
    NoSuchActorError,
    PrimeError,
    RefusedError,
    UnreachableError,
)
from prime.trainer import facts
from prime.trainer.checkpoint import Checkpoints
from prime.trainer.checkpoint.faults import refused
from prime.trainer.checkpoint.names import CHECKPOINTS
from prime.trainer.gang import gang as core
from prime.trainer.gang.gathering import First
from prime.trainer.gang.hosts import FarHost, Host, LocalHost, MemberHandle
from prime.trainer.gang.interfaces import INTERFACE, free_port, interface_of
from prime.trainer.gang.launch import Launch
from prime.trainer.gang.messages import (
    AskStop,
    EndHost,
    HaltAfter,
    HaltSettled,
    Item,
    JoinHost,
    LeaveRank,
    News,
    Placed,
    Setup,
    TakeRank,
    Welcome,
)
from prime.trainer.gang.trouble import trouble_of
from prime.trainer.job import Job
from prime.trainer.threads import threads_of
from prime.wire import message

if TYPE_CHECKING:
    from prime.actor.supervisor import Supervisor

TICK_S = 0.1
T = TypeVar("T")
MEETINGS = "meetings"
"""The folder, in the run's, in which the ranks of a generation find each other."""


@message
class Stop:
    """End the run in order: after a step that all ranks agree on, and a checkpoint."""

    reason: str


@message
class _Tick:
    """Time has passed."""


@attrs.define(eq=False)
class _Member:
    """A member as the shell knows it."""

    number: int
    host: int = 0
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    handle: MemberHandle | None = None
    process: int = 0
    rank: int = -1
    order: core.Begin | None = None


class Ranks(Actor[Stop | JoinHost | AskStop | _Tick]):
    """Runs one gang, and ends when that is over; then `ended` holds how.

    `members` is the supervisor of the rank processes, `tell` takes each fact as it comes. With `first` this is the first
    host of several, and takes the others in.
    """

    def __init__(
        self,
        job: Job,
        folder: Path,
        world: int,
        members: Supervisor,
        tell: Callable[[facts.Fact], None],
        over: Callable[[core.End, int], None],
        first: First | None = None,
    ) -> None:
        rules = job.supervision
        self._job = job
        self._folder = folder
        self._world = world
        self._tell_fact = tell
        self._over = over
        self._gang = core.Gang(
            core.Rules(
                world=world,
                steps=job.steps,
                spares=rules.spares,
                silent_s=rules.silent_s,
                step_s=rules.step_s,
                start_s=rules.start_s,
                restarts_max=rules.restarts_max,
                reusable=job.parallel.strategy != "fsdp" and job.parallel.replicas == 1,
                hosts=1 if first is None else first.launch.hosts,
                host_s=rules.host_s,
            )
        )
        self._members: dict[int, _Member] = {}
        self._placed: Placed | None = None
        self._meeting = ""
        self._first = first
        self._address = ""
        """Where the other hosts reach this one."""
        self._hosts: dict[int, Host] = {
            0: local_host(members, job, folder, world, None if first is None else first.launch)
        }

    async def started(self) -> None:
        """Begin."""
        shutil.rmtree(self._folder / MEETINGS, ignore_errors=True)
        self.ctx.every(TICK_S, _Tick())
        self._hear(core.Opened())

    @on(_Tick)
    def tick(self, _: _Tick) -> None:
        """Let the gang look at the time."""
        self._hear(core.Ticked())

    @on(Stop)
    def stop(self, order: Stop) -> None:
        """Begin to end in order."""
        self._hear(core.StopAsked(order.reason))

    # ------------------------------------------------------------------------------------------------ other hosts

    @on(JoinHost)
    def take_host(self, join: JoinHost) -> Welcome:
        """Take a host in, unless one of its number is there, or it can never be of this run."""
        first = self._first
        if first is None or self.ctx.sender != first.gathering.key(join.host).peer:
            raise RefusedError("this run has no such host", hint="see to its RANK or SLURM_PROCID")
        try:
            check_host(join, self._job, first.launch, self._world)
        except ConfigError as error:
            return Welcome(False, str(error), error.hint)
        if join.host in self._hosts or any(each.host == join.host for each in self._members.values()):
            return Welcome(False)
        self._take_in(join)
        return Welcome(True)

    def _take_in(self, join: JoinHost) -> None:
        far = FarHost(self.ctx.system, str(self.ctx.sender), join.name, join.local, join.interface, self.ctx.start_soon)
        self._hosts[join.host] = far
        self._address = join.reached
        self._hosts[0].interface = interface_of(join.reached)
        far.watch(lambda why: self._lose_host(join.host, far, why))
        self._tell_fact(facts.HostJoined(host=join.host, name=join.name, ranks=join.ranks))
        self._hear(core.HostCame(join.host))

    def _lose_host(self, number: int, host: Host, why: str) -> None:
        """Note that a host is gone, before what becomes of its members."""
        if self._hosts.get(number) is host and number > 0:
            del self._hosts[number]
            self._hear(core.HostWent(number, why))

    @on(AskStop)
    def stop_from_afar(self, order: AskStop) -> bool:
        """Begin to end in order, as another host was told to."""
        self._hear(core.StopAsked(order.reason))
        return True

    # ------------------------------------------------------------------------------------------------ commands

    def _hear(self, event: core.Event) -> None:
        for command in self._gang.step(event, self.ctx.now()):
            self._carry_out(command)

    def _carry_out(self, command: core.Command) -> None:
        match command:
            case core.Spawn(number, host):
                member = self._members[number] = _Member(number, host)
                self.ctx.start_soon(self._attend, member, self._hosts[host])
            case core.Kill(number):
                self._members[number].scope.cancel()
            case core.Find(generation, without):
                self.ctx.start_soon(self._find, generation, without)
            case core.Begin():
                self._begin(command)
            case core.Leave(number, generation):
                self._order(number, LeaveRank(generation))
            case core.Limit(number, generation, step):
                self._order(number, HaltAfter(generation, step))
            case core.Settle(number, generation, step):
                self._order(number, HaltSettled(generation, step))
            case core.End():
                self._end(command)
            case _:
                self._tell(command)

    def _begin(self, command: core.Begin) -> None:
        member = self._members[command.member]
        member.rank = command.rank
        if command.rank == 0:
            self._meeting = self._new_meeting(command.generation)
            self._placed = None
        host = self._hosts[member.host]
        local_rank = host.local + command.rank % (self._world // self._gang.rules.hosts)
        order = TakeRank(
            command.generation, command.rank, self._world, command.step, self._meeting, local_rank, host.interface
        )
        self._order(command.member, order)
        self._tell_fact(
            facts.RankStarted(rank=command.rank, process=member.process, generation=command.generation, host=host.name)
        )

    def _new_meeting(self, generation: int) -> str:
        """Return a place that no generation has met at before, of this trainer or an earlier one."""
        if self._first is not None:
            return f"tcp://{self._address}:{free_port(self._address)}"
        folder = self._folder / MEETINGS
        shutil.rmtree(folder, ignore_errors=True)
        try:
            folder.mkdir(parents=True)
        except OSError as error:
            raise refused(folder, error) from error
        return str(folder / f"generation-{generation}-{secrets.token_hex(4)}")

    def _order(self, number: int, order: Any) -> None:
        handle = self._members[number].handle
        assert handle is not None  # noqa: S101 - it has said that it is ready
        handle.order(order)

    def _end(self, command: core.End) -> None:
        far = [host for host in self._hosts.values() if isinstance(host, FarHost)]
        if far:
            self.ctx.start_soon(self._part, command, far)
        else:
            self._close(command)

    async def _part(self, command: core.End, far: list[FarHost]) -> None:
        """Tell the other hosts how it ended, and end."""
        order = EndHost(command.outcome, max(command.step, 0), command.text)
        async with trio.open_nursery() as nursery:
            for host in far:
                nursery.start_soon(host.end, order)
        self._close(command)

    def _close(self, command: core.End) -> None:
        self._over(command, self._gang.restarts)
        self.ctx.stop()

    # ------------------------------------------------------------------------------------------------ members

    async def _attend(self, member: _Member, host: Host) -> None:
        """Start a member, take its news until it dies or is to be killed, and see to it that it is gone."""
        why: core.Died | None = None
        with member.scope:
            while why is None:
                try:
                    news = await self._news_of(member, host)
                except (ActorCrashedError, NoSuchActorError) as error:
                    why = core.Died(member.number, str(error))
                except PrimeError as error:
                    why = self._why(member, host, error)
                else:
                    self._take(member, news)
        with trio.CancelScope(shield=True):
            if self._hosts.get(member.host) is host:  # else it is gone, and has taken its processes with it
                await host.stop(member.number)
        self._hear(why or core.Died(member.number, "it was killed"))
        del self._members[member.number]

    async def _news_of(self, member: _Member, host: Host) -> News:
        if member.handle is None:
            member.handle = await host.start(member.number, self._gang.rules.start_s)
        return await member.handle.news()

    def _why(self, member: _Member, host: Host, error: PrimeError) -> core.Died:
        """Return why a member is gone; where its host is, the gang hears of that first."""
        if not isinstance(error, LinkLostError | UnreachableError):
            return core.Died(member.number, str(error), trouble_of(error))
        self._lose_host(member.host, host, str(error))
        return core.Died(member.number, f"host {member.host} is gone: {error}")

    def _take(self, member: _Member, news: News) -> None:
        """Tell the gang what a member says, in the order in which it came, and at last that it lives."""
        member.process = news.process
        for item in news.items:
            self._take_item(member, item)
        self._hear(core.Heard(member.number, news.generation, news.step, news.work))

    def _take_item(self, member: _Member, item: Item) -> None:
        number, generation = member.number, item.generation
        if item.ready:
            member.rank = -1
            self._tell_fact(facts.RankStarted(rank=-1, process=member.process, generation=self._gang.generation))
            self._hear(core.Readied(number))
        elif item.placed is not None:
            self._placed = item.placed
            self._hear(core.Joined(number, generation))
        elif item.halt is not None:
            self._hear(core.Answered(number, generation, item.halt.step, item.halt.agreed, item.step))
        elif item.trouble is not None and generation < 0:
            self._hear(core.Died(number, str(item.trouble), item.trouble))
            member.scope.cancel()
        elif item.trouble is not None:
            self._hear(core.Failed(number, generation, item.step, item.trouble))
        elif generation == self._gang.generation:
            self._take_result(number, item)

    def _take_result(self, number: int, item: Item) -> None:
        """Tell what rank 0 of the generation says came of the run, before the gang may draw conclusions from it."""
        generation = item.generation
        if item.made is not None:
            self._hear(core.Heard(number, generation, item.step, 0))
            self._tell_fact(facts.StepMade(generation=generation, **_fields_of(item.made)))
        elif item.measured is not None:
            self._tell_fact(facts.Evaluated(generation=generation, **_fields_of(item.measured)))
        elif item.kept is not None:
            self._tell_fact(facts.CheckpointSaved(generation=generation, **_fields_of(item.kept)))
            self._hear(core.Saved(number, generation, item.kept.step))
        elif item.finished:
            self._hear(core.Finished(number, generation, item.step))

    async def _find(self, generation: int, without: frozenset[int]) -> None:
        self._hear(core.Found(generation, await looked_up(newest_step, self._folder, without)))

    # ------------------------------------------------------------------------------------------------ facts

    def _tell(self, command: core.Command) -> None:
        match command:
            case core.Began(generation, step, recovery_s):
                assert self._placed is not None  # noqa: S101 - all have said where they are
                self._tell_fact(
                    facts.GenerationBegan(
                        generation=generation,
                        step=step,
                        world=self._world,
                        recovery_s=recovery_s,
                        **_fields_of(self._placed),
                    )
                )
            case core.Lost(number, rank, generation, step, cause, text, noticed_s):
                process = self._members[number].process if number in self._members else 0
                self._tell_fact(
                    facts.RankLost(
                        rank=rank,
                        process=process,
                        generation=generation,
                        step=step,
                        cause=cause,
                        text=text,
                        noticed_s=noticed_s,
                    )
                )
            case core.Awaiting(host, text, wait_s):
                self._tell_fact(facts.HostAwaited(host=host, text=text, wait_s=wait_s))
            case core.Stopping(reason, step):
                self._tell_fact(facts.RunStopping(reason=reason, step=step))
            case _:
                pass


def setup_of(job: Job, folder: Path, world: int) -> Setup:
    """Return what every member of a run is made with."""
    return Setup(job.to_json(), str(folder), min(0.5, job.supervision.silent_s / 5), world)


def local_host(members: Supervisor, job: Job, folder: Path, world: int, launch: Launch | None) -> LocalHost:
    """Return this process as a host: alone, or the first of several."""
    local = 0 if launch is None else launch.local
    return LocalHost(members, setup_of(job, folder, world), variables_of(job, launch), local)


def variables_of(job: Job, launch: Launch | None) -> dict[str, str]:
    """Return what is set for the ranks of this process; one that is alone has them meet on the loopback interface."""
    interface = {INTERFACE: os.environ.get(INTERFACE) or interface_of("127.0.0.1")} if launch is None else {}
    return threads_of(job.parallel.threads) | interface


def check_host(join: JoinHost, job: Job, launch: Launch, world: int) -> None:
    """Refuse a host that was started for something else. Raises `ConfigError`."""
    if not 0 < join.host < launch.hosts or join.hosts != launch.hosts:
        raise ConfigError(
            f"host {join.host} of {join.hosts} in a run of {launch.hosts} hosts", hint="start all of them alike"
        )
    if join.ranks != world // launch.hosts:
        raise ConfigError(
            f"host {join.host} would have {join.ranks} ranks, and the first host has {world // launch.hosts}",
            hint="every host has as many; set parallel.ranks, or start as many processes on each",
        )
    theirs, ours = Job.from_json(join.job).tables(), job.tables()
    differing = sorted(name for name in ours if name != "folder" and theirs[name] != ours[name])
    if differing:
        raise ConfigError(
            f"host {join.host} was started with another job: {', '.join(differing)} differs",
            hint="start all hosts with one job file and the same options",
        )


def newest_step(folder: Path, without: frozenset[int] = frozenset()) -> int:
    """Return the step of the newest whole checkpoint of a run, none of `without`; -1 where there is none."""
    there = Checkpoints(folder / CHECKPOINTS).list()
    return max((one.step for one in there if one.is_whole and one.step not in without), default=-1)


async def looked_up(look: Callable[..., T], *where: Any) -> T:
    """Look into a folder in a thread; cancelled, it is left to itself: a network file system may never answer."""
    return await trio.to_thread.run_sync(look, *where, abandon_on_cancel=True)


def _fields_of(record: Any) -> dict[str, Any]:
    return attrs.asdict(record, recurse=False)
