"""Keys as a person writes them."""

from __future__ import annotations

import pytest

from prime.dht.blob.content import key_of_content, text_of
from prime.dht.key import key_of, to_bytes
from prime.dht.name import read_key, read_peer, run_key, salt_of, split_name
from prime.dht.record import mutable_key
from prime.errors import UsageError
from prime.store.manifest import ContentId
from prime.transport.identity import KeyPair

PEER = KeyPair.from_seed(bytes(32)).peer
OTHER = KeyPair.from_seed(bytes([1]) * 32).peer


def test_a_key_in_hex() -> None:
    key = key_of(b"x")
    assert read_key(to_bytes(key).hex()) == key
    assert read_key(to_bytes(key).hex().upper()) == key


def test_a_name_is_that_of_its_peer() -> None:
    assert read_key(f"{PEER}/model") == mutable_key(PEER, b"name:model")
    assert read_key(f"{OTHER}/model", PEER) == mutable_key(OTHER, b"name:model")
    assert read_key("model", PEER) == mutable_key(PEER, b"name:model")
    assert split_name(f"{PEER}/model") == (PEER, "model")
    assert split_name("model") == (None, "model")


def test_a_peer_alone_is_no_key() -> None:
    with pytest.raises(UsageError, match="is a peer") as caught:
        read_key(PEER, OTHER)
    assert "prime dht find" in caught.value.hint


def test_a_run_is_found_by_its_name() -> None:
    assert read_key("run:main") == run_key("main") == key_of(b"run:main")


def test_a_name_alone_needs_a_node() -> None:
    with pytest.raises(UsageError, match="whose name") as caught:
        read_key("model")
    assert "PEER/NAME" in caught.value.hint


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/",
        f"{PEER}/",
        "/x",
        "nobody/model",
        f"{PEER}/a:b",
        f"{PEER}/a/b",
        "a\nb",
        "x" * 60,
        "é" * 30,
        "run:",
        "\udcff",
    ],
)
def test_what_names_no_key_is_refused(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        read_key(text, PEER)
    assert caught.value.hint


def test_the_longest_name() -> None:
    assert salt_of("x" * 59) == b"name:" + b"x" * 59


def test_a_peer_by_its_id() -> None:
    assert read_peer(PEER) == PEER
    assert read_peer("model") is None
    assert read_peer(PEER[:-1] + "!") is None


def test_a_content_id_is_the_key_of_its_providers() -> None:
    content = ContentId(bytes(range(32)))
    assert read_key(text_of(content)) == key_of_content(content)
