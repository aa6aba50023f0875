"""Each fuzz target over its seeds, over every truncation and bit flip of them, and over what Hypothesis draws.

The search proper is `nox -s fuzz`; what it has found stays here as a case of `CASES`.
"""

from __future__ import annotations

import random
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.target import Target
from tests.fuzz.targets import CASES, TARGETS

EVERY_TARGET = pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
WHOLE_BYTES_MAX = 200
"""Longer seeds are cut and changed at places drawn by chance."""


def _places(seed: bytes, most: int) -> list[int]:
    if len(seed) <= WHOLE_BYTES_MAX and len(seed) <= most:
        return list(range(len(seed)))
    most = most if len(seed) < 10_000 else 5
    return random.Random(zlib.crc32(seed)).sample(range(len(seed)), min(most, len(seed)))


@EVERY_TARGET
def test_seeds_and_their_truncations(target: Target) -> None:
    for seed in target.seeds:
        target(seed)
        for end in _places(seed, 6 if target.dear else WHOLE_BYTES_MAX):
            target(seed[:end])


@EVERY_TARGET
def test_seeds_with_a_flipped_bit(target: Target) -> None:
    for seed in target.seeds:
        for place in _places(seed, 4 if target.dear else 60):
            changed = bytearray(seed)
            changed[place] ^= 1 << (place + len(seed)) % 8
            target(bytes(changed))


@EVERY_TARGET
def test_seeds_behind_each_other(target: Target) -> None:
    for first, second in zip(target.seeds, target.seeds[1:], strict=False):
        target(first + second)


@EVERY_TARGET
def test_drawn_bytes(target: Target) -> None:
    starts = st.sampled_from(target.seeds).flatmap(lambda seed: st.integers(0, len(seed)).map(lambda n: seed[:n]))

    @settings(max_examples=20 if target.dear else 200)
    @given(st.binary(max_size=400) | st.builds(bytes.__add__, starts, st.binary(max_size=100)))
    def holds(data: bytes) -> None:
        target(data)

    holds()


@pytest.mark.parametrize(("name", "data"), CASES, ids=[f"{name} {number}" for number, (name, _) in enumerate(CASES)])
def test_what_a_search_has_found(name: str, data: bytes) -> None:
    TARGETS[name](data)


def test_a_target_lets_nothing_but_the_errors_it_allows_pass() -> None:
    def broken(data: bytes) -> None:
        raise KeyError(data[:1]) if data.startswith(b"\x01") else ValueError

    target = Target("broken", broken, (ValueError,), ())
    target(b"\x02")
    with pytest.raises(KeyError):
        target(b"\x01")
