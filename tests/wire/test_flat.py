"""The functions made for flat classes take nothing that the long way refuses, and give what it gives, byte for byte."""

from __future__ import annotations

import math
import struct
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any, NewType

import attrs
import cbor2
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from prime.errors import DecodeError, LocalProtocolError
from prime.testing.strategies import values_of
from prime.wire import Finite, Range, Size, dumps, from_plain, loads, message, to_plain
from prime.wire.message import encode_body, read_body

Count = NewType("Count", int)


@message(tag=0x7E61)
class Flat:
    number: int
    name: str
    digest: bytes
    weight: float
    urgent: bool


@message(tag=0x7E62)
class Maybe:
    number: int | None = None
    name: str | None = None
    digest: bytes | None = None
    weight: float | None = None
    urgent: bool | None = None
    nothing: None = None


@message(tag=0x7E63)
class Bounded:
    count: Count
    few: Annotated[int, Range(-5, 300)]
    short: Annotated[bytes, Size(2, 30)]
    loss: Finite
    label: Annotated[str, Size(0, 3)] | None


def _even(_instance: object, _attribute: object, value: int) -> None:
    if value % 2:
        raise ValueError(value)


@message(tag=0x7E64)
class Checked:
    even: int = attrs.field(validator=_even)
    name: str = attrs.field(kw_only=True, default="")


@message(tag=0x7E65)
class Empty:
    pass


@message(tag=0x7E66)
class Counted:
    number: int
    made = 0

    def __attrs_post_init__(self) -> None:
        type(self).made += 1


FLAT = (Flat, Maybe, Bounded, Checked, Empty, Counted)
VALUES = st.one_of(
    *(values_of(each) for each in (Flat, Maybe, Bounded, Empty)),
    st.builds(Checked, st.integers(-9, 9).map(lambda n: 2 * n)),
)


def long_way(data: bytes) -> Any:
    try:
        return from_plain(loads(data))
    except DecodeError:
        return None


def read_whole(data: bytes) -> Any:
    read = read_body(data)
    return None if read is None or read[1] != len(data) else read[0]


@pytest.mark.parametrize("cls", FLAT)
def test_flat_classes_have_their_functions(cls: type) -> None:
    assert cls.__wire_form__.read is not None  # type: ignore[attr-defined]


@given(VALUES)
@example(Flat(0, "", b"", 0.1, urgent=False))
def test_bytes_are_those_of_the_long_way(value: Any) -> None:
    plain = to_plain(value, [])
    data = encode_body(type(value), plain)
    assert data == dumps(plain)
    read = read_body(b"before" + data + b"behind", 6)
    assert read is None or (repr(read[0]), read[1:]) == (repr(value), (6 + len(data), plain[0]))
    if read is None:  # not usual: a float whose form is not told at a glance
        assert isinstance(value, Flat | Maybe | Bounded)


@settings(max_examples=400)
@given(
    VALUES,
    st.lists(
        st.tuples(st.integers(0, 200), st.integers(0, 255), st.sampled_from(["set", "insert", "delete", "append"]))
    ),
)
@example(Flat(5, "", b"", 0.1, urgent=True), [(4, 0x18, "insert")])  # 5 in two bytes
@example(Flat(0, "", b"", 0.1, urgent=True), [(0, 0x87, "set")])
def test_changed_bytes_are_read_as_the_long_way_does_or_not_at_all(value: Any, changes: list[Any]) -> None:
    data = bytearray(dumps(to_plain(value, [])))
    for place, byte, how in changes:
        position = place % max(1, len(data))
        if how == "insert":
            data.insert(position, byte)
        elif how == "append" or not data:
            data.append(byte)
        elif how == "set":
            data[position] = byte
        else:
            del data[position]
    read = read_whole(bytes(data))
    assert read is None or repr(read) == repr(long_way(bytes(data)))


_ITEM = st.one_of(
    st.integers(-(2**64), 2**64 - 1).flatmap(lambda n: st.sampled_from([n, n % 2**32, n % 2**16, n % 256, n % 24])),
    st.sampled_from([2**bits + step for bits in (0, 5, 8, 16, 32, 63) for step in (-25, -24, -1, 0, 1)]),
    st.text(max_size=300),
    st.binary(max_size=300),
    st.floats(),
    st.floats(width=32),
    st.floats(width=16),
    st.sampled_from([None, True, False, cbor2.undefined, cbor2.CBORSimpleValue(7), [1], {"a": 1}]),
)


def _widened(item: Any, width: int) -> bytes:
    """Encode an item with a longer head than it needs, or a float with more bits."""
    data = cbor2.dumps(item, canonical=True)
    if type(item) is float:
        return (
            struct.pack(">Bd", 0xFB, item)
            if width > 1
            else struct.pack(">Bf", 0xFA, item)
            if abs(item) < 1e38
            else data
        )
    if type(item) in (int, str, bytes) and data[0] & 31 < 24 + width:
        major, known = data[0] & 0xE0, data[0] & 31
        size = 0 if known < 24 else 1 << (known - 24)
        argument = known if known < 24 else int.from_bytes(data[1 : 1 + size], "big")
        return bytes([major | (24 + width)]) + argument.to_bytes(1 << width, "big") + data[1 + size :]
    return data


@settings(max_examples=400)
@given(st.sampled_from(FLAT), st.lists(st.tuples(_ITEM, st.integers(0, 3), st.booleans()), max_size=6), st.data())
def test_any_items_in_any_heads_are_read_as_the_long_way_does_or_not_at_all(
    cls: type, items: list[Any], data: Any
) -> None:
    tag = cls.__wire_form__.tag  # type: ignore[attr-defined]
    count = len(attrs.fields(cls))
    items = (items + [(0, 0, False)] * count)[:count]
    body = bytes([0x81 + count]) + cbor2.dumps(tag)
    body += b"".join(
        _widened(item, width) if wide else cbor2.dumps(item, canonical=True) for item, width, wide in items
    )
    read = read_whole(body[: data.draw(st.sampled_from([len(body)] * 3 + [len(body) // 2]))])
    assert read is None or repr(read) == repr(long_way(body))


INTS = [base + step for base in (0, 24, 2**8, 2**16, 2**32, 2**63) for step in (-2, -1, 0, 1)]


@pytest.mark.parametrize("number", sorted({*INTS, *(-n for n in INTS if n <= 2**63), 2**64 - 1}))
def test_every_width_of_an_int_is_read_in_its_one_form(number: int) -> None:
    for width in range(4):
        plain = to_plain(Counted(number), [])
        data = dumps(plain)[:4] + _widened(number, width)
        assert (read_whole(data) is not None) == (data == dumps(plain))


@pytest.mark.parametrize("size", [0, 1, 23, 24, 255, 256, 65_535, 65_536])
def test_every_width_of_a_size_is_read_in_its_one_form(size: int) -> None:
    whole = Flat(1, "é" * (size // 2) + "x" * (size % 2), bytes(size), 0.1, urgent=True)
    plain = to_plain(whole, [])
    data = encode_body(Flat, plain)
    assert data == dumps(plain)
    assert read_whole(data) == whole
    for width in range(4):
        head = dumps([plain[0], *[None] * 5])[:4] + b"\x01"
        longer = head + _widened(whole.name, width) + _widened(whole.digest, width) + dumps(0.1) + b"\xf5"
        assert (read_whole(longer) is not None) == (longer == data)


def test_every_float_of_16_bits_is_read_in_its_shortest_form_alone() -> None:
    head = dumps([0x7E61, 1, "", b"", None, None])[:-2]
    for bits in range(2**16):
        (value,) = struct.unpack(">e", struct.pack(">H", bits))
        short, single, double = (
            head + struct.pack(code, kind, value) + b"\xf5"
            for code, kind in ((">Be", 0xF9), (">Bf", 0xFA), (">Bd", 0xFB))
        )
        assert read_whole(single) is None
        assert read_whole(double) is None
        assert (read_whole(short) is None) == math.isnan(value)
        assert math.isnan(value) or dumps(value) == short[len(head) : -1]


@given(st.floats(width=32))
@example(1e10)
@example(5e-324)
@example(2.0**-149)
@example(3.4028234663852886e38)
def test_a_float_is_read_in_its_shortest_form_alone(value: float) -> None:
    head = dumps([0x7E61, 1, "", b"", None, None])[:-2]
    for form in (struct.pack(">Bf", 0xFA, value), struct.pack(">Bd", 0xFB, value)):
        read = read_whole(head + form + b"\xf5")
        assert read is None or form == dumps(value)


def test_validators_and_hooks_run() -> None:
    assert read_whole(dumps([0x7E64, 2, "a"])) == Checked(2, name="a")
    assert read_whole(dumps([0x7E64, 3, "a"])) is None
    before = Counted.made
    assert read_whole(dumps([0x7E66, 3])) == Counted(3)
    assert Counted.made == before + 2


def test_what_was_read_is_frozen_and_of_its_class() -> None:
    read = read_whole(dumps([0x7E61, 1, "a", b"b", 0.1, True]))
    assert type(read) is Flat
    assert hash(read) == hash(Flat(1, "a", b"b", 0.1, urgent=True))
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        read.number = 2


@pytest.mark.parametrize("field", ["number", "name", "digest", "weight", "urgent"])
def test_a_value_of_another_type_is_refused_by_its_field(field: str) -> None:
    value = attrs.evolve(Flat(1, "a", b"b", 0.1, urgent=True), **{field: object()})
    with pytest.raises(LocalProtocolError, match=rf"Flat\.{field}: expected"):
        to_plain(value, [])
    with pytest.raises(LocalProtocolError, match="expected an int of 64 bits"):
        to_plain(Counted(2**64), [])
    with pytest.raises(LocalProtocolError, match="an int from -5 to 300"):
        to_plain(Bounded(Count(1), 301, b"ab", 0.5, None), [])


def test_a_class_defined_again_later_is_read_as_its_newest_self() -> None:
    def define() -> type:
        @message(tag=0x7E67)
        class Again:
            number: int

        return Again

    define()
    again = define()
    assert type(read_whole(dumps([0x7E67, 1]))) is again


@pytest.mark.parametrize("tag", [0xFF00_0001])
def test_a_tag_or_size_beyond_a_short_prefix_takes_the_long_way(tag: int) -> None:
    @message(tag=tag)
    class Far:
        number: int

    assert Far.__wire_form__.read is None  # type: ignore[attr-defined]
    data = encode_body(Far, to_plain(Far(3), []))
    assert read_body(data) is None
    assert from_plain(loads(data)) == Far(3)


def test_threads_that_write_one_class_at_once_do_not_mix_up_its_bytes() -> None:
    values = [Flat(number, "n" * number, bytes(number), number / 7, urgent=True) for number in range(200)]
    plains = [to_plain(value, []) for value in values]
    wanted = [dumps(plain) for plain in plains]

    def write(_turn: int) -> list[bytes]:
        return [encode_body(Flat, plain) for plain in plains]

    with ThreadPoolExecutor(4) as threads:
        for written in threads.map(write, range(40)):
            assert written == wanted


def test_a_text_without_a_wire_form_is_refused_and_what_follows_is_written() -> None:
    for _ in range(3):
        with pytest.raises(LocalProtocolError, match=r"a value has no wire form: '\\ud800' is no UTF-8"):
            encode_body(Flat, to_plain(Flat(1, "\ud800", b"", 0.5, urgent=True), []))
        value = Flat(2, "b", b"c", 0.5, urgent=False)
        assert read_whole(encode_body(Flat, to_plain(value, []))) == value
