"""Addresses as text."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prime.errors import ConfigError
from prime.transport.identity import KeyPair
from prime.transport.multiaddr import (
    Address,
    CircuitPlace,
    LayeredPlace,
    MemoryPlace,
    TcpPlace,
    UnixPlace,
    parse_address,
)

PEER = KeyPair.from_seed(bytes(32)).peer


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("/ip4/127.0.0.1/tcp/0", TcpPlace("ip4", "127.0.0.1", 0)),
        ("/ip6/::1/tcp/65535", TcpPlace("ip6", "::1", 65535)),
        ("/dns4/example.org/tcp/4001", TcpPlace("dns4", "example.org", 4001)),
        ("/dns/localhost/tcp/1", TcpPlace("dns", "localhost", 1)),
        ("/ip4/127.0.0.1/tcp/443/tls/ws", LayeredPlace("ip4", "127.0.0.1", "tcp", 443, ("tls", "ws"))),
        ("/dns6/example.org/udp/1/quic-v1", LayeredPlace("dns6", "example.org", "udp", 1, ("quic-v1",))),
        ("/unix/run/a b/node.sock", UnixPlace("/run/a b/node.sock")),
        ("/unix/p2p/run/x", UnixPlace("/p2p/run/x")),
        ("/memory/alice", MemoryPlace("alice")),
        (f"/memory/r/p2p/{PEER}/p2p-circuit", CircuitPlace(Address(MemoryPlace("r"), PEER))),
        (f"/ip4/192.0.2.1/tcp/4/p2p/{PEER}/p2p-circuit", CircuitPlace(Address(TcpPlace("ip4", "192.0.2.1", 4), PEER))),
    ],
)
def test_places(text: str, place: object) -> None:
    assert parse_address(text) == Address(place)
    assert parse_address(f"{text}/p2p/{PEER}") == Address(place, PEER)
    assert str(parse_address(f"{text}/p2p/{PEER}")) == f"{text}/p2p/{PEER}"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/",
        "127.0.0.1:4001",
        "/ip4/127.0.0.1",
        "/ip4/127.0.0.1/udp/4001",
        "/ip4/127.0.0.1/sctp/4001/ws",
        "/ip4/127.0.0.1/tcp/4001/",
        "/ip4/127.0.0.1/tcp/4001//ws",
        "/ip4/127.0.0.1/tcp/4001/WS",
        "/ip4/127.0.0.1/tcp/65536/ws",
        f"/ip4/127.0.0.1/tcp/4001/{'w' * 33}",
        "/ip4/127.0.0.1/tcp/65536",
        "/ip4/127.0.0.1/tcp/-1",
        "/ip4/127.0.0.1/tcp/٤",
        "/ip4/127.0.0.1/tcp/",
        "/ip4/127.0.0.256/tcp/1",
        "/ip4/::1/tcp/1",
        "/ip6/127.0.0.1/tcp/1",
        "/dns4/-bad-/tcp/1",
        "/dns4/a..b/tcp/1",
        "/unix/",
        "/unix/folder/",
        "/memory/",
        "/memory/a b",
        "/quic/1",
        f"/p2p/{PEER}",
        f"/ip4/127.0.0.1/tcp/1/p2p/{PEER[:-1]}",
        "/ip4/127.0.0.1/tcp/1/p2p/",
        "/unix/a\nb",
        "/unix/run/p2p/mistyped",
        "/memory/r/p2p-circuit",
        f"/p2p-circuit/p2p/{PEER}",
        f"/memory/r/p2p/{PEER}/p2p-circuit/p2p/{PEER}/p2p-circuit",
        f"/memory/r/p2p/{PEER[:-1]}/p2p-circuit/p2p/{PEER}",
        "/unix/" + "a" * 2000,
    ],
)
def test_other_texts_are_refused_with_the_way_to_write_them(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_address(text)
    assert caught.value.hint


@given(st.text(max_size=100))
def test_any_text_is_an_address_or_a_clear_error(text: str) -> None:
    for each in (text, "/" + text, "/ip4/" + text, "/unix/" + text, f"/memory/x/p2p/{text}"):
        with suppress(ConfigError):
            assert parse_address(str(parse_address(each))) == parse_address(each)


def test_expecting_a_peer() -> None:
    other = KeyPair.generate().peer
    bare = parse_address("/memory/alice")
    assert bare.expecting(None) == bare
    assert bare.expecting(PEER).peer == PEER
    assert bare.expecting(PEER).expecting(None).peer == PEER
    with pytest.raises(ConfigError, match="another peer"):
        bare.expecting(PEER).expecting(other)
