"""Parts and chunks: cut without gaps, put together in any order; journal records there and back."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prime.errors import CorruptedError, DecodeError
from prime.trainer.codec.form import INT8
from prime.trainer.round import messages as msg
from prime.trainer.round.ballot import Ballot
from prime.trainer.round.records import read_record, write_record
from prime.trainer.swarm.parts import CHUNK_BYTES, Assembly, cuts, digest, expected_bytes, offsets


@given(st.integers(1, 100_000), st.integers(1, 40))
def test_parts_are_whole_blocks_without_gaps(elements: int, parts: int) -> None:
    found = cuts(elements, parts)
    assert len(found) == parts
    assert found[0].start == 0
    assert found[-1].stop == elements
    for cut, following in itertools.pairwise(found):
        assert cut.stop == following.start
        assert cut.stop % INT8.block == 0 or cut.stop == elements
    sizes = [cut.stop - cut.start for cut in found]
    assert max(sizes) - min(sizes) <= 2 * INT8.block


@given(st.integers(0, 3 * CHUNK_BYTES + 7), st.randoms(use_true_random=False))
def test_chunks_in_any_order_and_twice_make_the_whole(size: int, random: object) -> None:
    data = bytes(range(256)) * (size // 256 + 1)
    data = data[:size]
    order = list(offsets(size)) * 2
    random.shuffle(order)  # type: ignore[attr-defined]
    assembly = Assembly(size, digest(data))
    whole = [assembly.add(at, memoryview(data)[at : at + CHUNK_BYTES]) for at in order]
    assert whole.count(True) == 1
    assert assembly.verified()
    assert bytes(assembly.data) == data


def test_chunks_off_the_grid_are_refused_and_wrong_bytes_start_over() -> None:
    assembly = Assembly(CHUNK_BYTES + 10, digest(b"other"))
    for at, size in ((-CHUNK_BYTES, 10), (5, 10), (0, 10), (CHUNK_BYTES, 11), (2 * CHUNK_BYTES, 0)):
        with pytest.raises(DecodeError):
            assembly.add(at, memoryview(bytes(size)))
    assert not assembly.add(0, memoryview(bytes(CHUNK_BYTES)))
    assert assembly.add(CHUNK_BYTES, memoryview(bytes(10)))
    assert not assembly.verified()
    assert assembly.missing == {0, CHUNK_BYTES}


def test_expected_bytes_are_those_of_the_codec() -> None:
    assert [expected_bytes(1000, 3, part) for part in range(3)] == [260, 260, 520]


def test_a_journal_record_comes_back_with_its_parts() -> None:
    record = msg.Promised(3, Ballot(2, 1))
    found, payloads = read_record(write_record(record, [memoryview(b"abc"), memoryview(b"")]))
    assert found == record
    assert [bytes(payload) for payload in payloads] == [b"abc", b""]
    for damaged in (b"", b"\0" * 20, write_record(record, [])[:-1]):
        with pytest.raises(CorruptedError):
            read_record(damaged)
