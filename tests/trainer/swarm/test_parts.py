"""Parts and chunks: cut without gaps, put together in any order; journal records there and back."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prime.errors import CorruptedError, DecodeError
from prime.trainer.codec.form import FORMS
from prime.trainer.round import messages as msg
from prime.trainer.round.ballot import Ballot
from prime.trainer.round.records import read_record, write_record
from prime.trainer.swarm.parts import GRAIN_ELEMENTS, Assembly, chunks, digest, digest_of, part_digest, whole


def test_a_grain_is_whole_blocks_of_every_codec() -> None:
    assert [form.name for form in FORMS.values() if GRAIN_ELEMENTS % form.block] == []


@given(st.integers(0, 9_999), st.integers(0, 9_999), st.integers(1, 5_000))
def test_chunks_are_a_part_without_gaps(start: int, elements: int, size: int) -> None:
    part = slice(start, start + elements)
    found = chunks(part, size)
    assert [i for cut in found for i in range(cut.start, cut.stop)] == list(range(start, start + elements))
    assert all(cut.stop - cut.start == size for cut in found[:-1])
    assert all(cut.stop > cut.start for cut in found)


@given(st.lists(st.binary(max_size=9), max_size=9), st.randoms(use_true_random=False))
def test_chunks_in_any_order_and_twice_make_the_whole(pieces: list[bytes], random: Random) -> None:
    order = [*range(len(pieces)), *range(len(pieces))]
    random.shuffle(order)
    assembly = Assembly(len(pieces))
    new = [assembly.add(at, memoryview(pieces[at])) for at in order]
    assert new.count(True) == len(pieces)
    assert assembly.missing == ()
    assert assembly.is_whole == (not pieces)  # none is hashed yet
    assembly.hashes.update((at, digest(pieces[at])) for at in set(order))
    assert assembly.is_whole
    assert [bytes(piece) for piece in assembly.encoded()] == pieces
    assert assembly.digest() == digest_of(pieces) == part_digest(map(digest, pieces))
    assert whole(map(memoryview, pieces)).digest() == assembly.digest()


@pytest.mark.parametrize("index", [-1, 2, 2**40])
def test_a_chunk_that_a_part_has_not_is_refused(index: int) -> None:
    assembly = Assembly(2)
    with pytest.raises(DecodeError):
        assembly.add(index, memoryview(b"x"))
    assert assembly.missing == (0, 1)


def test_what_is_refused_never_becomes_whole() -> None:
    assembly = whole([memoryview(b"a"), memoryview(b"b")])
    assembly.refuse()
    assert not assembly.is_whole
    assert not assembly.add(0, memoryview(b"a"))
    assert not assembly.found


def test_a_journal_record_comes_back_with_its_parts() -> None:
    record = msg.Promised(3, Ballot(2, 1))
    found, payloads = read_record(write_record(record, [memoryview(b"abc"), memoryview(b"")]))
    assert found == record
    assert [bytes(payload) for payload in payloads] == [b"abc", b""]
    for damaged in (b"", b"\0" * 20, write_record(record, [])[:-1]):
        with pytest.raises(CorruptedError):
            read_record(damaged)
