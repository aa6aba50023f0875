"""What is in doubt and what is not: the window, against a model; and what crosses to a child as arguments."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

import prime
from prime.process.messages import Arrived
from prime.process.names import pack_args, unpack_args
from prime.process.window import Flight, Window


@prime.message(tag=0x7190)
class Parcel:
    label: str
    data: prime.Payload


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[bool], int, set[int], set[int]]:
    """Return which entries are asks, how many arrived, which of those wait, and which of the begun asks are over."""
    asks = draw(st.lists(st.booleans(), max_size=40))
    arrived = draw(st.integers(0, len(asks)))
    among = st.sets(st.integers(0, arrived - 1)) if arrived else st.just(set[int]())
    waiting, answered = draw(among), draw(among)
    return asks, arrived, waiting, {index for index in answered - waiting if asks[index]}


@given(histories())
def test_what_was_not_begun_is_given_back_in_order_and_asks_begun_without_an_answer_are_in_doubt(history: Any) -> None:
    asks, arrived, waiting, answered = history
    window = Window()
    flights: list[Flight] = []
    for index, is_ask in enumerate(asks):
        flight = window.add_ask(index) if is_ask else window.add_tell(index)
        if is_ask:
            flight.token = 10 * index + 1  # tokens rise and have gaps: a link has other asks too
        flights.append(flight)
    for index in answered:
        window.answered(flights[index])
    assert window.load == len(asks) - len(answered)
    window.hear(
        Arrived(
            sum(not is_ask for is_ask in asks[:arrived]),
            max((10 * index + 1 for index in range(arrived) if asks[index]), default=0),
            tuple(flights[index].index for index in waiting if not asks[index]),
            tuple(flights[index].token for index in waiting if asks[index]),
        )
    )
    loaded = window.load
    back, asked = window.end()
    assert loaded == len(back) + len(asked)
    assert back == sorted(waiting) + list(range(arrived, len(asks)))
    assert sorted(asked) == [i for i in range(arrived) if asks[i] and i not in waiting | answered]
    assert window.end() == ([], [])


def test_what_is_stashed_is_kept_and_not_in_the_way() -> None:
    window = Window(1)
    window.add_tell("stashed")
    assert window.full
    window.hear(Arrived(1, 0, (1,), (), 1))
    assert not window.full
    window.add_tell("next")
    assert window.full
    assert window.end() == (["stashed", "next"], [])


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
    window.hear(Arrived(tells=1))
    assert not window.full


def test_a_tell_that_never_left_is_not_counted() -> None:
    window = Window()
    window.add_tell("first")
    window.recall(window.add_tell("never left"))
    assert window.load == 1
    window.add_tell("second")
    window.hear(Arrived(tells=1))
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
