"""What a member does next, of what it has heard: by decisions alone, without a worker or an aggregator."""

from __future__ import annotations

import numpy as np
import pytest

from prime.trainer.outer.fragments import Fragments
from prime.trainer.outer.pace import Pace
from prime.trainer.round.view import Member, View
from prime.trainer.swarm import plans
from prime.trainer.swarm.agenda import (
    SLICE_STEPS,
    Agenda,
    AskToLeave,
    FetchState,
    Finish,
    Leave,
    MakeContribution,
    MakeSteps,
    Rest,
    TellOfStall,
)
from prime.trainer.swarm.held import Held
from prime.trainer.swarm.progress import Progress
from prime.trainer.swarm.state import OuterState

H = 12
VIEW = View("run", 4, (Member("me", (), 1.0, 1), Member("other", (), 1.0, 2)))


def held_after(round_: int) -> Held:
    return Held.of("run", OuterState(round_, 4, np.full(3, round_, np.float32), ()))


def at_round(round_: int, *, saves: bool = False, chosen: bool = True, held: int | None = None) -> tuple[Agenda, Pace]:
    """Return the agenda of a member that is in a view and holds the state before the round, or that after `held`."""
    agenda = Agenda(Progress(100, H), saves, held_after(round_ - 1 if held is None else held))
    agenda.progress.phase = "joining"
    assert agenda.step(plans.ViewEntered(round_, VIEW, round_ - 1, chosen)) is None
    return agenda, Pace.of(Fragments(3), H, -1, waits=False)


def test_a_member_makes_steps_by_slices_then_contributes_once_and_trains_on() -> None:
    agenda, pace = at_round(1)
    assert (agenda.progress.phase, agenda.progress.epoch, agenda.progress.members) == ("training", 4, ("me", "other"))
    slices = []
    while isinstance(activity := agenda.next(pace), MakeSteps):
        slices.append(activity.steps)
        pace.made += activity.steps
    assert slices == [SLICE_STEPS, SLICE_STEPS, H - 2 * SLICE_STEPS]
    assert activity == MakeContribution(1, agenda.held)  # type: ignore[arg-type]  # one is held
    agenda.contributed(1)
    pace.contribute(1)
    assert agenda.next(pace) == MakeSteps(SLICE_STEPS)


@pytest.mark.parametrize(("held", "is_good"), [(3, False), (4, True), (5, False)])
def test_only_the_state_that_the_round_starts_from_is_trained_from(held: int, is_good: bool) -> None:
    agenda, pace = at_round(5, held=held)
    assert isinstance(agenda.next(pace), MakeSteps if is_good else Rest)


def test_who_is_not_chosen_or_in_no_view_rests() -> None:
    agenda, pace = at_round(1, chosen=False)
    assert agenda.next(pace) == Rest()
    agenda.step(plans.ViewEntered(1, VIEW, 0))
    assert agenda.next(pace) == MakeSteps(SLICE_STEPS)
    assert agenda.step(plans.LeftView(1, "late", rejoining=True)) is None
    assert (agenda.next(pace), agenda.progress.phase) == (Rest(), "joining")


def test_what_is_missed_goes_before_all_else() -> None:
    agenda, pace = at_round(1)
    missed = plans.StateMissed(7, VIEW, "was away")
    agenda.step(missed)
    assert agenda.next(pace) == FetchState(missed)


def test_nothing_is_contributed_before_the_state_is_on_the_disk() -> None:
    agenda, pace = at_round(1, saves=True)
    pace.made = H
    assert agenda.next(pace) == Rest()
    agenda.step(plans.StateSaved(b"of another state"))
    assert agenda.next(pace) == Rest()
    assert agenda.held is not None
    agenda.step(plans.StateSaved(agenda.held.state_hash))
    assert isinstance(agenda.next(pace), MakeContribution)


def test_a_stall_is_told_and_lets_train_on_and_after_the_end_nobody_hears_of_it() -> None:
    agenda, pace = at_round(1)
    stall = plans.RoundStalled(1, "1 of 2 is there", "start the other")
    pace.made = 2 * H
    pace._marked, pace._out = H, 1
    assert agenda.next(pace) == Rest()
    pace.made = H + pace.overlap_steps - 1
    assert agenda.next(pace) == MakeSteps(1)
    assert agenda.step(stall) == TellOfStall(stall)
    assert (agenda.progress.stalled, agenda.progress.hint) == (stall.reason, stall.hint)
    assert agenda.step(plans.RoundResumed(1)) is None
    assert (agenda.progress.stalled, agenda.progress.hint) == ("", "")
    agenda.progress.phase = "done"
    assert agenda.step(stall) is None
    assert agenda.progress.stalled == ""


def test_a_member_asks_to_leave_and_leaves_when_it_is_let_go() -> None:
    agenda, pace = at_round(1)
    assert agenda.drain() == AskToLeave()
    assert (agenda.progress.phase, agenda.next(pace)) == ("leaving", Rest())
    assert agenda.step(plans.LeftView(1, "as asked", rejoining=False)) == Leave()
    assert agenda.next(pace) == Leave()


def test_nobody_has_to_be_asked_by_one_without_a_view_a_state_or_rounds_to_come() -> None:
    assert Agenda(Progress(100, H), held=held_after(0)).drain() == Leave()
    agenda, _ = at_round(1)
    agenda.held = None
    assert agenda.drain() == Leave()
    agenda, _ = at_round(1)
    agenda.progress.phase = "done"
    assert agenda.drain() == Leave()


def test_the_end_is_come_to_with_its_state_once() -> None:
    agenda, _ = at_round(8)
    assert agenda.step(plans.RunEnded(8)) is None  # its state is still to come
    assert agenda.finish() is None
    agenda.held = held_after(8)
    assert agenda.finish() == Finish(agenda.held)
    assert agenda.step(plans.RunEnded(8)) == Finish(agenda.held)
    agenda.progress.phase = "done"
    assert agenda.step(plans.RunEnded(8)) is None
