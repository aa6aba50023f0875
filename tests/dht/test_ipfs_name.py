"""How a person names what is in libp2p's DHT."""

from __future__ import annotations

import base64
import hashlib

import pytest

from prime.dht.ipfs.name import is_ipfs, read_multihash, read_value_key, words_of
from prime.errors import UsageError
from prime.transport.identity import KeyPair
from prime.transport.peer import peer_bytes

PEER = KeyPair.from_seed(bytes(32)).peer
MULTIHASH = b"\x12\x20" + hashlib.sha256(b"hello\n").digest()
V1 = b"\x01\x55" + MULTIHASH


def test_content_is_named_by_its_cid_of_either_version_or_its_multihash() -> None:
    cid = "b" + base64.b32encode(V1).decode().lower().rstrip("=")
    assert cid == "bafkreicysg23kiwv34eg2d7qweipxwosdo2py4ldv42nbauguluen5v6am"  # of `echo hello`
    for text in (cid, f"f{V1.hex()}", MULTIHASH.hex()):
        assert is_ipfs(f"ipfs:{text}")
        assert read_multihash(f"ipfs:{text}") == MULTIHASH
    # The CIDs of an empty folder in IPFS, as its documents have it.
    zero = read_multihash("ipfs:QmUNLLsPACCz1vLxQVkXqqLX5R1X345qqfHbsf67hvA3Nn")
    assert (zero[:2], len(zero)) == (b"\x12\x20", 34)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "b",
        "bafk",
        "b!!!!",
        "Qm",
        "QmUNLLsPACCz1vLxQVkXqqLX5R1X345qqfHbsf67hvA3N0",
        "f00",
        "fzz",
        "z1",
        "12",
        PEER[:-1],
        "/pk/x",
    ],
)
def test_what_names_no_content_is_named_with_what_would(text: str) -> None:
    with pytest.raises(UsageError, match="no content") as caught:
        read_multihash(f"ipfs:{text}")
    assert "CID" in caught.value.hint


def test_values_are_named_by_their_keys() -> None:
    assert read_value_key(f"ipfs:/pk/{PEER}") == b"/pk/" + peer_bytes(PEER)
    assert read_value_key("ipfs:/prime/00ff") == b"/prime/00ff"


@pytest.mark.parametrize("text", ["", "pk", "/pk", "/pk/", "/pk/0OIl", f"/pk/{PEER}/x"])
def test_what_is_no_key_of_a_value_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        read_value_key(f"ipfs:{text}")


@pytest.mark.parametrize("text", [f"/pk/{PEER}", "/prime/00ff", "/mine/grüße"])
def test_a_key_of_a_value_is_told_as_it_is_written(text: str) -> None:
    assert words_of(read_value_key(f"ipfs:{text}")) == text


@pytest.mark.parametrize("key", [b"/pk/" + bytes(4), b"/mine/\x1b[2J"])
def test_a_key_that_is_no_text_commands_no_terminal(key: bytes) -> None:
    assert words_of(key).isprintable()
