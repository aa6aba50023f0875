"""Hostile bytes for what reads the DHT's streams of libp2p."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import attrs

from prime.dht import messages
from prime.dht.ipfs import kad as kad1
from prime.dht.ipfs import message as kad
from prime.dht.ipfs.desk import Asker, Desk
from prime.dht.ipfs.multiaddrs import address_bytes, read_address
from prime.dht.ipfs.namespaces import Namespaces
from prime.dht.ipfs.nodes import hearsay
from prime.dht.settings import PRESETS
from prime.errors import DecodeError, RefusedError
from prime.transport.identity import KeyPair
from tests.fuzz.target import Script, Target, golden, vectors

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


# ------------------------------------------------------------------------------------------------ what a node answers

SETTINGS = attrs.evolve(PRESETS["swarm"], k=4, replicas=4, group_records_max=3, store_bytes_max=4000)
SEEN_AT = ("/ip4/127.0.0.1/tcp/1", "/ip4/192.168.1.1/tcp/1", "/ip4/51.0.0.1/tcp/1", "")
NOW_MS = 1_796_000_000_000
PEERS = tuple(KeyPair.from_seed(bytes([n]) * 32).peer for n in range(1, 5))


def kad_desk(data: bytes) -> None:
    """Requests of several peers, one after another, are answered within the limits, or refused; quotas hold throughout."""
    script = Script(data)
    desk = Desk(PEER, SETTINGS, Namespaces({"app": Anything()}), lambda: [f"/ip4/51.0.0.9/tcp/1/p2p/{PEER}"], 0.0)
    now_ms = NOW_MS
    while script:
        peer, seen_at = PEERS[script.byte() % 4], SEEN_AT[script.byte() % 4]
        now_ms += 1000 * script.number() % 2**40
        desk.note(hearsay(peer, [f"{place}/p2p/{peer}" for place in SEEN_AT if place], seen_at, now_ms))
        with contextlib.suppress(RefusedError, DecodeError):
            answer = desk.answer(Asker(peer, seen_at), kad.read_message(script.take(script.byte())), now_ms)
            assert answer is None or len(kad.pack(answer)) < kad.ANSWER_BYTES_MAX
            assert answer is None or len(answer.closer) <= SETTINGS.k >= len(answer.providers)
        desk.sweep(now_ms)
        assert desk.values.size_bytes <= SETTINGS.store_bytes_max
        assert len(desk.values) <= 3 * len(PEERS)
        assert len(desk.providers) <= 3 * len(PEERS)


class Anything:
    """A namespace that takes what it is given, and prefers the greater."""

    def validate(self, key: bytes, value: bytes, now_ms: int) -> None:
        """Take it."""

    def select(self, key: bytes, values: Sequence[bytes]) -> int:
        """Prefer the greatest."""
        return values.index(max(values))


def _desk_seeds() -> tuple[bytes, ...]:
    requests = [data for data in map(_behind_length, golden("kad")) if len(data) < 256]
    one_by_one = tuple(bytes([n % 4, n % 4, 1, len(data)]) + data for n, data in enumerate(requests))
    return (*one_by_one, b"".join(one_by_one))


TARGETS = (
    Target("kad_desk", kad_desk, (), _desk_seeds()),
    Target("kad_message", kad_message, (DecodeError,), tuple(map(_behind_length, golden("kad")))),
    Target("prime_kad", prime_kad, (DecodeError,), _prime_kad_seeds()),
)
