"""The tree of hashes over a blob's chunks: any size, fixed bytes, and nothing that its content id does not name."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prime.errors import DecodeError
from prime.store.manifest import (
    CHUNK_BYTES,
    FANOUT,
    HASH_BYTES,
    MANIFEST_BYTES_MAX,
    NODE_BYTES_MAX,
    ContentId,
    Manifest,
    TreeBuilder,
    read_manifest,
)
from prime.wire import dumps


def built(data: bytes, chunk_bytes: int = 4096) -> tuple[Manifest, bytes]:
    tree = TreeBuilder(chunk_bytes)
    for at in range(0, len(data), chunk_bytes):
        piece = data[at : at + chunk_bytes]
        tree.add(hashlib.sha256(piece).digest(), len(piece))
    return tree.finish()


def test_the_manifest_of_known_bytes_never_changes() -> None:
    """What others hold under these ids must be found by every later version."""
    assert built(b"")[0].content.hex() == "aa47f38adc020f82eec3997a81ca00364343a1c528376ad43579f9b6cba58a37"
    assert built(b"prime")[0].content.hex() == "12a9422d4387cbda75364579b691c79412c6834e2d63a5a3b8896be945bf96cc"
    assert (
        built(bytes(range(256)) * 40)[0].content.hex()
        == "e58f422e91ded17ad5885cd442d8134a19076d304e0b2b2bd569218d6464f83b"
    )


def test_an_empty_blob_and_one_of_a_single_chunk_need_no_nodes() -> None:
    empty, nodes = built(b"")
    assert (empty.chunks, empty.levels, empty.pages, empty.tree_bytes, nodes) == (0, 0, 0, 0, b"")
    short, nodes = built(b"x")
    assert (short.chunks, short.levels, short.pages, nodes) == (1, 0, 1, b"")
    assert short.top == hashlib.sha256(b"x").digest()
    assert short.hash_at(0, 0) is None


def test_a_tebibyte_has_a_manifest_of_a_few_bytes_and_nodes_of_32_kib() -> None:
    tebibyte = Manifest(1 << 40, CHUNK_BYTES, bytes(32))
    assert len(tebibyte.packed) < MANIFEST_BYTES_MAX
    assert tebibyte.counts == (1 << 20, 1024, 1)
    assert max(tebibyte.node_size_bytes(level, 0) for level in (1, 2)) == NODE_BYTES_MAX == 32 << 10
    assert tebibyte.tree_bytes == 32 * ((1 << 20) + 1024)


@given(st.integers(0, 3 * FANOUT * FANOUT), st.data())
def test_every_hash_stands_in_the_node_above_it(chunks: int, data: st.DataObject) -> None:
    manifest = Manifest(chunks * 4096, 4096, bytes(32))
    assert manifest.chunks == chunks
    ends = [manifest.node_at(level, 0) for level in range(1, manifest.levels + 1)]
    assert ends == sorted(set(ends))
    if not manifest.levels:
        return
    level = data.draw(st.integers(0, manifest.levels - 1))
    index = data.draw(st.integers(0, manifest.counts[level] - 1))
    node = manifest.node_at(level + 1, index // FANOUT)
    assert manifest.hash_at(level, index) == node + HASH_BYTES * (index % FANOUT)
    assert HASH_BYTES * (index % FANOUT) < manifest.node_size_bytes(level + 1, index // FANOUT)


def test_the_tree_of_many_chunks_hashes_up_to_its_top() -> None:
    data = bytes(4096 * (FANOUT + 3))
    manifest, nodes = built(data)
    assert manifest.counts == (FANOUT + 3, 2, 1)
    assert len(nodes) == manifest.tree_bytes
    for level in (1, 2):
        for index in range(manifest.counts[level]):
            at = manifest.node_at(level, index)
            digest = hashlib.sha256(nodes[at : at + manifest.node_size_bytes(level, index)]).digest()
            above = manifest.hash_at(level, index)
            assert digest == (manifest.top if above is None else nodes[above : above + HASH_BYTES])


def test_a_manifest_is_read_back_and_nothing_else_passes_for_it() -> None:
    manifest, _ = built(b"x" * 10_000)
    assert read_manifest(manifest.packed, manifest.content) == manifest
    for data in (manifest.packed[:-1], manifest.packed + b"\0", b"", bytes(300)):
        with pytest.raises(DecodeError):
            read_manifest(data, manifest.content)


@pytest.mark.parametrize(
    "fields",
    [
        ["prime-blob-2", 1, 4096, bytes(32)],
        ["prime-blob-1", -1, 4096, bytes(32)],
        ["prime-blob-1", 1, 1, bytes(32)],  # a thousand million chunks of a byte
        ["prime-blob-1", 1, 1 << 40, bytes(32)],  # a chunk that no memory holds
        ["prime-blob-1", 1 << 60, 4096, bytes(32)],
        ["prime-blob-1", 1, 4096, bytes(31)],
        ["prime-blob-1", True, 4096, bytes(32)],
        ["prime-blob-1", 1, 4096],
        {"size": 1},
    ],
)
def test_a_manifest_that_cannot_be_is_refused_though_its_hash_is_right(fields: object) -> None:
    data = dumps(fields)
    with pytest.raises(DecodeError):
        read_manifest(data, ContentId(hashlib.sha256(data).digest()))
