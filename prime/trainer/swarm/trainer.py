"""The trainer: the actor that drives one rank worker through inner steps, rounds and outer steps.

Control flows down as plans and comes up as facts: the aggregator says what was decided, the worker what it measured;
the trainer holds the shared state (parameters and the outer optimiser's slots after the last decided round) and its own pace.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, TypeVar

import attrs
import numpy as np
import trio

from prime.actor import Actor, on
from prime.actor.groups import one_error
from prime.errors import ConfigError, RunFailedError, WorldError
from prime.trainer.outer.fragments import Fragments
from prime.trainer.outer.optimisers import Slots, outer_optimiser
from prime.trainer.outer.pace import Pace
from prime.trainer.rank import RankWorker, open_rank
from prime.trainer.round.settings import settings_of
from prime.trainer.swarm import plans
from prime.trainer.swarm.buffers import Buffers
from prime.trainer.swarm.donor import HoldState
from prime.trainer.swarm.progress import DecidedRound, Progress
from prime.trainer.swarm.state import ChunkedState, OuterState, chunked, initial_state
from prime.trainer.swarm.transfer import StateFetch, StateFetched
from prime.wire import message

if TYPE_CHECKING:
    from collections.abc import Callable

    from prime.actor import Ref
    from prime.trainer.codec import Vector
    from prime.trainer.metadata import TrainingConfig
    from prime.trainer.round.view import Value, View

T = TypeVar("T")

TRAINER_PATH = "/train/trainer"

SLICE_STEPS = 5
"""Inner steps between two looks at what was decided."""
BATCHES_WHOLE = 32
"""Held-out batches of the first and the last measurement."""
BATCHES_ROUND = 6
"""Held-out batches after a round, measured by one member alone."""
MEASURE_STEPS = 20
"""Inner steps between two such measurements, where rounds come oftener."""
RETRY_S = 1.0
BEHIND_MAX = 32
"""Decided rounds whose bytes are kept while a state is fetched."""
SAMPLE_PROMPT = "def "
SAMPLE_LENGTH = 320


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
class StateReplaced:
    """The state held here is not the one that rounds start from after `round`: it is fetched from other members."""

    round: int
    reason: str


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
    ) -> None:
        self._config = config
        self._run = run
        self._aggregator = aggregator
        self._donor = donor
        self._progress = progress
        self._founder = founder
        self._held = held
        self._keep = keep
        self._on_left = on_left
        self._saves = saves
        self._saved_hash = b""
        self._outer = outer_optimiser(config)
        self._buffers = Buffers()
        self._events: deque[Any] = deque()
        self._news = trio.Event()
        self._view: View | None = None
        self._round = 0
        self._chosen = True
        self._state_round = 0
        self._state: OuterState | None = None
        self._cut: ChunkedState | None = None
        self._state_fetch: StateFetch | None = None
        self._fetching = trio.CancelScope()
        self._behind: deque[plans.CommitKept] = deque(maxlen=BEHIND_MAX)
        self._missed: plans.StateMissed | None = None
        self._said: plans.StateMissed | None = None
        self._pace = Pace.of(Fragments(1), config.inner_steps, config.overlap_steps, waits=False)
        self._stalled = False
        self._contributed = 0
        self._losses: list[float] = []
        self._draining = False
        self._ended: int | None = None

    async def started(self) -> None:
        """Start the worker and the loop beside the mailbox, so that outcomes are heard while torch computes."""
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
            self._behind.append(m)
            return
        self._events.append(m)
        self._news.set()
        if isinstance(m, plans.RoundCommitted):
            self._fetching.cancel()

    # ---------------------------------------------------------------------------------------------------- the loop

    async def _live(self) -> None:
        async with open_rank(self.ctx.system, self._config, self._rank_seed()) as worker:
            self._progress.unigram = worker.unigram
            self._progress.elements, self._progress.metadata = worker.elements, worker.metadata
            self._pace = self._pace_of(worker)
            await self._begin(worker)
            while True:
                while self._events:
                    await self._handle(worker, self._events.popleft())
                await self._advance(worker)

    def _rank_seed(self) -> int:
        """Return a data rank that differs between nodes without any coordination: derived from the peer id."""
        return int.from_bytes(self.ctx.system.peer.encode()[-6:], "big")

    def _pace_of(self, worker: RankWorker) -> Pace:
        config = self._config
        fragments = Fragments(worker.elements, config.fragments)
        self._progress.inner_steps = inner_steps = self._inner_steps(worker)
        return Pace.of(fragments, inner_steps, config.overlap_steps, waits=config.participation < 1)

    def _inner_steps(self, worker: RankWorker) -> int:
        """Return H: the steps that are set, or those of so many passes over this node's data."""
        config = self._config
        if not config.local_epochs:
            return config.inner_steps
        steps = config.local_epochs * -(-worker.samples // config.batch_size)
        if steps < config.fragments:
            raise ConfigError(
                f"{config.local_epochs} passes over {worker.samples} samples are {steps} steps, "
                f"too few for {config.fragments} fragments",
                hint="lower train.fragments or train.batch_size, or raise train.local_epochs",
            )
        return steps

    async def _begin(self, worker: RankWorker) -> None:
        self._set_phase("joining")
        state = self._held()
        if state is None and self._founder:
            theta = await worker.initial()
            state = initial_state(theta, self._outer.slots)
            await self._measure_first(worker, theta)
        elif state is not None:
            self._check_fits(state, worker)
        await self._aggregator.tell(
            plans.Begin(worker.elements, self._config.fragments, settings_of(self._config, worker.layout_hash))
        )
        if state is not None:
            await self._adopt(worker, state)

    def _check_fits(self, state: OuterState, worker: RankWorker) -> None:
        found, wanted = (state.theta.size, len(state.slots)), (worker.elements, self._outer.slots)
        if found != wanted:
            raise ConfigError(
                f"the saved state of run {self._run!r} has {found[0]} parameters and {found[1]} slots of the outer "
                f"optimiser; this model and optimiser have {wanted[0]} and {wanted[1]}",
                hint="train with the [train] section that the state is of, or give another train.run or node.state_dir",
            )

    async def _measure_first(self, worker: RankWorker, theta: Vector) -> None:
        self._progress.loss_first = await worker.evaluate(theta, BATCHES_WHOLE)
        self._progress.text_first = await worker.write(SAMPLE_PROMPT, SAMPLE_LENGTH, self._config.seed)

    async def _advance(self, worker: RankWorker) -> None:
        """Do the next useful thing: fetch, contribute, train a slice, or wait."""
        if self._missed is not None:
            await self._fetch(worker, self._missed)
        elif self._may_contribute():
            await self._contribute(worker)
        elif self._may_train():
            await self._train(worker)
        else:
            self._rest()
            await self._wait()

    def _rest(self) -> None:
        if self._progress.phase == "training":
            self._set_phase("waiting")
        if self._draining and (self._progress.phase in ("done", "joining") or self._view is None):
            self._leave()

    def _is_ready(self) -> bool:
        """Tell whether this node is in a view and holds the state that its round starts from."""
        return (
            self._view is not None
            and self._state is not None
            and self._state_round <= self._state.round < max(self._round, 1)
            and self._progress.phase not in ("done", "left")
        )

    def _may_contribute(self) -> bool:
        return (
            self._is_asked()
            and self._contributed < self._round
            and self._pace.is_due(self._round)
            and (not self._saves or self._saved_hash == self._state_hash)
        )

    def _may_train(self) -> bool:
        return self._is_asked() and self._room() > 0

    def _is_asked(self) -> bool:
        """Tell whether this node is to work for the present round: one that was not chosen for it idles."""
        return self._chosen and self._is_ready() and not self._draining

    def _room(self) -> int:
        return self._pace.room(self._round, stalled=self._stalled)

    async def _train(self, worker: RankWorker) -> None:
        self._set_phase("training")
        done = await worker.train(min(SLICE_STEPS, self._room()))
        self._pace.made += done.steps
        self._losses.append(done.loss)
        self._progress.step = done.step
        self._progress.round_step = self._pace.steps(self._round)
        self._progress.trained(done.steps, done.tokens, done.seconds)
        if not np.isfinite(done.loss):
            raise RunFailedError(
                f"the loss is {done.loss} at step {done.step}",
                hint="lower train.learning_rate or train.clip_norm, then start again",
            )

    async def _contribute(self, worker: RankWorker) -> None:
        assert self._state is not None  # noqa: S101 - a pair with `_is_ready`
        cut = self._pace.fragments.cut_of(self._round)
        local = await worker.snapshot(cut)
        tokens = self._pace.steps(self._round) * self._config.batch_size * self._config.context
        self._contributed = self._round
        self._pace.contribute(self._round)
        delta = await trio.to_thread.run_sync(np.subtract, self._state.theta[cut], local)
        await self._aggregator.tell(plans.Contribute(self._round, delta, float(tokens)))

    async def _wait(self) -> None:
        if not self._events:
            self._news = trio.Event()
            await self._news.wait()

    # ------------------------------------------------------------------------------------------- what was decided

    async def _handle(self, worker: RankWorker, event: Any) -> None:
        match event:
            case plans.ViewEntered():
                self._enter(event)
            case plans.RoundCommitted(value, aggregate):
                await self._commit(worker, value, aggregate)
            case plans.RoundAborted(value):
                await self._abort(worker, value)
            case plans.StateMissed():
                self._missed = event
            case plans.LeftView(_, _, rejoining):
                self._left(rejoining=rejoining)
            case plans.RunEnded(round_):
                await self._end(worker, round_)
            case plans.RoundStalled() | plans.RoundResumed():
                self._note_stall(event)
            case plans.StateSaved(state_hash):
                self._saved_hash = state_hash
            case Drain():
                await self._drain()

    def _note_stall(self, event: plans.RoundStalled | plans.RoundResumed) -> None:
        if self._progress.phase == "done":
            return  # others go their ways, and nothing is left to decide
        self._stalled = isinstance(event, plans.RoundStalled)
        said = (event.reason, event.hint) if isinstance(event, plans.RoundStalled) else ("", "")
        self._progress.stalled, self._progress.hint = said
        if self._stalled:
            self.ctx.emit(event)

    def _enter(self, event: plans.ViewEntered) -> None:
        self._round, self._view, self._state_round = event.round, event.view, event.state_round
        self._chosen = event.chosen
        self._progress.epoch = event.view.epoch
        self._progress.members = event.view.peers()
        if event.round > 0 and self._progress.phase == "joining":
            self._set_phase("training")

    async def _commit(self, worker: RankWorker, value: Value, aggregate: Vector) -> None:
        state = self._state
        if state is None or state.round >= value.round:
            return
        cut = self._pace.fragments.cut_of(value.round)
        following, chunks = await self._while_training(worker, lambda: self._following(state, value, cut, aggregate))
        loss = self._spend_losses()
        await self._hold(following, chunks)
        await self._rebase(worker, following.theta, cut)
        await self._note(worker, value, following.theta, loss)

    async def _while_training(self, worker: RankWorker, work: Callable[[], T]) -> T:
        """Return what `work` does in a thread; the steps that the pace allows go on meanwhile."""
        done: list[T] = []

        async def run() -> None:
            done.append(await trio.to_thread.run_sync(work))

        async with one_error(), trio.open_nursery() as nursery:
            nursery.start_soon(run)
            while not done and self._may_train():
                await self._train(worker)
        return done[0]

    def _following(
        self, state: OuterState, value: Value, cut: slice, aggregate: Vector
    ) -> tuple[OuterState, ChunkedState]:
        """Return the state after a round, and its chunks: those that the round's fragment does not touch keep their hashes."""
        theta, slots = self._stepped(state, cut, aggregate)
        following = OuterState(value.round, value.epoch, theta, slots)
        return following, chunked(self._run, following, self._cut, cut)

    def _stepped(self, state: OuterState, cut: slice, aggregate: Vector) -> tuple[Vector, Slots]:
        """Return the shared parameters and slots with the outer step made in one fragment of them."""
        if cut == slice(0, state.theta.size):
            return self._outer.apply(state.theta, state.slots, aggregate)
        present = (state.theta, *state.slots)  # others still read them
        whole = tuple(map(self._buffers.copy, present))
        into = tuple(vector[cut] for vector in whole)
        self._outer.apply_into(into[0], into[1:], aggregate, into)
        return whole[0], whole[1:]

    async def _rebase(self, worker: RankWorker, theta: Vector, cut: slice) -> None:
        """Move a slice of the local replica onto the new state, keeping the steps it made since its snapshot."""
        await worker.rebase(theta[cut], cut.start)
        self._pace.settle()

    async def _abort(self, worker: RankWorker, value: Value) -> None:
        """Keep everything: the state is that of the aborted round too, and the delta goes on growing."""
        state = self._state
        if state is not None and value.state_round <= state.round < value.round:  # one that is behind stays behind
            assert self._cut is not None  # noqa: S101 - a pair with the state that is held
            await self._hold(attrs.evolve(state, round=value.round), self._cut.of_round(value.round))
        if self._pace.abort(value.round):  # else a commit would drop what is in no sum
            await worker.forget_snapshot(self._pace.fragments.cut_of(value.round))
        if value.round > 0:
            self._record(value, None, None)

    async def _take(self, state: OuterState) -> None:
        """Hold a state: keep it, serve it, and tell the aggregator what contributions start from."""
        await self._hold(state, await trio.to_thread.run_sync(chunked, self._run, state))

    async def _hold(self, state: OuterState, cut: ChunkedState) -> None:
        self._state, self._cut = state, cut
        self._keep(state, cut)
        self._progress.round, self._progress.state_hash = state.round, self._state_hash.hex()
        await self._donor.tell(HoldState(cut))
        await self._aggregator.tell(plans.StateHeld(state.round, self._state_hash))

    @property
    def _state_hash(self) -> bytes:
        return b"" if self._cut is None else self._cut.manifest.state_hash

    async def _note(self, worker: RankWorker, value: Value, theta: Vector, loss: float | None) -> None:
        """Measure on held-out text where that is this member's turn, record the round, and end the run if it was the last."""
        held_out = None
        if value.last:
            held_out = await worker.evaluate(theta, BATCHES_WHOLE)
        elif self._is_measured(value.round) and value.contributors()[0] == self.ctx.system.peer:
            held_out = await worker.evaluate(theta, BATCHES_ROUND)
        self._record(value, loss, held_out)
        if value.last and held_out is not None:
            await self._finish(worker, theta, held_out)

    def _is_measured(self, round_: int) -> bool:
        return round_ % -(-MEASURE_STEPS // self._pace.fragments.steps_of(round_, self._pace.inner_steps)) == 0

    def _record(self, value: Value, loss: float | None, held_out: float | None) -> None:
        decided = DecidedRound(
            value.round, value.epoch, not value.aborted, value.contributors(), loss, held_out, self.ctx.now()
        )
        self._progress.decided(decided)
        self.ctx.emit(RoundDecided(decided.round, decided.committed, decided.contributors, loss))

    async def _finish(self, worker: RankWorker, theta: Vector, loss: float) -> None:
        await worker.load(theta)
        self._progress.text_last = await worker.write(SAMPLE_PROMPT, SAMPLE_LENGTH, self._config.seed)
        self._progress.loss_last = loss
        self._progress.stalled = self._progress.hint = ""
        self._set_phase("done")
        self.ctx.emit(RunDone(self._progress.round, loss, self._progress.state_hash))

    async def _end(self, worker: RankWorker, round_: int) -> None:
        """Come to the end that the members decided; a node that does not hold its state yet fetches that first."""
        self._ended = round_
        state = self._state
        if state is not None and state.round >= round_ and self._progress.phase != "done":
            await self._finish(worker, state.theta, await worker.evaluate(state.theta, BATCHES_WHOLE))

    def _spend_losses(self) -> float | None:
        losses, self._losses = self._losses, []
        return sum(losses) / len(losses) if losses else None

    # ------------------------------------------------------------------------------------------- state of others

    async def _fetch(self, worker: RankWorker, missed: plans.StateMissed) -> None:
        """Fetch the state after the missed round from members of its view; try again until it is here or newer news is.

        A commit that can be applied meanwhile goes first: its bytes came before the state did.
        """
        started, fetched = self.ctx.now(), None
        try:
            with trio.CancelScope() as self._fetching:
                fetched = await self._fetch_once(worker, missed)
        except WorldError as error:
            self._progress.stalled, self._progress.hint = str(error), error.hint
            with trio.move_on_after(RETRY_S):
                await self._wait()
            return
        if self._fetching.cancelled_caught:
            return
        self._progress.stalled = self._progress.hint = ""
        self._missed = None
        if fetched is not None:
            self.ctx.emit(StateFetched(fetched[0].round, fetched[1], self.ctx.now() - started))
            await self._adopt(
                worker, await trio.to_thread.run_sync(self._brought_forward, fetched[0], tuple(self._behind))
            )
            self._behind.clear()
            return
        if self._progress.phase == "fetching":
            self._set_phase("training")
        assert self._state is not None  # noqa: S101 - only what is held can be confirmed
        await self._aggregator.tell(plans.StateHeld(self._state.round, self._state_hash))

    def _brought_forward(self, state: OuterState, behind: tuple[plans.CommitKept, ...]) -> OuterState:
        """Return a fetched state with the rounds applied that were decided while it was on its way.

        Each names the state that it starts from, so where one is missing the next does not fit.
        """
        hash_ = state.state_hash()
        for kept in behind:
            value = kept.value
            if value.round > state.round and value.base == hash_:
                theta, slots = self._stepped(state, self._pace.fragments.cut_of(value.round), kept.join())
                state = OuterState(value.round, value.epoch, theta, slots)
                hash_ = state.state_hash()
        return state

    async def _fetch_once(
        self, worker: RankWorker, missed: plans.StateMissed
    ) -> tuple[OuterState, tuple[str, ...]] | None:
        """Return the state and who sent it; `None` if the one held here is right after all."""
        peers = [peer for peer in missed.view.peers() if peer != self.ctx.system.peer]
        if self._state_fetch is None:
            self._state_fetch = StateFetch(self.ctx.system, self._run, worker.elements, self._outer.slots)
        if self._state is not None and self._state.round >= missed.round:
            if missed.base in (b"", self._state_hash):
                return None
            agreed = await self._state_fetch.agreed(peers, missed.round)
            if agreed.manifest.state_hash == self._state_hash:
                return None  # the leader that called it wrong stands alone
        self._set_phase("fetching")
        self._say(missed)
        return await self._state_fetch.fetch(peers, missed.round)

    def _say(self, missed: plans.StateMissed) -> None:
        """Tell once why a state is fetched that this node should have had."""
        if missed is not self._said and self._state is not None:
            self._said = missed
            self.ctx.emit(StateReplaced(missed.round, missed.reason))

    async def _adopt(self, worker: RankWorker, state: OuterState) -> None:
        if self._state is None:
            await worker.load(state.theta)
            self._pace.restart()
        else:
            await self._rebase(worker, state.theta, slice(0, state.theta.size))
        await self._take(state)
        if self._ended is not None and state.round >= self._ended:
            await self._finish(worker, state.theta, await worker.evaluate(state.theta, BATCHES_WHOLE))
        elif self._progress.phase == "fetching":
            self._set_phase("training")

    # ----------------------------------------------------------------------------------------------------- leaving

    def _left(self, *, rejoining: bool) -> None:
        self._view = None
        if self._draining and not rejoining:
            self._leave()
        elif self._progress.phase not in ("starting", "done"):
            self._set_phase("joining")

    async def _drain(self) -> None:
        self._draining = True
        if self._progress.phase == "done" or self._view is None or self._state is None:
            self._leave()
            return
        self._set_phase("leaving")
        await self._aggregator.tell(plans.LeaveSwarm())

    def _leave(self) -> None:
        self._set_phase("left")
        self._on_left()

    def _set_phase(self, phase: Any) -> None:
        self._progress.phase = phase
