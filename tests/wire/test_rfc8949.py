"""RFC 8949, appendix A: each of its examples, in its order, and what becomes of it here.

What is taken has one encoding only, so `dumps` gives the very bytes back. What is refused is one of the kinds of `WHY`.
"""

from __future__ import annotations

import math
from typing import Any

import pytest

from prime.errors import DecodeError, LocalProtocolError
from prime.wire import dumps, loads

TAKEN: dict[str, Any] = {
    "00": 0,
    "01": 1,
    "0a": 10,
    "17": 23,
    "1818": 24,
    "1819": 25,
    "1864": 100,
    "1903e8": 1000,
    "1a000f4240": 1_000_000,
    "1b000000e8d4a51000": 1_000_000_000_000,
    "1bffffffffffffffff": 18446744073709551615,
    "3bffffffffffffffff": -18446744073709551616,
    "20": -1,
    "29": -10,
    "3863": -100,
    "3903e7": -1000,
    "f90000": 0.0,
    "f98000": -0.0,
    "f93c00": 1.0,
    "fb3ff199999999999a": 1.1,
    "f93e00": 1.5,
    "f97bff": 65504.0,
    "fa47c35000": 100000.0,
    "fa7f7fffff": 3.4028234663852886e38,
    "fb7e37e43c8800759c": 1.0e300,
    "f90001": 5.960464477539063e-8,
    "f90400": 0.00006103515625,
    "f9c400": -4.0,
    "fbc010666666666666": -4.1,
    "f97c00": math.inf,
    "f97e00": math.nan,
    "f9fc00": -math.inf,
    "f4": False,
    "f5": True,
    "f6": None,
    "40": b"",
    "4401020304": b"\x01\x02\x03\x04",
    "60": "",
    "6161": "a",
    "6449455446": "IETF",
    "62225c": '"\\',
    "62c3bc": "\u00fc",
    "63e6b0b4": "\u6c34",
    "64f0908591": "\U00010151",
    "80": [],
    "83010203": [1, 2, 3],
    "8301820203820405": [1, [2, 3], [4, 5]],
    "98190102030405060708090a0b0c0d0e0f101112131415161718181819": list(range(1, 26)),
    "a0": {},
    "a26161016162820203": {"a": 1, "b": [2, 3]},
    "826161a161626163": ["a", {"b": "c"}],
    "a56161614161626142616361436164614461656145": {"a": "A", "b": "B", "c": "C", "d": "D", "e": "E"},
}

WHY = {
    "tag": "a semantic tag: nothing that a sender names is built here",
    "wide": "a float that has a shorter form (section 4.2.1: the shortest)",
    "simple": "undefined, or a simple value: they mean nothing here",
    "key": "a map with other keys than text and bytes: integers collide at the sender's will",
    "indefinite": "an indefinite length (section 4.2.1: none)",
    "malformed": "not well-formed (section 3.3)",
}

REFUSED: dict[str, str] = {
    "c249010000000000000000": "tag",
    "c349010000000000000000": "tag",
    "fa7f800000": "wide",
    "fa7fc00000": "wide",
    "faff800000": "wide",
    "fb7ff0000000000000": "wide",
    "fb7ff8000000000000": "wide",
    "fbfff0000000000000": "wide",
    "f7": "simple",
    "f0": "simple",
    "f8ff": "simple",
    "c074323031332d30332d32315432303a30343a30305a": "tag",
    "c11a514b67b0": "tag",
    "c1fb41d452d9ec200000": "tag",
    "d74401020304": "tag",
    "d818456449455446": "tag",
    "d82076687474703a2f2f7777772e6578616d706c652e636f6d": "tag",
    "a201020304": "key",
    "5f42010243030405ff": "indefinite",
    "7f657374726561646d696e67ff": "indefinite",
    "9fff": "indefinite",
    "9f018202039f0405ffff": "indefinite",
    "9f01820203820405ff": "indefinite",
    "83018202039f0405ff": "indefinite",
    "83019f0203ff820405": "indefinite",
    "9f0102030405060708090a0b0c0d0e0f101112131415161718181819ff": "indefinite",
    "bf61610161629f0203ffff": "indefinite",
    "826161bf61626163ff": "indefinite",
    "bf6346756ef563416d7421ff": "indefinite",
    "f818": "malformed",  # in RFC 7049's appendix; RFC 8949 took it out
}


@pytest.mark.parametrize("text", TAKEN)
def test_taken(text: str) -> None:
    data, expected = bytes.fromhex(text), TAKEN[text]
    value = loads(data)
    assert type(value) is type(expected)
    assert repr(value) == repr(expected)  # -0.0 is not 0.0, and NaN is NaN
    assert dumps(expected) == data


SAYS = {
    "tag": "a semantic tag",
    "wide": "not deterministic",
    "simple": "no deterministic form",
    "key": "non-text keys",
    "indefinite": "indefinite",
    "malformed": "malformed",
}


@pytest.mark.parametrize("text", REFUSED)
def test_refused(text: str) -> None:
    with pytest.raises(DecodeError, match=SAYS[REFUSED[text]]):
        loads(bytes.fromhex(text))


def test_each_example_of_the_table_is_here_once() -> None:
    assert len(TAKEN.keys() | REFUSED.keys()) == len(TAKEN) + len(REFUSED) == 82
    assert set(REFUSED.values()) == set(WHY) == set(SAYS)


@pytest.mark.parametrize("value", [2**64, -(2**64) - 1, {1: 2, 3: 4}])
def test_what_would_be_refused_is_not_sent(value: Any) -> None:
    with pytest.raises(LocalProtocolError):
        dumps(value)
