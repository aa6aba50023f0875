"""Whose state a joiner takes."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prime.trainer.round.messages import StateManifest
from prime.trainer.swarm.answers import Answers


def state(round_: int, name: str = "true") -> StateManifest:
    return StateManifest("run", 1, round_, hashlib.sha256(f"{name} {round_}".encode()).digest(), 10, 1, ())


def taken(answers: Answers, round_min: int, *, patient: bool = True) -> tuple[int, tuple[str, ...]] | None:
    agreed = answers.agreed(round_min, patient=patient)
    return None if agreed is None else (agreed.manifest.round, agreed.donors)


def test_the_state_of_a_majority_is_taken() -> None:
    held = {"a": (state(5),), "b": (state(5),), "liar": (state(5, "false"),)}
    assert taken(Answers(held, 0), 5) == (5, ("a", "b"))


def test_silence_counts_against_a_state_while_there_is_patience() -> None:
    answers = Answers({"liar": (state(5, "false"),), "a": (state(5),)}, 3)
    assert taken(answers, 5) is None
    assert taken(Answers({"a": (state(5),), "b": (state(5),)}, 1), 5) == (5, ("a", "b"))
    assert taken(Answers({"a": (state(5),)}, 1), 5) is None
    assert taken(Answers({"a": (state(5),)}, 1), 5, patient=False) == (5, ("a",))


def test_those_that_are_about_to_apply_a_round_count_as_silent() -> None:
    held = {"first": (state(5), state(4)), "a": (state(4),), "b": (state(4),)}
    assert taken(Answers(held, 0), 5) is None
    assert taken(Answers(held, 0), 5, patient=False) == (5, ("first",))
    assert taken(Answers(held, 0), 4) == (4, ("a", "b", "first"))


def test_who_holds_nothing_has_no_voice() -> None:
    assert taken(Answers({"founder": (state(0),), "joiner": (), "other": ()}, 0), 0) == (0, ("founder",))


def test_where_nobody_has_a_majority_nothing_is_taken() -> None:
    answers = Answers({"a": (state(5),), "b": (state(5, "other"),)}, 0)
    assert taken(answers, 5, patient=False) is None
    assert answers.disagree(5)
    assert not Answers({"a": (state(5),), "b": (state(6),)}, 0).disagree(5)


def test_a_later_round_that_a_liar_names_is_no_reason() -> None:
    held = {"liar": (state(10**9, "false"),), "a": (state(5),), "b": (state(5),)}
    assert taken(Answers(held, 0), 5, patient=False) == (5, ("a", "b"))


@pytest.mark.parametrize("lie", [1, 10**9])
def test_a_false_round_for_the_true_state_is_outvoted(lie: int) -> None:
    right = state(5)
    false = StateManifest("run", 1, lie, right.state_hash, 10, 1, ())
    held = {"liar": (false,), "a": (right,), "b": (right,)}
    found = Answers(held, 0).agreed(1, patient=True)
    assert found is not None
    assert found.manifest.round == 5


@given(st.lists(st.sampled_from(["true", "false", "silent", "none", "behind"]), max_size=7), st.booleans())
def test_a_lying_minority_of_those_who_hold_a_state_chooses_nothing(kinds: list[str], patient: bool) -> None:
    says = {"true": (state(5),), "false": (state(5, "false"),), "none": (), "behind": (state(4),)}
    held = {f"{i}": says[kind] for i, kind in enumerate(kinds) if kind != "silent"}
    found = Answers(held, kinds.count("silent")).agreed(5, patient=patient)
    if kinds.count("false") <= kinds.count("true"):
        assert found is None or found.manifest == state(5)
