"""The short way through the codec takes exactly what the long one takes: `peek` and `decode_body` against `loads`."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from prime.errors import DecodeError, LocalProtocolError
from prime.testing.strategies import values_of
from prime.wire import Finite, dumps, from_plain, loads, message, record, to_plain
from prime.wire.cbor import encodes_to, peek
from prime.wire.message import decode_body, encode_body


@record
class Spot:
    x: float
    y: float


@message(tag=0x7E51)
class Closed:
    number: int
    name: str
    loss: Finite | None
    marks: tuple[int, ...]
    table: dict[str, bool]


@message(tag=0x7E52)
class Open:
    number: int
    spot: Spot


def long_way(data: bytes) -> Any:
    try:
        return from_plain(loads(data))
    except DecodeError:
        return None


def short_way(data: bytes) -> Any:
    plain = peek(data)
    return decode_body(plain, plain, data)


@given(st.one_of(values_of(Closed), values_of(Open)))
def test_what_was_sent_is_taken(value: Any) -> None:
    plain = to_plain(value, [])
    data = encode_body(type(value), plain)
    assert data == dumps(plain)
    assert short_way(data) == value


def test_an_open_class_is_told_from_a_closed_one() -> None:
    assert Closed.__wire_form__.closed  # type: ignore[attr-defined]
    assert not Open.__wire_form__.closed  # type: ignore[attr-defined]


@given(
    st.one_of(values_of(Closed), values_of(Open)),
    st.integers(0, 200),
    st.integers(0, 255),
    st.sampled_from(["set", "insert", "delete", "append"]),
)
@example(Closed(5, "", None, (), {}), 4, 0x18, "insert")  # 5 in two bytes
@example(Closed(0, "", None, (), {}), 0, 0x86, "set")  # one more element than there is
@example(Closed(0, "", None, (), {}), 99, 0xF7, "append")
def test_changed_bytes_are_taken_or_refused_alike(value: Any, position: int, byte: int, how: str) -> None:
    data = bytearray(dumps(to_plain(value, [])))
    position %= len(data)
    if how == "set":
        data[position] = byte
    elif how == "insert":
        data.insert(position, byte)
    elif how == "delete":
        del data[position]
    else:
        data.append(byte)
    assert repr(short_way(bytes(data))) == repr(long_way(bytes(data)))  # by text: NaN is not equal to itself


@pytest.mark.parametrize("simple", [b"\xf7", b"\xf0", b"\xf8\x20"])
@pytest.mark.parametrize("value", [Closed(1, "", None, (), {}), Open(1, Spot(0.0, 1.0))])
def test_a_simple_value_behind_the_known_fields_is_refused(value: Any, simple: bytes) -> None:
    data = bytearray(dumps(to_plain(value, [])))
    data[0] += 1
    data += simple
    assert short_way(bytes(data)) is None
    assert long_way(bytes(data)) is None


def test_fields_of_a_later_version_are_passed_over() -> None:
    plain = [*to_plain(Closed(1, "a", 0.5, (2,), {}), []), "later"]
    assert short_way(dumps(plain)) == Closed(1, "a", 0.5, (2,), {})


def test_text_without_a_wire_form_is_refused_as_ever() -> None:
    plain = to_plain(Closed(1, "\ud800", None, (), {}), [])
    with pytest.raises(LocalProtocolError):
        encode_body(Closed, plain)


def test_an_encoding_is_compared_to_the_last_byte() -> None:
    assert encodes_to([1, 2], b"\x82\x01\x02", closed=True)
    assert not encodes_to([1, 2], b"\x82\x01\x18\x02", closed=True)
    assert not encodes_to([1, 2], b"\x82\x01\x02\x00", closed=False)
