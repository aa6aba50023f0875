"""What is in doubt and what is not: the window, against a model; and what crosses to a child as arguments."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

import prime
from prime.node.process_messages import Taken
from prime.node.process_names import pack_args, unpack_args
from prime.node.process_window import Flight, Window


@prime.message(tag=0x7190)
class Parcel:
    label: str
    data: prime.Payload


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[bool], int, set[int]]:
    """Return which entries are asks, how many of them the child took, and which asks among those it answered."""
    asks = draw(st.lists(st.booleans(), max_size=40))
    taken = draw(st.integers(0, len(asks)))
    answered = draw(st.sets(st.integers(0, max(taken - 1, 0)))) if taken else set()
    return asks, taken, {index for index in answered if asks[index]}


@given(histories())
def test_what_was_not_taken_is_given_back_in_order_and_asks_taken_without_an_answer_are_in_doubt(history: Any) -> None:
    asks, taken, answered = history
    window = Window()
    flights: list[Flight] = []
    for index, is_ask in enumerate(asks):
        flight = window.add_ask(index) if is_ask else window.add_tell(index)
        if is_ask:
            flight.token = 10 * index + 1  # tokens rise and have gaps: a link has other asks too
        flights.append(flight)
    for index in answered:
        window.answered(flights[index])
    tells = sum(not is_ask for is_ask in asks[:taken])
    last_ask = max((10 * index + 1 for index in range(taken) if asks[index]), default=0)
    window.took(Taken(tells, last_ask))
    untaken, asked = window.end()
    assert untaken == list(range(taken, len(asks)))
    assert sorted(asked) == [index for index in range(taken) if asks[index] and index not in answered]
    assert window.end() == ([], [])


def test_a_window_is_full_at_its_size_and_has_room_again_when_the_child_took_something() -> None:
    window = Window(2)
    first = window.add_ask("ask")
    first.token = 5
    assert not window.full
    window.add_tell("tell")
    assert window.full
    window.answered(first)
    assert not window.full
    window.add_tell("tell")
    assert window.full
    window.took(Taken(tells=1))
    assert not window.full


def test_a_tell_that_never_left_is_not_counted() -> None:
    window = Window()
    window.add_tell("first")
    window.recall(window.add_tell("never left"))
    window.add_tell("second")
    window.took(Taken(tells=1))
    assert window.end() == (["second"], [])


plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.lists(plain | st.tuples(plain) | st.builds(Parcel, st.text(), st.binary().map(memoryview)), max_size=4))
def test_arguments_arrive_as_they_were(args: list[Any]) -> None:
    found = unpack_args(*pack_args(args))
    assert found == args
    assert [type(value) for value in found] == [type(value) for value in args]
