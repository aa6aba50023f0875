"""The outer state: hashes, chunks, and putting it together again."""

from __future__ import annotations

import hashlib

import attrs
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prime.errors import CorruptedError, LocalProtocolError, RemoteProtocolError
from prime.trainer.swarm.state import (
    CHUNK_SIZE_BYTES,
    OuterState,
    check_manifest,
    chunked,
    initial_state,
    join_state,
    parameters_hash,
)

CHUNK = CHUNK_SIZE_BYTES // 4  # in elements


def state_of(size: int, seed: int = 1) -> OuterState:
    theta, momentum = np.random.default_rng(seed).standard_normal((2, size), np.float32)
    return OuterState(7, 3, theta, momentum)


def test_golden_hashes() -> None:
    state = OuterState(1, 1, np.array([1.0], np.float32), np.array([-2.0], np.float32))
    one, size = b"\x00\x00\x80\x3f", b"\x01" + bytes(7)
    whole = b"prime outer state 1\n" + size + one + b"\x00\x00\x00\xc0"
    assert state.state_hash() == hashlib.sha256(whole).digest()
    assert parameters_hash(state.theta) == hashlib.sha256(b"prime parameters 1\n" + size + one).digest()


def test_the_hash_is_of_the_values_and_not_of_the_round() -> None:
    state = state_of(10)
    assert attrs.evolve(state, round=8).state_hash() == state.state_hash()
    assert attrs.evolve(state, momentum=state.theta).state_hash() != state.state_hash()
    assert attrs.evolve(state, theta=state.theta + 1).state_hash() != state.state_hash()


@given(st.sampled_from([0, 1, 100, CHUNK // 2, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK + 17]))
def test_chunks_join_to_the_same_state(size: int) -> None:
    state = state_of(size)
    cut = chunked("run", state)
    check_manifest(cut.manifest, size)
    chunks = {digest: cut.chunk(i) for i, digest in enumerate(cut.manifest.chunk_hashes)}
    assert all(hashlib.sha256(data).digest() == digest for digest, data in chunks.items())
    joined = join_state(cut.manifest, chunks)
    assert (joined.round, joined.epoch) == (7, 3)
    assert joined.theta.tobytes() == state.theta.tobytes()
    assert joined.momentum.tobytes() == state.momentum.tobytes()


def test_a_momentum_of_zeros_is_one_chunk_over_and_over() -> None:
    manifest = chunked("run", initial_state(np.ones(4 * CHUNK, np.float32))).manifest
    assert len(manifest.chunk_hashes) == 8
    assert len(set(manifest.chunk_hashes)) == 2


def test_a_manifest_whose_parts_do_not_make_its_whole_is_found_out() -> None:
    cut, other = chunked("run", state_of(CHUNK, 1)), chunked("run", state_of(CHUNK, 2))
    lie = attrs.evolve(cut.manifest, chunk_hashes=other.manifest.chunk_hashes)
    with pytest.raises(CorruptedError, match="does not have the hash"):
        join_state(lie, {digest: other.chunk(i) for i, digest in enumerate(lie.chunk_hashes)})


def test_a_manifest_of_another_model_is_refused() -> None:
    manifest = chunked("run", state_of(CHUNK)).manifest
    with pytest.raises(RemoteProtocolError, match="another model|10 parameters") as caught:
        check_manifest(manifest, 10)
    assert "another model" in caught.value.hint
    for wrong in ({"chunk_bytes": 7}, {"chunk_hashes": ()}, {"total_bytes": -8}):
        with pytest.raises(RemoteProtocolError):
            check_manifest(attrs.evolve(manifest, **wrong), CHUNK)
    with pytest.raises(RemoteProtocolError, match="no SHA-256"):
        check_manifest(attrs.evolve(manifest, state_hash=b""), CHUNK)


@pytest.mark.parametrize("index", [-1, 2])
def test_a_chunk_that_is_not_there(index: int) -> None:
    with pytest.raises(RemoteProtocolError, match=f"no chunk {index}"):
        chunked("run", state_of(CHUNK)).chunk(index)


def test_vectors_that_make_no_state() -> None:
    with pytest.raises(LocalProtocolError, match="momentum"):
        OuterState(0, 0, np.zeros(3, np.float32), np.zeros(2, np.float32))
    with pytest.raises(LocalProtocolError, match="theta"):
        OuterState(0, 0, np.zeros(3), np.zeros(3, np.float32))
