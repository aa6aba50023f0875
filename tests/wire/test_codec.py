"""Field types: what each one lets through in both directions, and the caps on what hostile keys can cost."""

from __future__ import annotations

import enum
import math
from typing import Annotated, Any, Literal, NewType

import pytest
from hypothesis import given

from prime.errors import DecodeError, LocalProtocolError, MessageError
from prime.testing.strategies import values_of
from prime.wire import Finite, Payload, Range, Size, decode_value, dumps, encode_value, loads, message, record
from prime.wire.codec import HASHED_ITEMS_MAX, INT_MAX, INT_MIN

Key = NewType("Key", str)


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Flags(enum.Flag):
    A = 1


@record
class Point:
    x: int
    y: float


@message(tag=0x7E20)
class Ping:
    number: int


@message(tag=0x7E21)
class Pong:
    text: str


TYPES: list[Any] = [
    None,
    bool,
    int,
    float,
    str,
    bytes,
    Payload,
    Finite,
    Key,
    Level,
    Point,
    Ping,
    int | None,
    int | float | str | bytes | bool | None,
    Ping | Pong | None,
    Ping | str,
    tuple[int, ...],
    tuple[int, str],
    tuple[()],
    list[Point],
    dict[str, int],
    dict[bytes, Point],
    dict[Key, tuple[str, ...]],
    dict[int, str],
    dict[tuple[str, int], Point],
    dict[str | bytes, int],
    frozenset[str],
    frozenset[int],
    frozenset[tuple[int, bytes]],
    Literal["a", "b"],
    Literal["a", 1] | None,
    Annotated[int, Range(-3, 9)],
    Annotated[bytes, Size(32, 32)],
    Annotated[str, Size(1, 5)],
    Annotated[tuple[int, ...], Size(0, 2)],
    tuple[Annotated[float, "a mark of somebody else's"], ...],
]


@pytest.mark.parametrize("annotation", TYPES, ids=str)
def test_every_type_comes_back_as_it_left(annotation: Any) -> None:
    @given(values_of(annotation))
    def check(value: Any) -> None:
        payloads: list[memoryview] = []
        body = dumps(encode_value(annotation, value, payloads))
        back = decode_value(annotation, loads(body), payloads)
        assert back == value
        assert type(back) is type(value)
        assert dumps(encode_value(annotation, back, [])) == body

    check()


WRONG: list[tuple[Any, Any]] = [
    (None, False),
    (bool, 1),
    (bool, None),
    (int, True),
    (int, 1.0),
    (int, INT_MAX + 1),
    (int, INT_MIN - 1),
    (float, 1),
    (float, "1"),
    (Finite, math.nan),
    (Finite, math.inf),
    (str, b"x"),
    (bytes, "x"),
    (Level, 3),
    (Level, True),
    (Level, 1.0),
    (Level, "LOW"),
    (Level, [1]),
    (Point, [1]),
    (Point, {"x": 1, "y": 1.0}),
    (Point, None),
    (Ping, [0x7E21, 1]),
    (Ping, [True, 1]),
    (int | None, "x"),
    (tuple[int, ...], 3),
    (tuple[int, ...], [1, "x"]),
    (tuple[int, str], [1]),
    (tuple[int, str], [1, "x", 2]),
    (list[int], {"a": 1}),
    (dict[str, int], [["a", 1]]),
    (dict[str, int], {b"a": 1}),
    (dict[bytes, int], {"a": 1}),
    (dict[int, int], {"a": 1}),
    (dict[int, int], [[1]]),
    (dict[int, int], [[1, 2, 3]]),
    (dict[int, int], [1, 2]),
    (dict[int, int], [[2, 0], [1, 0]]),
    (dict[int, int], [[1, 0], [1, 0]]),
    (frozenset[int], [2, 1]),
    (frozenset[int], [1, 1]),
    (frozenset[int], None),
    (Literal["a"], "b"),
    (Literal["a"], None),
    (Annotated[int, Range(0, 9)], 10),
    (Annotated[bytes, Size(2, 3)], b"1"),
    (Annotated[str, Size(0, 1)], "ab"),
    (Annotated[tuple[int, ...], Size(0, 1)], [1, 2]),
]


@pytest.mark.parametrize(("annotation", "plain"), WRONG, ids=str)
def test_a_plain_value_of_another_type_is_refused(annotation: Any, plain: Any) -> None:
    with pytest.raises(DecodeError, match="expected"):
        decode_value(annotation, plain)


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (None, 0),
        (bool, 0),
        (int, True),
        (int, 2**64),
        (int, -(2**63) - 1),
        (int, 1.0),
        (float, True),
        (float, "1"),
        (Finite, math.nan),
        (str, b""),
        (bytes, "x"),
        (Level, 9),
        (Point, (1, 2.0)),
        (Ping | Pong, Point(1, 2.0)),
        (tuple[int, ...], [1]),
        (tuple[int, str], (1,)),
        (list[int], (1,)),
        (dict[str, int], [("a", 1)]),
        (dict[int, int], {"a": 1}),
        (frozenset[int], [1]),
        (frozenset[int], frozenset({"a"})),
        (Literal["a"], "b"),
        (Literal["a"], []),
        (Annotated[int, Range(0, 9)], -1),
        (Annotated[bytes, Size(2, 3)], b"1234"),
    ],
    ids=str,
)
def test_a_value_of_another_type_is_not_sent(annotation: Any, value: Any) -> None:
    with pytest.raises(LocalProtocolError, match="expected"):
        encode_value(annotation, value, [])


def test_values_that_python_takes_for_the_type_are_taken() -> None:
    assert encode_value(float, 3, []) == 3.0
    assert type(encode_value(float, 3, [])) is float
    assert type(encode_value(float | None, 3, [])) is float
    assert encode_value(bytes, bytearray(b"ab"), []) == b"ab"
    assert encode_value(frozenset[int], {2, 1}, []) == [1, 2]
    assert type(encode_value(int, Level.HIGH, [])) is int


def test_nan_passes_where_the_type_allows_it() -> None:
    assert math.isnan(decode_value(float, loads(dumps(encode_value(float, math.nan, [])))))


@pytest.mark.parametrize("annotation", [dict[int, int], frozenset[int], dict[tuple[int, str], int], frozenset[float]])
def test_keys_whose_hashes_can_be_chosen_are_few(annotation: Any) -> None:
    """388 KB of colliding ints stalled a decoder for 23 s; this many cannot."""
    with pytest.raises(DecodeError, match=f"at most {HASHED_ITEMS_MAX}"):
        decode_value(annotation, [[0, 0]] * (HASHED_ITEMS_MAX + 1))


def test_the_sender_learns_of_that_cap_too() -> None:
    with pytest.raises(LocalProtocolError, match=f"at most {HASHED_ITEMS_MAX}"):
        encode_value(frozenset[int], frozenset(range(HASHED_ITEMS_MAX + 1)), [])


def test_text_and_bytes_keys_may_be_many() -> None:
    many = frozenset(str(i) for i in range(HASHED_ITEMS_MAX + 1))
    assert decode_value(frozenset[str], encode_value(frozenset[str], many, [])) == many


def test_the_order_of_insertion_leaves_no_trace() -> None:
    forward, backward = {1: "a", -5: "b", 300: "c"}, {300: "c", -5: "b", 1: "a"}
    assert encode_value(dict[int, str], forward, []) == encode_value(dict[int, str], backward, [])
    assert dumps({"b": 1, "a": 2, "": 0}) == dumps({"": 0, "a": 2, "b": 1})


@pytest.mark.parametrize(
    "annotation", [Flags, enum.Enum("Empty", []), frozenset[Payload], dict[Payload, int], Literal[b"x"]]
)
def test_types_that_would_be_a_trap_have_no_wire_form(annotation: Any) -> None:
    with pytest.raises(MessageError):
        encode_value(annotation, None, [])
