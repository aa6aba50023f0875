"""How a blob is fetched: what its providers are asked. Tags 0x340 to 0x35F."""

from __future__ import annotations

from typing import Annotated

from prime.store.manifest import HASH_BYTES, MANIFEST_BYTES_MAX
from prime.wire import Ask, Payload, Range, Size, message, record

KEEPER_PATH = "/blobs/keeper"

PIECE_S = 30.0
"""How long whoever fetches waits for one piece; who serves drops a request that has waited as long."""

ContentBytes = Annotated[bytes, Size(HASH_BYTES, HASH_BYTES)]
Number = Annotated[int, Range(0, 2**53)]


@record
class BlobDescribed:
    """A blob that is here: its manifest, whose SHA-256 is the content id."""

    manifest: Annotated[bytes, Size(1, MANIFEST_BYTES_MAX)]


@message(tag=0x340)
class DescribeBlob(Ask[BlobDescribed]):
    """Show the manifest of this blob; refused as not found by who does not have it."""

    content: ContentBytes


@record
class BlobNode:
    """A node of the tree: hashes of 32 bytes each, one after the other."""

    hashes: Payload


@message(tag=0x341)
class FetchBlobNode(Ask[BlobNode]):
    """Send a node of the tree of this blob, of level 1 (over the chunks) or above."""

    content: ContentBytes
    level: Annotated[int, Range(1, 8)]
    index: Number


@record
class BlobChunk:
    """A chunk, by its place in the blob."""

    data: Payload


@message(tag=0x342)
class FetchBlobChunk(Ask[BlobChunk]):
    """Send a chunk of this blob."""

    content: ContentBytes
    index: Number
