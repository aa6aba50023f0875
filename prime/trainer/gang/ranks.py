"""The actor that owns the rank processes of a run: it tells the gang what happens, and does what the gang says."""

from __future__ import annotations

import math
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import trio

from prime.actor import Actor, on
from prime.errors import ActorCrashedError, NoSuchActorError, PrimeError
from prime.trainer import facts
from prime.trainer.checkpoint import Checkpoints
from prime.trainer.gang import gang as core
from prime.trainer.gang.messages import (
    GetNews,
    HaltAfter,
    HaltSettled,
    Item,
    LeaveRank,
    News,
    Placed,
    Setup,
    TakeRank,
)
from prime.trainer.gang.trouble import trouble_of
from prime.trainer.job import Job
from prime.wire import message

if TYPE_CHECKING:
    from prime.actor.ref import Ref
    from prime.actor.supervisor import Supervisor

TICK_S = 0.1
SHUTDOWN_S = 0.0
"""A rank has nothing to end in order: what it wants to keep it has saved before it says that it has finished."""
MEETINGS = "meetings"
"""The folder, in the run's, in which the ranks of a generation find each other."""
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


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
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    ref: Ref[Any] | None = None
    process: int = 0
    rank: int = -1
    order: core.Begin | None = None


class Ranks(Actor[Stop | _Tick]):
    """Runs one gang, and ends when that is over; then `ended` holds how.

    `members` is the supervisor of the rank processes, `tell` takes each fact as it comes.
    """

    def __init__(
        self,
        job: Job,
        folder: Path,
        world: int,
        members: Supervisor,
        tell: Callable[[facts.Fact], None],
        over: Callable[[core.End, int], None],
    ) -> None:
        rules = job.supervision
        self._job = job
        self._folder = folder
        self._world = world
        self._supervisor = members
        self._tell_fact = tell
        self._over = over
        self._gang = core.Gang(
            core.Rules(
                world=world,
                steps=job.steps,
                spares=rules.spares,
                silent_s=rules.silent_s,
                step_s=rules.step_s,
                restarts_max=rules.restarts_max,
            )
        )
        self._members: dict[int, _Member] = {}
        self._placed: Placed | None = None
        self._meeting = ""
        self._setup = Setup(job.to_json(), str(folder), min(0.5, rules.silent_s / 5))

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

    # ------------------------------------------------------------------------------------------------ commands

    def _hear(self, event: core.Event) -> None:
        for command in self._gang.step(event, self.ctx.now()):
            self._carry_out(command)

    def _carry_out(self, command: core.Command) -> None:
        match command:
            case core.Spawn(number):
                member = self._members[number] = _Member(number)
                self.ctx.start_soon(self._attend, member)
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
        order = TakeRank(command.generation, command.rank, self._world, command.step, self._meeting)
        self._order(command.member, order)
        self._tell_fact(facts.RankStarted(rank=command.rank, process=member.process, generation=command.generation))

    def _new_meeting(self, generation: int) -> str:
        """Return a file that no generation has met at before, of this trainer or an earlier one."""
        folder = self._folder / MEETINGS
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return str(folder / f"generation-{generation}-{secrets.token_hex(4)}")

    def _order(self, number: int, order: Any) -> None:
        ref = self._members[number].ref
        assert ref is not None  # noqa: S101 - it has said that it is ready
        ref.tell_nowait(order)

    def _end(self, command: core.End) -> None:
        self._over(command, self._gang.restarts)
        self.ctx.stop()

    # ------------------------------------------------------------------------------------------------ members

    async def _attend(self, member: _Member) -> None:
        """Start a member, take its news until it dies or is to be killed, and see to it that it is gone."""
        why = core.Died(member.number, "it was killed")
        with member.scope:
            try:
                member.ref = await self._spawn(f"member-{member.number}")
                while True:
                    self._take(member, await member.ref.ask(GetNews(), timeout=math.inf))
            except (ActorCrashedError, NoSuchActorError) as error:
                why = core.Died(member.number, str(error))
            except PrimeError as error:
                why = core.Died(member.number, str(error), trouble_of(error))
        with trio.CancelScope(shield=True):
            if member.ref is not None:
                await self._supervisor.stop(member.ref)
        self._hear(why)
        del self._members[member.number]

    async def _spawn(self, name: str) -> Ref[Any]:
        environment = dict.fromkeys(_THREAD_VARIABLES, str(self._job.parallel.threads))
        environment |= {"GLOO_SOCKET_IFNAME": "lo"}
        return await self._supervisor.spawn_process(
            "prime.trainer.gang.worker:GangWorker",
            name,
            kind="temporary",
            shutdown=SHUTDOWN_S,
            args=(self._setup,),
            starting=self._gang.rules.start_s,
            silent=math.inf,
            output="facts",
            environment=environment,
        )

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
        self._hear(core.Found(generation, await trio.to_thread.run_sync(newest_step, self._folder, without)))

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
            case core.Stopping(reason, step):
                self._tell_fact(facts.RunStopping(reason=reason, step=step))
            case _:
                pass


def newest_step(folder: Path, without: frozenset[int] = frozenset()) -> int:
    """Return the step of the newest whole checkpoint of a run, none of `without`; -1 where there is none."""
    there = Checkpoints(folder / "checkpoints").list()
    return max((one.step for one in there if one.is_whole and one.step not in without), default=-1)


def _fields_of(record: Any) -> dict[str, Any]:
    return attrs.asdict(record, recurse=False)
