"""A joiner whose settings are others is refused with the key's name, and is not let in."""

from __future__ import annotations

import attrs
import pytest

from prime.trainer.metadata import TrainingConfig
from prime.trainer.round import commands as cmd
from prime.trainer.round import messages as msg
from prime.trainer.round.round import RoundCore
from prime.trainer.round.settings import LAYOUT, SETTINGS_MAX, Setting, settings_fault, settings_of
from prime.trainer.round.timing import Timing
from prime.trainer.round.view import Member

ME, OTHER = Member("me", (), 1.0, 1), Member("other", (), 1.0, 2)
OWN = settings_of(TrainingConfig(), "abc")


def with_(**changes: object) -> tuple[Setting, ...]:
    return settings_of(attrs.evolve(TrainingConfig(), **changes), "abc")  # type: ignore[misc]  # a @record


@pytest.mark.parametrize(
    ("theirs", "said"),
    [
        (with_(inner_steps=7), "train.inner_steps = 7, the run 100"),
        (with_(outer_optimiser="adam"), "train.outer_optimiser = adam, the run nesterov"),
        (settings_of(TrainingConfig(), "other"), "its model has other tensors"),
        (OWN[1:], f"{OWN[0].key} = not at all"),
        ((*OWN, Setting("train.new", "1")), "train.new = 1, the run not at all"),
        (tuple(Setting(str(i), "") for i in range(SETTINGS_MAX + 1)), "too many"),
        ((Setting("k", "v" * 1000),), "too long"),
    ],
)
def test_the_key_that_differs_is_named(theirs: tuple[Setting, ...], said: str) -> None:
    assert said in settings_fault(OWN, theirs)


@pytest.mark.parametrize("theirs", [OWN, (), with_(data="elsewhere", threads=4, model="file.py:model")])
def test_what_may_differ_differs(theirs: tuple[Setting, ...]) -> None:
    assert settings_fault(OWN, theirs) == ""


def test_no_setting_is_so_long_that_others_refuse_it() -> None:
    long = settings_of(attrs.evolve(TrainingConfig(), codec="int8"), "f" * 64)  # type: ignore[misc]  # as above
    assert settings_fault(long, long) == ""
    assert len(long) <= SETTINGS_MAX
    assert long[-1].key == LAYOUT


def test_a_joiner_with_other_settings_is_refused_by_the_key_and_says_so_once() -> None:
    founder = RoundCore.found(ME, "run", Timing(), nodes_min=2)
    joiner = RoundCore.join(OTHER, "run", Timing())
    founder.settings, joiner.settings = OWN, with_(inner_steps=7)
    founder.start(0.0)
    joiner.start(0.0)
    asked = joiner.step(cmd.JoinRun(("me",)), 0.0)
    (wish,) = [c.message for c in asked if isinstance(c, cmd.Send)]
    answers = founder.step(cmd.Received(wish), 0.1)
    (refusal,) = [c.message for c in answers if isinstance(c, cmd.Send)]
    assert isinstance(refusal, msg.Refuse)
    assert founder.roster.joining == {}
    assert founder.round == 0
    heard = [joiner.step(cmd.Received(refusal), now) for now in (0.2, 0.3, 0.4)]
    (stall,) = [c for commands in heard for c in commands if isinstance(c, cmd.Stalled)]
    assert "train.inner_steps = 7, the run 100" in stall.reason
    joiner.settings = OWN  # as if the node had been started again
    (wish,) = [c.message for c in joiner.step(cmd.Tick(), 1.0) if isinstance(c, cmd.Send)]
    founder.step(cmd.Received(wish), 1.1)
    assert founder.round == 1
