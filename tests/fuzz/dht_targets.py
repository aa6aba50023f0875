"""Hostile bytes for what reads the DHT's streams of libp2p."""

from __future__ import annotations

import contextlib

from prime.dht import messages
from prime.dht.ipfs import kad as kad1
from prime.dht.ipfs import message as kad
from prime.dht.ipfs.multiaddrs import address_bytes, read_address
from prime.errors import DecodeError
from prime.transport.identity import KeyPair
from tests.fuzz.target import Target, golden, vectors

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


def prime_kad(data: bytes) -> None:
    """Bytes are a request that is written the same way again, or refused; and an answer to one, or refused."""
    with contextlib.suppress(DecodeError):
        answer = kad1.read_answer(REQUEST, data)
        assert kad1.read_answer(REQUEST, _behind_length(kad1.pack_answer(REQUEST, answer))) == answer
    request = kad1.read_request(data)
    assert kad1.read_request(_behind_length(kad1.pack_request(request))) == request


REQUEST = messages.FindProviders(bytes(32), None)


def _prime_kad_seeds() -> tuple[bytes, ...]:
    return tuple(
        _behind_length(bytes.fromhex(text)) for each in vectors("prime-kad").values() for text in each.values()
    )


TARGETS = (
    Target("kad_message", kad_message, (DecodeError,), tuple(map(_behind_length, golden("kad")))),
    Target("prime_kad", prime_kad, (DecodeError,), _prime_kad_seeds()),
)
