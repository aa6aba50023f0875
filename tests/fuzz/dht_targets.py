"""Hostile bytes for what reads the DHT's streams of libp2p."""

from __future__ import annotations

from prime.dht.ipfs import message as kad
from prime.dht.ipfs.multiaddrs import address_bytes, read_address
from prime.errors import DecodeError
from prime.transport.identity import KeyPair
from tests.fuzz.target import Target, golden

PEER = KeyPair.from_seed(bytes(32)).peer


def kad_message(data: bytes) -> None:
    """Bytes are a message within the limits that is written and read again, or refused."""
    found = kad.read_message(data)
    for nodes in (found.closer, found.providers):
        assert len(nodes) <= kad.NODES_MAX
        assert all(len(node.addresses) <= kad.ADDRESSES_MAX for node in nodes)
        for address in (each for node in nodes for each in node.addresses):
            text = read_address(address, PEER)
            assert text is None or read_address(address_bytes(text) or b"", PEER) == text
    written = kad.pack(found)
    assert kad.read_message(_behind_length(written)) == found


def _behind_length(written: bytes) -> bytes:
    end = next(index for index, byte in enumerate(written) if byte < 0x80) + 1
    return written[end:]


TARGETS = (Target("kad_message", kad_message, (DecodeError,), tuple(map(_behind_length, golden("kad")))),)
