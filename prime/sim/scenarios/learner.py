"""A stand-in for the trainer: it makes named deltas instead of gradients, and keeps to the trainer's protocol.

What `prime.trainer.swarm.trainer` and its worker do with parameters is done here with exact sums, step for step; the state is a
hash over all sums that were applied, so two states are equal only if the same rounds made them.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections import deque
from typing import Any

import attrs
import trio

from prime.actor import Actor, Ref, on
from prime.errors import NotFoundError, WorldError
from prime.sim.exact import Sum
from prime.sim.scenarios.ledgers import ELEMENTS, Book, Life
from prime.trainer.outer.pace import Pace
from prime.trainer.round.view import Value, View
from prime.trainer.swarm import plans
from prime.wire import Ask, message, record

KEEPER_PATH = "/state/donor"
INNER_STEPS = 2
"""Between two rounds; a period of all fragments is so many times as long."""
STEP_S = (0.05, 0.4)
ASK_S = 10.0
RETRY_S = 1.0
BEHIND_MAX = 32
BIRTH = hashlib.sha256(b"the parameters that the founder begins with").digest()


@record
class State:
    """The shared state after a round: a hash over all that was ever added."""

    round: int
    hash: bytes

    def after(self, round_: int, aggregate: Sum) -> State:
        """Return the state with a round's sum added."""
        return State(round_, hashlib.sha256(self.hash + aggregate.text().encode()).digest())


@message(tag=0xE30)
class FetchState(Ask[State]):
    """Ask for the state that is held, if it is that of `round_min` or later."""

    round_min: int


@message
class HoldState:
    """Serve this state from now on."""

    state: State


class Keeper(Actor[FetchState | HoldState]):
    """Serves this node's state to those who missed rounds; it outlives a failing learner."""

    def __init__(self) -> None:
        self.state: State | None = None

    @on(HoldState)
    def hold(self, m: HoldState) -> None:
        """Keep the newest state."""
        self.state = m.state

    @on(FetchState)
    def fetch(self, m: FetchState) -> State:
        """Answer what is held, if it is new enough."""
        if self.state is None or self.state.round < m.round_min:
            raise NotFoundError("no such state is held here", hint="ask another node, or a round later")
        return self.state


@attrs.define
class Memory:
    """What outlives a learner that fails, as long as its process lives."""

    state: State | None = None
    is_training: bool = True
    learner: Learner | None = None


class Learner(Actor[Any]):
    """Makes steps, contributes, and does what was decided."""

    def __init__(
        self, life: Life, book: Book, memory: Memory, aggregator: Ref[Any], keeper: Ref[Any], *, founder: bool
    ) -> None:
        self._life = life
        self._book = book
        self._memory = memory
        self._aggregator = aggregator
        self._keeper = keeper
        self._founder = founder
        self._random = life.node.random("steps", str(life.number))
        self._events: deque[Any] = deque()
        self._news = trio.Event()
        self._view: View | None = None
        self._round = 0
        self._state_round = 0
        self._missed: plans.StateMissed | None = None
        self._behind: deque[plans.CommitKept] = deque(maxlen=BEHIND_MAX)
        self._contributed = 0
        self._ended: int | None = None
        self._fragments = book.fragments
        self._pace = Pace.of(self._fragments, INNER_STEPS * self._fragments.count, -1, waits=False)
        self._snapshot = Sum()
        self.local = [Sum()] * self._fragments.count
        """What the local parameters are away from the shared ones, in each fragment."""
        life.produced.clear()  # a learner that failed took its own with it
        memory.learner = self

    async def started(self) -> None:
        """Train beside the mailbox."""
        self.ctx.start_soon(self._live)

    @on(
        plans.ViewEntered,
        plans.RoundCommitted,
        plans.RoundAborted,
        plans.StateMissed,
        plans.LeftView,
        plans.RoundStalled,
        plans.RoundResumed,
        plans.RunEnded,
        plans.CommitKept,
    )
    def hear(self, m: Any) -> None:
        """Queue what happened: it is looked at between steps."""
        if isinstance(m, plans.CommitKept):
            self._behind.append(m)
            return
        self._events.append(m)
        self._wake()

    @property
    def state(self) -> State | None:
        """The shared state that this node holds."""
        return self._memory.state

    @property
    def is_idle(self) -> bool:
        """Whether everything that was heard is done."""
        return not self._events and self._missed is None

    @property
    def has_ended(self) -> bool:
        """Whether the run is over for this node: it knows so, and holds the final state."""
        return self._ended is not None and self.state is not None and self.state.round >= self._ended

    def owed(self) -> frozenset[str]:
        """Return the deltas that are in the local parameters and in no shared ones."""
        return frozenset().union(*(local.names() for local in self.local))

    def _wake(self) -> None:
        self._news.set()

    async def _live(self) -> None:
        state = self.state
        if state is None and self._founder:
            state = State(0, BIRTH)
        await self._aggregator.tell(plans.Begin(ELEMENTS, self._fragments.count))
        if state is not None:
            await self._take(state)
        while True:
            while self._events:
                await self._handle(self._events.popleft())
            await self._advance()

    async def _advance(self) -> None:
        out = self._pace.out
        if out is not None and out < self._round and self._missed is None and self._is_ready():
            self._give_up(out)
        if self._missed is not None:
            await self._fetch(self._missed)
        elif self._may_contribute():
            await self._contribute()
        elif self._may_train():
            await self._step()
        else:
            with trio.move_on_after(RETRY_S):
                await self._wait()

    def _is_ready(self) -> bool:
        state = self.state
        return (
            self._memory.is_training
            and not self.has_ended
            and self._view is not None
            and state is not None
            and self._state_round <= state.round < max(self._round, 1)
        )

    def _may_contribute(self) -> bool:
        return self._is_ready() and self._contributed < self._round and self._pace.is_due(self._round)

    def _may_train(self) -> bool:
        return self._is_ready() and self._pace.room(self._round, stalled=False) > 0

    async def _step(self) -> None:
        """Learn something in each fragment."""
        await trio.sleep(self._random.uniform(*STEP_S))
        self._life.steps += 1
        for fragment in range(self._fragments.count):
            name = self._book.name_of(self._life, fragment)
            self._life.produced.add(name)
            self.local[fragment] = self.local[fragment] + Sum.of(name)
        self._pace.made += 1

    async def _contribute(self) -> None:
        round_ = self._round
        self._snapshot, steps = self.local[self._fragments.of_round(round_)], self._pace.steps(round_)
        self._contributed = round_
        self._pace.contribute(round_)
        await self._aggregator.tell(plans.Contribute(round_, self._snapshot, float(steps)))

    async def _wait(self) -> None:
        if not self._events:
            self._news = trio.Event()
            await self._news.wait()

    async def _handle(self, event: Any) -> None:
        match event:
            case plans.ViewEntered(round_, view, state_round):
                self._round, self._view, self._state_round = round_, view, state_round
            case plans.RoundCommitted(value, aggregate):
                await self._commit(value, aggregate)
            case plans.RoundAborted(value):
                await self._abort(value)
            case plans.StateMissed():
                self._missed = event
            case plans.LeftView():
                self._view = None
            case plans.RunEnded(round_):
                self._ended = round_
            case _:
                pass

    async def _commit(self, value: Value, aggregate: Sum) -> None:
        state = self.state
        if state is None or state.round >= value.round:
            return
        self._book.applies(self._life, value, aggregate, state.hash)
        await self._take(state.after(value.round, aggregate))
        self._rebase()

    async def _abort(self, value: Value) -> None:
        state = self.state
        if state is not None and value.state_round <= state.round < value.round:
            await self._take(State(value.round, state.hash))
        self._give_up(value.round)

    def _give_up(self, round_: int) -> None:
        """Keep what was contributed to a round that changed nothing; an earlier one may be in a sum still to come."""
        if self._pace.abort(round_):
            self._snapshot = Sum()

    def _rebase(self) -> None:
        """Begin from the new state, with the steps made since the snapshot that went into it."""
        out = self._fragments.of_round(self._contributed)
        self.local[out] = self.local[out] - self._snapshot
        self._snapshot = Sum()
        self._pace.settle()

    async def _take(self, state: State) -> None:
        self._book.holds_state(self._life, state.round, state.hash)
        self._life.node.note("holds", f"round {state.round}", state=state.hash.hex()[:8])
        self._memory.state = state
        await self._keeper.tell(HoldState(state))
        await self._aggregator.tell(plans.StateHeld(state.round, state.hash))

    async def _fetch(self, missed: plans.StateMissed) -> None:
        state = self.state
        if state is not None and state.round >= missed.round and missed.base in (b"", state.hash):
            self._missed = None
            await self._aggregator.tell(plans.StateHeld(state.round, state.hash))
            return
        found = await self._ask_all(missed)
        if found is None:
            with trio.move_on_after(RETRY_S):
                await self._wait()
            return
        self._missed = None
        if state is not None:
            self._rebase()
        else:
            self.local, self._snapshot = [Sum()] * self._fragments.count, Sum()
            self._pace.restart()
        await self._take(self._brought_forward(found))

    def _brought_forward(self, state: State) -> State:
        """Return a fetched state with what was decided while it was on its way."""
        for kept in self._behind:
            if kept.value.round > state.round and kept.value.base == state.hash:
                aggregate = kept.join()
                self._book.applies(self._life, kept.value, aggregate, state.hash)
                state = state.after(kept.value.round, aggregate)
        self._behind.clear()
        return state

    async def _ask_all(self, missed: plans.StateMissed) -> State | None:
        """Return the newest state that a member of the view holds."""
        found: list[State] = []

        async def ask(peer: str) -> None:
            ref: Ref[Any] = self.ctx.system.ref(peer, KEEPER_PATH, Keeper)
            with contextlib.suppress(WorldError):
                found.append(await ref.ask(FetchState(missed.round), timeout=ASK_S))

        async with trio.open_nursery() as nursery:
            for peer in missed.view.peers():
                if peer != self.ctx.system.peer:
                    nursery.start_soon(ask, peer)
        return max(found, key=lambda state: state.round, default=None)
