"""The trainer: the actor that drives one rank worker through inner steps, rounds and outer steps.

Control flows down as plans and comes up as facts: the aggregator says what was decided, the worker what it measured.
What to do next is decided in `agenda.py`, what a round makes of the shared state in `held.py`; the worker is driven by
`local.py`, and what was missed is brought by `catch_up.py`.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, TypeVar

import attrs
import trio

from prime.actor import Actor, on
from prime.actor.groups import one_error
from prime.errors import ConfigError, WorldError
from prime.trainer.outer.optimisers import outer_optimiser
from prime.trainer.rank import open_rank
from prime.trainer.round.settings import settings_of
from prime.trainer.swarm import plans
from prime.trainer.swarm.agenda import (
    Agenda,
    AskToLeave,
    Errand,
    FetchState,
    Finish,
    Leave,
    MakeContribution,
    MakeSteps,
    Rest,
    TellOfStall,
)
from prime.trainer.swarm.catch_up import CatchUp, Confirmed
from prime.trainer.swarm.donor import HoldState
from prime.trainer.swarm.held import Held, OuterSteps
from prime.trainer.swarm.local import LocalReplica
from prime.trainer.swarm.progress import DecidedRound, Progress
from prime.trainer.swarm.state import ChunkedState, OuterState
from prime.trainer.swarm.transfer import Providers, nobody
from prime.wire import message

if TYPE_CHECKING:
    from collections.abc import Callable

    from prime.actor import Ref
    from prime.trainer.codec import Vector
    from prime.trainer.metadata import TrainingConfig
    from prime.trainer.rank import RankWorker
    from prime.trainer.round.view import Value

T = TypeVar("T")

TRAINER_PATH = "/train/trainer"

RETRY_S = 1.0
"""Between two tries to fetch a state, unless something is heard."""


@message
class Drain:
    """Finish the round in hand, leave the view, then call what the trainer was made with."""


@attrs.frozen
class RoundDecided:
    """A round ended; `loss` is the mean training loss of this node's steps for it."""

    round: int
    committed: bool
    contributors: tuple[str, ...]
    loss: float | None


@attrs.frozen
class RunDone:
    """The run reached its last round."""

    round: int
    loss: float
    state_hash: str


Heard = (
    plans.ViewEntered
    | plans.RoundCommitted
    | plans.RoundAborted
    | plans.StateMissed
    | plans.LeftView
    | plans.RunEnded
    | plans.CommitKept
    | plans.RoundStalled
    | plans.RoundResumed
    | plans.StateSaved
    | Drain
)


class SwarmTrainer(Actor[Heard]):
    """Trains one model replica. `aggregator` and `donor` live on this node; `on_left` is called once it has left.

    `providers` says who else than members provides the run's state.
    `keep` takes every state that is held from then on; with `saves` it also puts it on the disk and says `StateSaved`.
    Before that nothing is contributed that starts from it: so when all members lose their power at once, each has the
    state before the last decided round, and the bytes of that round lie in their journals.
    """

    def __init__(
        self,
        config: TrainingConfig,
        run: str,
        aggregator: Ref[Any],
        donor: Ref[Any],
        progress: Progress,
        *,
        founder: bool,
        held: Callable[[], OuterState | None],
        keep: Callable[[OuterState, ChunkedState], None],
        on_left: Callable[[], None],
        saves: bool = False,
        providers: Providers = nobody,
    ) -> None:
        self._config = config
        self._run = run
        self._aggregator = aggregator
        self._donor = donor
        self._progress = progress
        self._founder = founder
        self._held_before = held
        self._keep = keep
        self._on_left = on_left
        self._providers = providers
        self._steps = OuterSteps(run, outer_optimiser(config))
        self._agenda = Agenda(progress, saves)
        self._events: deque[Any] = deque()
        self._news = trio.Event()

    async def started(self) -> None:
        """Start the worker and the loop beside the mailbox, so that outcomes are heard while torch computes."""
        self._catch_up = CatchUp(self.ctx.system, self._steps, self._progress, self._providers)
        self.ctx.start_soon(self._live)

    @on(
        plans.ViewEntered,
        plans.RoundCommitted,
        plans.RoundAborted,
        plans.StateMissed,
        plans.LeftView,
        plans.RunEnded,
        plans.CommitKept,
        plans.RoundStalled,
        plans.RoundResumed,
        plans.StateSaved,
        Drain,
    )
    def hear(self, m: Any) -> None:
        """Queue what happened for the loop: it handles one thing at a time, between slices of inner steps."""
        if isinstance(m, Drain) and self._progress.phase == "starting":
            self._leave()  # in no view yet: nobody has to wait for torch to load
            return
        if isinstance(m, plans.CommitKept):
            self._catch_up.keep(m)
            return
        self._events.append(m)
        self._news.set()
        if isinstance(m, plans.RoundCommitted):
            self._catch_up.interrupt()  # its bytes came before the state did

    # ---------------------------------------------------------------------------------------------------- the loop

    async def _live(self) -> None:
        began = self.ctx.now()
        async with open_rank(self.ctx.system, self._config, self._rank_seed()) as worker:
            self._progress.start_s += self.ctx.now() - began
            local = LocalReplica(worker, self._config, self._progress)
            await self._begin(worker, local)
            while True:
                while self._events:
                    await self._handle(local, self._events.popleft())
                await self._advance(local)

    def _rank_seed(self) -> int:
        """Return a data rank that differs between nodes without any coordination: derived from the peer id."""
        return int.from_bytes(self.ctx.system.peer.encode()[-6:], "big")

    async def _begin(self, worker: RankWorker, local: LocalReplica) -> None:
        self._progress.phase = "joining"
        state = self._held_before()
        if state is not None:
            self._check_fits(state, worker.elements)
        elif self._founder:
            state = self._steps.initial(await local.measure_first())
        settings = settings_of(self._config, worker.layout_hash)
        await self._aggregator.tell(plans.Begin(worker.elements, self._config.fragments, settings))
        if state is not None:
            await self._adopt(local, state)

    def _check_fits(self, state: OuterState, elements: int) -> None:
        found, wanted = (state.theta.size, len(state.slots)), (elements, self._steps.slots)
        if found != wanted:
            raise ConfigError(
                f"the saved state of run {self._run!r} has {found[0]} parameters and {found[1]} slots of the outer "
                f"optimiser; this model and optimiser have {wanted[0]} and {wanted[1]}",
                hint="train with the [train] section that the state is of, or give another train.run or node.state_dir",
            )

    async def _advance(self, local: LocalReplica) -> None:
        if (out := local.pace.out) is not None and self._agenda.has_come_to_nothing(out):
            await local.abort(out)
        match self._agenda.next(local.pace):
            case FetchState(missed):
                await self._fetch(local, missed)
            case MakeContribution(round_, held):
                self._agenda.contributed(round_)
                await self._aggregator.tell(await local.contribution(round_, held.state))
            case MakeSteps(steps):
                await local.train(steps, self._agenda.round)
            case Rest():
                if self._progress.phase == "training":
                    self._progress.phase = "waiting"
                await self._wait()
            case Leave():
                self._leave()
                await self._wait()

    async def _wait(self) -> None:
        if not self._events:
            self._news = trio.Event()
            await self._news.wait()

    # ------------------------------------------------------------------------------------------- what was decided

    async def _handle(self, local: LocalReplica, event: Any) -> None:
        match event:
            case plans.RoundCommitted(value, aggregate):
                await self._commit(local, value, aggregate)
            case plans.RoundAborted(value):
                await self._abort(local, value)
            case Drain():
                await self._do(local, self._agenda.drain())
            case _:
                await self._do(local, self._agenda.step(event))

    async def _do(self, local: LocalReplica, errand: Errand | None) -> None:
        match errand:
            case AskToLeave():
                await self._aggregator.tell(plans.LeaveSwarm())
            case Leave():
                self._leave()
            case TellOfStall(stall):
                self.ctx.emit(stall)
            case Finish(held):
                await self._finish(local, held)

    def _leave(self) -> None:
        self._progress.phase = "left"
        self._on_left()

    async def _commit(self, local: LocalReplica, value: Value, aggregate: Vector) -> None:
        held = self._agenda.held
        if held is None or held.round >= value.round:
            return
        cut = local.fragments.cut_of(value.round)
        following = await self._while_training(local, lambda: self._steps.after(held, value, cut, aggregate))
        loss = local.spend_losses()
        await self._hold(following)
        await local.rebase(following.state.theta, cut)
        held_out = await local.measure_round(value, following.state.theta, self.ctx.system.peer)
        self._record(value, loss, held_out)
        if value.last:
            await self._finish(local, following, held_out)

    async def _while_training(self, local: LocalReplica, work: Callable[[], T]) -> T:
        """Return what `work` does in a thread; the steps that the pace allows go on meanwhile."""
        done: list[T] = []

        async def run() -> None:
            done.append(await trio.to_thread.run_sync(work))

        async with one_error(), trio.open_nursery() as nursery:
            nursery.start_soon(run)
            while not done and (steps := self._agenda.steps_allowed(local.pace)):
                await local.train(steps, self._agenda.round)
        return done[0]

    async def _abort(self, local: LocalReplica, value: Value) -> None:
        """Keep everything: the state is that of the aborted round too, and the delta goes on growing."""
        held = self._agenda.held
        if held is not None and value.state_round <= held.round < value.round:  # one that is behind stays behind
            await self._hold(held.of_round(value.round))
        await local.abort(value.round)
        if value.round > 0:
            self._record(value, None, None)

    async def _hold(self, held: Held) -> None:
        """Hold a state: keep it, serve it, and tell the aggregator what contributions start from."""
        self._agenda.held = held
        self._keep(held.state, held.chunks)
        self._progress.round, self._progress.state_hash = held.round, held.state_hash.hex()
        await self._donor.tell(HoldState(held.chunks))
        await self._say_held(held)

    async def _say_held(self, held: Held) -> None:
        await self._aggregator.tell(plans.StateHeld(held.round, held.state_hash))

    def _record(self, value: Value, loss: float | None, held_out: float | None) -> None:
        committed, contributors, now = not value.aborted, value.contributors(), self.ctx.now()
        self._progress.decided(DecidedRound(value.round, value.epoch, committed, contributors, loss, held_out, now))
        self.ctx.emit(RoundDecided(value.round, committed, contributors, loss))

    async def _finish(self, local: LocalReplica, held: Held, held_out: float | None = None) -> None:
        loss = await local.measure_last(held.state.theta, held_out)
        self._progress.stalled = self._progress.hint = ""
        self._progress.phase = "done"
        self.ctx.emit(RunDone(self._progress.round, loss, self._progress.state_hash))

    # ------------------------------------------------------------------------------------------- state of others

    async def _fetch(self, local: LocalReplica, missed: plans.StateMissed) -> None:
        """Fetch the state after the missed round, and try again until it is here or newer news is."""
        try:
            found = await self._catch_up.find(missed, self._agenda.held, local.fragments)
        except WorldError as error:
            self._progress.stalled, self._progress.hint = str(error), error.hint
            with trio.move_on_after(RETRY_S):
                await self._wait()
            return
        if found is None:
            return
        self._progress.stalled = self._progress.hint = ""
        self._agenda.missed = None
        if isinstance(found, Confirmed):
            await self._stay(found.held)
        else:
            await self._adopt(local, found)
            self._catch_up.clear()

    async def _stay(self, held: Held) -> None:
        if self._progress.phase == "fetching":
            self._progress.phase = "training"
        await self._say_held(held)

    async def _adopt(self, local: LocalReplica, state: OuterState) -> None:
        if self._agenda.held is None:
            await local.begin(state.theta)
        else:
            await local.rebase(state.theta)
        await self._hold(await trio.to_thread.run_sync(Held.of, self._run, state))
        if finish := self._agenda.finish():
            await self._finish(local, finish.held)
        elif self._progress.phase == "fetching":
            self._progress.phase = "training"
