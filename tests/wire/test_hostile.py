"""Hostile bytes, each case as bytes: what strict decoding refuses, and that refusing is cheap and says nothing."""

from __future__ import annotations

import struct
import time
from typing import Any

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prime.errors import DecodeError, LocalProtocolError
from prime.wire import Limits, dumps, from_plain, loads

CASES = {
    "empty": "",
    "trailing byte": "0000",
    "trailing item": "8101f6",
    "truncated array": "8201",
    "truncated int": "1901",
    "truncated text": "6361",
    "array longer than memory": "9bffffffffffffffff",
    "array of 2**32": "9b0000000100000000",
    "text longer than memory": "7b7fffffffffffffff",
    "map longer than memory": "bb0000000100000000",
    "non-minimal int 8": "1801",
    "non-minimal int 16": "190001",
    "non-minimal int 32": "1a00000001",
    "non-minimal int 64": "1b0000000000000001",
    "non-minimal negative": "3801",
    "non-minimal text length": "780161",
    "non-minimal array length": "980101",
    "float that fits in 16 bits": "fb3ff8000000000000",
    "float that fits in 32 bits": "fb3ff0000020000000",
    "signalling NaN": "f97e01",
    "wide NaN": "fb7ff8000000000000",
    "indefinite array": "9f01ff",
    "indefinite map": "bf616101ff",
    "indefinite text": "7f6161ff",
    "indefinite bytes": "5f4161ff",
    "break alone": "ff",
    "reserved length": "1c",
    "duplicate key": "a2616101616102",
    "unsorted keys": "a2616201616102",
    "int key": "a10102",
    "null key": "a1f602",
    "array key": "a1810102",
    "bool key": "a1f502",
    "text not UTF-8": "61ff",
    "text with a surrogate": "63eda080",
    "undefined": "f7",
    "undefined inside": "81f7",
    "simple value": "e0",
    "simple value in two bytes": "f820",
    "simple value below 32 in two bytes": "f814",
    "date text": "c074323031332d30332d32315432303a30343a30305a",
    "epoch": "c11a514b67b0",
    "bignum": "c249010000000000000000",
    "negative bignum": "c349010000000000000000",
    "bignum that fits": "c24101",
    "decimal": "c48221196ab3",
    "bigfloat": "c5822003",
    "string reference": "d81900",
    "string references allowed": "d90100826361626300",
    "shared value": "d81c8101",
    "shared reference": "d81d00",
    "cyclic array": "d81c81d81d00",
    "rational": "d81e820102",
    "regex": "d82361",
    "regex that backtracks": "d8236828612b292b2461",
    "MIME": "d824685375626a65637400",
    "uuid": "d8255000000000000000000000000000000000",
    "ip address": "d83444c0a80001",
    "set": "d9010283010203",
    "date of days": "d864190400",
    "self-described": "d9d9f700",
    "unknown tag": "d9270f00",
    "tag of 64 bits": "dbffffffffffffffff00",
    "tag inside an array": "8201c100",
    "tag as a map's value": "a16161c100",
    "tag on a map key": "a1c1000001",
}


@pytest.mark.parametrize("body", [bytes.fromhex(text) for text in CASES.values()], ids=list(CASES))
def test_refused(body: bytes) -> None:
    with pytest.raises(DecodeError) as caught:
        loads(body)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    assert repr(body) not in str(caught.value)


def test_no_built_in_tag_gets_a_decoder() -> None:
    """An upgrade of cbor2 that learns a new tag fails here: add it to the refused ones."""
    for tag in [*range(70_000), 2**32, 2**64 - 1]:
        head = b"\xdb" + struct.pack(">Q", tag) if tag > 0xFFFFFFFF else b"\xda" + struct.pack(">I", tag)
        for content in (b"\x00", b"\x60"):
            with pytest.raises(DecodeError, match="a semantic tag"):
                loads(head + content)


def test_depth() -> None:
    assert loads(b"\x81" * 32 + b"\x00")
    assert dumps(loads(b"\x81" * 32 + b"\x00"))
    for empty in (b"\x80", b"\xa0"):
        assert dumps(loads(b"\x81" * 32 + empty)) == b"\x81" * 32 + empty
    for depth in (33, 1000, 1_000_000):
        with pytest.raises(DecodeError):
            loads(b"\x81" * depth + b"\x00")
        with pytest.raises(DecodeError):
            loads(b"\xa1\x60" * (depth // 2) + b"\x81" * depth + b"\x00")


def test_a_deep_value_cannot_crash_the_encoder() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(LocalProtocolError, match="nested"):
        dumps(deep)
    while deep:  # freed from the outside in
        deep = deep[0]


def test_size_comes_first() -> None:
    limits = Limits(header_size_bytes_max=10)
    assert loads(dumps(b"123456789"), limits) == b"123456789"
    with pytest.raises(DecodeError, match="11 bytes of CBOR, the limit is 10"):
        loads(dumps(b"1234567890"), limits)


def test_items_are_counted_before_they_are_built() -> None:
    limits = Limits(items_max=100)
    assert len(loads(dumps([0] * 99), limits)) == 99
    with pytest.raises(DecodeError, match="more than 100 items"):
        loads(dumps([0] * 100), limits)
    assert loads(dumps(["x" * 500, b"y" * 70_000]), limits)  # contents are not items
    with pytest.raises(DecodeError, match="more than 100 items"):
        loads(dumps({str(i): i for i in range(60)}), limits)
    with pytest.raises(DecodeError):
        loads(b"\x9b" + b"\xff" * 200, limits)


@pytest.mark.parametrize(
    "body",
    [
        b"\x9a\x00\x0f\xff\xfb" + b"\x80" * 0xFFFFB,
        b"\xba\x00\x05\x55\x53" + b"".join(b"\x1b" + struct.pack(">Q", i << 42) + b"\x00" for i in range(90_000)),
        b"\xda" * 1_000_000,
        b"\x81" * 1_000_000,
    ],
    ids=["a megabyte of empty arrays", "colliding int keys", "tags", "nesting"],
)
def test_refusing_is_quick(body: bytes) -> None:
    before = time.process_time()
    with pytest.raises(DecodeError):
        loads(body)
    assert time.process_time() - before < 2  # unguarded, the first takes 64 MB and the second 20 s and more


@given(st.binary(max_size=200))
def test_any_bytes_decode_or_are_refused(body: bytes) -> None:
    try:
        plain = loads(body)
    except DecodeError:
        return
    assert dumps(plain) == body


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**64), 2**64 - 1) | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.binary(), inner),
    max_leaves=20,
)


@given(PLAIN)
def test_plain_values_come_back(plain: Any) -> None:
    body = dumps(plain)
    assert dumps(loads(body)) == body
    assert dumps(loads(memoryview(body))) == body


@given(PLAIN, st.data())
def test_one_flipped_byte_never_passes_unseen(plain: Any, data: st.DataObject) -> None:
    body = bytearray(dumps(plain))
    position = data.draw(st.integers(0, len(body) - 1))
    body[position] ^= data.draw(st.integers(1, 255))
    try:
        other = loads(bytes(body))
    except DecodeError:
        return
    assert dumps(other) == body


@given(PLAIN)
def test_any_plain_value_is_a_message_or_refused(plain: Any) -> None:
    try:
        from_plain(plain)
    except DecodeError:
        return


@pytest.mark.parametrize(
    "value", [2**64, -(2**64) - 1, {1: 2}, object(), {1, 2}, bytearray(b"x"), "\ud800", cbor2.CBORTag(1, 2)]
)
def test_what_dumps_does_not_carry(value: Any) -> None:
    """Each of these would leave as bytes that no peer takes."""
    with pytest.raises(LocalProtocolError):
        dumps([value])
