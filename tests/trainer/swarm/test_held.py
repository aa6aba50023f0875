"""What decided rounds make of the state that is held."""

from __future__ import annotations

import numpy as np
import pytest

from prime.trainer.metadata import TrainingConfig
from prime.trainer.outer.fragments import Fragments
from prime.trainer.outer.optimisers import outer_optimiser
from prime.trainer.round.view import Member, Share, Value, View
from prime.trainer.swarm.held import Held, OuterSteps
from prime.trainer.swarm.plans import CommitKept
from prime.trainer.swarm.state import OuterState

D = 200_000
"""Parameters of a state of several chunks."""
VIEW = View("run", 1, (Member("me", (), 1.0, 1),))


def steps_with(optimiser: str) -> OuterSteps:
    return OuterSteps("run", outer_optimiser(TrainingConfig(outer_optimiser=optimiser)))  # type: ignore[arg-type]


def committed(round_: int, base: bytes = b"") -> Value:
    return Value(round_, 1, base, (Share("me", 1.0),), (), VIEW, round_)


def start(steps: OuterSteps) -> Held:
    return Held.of("run", steps.initial(np.arange(D, dtype=np.float32)))


@pytest.mark.parametrize("optimiser", ["average", "nesterov", "adam"])
@pytest.mark.parametrize("count", [1, 7])
def test_a_round_changes_its_fragment_alone_and_leaves_what_others_still_read(optimiser: str, count: int) -> None:
    steps, fragments = steps_with(optimiser), Fragments(D, count)
    held = start(steps)
    before = held.state.theta.copy()
    cut = fragments.cut_of(2)
    after = steps.after(held, committed(2), cut, np.ones(cut.stop - cut.start, np.float32))
    assert np.array_equal(held.state.theta, before)
    changed = after.state.theta != before
    assert changed[cut].all()
    assert changed.sum() == cut.stop - cut.start
    assert (after.round, len(after.state.slots)) == (2, steps.slots)
    assert after.state_hash == after.state.state_hash()  # though most chunks were not hashed again


def test_a_state_after_an_abort_is_the_same_by_another_round() -> None:
    held = start(steps_with("nesterov"))
    later = held.of_round(9)
    assert (later.round, later.chunks.manifest.round, later.state_hash) == (9, 9, held.state_hash)
    assert later.state.theta is held.state.theta


def test_a_fetched_state_is_brought_forward_as_far_as_the_kept_rounds_follow_one_another() -> None:
    steps, fragments = steps_with("average"), Fragments(3)
    one = np.ones(3, np.float32)
    state = OuterState(5, 1, np.zeros(3, np.float32), ())
    sixth = OuterState(6, 1, -one, ())
    kept = [
        CommitKept(committed(5, state.state_hash()), lambda: one),  # it is in the state already
        CommitKept(committed(6, state.state_hash()), lambda: one),
        CommitKept(committed(8, b"of a round that is not here"), lambda: one),
    ]
    found = steps.brought_forward(state, kept, fragments)
    assert (found.round, found.theta.tolist()) == (6, [-1.0] * 3)
    kept[2] = CommitKept(committed(8, sixth.state_hash()), lambda: one)  # round 7 was aborted
    found = steps.brought_forward(state, kept, fragments)
    assert (found.round, found.theta.tolist()) == (8, [-2.0] * 3)
