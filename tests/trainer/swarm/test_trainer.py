"""The trainer with a stand-in for its worker: what it contributes, how far it trains on, how it drains."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest
import trio

from prime.actor import Actor, Ref, on
from prime.node.system import open_system
from prime.trainer import pipe
from prime.trainer.metadata import TrainingConfig
from prime.trainer.round.view import Member, Share, Value, View
from prime.trainer.swarm import plans, trainer
from prime.trainer.swarm.answers import Agreed
from prime.trainer.swarm.donor import HoldState
from prime.trainer.swarm.progress import Progress
from prime.trainer.swarm.state import ChunkedState, OuterState, chunked
from prime.trainer.swarm.transfer import StateFetch
from tests.trainer.swarm.stand_ins import VectorWorker

H = 4
SIZE = 3
VIEW = View("run", 1, (Member("me", (), 1.0, 1), Member("other", (), 1.0, 2)))


class Worker(VectorWorker):
    """Moves every parameter down by 1 in each step; a step takes a second."""

    unigram = 3.0

    def __init__(self) -> None:
        super().__init__(SIZE, samples=70)

    async def train(self, steps: int) -> pipe.Trained:
        await trio.sleep(steps)
        self.local = self.local - np.float32(steps)
        self.steps += steps
        return pipe.Trained(self.steps, steps, 1.0, steps, float(steps))

    async def evaluate(self, _theta: Any, _batches: int) -> float:
        return 2.0


class Ear(Actor[plans.Begin | plans.StateHeld | plans.Contribute | plans.LeaveSwarm | HoldState]):
    """Stands for the aggregator and the donor: keeps what it is told."""

    def __init__(self, told: list[Any]) -> None:
        self._told = told

    @on(plans.Begin)
    @on(plans.StateHeld)
    @on(plans.Contribute)
    @on(plans.LeaveSwarm)
    @on(HoldState)
    def hear(self, m: Any) -> None:
        self._told.append(m)


class Bench:
    """A trainer under test and what it did."""

    def __init__(self) -> None:
        self.worker = Worker()
        self.told: list[Any] = []
        self.kept: OuterState | None = None
        self.left = trio.Event()
        self.progress = Progress(100, H)
        self.ref: Ref[Any]

    @property
    def contributions(self) -> list[plans.Contribute]:
        return [m for m in self.told if isinstance(m, plans.Contribute)]

    def keep(self, state: OuterState, _cut: ChunkedState) -> None:
        self.kept = state


@contextlib.asynccontextmanager
async def bench(monkeypatch: pytest.MonkeyPatch, start_s: float = 0, **settings: Any) -> AsyncIterator[Bench]:
    """Run a founder's trainer whose worker takes `start_s` to come up."""
    found = Bench()

    @contextlib.asynccontextmanager
    async def open_rank(_system: Any, _config: Any, _rank: int) -> AsyncIterator[Worker]:
        await trio.sleep(start_s)
        yield found.worker

    async def run_here(work: Any, *arguments: Any) -> Any:
        return work(*arguments)

    monkeypatch.setattr(trainer, "open_rank", open_rank)
    monkeypatch.setattr(trio.to_thread, "run_sync", run_here)  # virtual time does not wait for threads
    config = TrainingConfig(**{"inner_steps": H, "rounds": 100, "outer_optimiser": "average", **settings})
    async with open_system() as system, system.supervisor("train") as sup:
        ear = await sup.spawn(lambda: Ear(found.told), "aggregator")
        found.ref = await sup.spawn(
            lambda: trainer.SwarmTrainer(
                config,
                "run",
                ear,
                ear,
                found.progress,
                founder=True,
                held=lambda: found.kept,
                keep=found.keep,
                on_left=found.left.set,
            ),
            "trainer",
        )
        yield found


def decided(round_: int, *shares: Share) -> Value:
    """Return the value of a round; without shares an abort."""
    return Value(round_, 1, b"", shares, (), VIEW, round_ if shares else 0)


async def enter(found: Bench, round_: int) -> None:
    await found.ref.tell(plans.ViewEntered(round_, VIEW, round_ - 1))


async def test_while_a_round_stalls_local_steps_stop_at_2h(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    async with bench(monkeypatch) as found:
        await trio.sleep(1)
        await enter(found, 1)
        await trio.sleep(100)
        assert [c.round for c in found.contributions] == [1]
        assert found.worker.steps == 2 * H
        assert np.array_equal(found.contributions[0].delta, np.full(SIZE, H, np.float32))

        # An abort keeps the delta: the next contribution holds all 2H steps, and no more are made meanwhile.
        await found.ref.tell(plans.RoundAborted(decided(1)))
        await enter(found, 2)
        await trio.sleep(100)
        assert [c.round for c in found.contributions] == [1, 2]
        assert np.array_equal(found.contributions[1].delta, np.full(SIZE, 2 * H, np.float32))
        assert found.worker.steps == 2 * H
        assert found.progress.round == 1


async def test_a_commit_keeps_the_steps_made_since_the_snapshot(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    async with bench(monkeypatch) as found:
        await trio.sleep(1)
        await enter(found, 1)
        await trio.sleep(100)
        aggregate = np.full(SIZE, 1, np.float32)
        await found.ref.tell(plans.RoundCommitted(decided(1, Share("other", 1.0)), aggregate, True))
        await enter(found, 2)
        await trio.sleep(0.5)
        assert found.kept is not None
        assert np.array_equal(found.kept.theta, np.full(SIZE, -1, np.float32))
        assert np.array_equal(found.contributions[1].delta, np.full(SIZE, H, np.float32))  # H of 2H were in round 1


async def test_steps_go_on_while_the_outcome_is_worked_in(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    async with bench(monkeypatch, inner_steps=20) as found:
        await trio.sleep(1)
        await enter(found, 1)
        await trio.sleep(22)  # the contribution is out, and the first of the steps that overlap are being made
        assert [c.round for c in found.contributions] == [1]

        async def run_slowly(work: Any, *arguments: Any) -> Any:
            await trio.sleep(6)
            return work(*arguments)

        monkeypatch.setattr(trainer.trio.to_thread, "run_sync", run_slowly)
        await found.ref.tell(plans.RoundCommitted(decided(1, Share("other", 1.0)), np.full(SIZE, 1, np.float32), True))
        await trio.sleep(9.5)
        assert found.worker.steps >= 30
        assert found.kept is not None
        assert found.kept.round == 0
        await trio.sleep(12)
        assert np.array_equal(found.kept.theta, np.full(SIZE, -1, np.float32))
        assert np.array_equal(found.worker.local, found.kept.theta - np.float32(found.worker.steps - 20))


async def test_what_was_contributed_to_an_aborted_round_is_not_lost_in_a_later_one_without_it(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    async with bench(monkeypatch) as found:
        await trio.sleep(1)
        await enter(found, 1)
        await trio.sleep(100)
        assert [c.round for c in found.contributions] == [1]
        await found.ref.tell(plans.RoundAborted(decided(1)))
        aggregate = np.full(SIZE, 1, np.float32)
        await found.ref.tell(plans.RoundCommitted(decided(2, Share("other", 1.0)), aggregate, False))
        await enter(found, 3)
        await trio.sleep(100)
        assert np.array_equal(found.contributions[1].delta, np.full(SIZE, 2 * H, np.float32))


async def test_a_state_is_good_for_a_round_if_all_rounds_since_were_aborted(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    async with bench(monkeypatch) as found:
        await trio.sleep(1)
        await found.ref.tell(plans.ViewEntered(3, VIEW, 0))  # nobody told it of the aborts
        await trio.sleep(100)
        assert [c.round for c in found.contributions] == [3]


async def test_nothing_is_contributed_to_a_round_before_the_state_that_is_held(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    async with bench(monkeypatch) as found:
        await trio.sleep(1)
        await found.ref.tell(plans.RoundAborted(decided(5)))  # the state is that of round 5 too
        await found.ref.tell(plans.ViewEntered(4, VIEW, 0))  # while the aggregator still hears of older rounds
        await trio.sleep(50)
        assert found.contributions == []
        await found.ref.tell(plans.ViewEntered(6, VIEW, 0))
        await trio.sleep(50)
        assert [c.round for c in found.contributions] == [6]


async def test_an_abort_makes_no_present_state_of_one_that_misses_a_commit(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    async with bench(monkeypatch) as found:
        await trio.sleep(1)
        held = [m for m in found.told if isinstance(m, plans.StateHeld)]
        await found.ref.tell(plans.RoundAborted(Value(3, 1, b"", (), (), VIEW, 2)))  # round 2 committed elsewhere
        await trio.sleep(1)
        assert [m for m in found.told if isinstance(m, plans.StateHeld)] == held
        assert found.kept is not None
        assert found.kept.round == 0
        await found.ref.tell(plans.RoundAborted(Value(3, 1, b"", (), (), VIEW, 0)))  # all since was aborted
        await trio.sleep(1)
        assert found.kept.round == 3


async def test_a_missed_commit_is_fetched_and_again_until_it_is_there(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    calls: list[int] = []

    async def fetch(_fetch: StateFetch, peers: list[str], round_: int) -> tuple[OuterState, tuple[str]]:
        calls.append(round_)
        assert "other" in peers
        if len(calls) < 3:
            raise trainer.WorldError("no donor answers", hint="wait")
        theta = np.full(SIZE, 7, np.float32)
        return OuterState(round_, 1, theta, (np.zeros(SIZE, np.float32),)), ("other",)

    monkeypatch.setattr(StateFetch, "fetch", fetch)
    async with bench(monkeypatch) as found:
        await trio.sleep(1)
        await found.ref.tell(plans.StateMissed(5, VIEW, "was away"))
        await trio.sleep(1.5)
        assert found.progress.stalled == "no donor answers"
        await enter(found, 6)
        await trio.sleep(50)
        assert calls == [5, 5, 5]
        assert found.progress.stalled == ""
        assert found.kept is not None
        assert found.kept.round == 5
        assert found.told[-1].round == 6
        assert np.array_equal(found.contributions[-1].delta, np.full(SIZE, H, np.float32))


@pytest.mark.parametrize("is_wrong", [True, False])
async def test_a_state_that_a_leader_calls_wrong_is_replaced_if_the_members_say_so_too(
    is_wrong: bool, monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    right = OuterState(0, 1, np.full(SIZE, 7, np.float32), (np.zeros(SIZE, np.float32),))
    async with bench(monkeypatch) as found:

        async def agreed(_fetch: StateFetch, _peers: list[str], _round: int) -> Agreed:
            assert found.kept is not None
            return Agreed(chunked("run", right if is_wrong else found.kept).manifest, ("other",))

        async def fetch(_fetch: StateFetch, _peers: list[str], _round: int) -> tuple[OuterState, tuple[str]]:
            return right, ("other",)

        monkeypatch.setattr(StateFetch, "agreed", agreed)
        monkeypatch.setattr(StateFetch, "fetch", fetch)
        await trio.sleep(1)
        await enter(found, 1)
        await trio.sleep(1)
        kept, told = found.kept, len(found.told)
        await found.ref.tell(plans.StateMissed(0, VIEW, "it differs", right.state_hash()))
        await trio.sleep(10)
        assert kept is not None
        assert found.kept is (right if is_wrong else kept)
        held = [m for m in found.told[told:] if isinstance(m, plans.StateHeld)]
        assert [m.state_hash for m in held] == [(right if is_wrong else kept).state_hash()]
        assert found.progress.phase != "fetching"


async def test_what_is_in_a_missed_commit_is_not_contributed_again_after_an_abort(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    """Round 1 took the contribution, its state is still to come, and round 2 is aborted meanwhile."""

    async def fetch(_fetch: StateFetch, _peers: list[str], round_: int) -> tuple[OuterState, tuple[str]]:
        return OuterState(round_, 1, np.full(SIZE, 7, np.float32), (np.zeros(SIZE, np.float32),)), ("other",)

    monkeypatch.setattr(StateFetch, "fetch", fetch)
    async with bench(monkeypatch) as found:
        await trio.sleep(1)
        await enter(found, 1)
        await trio.sleep(100)
        assert found.worker.steps == 2 * H
        await found.ref.tell(plans.StateMissed(1, VIEW, "its bytes were not to be had in time"))
        await found.ref.tell(plans.RoundAborted(Value(2, 1, b"", (), (), VIEW, 1)))
        await found.ref.tell(plans.ViewEntered(3, VIEW, 1))
        await trio.sleep(0.5)
        assert [c.round for c in found.contributions] == [1, 3]
        assert np.array_equal(found.contributions[1].delta, np.full(SIZE, H, np.float32))


async def test_what_was_contributed_to_a_round_whose_abort_nobody_remembers_is_contributed_again(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    """Round 1 to 4 were aborted while this member was away: it hears of none, and the state that it holds is still right."""
    async with bench(monkeypatch) as found:
        await trio.sleep(1)
        await enter(found, 1)
        await trio.sleep(100)
        await found.ref.tell(plans.StateMissed(0, VIEW, "missed the outcome of round 1"))
        await found.ref.tell(plans.ViewEntered(5, VIEW, 0))
        await trio.sleep(100)
        assert [c.round for c in found.contributions] == [1, 5]
        assert np.array_equal(found.contributions[1].delta, np.full(SIZE, 2 * H, np.float32))


async def test_a_state_that_was_long_on_its_way_is_brought_forward_by_the_rounds_since(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    old, one = OuterState(5, 1, np.full(SIZE, 7, np.float32), ()), np.ones(SIZE, np.float32)
    after = OuterState(6, 1, old.theta - one, ())  # the bench's optimiser averages

    async def fetch(_fetch: StateFetch, _peers: list[str], _round: int) -> tuple[OuterState, tuple[str]]:
        await trio.sleep(20)
        return old, ("other",)

    monkeypatch.setattr(StateFetch, "fetch", fetch)
    async with bench(monkeypatch) as found:
        await trio.sleep(1)
        share = (Share("other", 1.0),)
        await found.ref.tell(plans.StateMissed(5, VIEW, "joined"))
        await trio.sleep(8)
        for round_, base in ((6, old.state_hash()), (7, after.state_hash()), (9, b"of a round that is not here")):
            value = Value(round_, 1, base, share, (), VIEW, round_)
            await found.ref.tell(plans.CommitKept(value, lambda: one))
            await found.ref.tell(plans.StateMissed(round_, VIEW, "behind"))
        await trio.sleep(25)
        assert found.kept is not None
        assert found.kept.round == 7
        assert np.array_equal(found.kept.theta, old.theta - 2)


async def test_a_drain_leaves_the_view_first(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    async with bench(monkeypatch) as found:
        await trio.sleep(1)
        await enter(found, 1)
        await trio.sleep(2)
        await found.ref.tell(trainer.Drain())
        await trio.sleep(20)
        assert isinstance(found.told[-1], plans.LeaveSwarm)
        assert not found.left.is_set()
        assert found.contributions == []
        await found.ref.tell(plans.LeftView(1, "it asked", False))
        await trio.sleep(1)
        assert found.left.is_set()


async def test_a_drain_does_not_wait_for_a_worker_that_starts(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    async with bench(monkeypatch, start_s=60) as found:
        await found.ref.tell(trainer.Drain())
        await trio.sleep(1)
        assert found.left.is_set()


# ------------------------------------------------------------------------------------------------------------ modes


async def commit(found: Bench, round_: int, aggregate: Any, *, included: bool = True) -> None:
    value = decided(round_, Share("other", 1.0))
    await found.ref.tell(plans.RoundCommitted(value, np.asarray(aggregate, np.float32), included))


async def test_without_overlap_a_member_waits_for_the_outcome(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    async with bench(monkeypatch, overlap_steps=0) as found:
        await trio.sleep(1)
        await enter(found, 1)
        await trio.sleep(50)
        assert found.worker.steps == H
        await found.ref.tell(plans.RoundStalled(1, "1 of 2 is there", "wait"))
        await trio.sleep(50)
        assert found.worker.steps == 2 * H  # below a majority it trains on
        await found.ref.tell(plans.RoundResumed(1))
        await commit(found, 1, np.full(SIZE, H))
        await enter(found, 2)
        await trio.sleep(50)
        assert [c.weight for c in found.contributions] == [H * 32 * 128] * 2
        assert np.array_equal(found.contributions[1].delta, np.full(SIZE, H, np.float32))
        assert found.worker.steps == 2 * H


async def test_synchronous_training_makes_each_step_on_the_state_of_the_round_before(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    async with bench(monkeypatch, inner_steps=1) as found:
        await trio.sleep(1)
        for round_ in (1, 2, 3):
            await enter(found, round_)
            await trio.sleep(10)
            assert found.worker.steps == round_
            await commit(found, round_, np.full(SIZE, 2))
        await trio.sleep(1)
        assert found.worker.local.tolist() == [-6.0] * SIZE


async def test_fragments_take_turns_and_keep_the_progress_made_while_their_round_was_under_way(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    async with bench(monkeypatch, inner_steps=6, fragments=3) as found:
        await trio.sleep(1)
        for round_ in range(1, 7):
            await enter(found, round_)
            await trio.sleep(20)
            contributed = found.contributions[-1]
            steps = min(6, 2 * round_)
            assert (contributed.round, contributed.weight) == (round_, steps * 32 * 128)
            assert contributed.delta.tolist() == [steps]  # each fragment has one parameter here
            assert found.worker.steps == 2 * round_ + 2  # it trained on meanwhile
            before = found.worker.local.copy()
            await commit(found, round_, [1])
            await trio.sleep(0.5)
            moved = np.zeros(SIZE, np.float32)
            moved[(round_ - 1) % 3] = steps - 1  # what was decided in the place of its own steps
            assert np.array_equal(found.worker.local, before + moved)
        assert found.kept is not None
        assert found.kept.theta.tolist() == [-2.0, -2.0, -2.0]


async def test_a_fragment_whose_round_is_aborted_is_contributed_whole_at_its_next_turn(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    async with bench(monkeypatch, inner_steps=6, fragments=3) as found:
        await trio.sleep(1)
        for round_ in range(1, 5):
            await enter(found, round_)
            await trio.sleep(20)
            if round_ == 1:
                await found.ref.tell(plans.RoundAborted(decided(1)))
            else:
                await commit(found, round_, [1])
        fourth = found.contributions[3]
        assert fourth.delta.tolist() == [8.0]  # rounds 1 and 2 took two steps each, round 2 at once
        assert fourth.weight == 8 * 32 * 128


async def test_who_is_not_chosen_idles_and_takes_the_new_state(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    async with bench(monkeypatch, participation=0.5) as found:
        await trio.sleep(1)
        await found.ref.tell(plans.ViewEntered(1, VIEW, 0, chosen=False))
        await trio.sleep(50)
        assert (found.worker.steps, found.contributions) == (0, [])
        await commit(found, 1, np.full(SIZE, 3), included=False)
        await found.ref.tell(plans.ViewEntered(2, VIEW, 1, chosen=True))
        await trio.sleep(50)
        assert found.worker.steps == H  # and no more: members that take turns wait for the outcome
        assert [c.round for c in found.contributions] == [2]
        assert found.contributions[0].delta.tolist() == [H] * SIZE
        assert found.worker.local.tolist() == [-3.0 - H] * SIZE


async def test_local_epochs_are_steps_over_the_nodes_own_data(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    async with bench(monkeypatch, local_epochs=2, batch_size=16) as found:
        await trio.sleep(1)
        await enter(found, 1)
        await trio.sleep(100)
        assert found.progress.inner_steps == 10  # 70 samples are 5 batches
        assert [c.weight for c in found.contributions] == [10 * 16 * 128]


async def test_adam_keeps_two_slots_in_the_state(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    async with bench(monkeypatch, outer_optimiser="adam", outer_learning_rate=0.5, outer_momentum=0.9) as found:
        await trio.sleep(1)
        await enter(found, 1)
        await trio.sleep(50)
        await commit(found, 1, np.full(SIZE, 4))
        await trio.sleep(1)
        assert found.kept is not None
        assert [slot[0] for slot in found.kept.slots] == pytest.approx([0.4, 0.16])
        assert found.kept.theta[0] == pytest.approx(-0.5, abs=1e-5)
