"""Content ids as texts, and the keys of their providers."""

from __future__ import annotations

import base64
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prime.dht.blob.content import content_of, is_content, key_of_content, text_of
from prime.errors import UsageError
from prime.store.manifest import ContentId


@given(st.binary(min_size=32, max_size=32))
def test_a_text_names_one_content(digest: bytes) -> None:
    text = text_of(ContentId(digest))
    assert len(text) == 59
    assert text.startswith("bafyrei")
    assert content_of(text) == content_of(text.upper()) == digest


def test_the_text_is_a_cid_of_version_1_in_base32() -> None:
    """An empty dag-cbor map, as the multiformats tools show it."""
    assert text_of(ContentId(hashlib.sha256(b"\xa0").digest())) == (
        "bafyreigbtj4x7ip5legnfznufuopl4sg4knzc2cof6duas4b3q2fy6swua"
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "b",
        "QmYwAPJzv5CZsnA625s3Xf2nemtYgPpHdWEz79ojWnPbdG",  # a CIDv0
        "z" + "1" * 58,
        "b" + base64.b32encode(b"\x01\x55\x12\x20" + bytes(32)).decode().lower().rstrip("="),  # raw: no manifest
        "b" + base64.b32encode(b"\x01\x71\x11\x20" + bytes(32)).decode().lower().rstrip("="),
        "bafyrei" + "1" * 52,
        "bafyrei" + "é" * 52,
        text_of(ContentId(bytes(32)))[:-1] + "b",  # bits that stand for nothing
    ],
)
def test_what_names_no_blob_is_refused(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        content_of(text)
    assert caught.value.hint
    assert not is_content(text)


def test_the_key_is_that_of_the_multihash() -> None:
    digest = bytes(range(32))
    wanted = hashlib.sha256(b"\x12\x20" + digest).digest()
    assert key_of_content(ContentId(digest)) == int.from_bytes(wanted, "big")
