"""Facts as JSON and back."""

from __future__ import annotations

import json
import math
import typing
from collections.abc import Mapping
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prime.trainer import facts
from prime.trainer.facts import Evaluated, Fact, StepMade
from prime.trainer.track.lines import event_name, fact_of, line_of

KINDS = typing.get_args(Fact)
TIMES = st.integers(0, 2**41).map(lambda milliseconds: milliseconds / 1000)

finite = st.floats(allow_nan=False, allow_infinity=False)


def values_of(kind: type) -> dict[str, st.SearchStrategy[Any]]:
    hints = typing.get_type_hints(kind, vars(facts))
    return {field.name: of_type(hints[field.name]) for field in attrs.fields(kind)}


def of_type(hint: Any) -> st.SearchStrategy[Any]:
    if hint is float:
        return finite
    if type(None) in typing.get_args(hint):
        return st.none() | of_type(next(part for part in typing.get_args(hint) if part is not type(None)))
    if typing.get_origin(hint) is typing.Literal:
        return st.sampled_from(typing.get_args(hint))
    if typing.get_origin(hint) is Mapping:
        return st.dictionaries(st.text(), finite)
    return st.from_type(hint)


any_fact = st.one_of(*(st.builds(kind, **values_of(kind)) for kind in KINDS))


@given(any_fact, TIMES)
def test_a_fact_comes_back_as_it_was(fact: Fact, at_s: float) -> None:
    line = line_of(fact, at_s)
    assert "\n" not in line
    assert fact_of(line) == (fact, at_s)


def test_each_line_says_its_schema_and_its_event_first() -> None:
    event = json.loads(line_of(Evaluated(step=3, generation=0, loss=2.5), 10.0))
    assert list(event)[:3] == ["schema", "event", "time"]
    assert event["schema"] == 1
    assert event["event"] == "train.evaluated"
    assert event["loss"] == 2.5


def test_events_have_names_of_their_own() -> None:
    assert len({event_name(kind) for kind in KINDS}) == len(KINDS)
    assert event_name(StepMade) == "train.step_made"


def test_a_number_that_is_none_is_null_on_the_line_and_no_number_when_it_comes_back() -> None:
    line = line_of(Evaluated(step=1, generation=0, loss=math.inf), 1.0)
    assert json.loads(line)["loss"] is None
    told = fact_of(line)
    assert told is not None
    assert isinstance(told[0], Evaluated)
    assert math.isnan(told[0].loss)


@pytest.mark.parametrize(
    "line",
    [
        "",
        "{",
        '{"schema": 1, "event": "train.step_ma',
        "[1, 2]",
        "null",
        '{"schema": 1}',
        '{"event": "train.unheard_of", "time": 1}',
        '{"event": "train.evaluated", "time": 1}',
        '{"event": "train.evaluated", "step": 1, "generation": 0, "loss": 1}',
        '{"event": ["train.evaluated"], "time": 1}',
    ],
)
def test_a_line_that_is_no_fact_is_none(line: str) -> None:
    assert fact_of(line) is None


def test_fields_of_a_later_version_are_passed_over() -> None:
    line = line_of(Evaluated(step=1, generation=0, loss=2.0), 1.0)
    later = json.dumps({**json.loads(line), "perplexity": 7.4})
    assert fact_of(later) == (Evaluated(step=1, generation=0, loss=2.0), 1.0)


def test_measures_go_there_and_back() -> None:
    fact = Evaluated(step=1, generation=0, loss=2.0, measures={"accuracy": 0.5, "recall": math.inf})
    line = line_of(fact, 1.0)
    assert json.loads(line)["measures"] == {"accuracy": 0.5, "recall": None}
    back = fact_of(line)
    assert back is not None
    assert isinstance(back[0], Evaluated)
    assert back[0].measures["accuracy"] == 0.5
    assert math.isnan(back[0].measures["recall"])
