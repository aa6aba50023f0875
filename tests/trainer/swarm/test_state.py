"""The outer state: hashes, chunks, and putting it together again."""

from __future__ import annotations

import hashlib
from random import Random

import attrs
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prime.errors import LocalProtocolError, RemoteProtocolError
from prime.trainer.swarm.state import (
    CHUNK_SIZE_BYTES,
    PAGE_CHUNKS,
    OuterState,
    check_manifest,
    chunked,
    initial_state,
    page_hash,
    state_from,
)

CHUNK = CHUNK_SIZE_BYTES // 4  # in elements


def state_of(size: int, seed: int = 1, count: int = 1) -> OuterState:
    theta, *slots = np.random.default_rng(seed).standard_normal((1 + count, size), np.float32)
    return OuterState(7, 3, theta, tuple(slots))


def sha(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def test_golden_hashes() -> None:
    state = OuterState(1, 1, np.array([1.0], np.float32), (np.array([-2.0], np.float32),))
    one, size = b"\x00\x00\x80\x3f", b"\x01" + bytes(7)
    page = sha(sha(one + b"\x00\x00\x00\xc0"))
    assert state.state_hash() == sha(b"prime outer state 2\n" + size + b"\x01\0\0\0" + page)


def test_the_hash_is_of_the_values_and_not_of_the_round() -> None:
    state = state_of(10)
    assert attrs.evolve(state, round=8).state_hash() == state.state_hash()
    others = (
        attrs.evolve(state, slots=(state.theta,)),
        attrs.evolve(state, theta=state.theta + 1),
        attrs.evolve(state, slots=()),
        OuterState(7, 3, np.concatenate([state.theta, *state.slots]), ()),
    )
    assert len({state.state_hash(), *(other.state_hash() for other in others)}) == 5


@given(st.sampled_from([1, 100, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK + 17]), st.integers(0, 2), st.randoms())
def test_where_a_slice_changed_the_other_chunks_keep_their_hashes(size: int, count: int, random: Random) -> None:
    before = state_of(size, 1, count)
    first, last = sorted((random.randint(0, size), random.randint(0, size)))
    vectors = [vector.copy() for vector in (before.theta, *before.slots)]
    for vector in vectors:
        vector[first:last] += 1
    after = OuterState(8, 3, vectors[0], tuple(vectors[1:]))
    found = chunked("run", after, chunked("run", before), slice(first, last))
    assert found.manifest == chunked("run", after).manifest
    assert found.chunk_hashes == chunked("run", after).chunk_hashes


@given(
    st.sampled_from([0, 1, 100, CHUNK // 2, CHUNK // 3 + 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK + 17]),
    st.integers(0, 3),
)
def test_chunks_make_the_same_state(size: int, count: int) -> None:
    state = state_of(size, count=count)
    cut = chunked("run", state)
    check_manifest(cut.manifest, size, count)
    chunks = [bytes(cut.chunk(i)) for i in range(len(cut.chunk_hashes))]
    assert [sha(data) for data in chunks] == list(cut.chunk_hashes)
    made = state_from(cut.manifest, memoryview(bytearray(b"".join(chunks))))
    assert (made.round, made.epoch) == (7, 3)
    assert made.theta.tobytes() == state.theta.tobytes()
    assert [slot.tobytes() for slot in made.slots] == [slot.tobytes() for slot in state.slots]


def test_slots_of_zeros_are_one_chunk_over_and_over() -> None:
    hashes = chunked("run", initial_state(np.ones(4 * CHUNK, np.float32), slots=2)).chunk_hashes
    assert (len(hashes), len(set(hashes))) == (12, 2)


def test_the_hashes_of_a_great_state_come_in_pages() -> None:
    cut = chunked("run", initial_state(np.zeros(CHUNK * (PAGE_CHUNKS + 1), np.float32), slots=0))
    assert [page_hash([cut.page(i)]) for i in (0, 1)] == list(cut.manifest.page_hashes)
    assert [len(cut.page(i)) // 32 for i in (0, 1)] == [PAGE_CHUNKS, 1]


def test_a_manifest_whose_pages_do_not_make_its_hash_is_found_out() -> None:
    cut, other = chunked("run", state_of(CHUNK, 1)), chunked("run", state_of(CHUNK, 2))
    lie = attrs.evolve(cut.manifest, page_hashes=other.manifest.page_hashes)
    with pytest.raises(RemoteProtocolError, match="not what its hash names"):
        check_manifest(lie, CHUNK, 1)


def test_a_manifest_of_another_model_is_refused() -> None:
    manifest = chunked("run", state_of(CHUNK)).manifest
    for elements, slots in ((10, 1), (CHUNK, 2)):
        with pytest.raises(RemoteProtocolError, match=f"this node's has {elements} and {slots}") as caught:
            check_manifest(manifest, elements, slots)
        assert "another model" in caught.value.hint
    with pytest.raises(RemoteProtocolError, match="0 pages"):
        check_manifest(attrs.evolve(manifest, page_hashes=()), CHUNK, 1)
    with pytest.raises(RemoteProtocolError, match="not what its hash names"):
        check_manifest(attrs.evolve(manifest, state_hash=b""), CHUNK, 1)


@pytest.mark.parametrize("index", [-1, 2])
def test_a_chunk_or_a_page_that_is_not_there(index: int) -> None:
    cut = chunked("run", state_of(CHUNK))
    with pytest.raises(RemoteProtocolError, match=f"no chunk {index}"):
        cut.chunk(index)
    with pytest.raises(RemoteProtocolError, match=f"no page {index}"):
        cut.page(index)


def test_vectors_that_make_no_state() -> None:
    with pytest.raises(LocalProtocolError, match="slot 0"):
        OuterState(0, 0, np.zeros(3, np.float32), (np.zeros(2, np.float32),))
    with pytest.raises(LocalProtocolError, match="theta"):
        OuterState(0, 0, np.zeros(3), (np.zeros(3, np.float32),))
