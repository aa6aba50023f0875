"""`/prime/kad/1`: a program without Prime's links asks the DHT over a stream, and what it may not do.

To add a golden message, declare it in `VECTORS` and run `python tests/dht/test_kad.py > spec/vectors/v1/prime-kad.json`; the
file's difference must then hold added lines only.
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
import trio

import prime
from prime.actor.system import System
from prime.dht import messages as m
from prime.dht.contact import make_contact, read_contact
from prime.dht.dht import Dht, open_dht
from prime.dht.ipfs.kad import PATHS, PROTOCOL, Failure, ask, pack_answer, pack_request, read_answer, read_request
from prime.dht.ipfs.protobuf import read_varint
from prime.dht.key import key_of_peer, to_bytes
from prime.dht.record import make_record, read_record
from prime.dht.settings import PRESETS
from prime.errors import DecodeError, UnreachableError
from prime.transport.admission import Admission
from prime.transport.contract import Channel
from prime.transport.identity import KeyPair
from prime.transport.libp2p import Libp2p
from prime.wire import Ask, dumps

COMMITTED = Path(__file__).parents[2] / "spec" / "vectors" / "v1" / "prime-kad.json"
ALICE = KeyPair.from_seed(bytes(32))
CONTACT = make_contact(ALICE, ("/ip4/192.0.2.1/tcp/4001",), 1_796_000_000_000).sealed
RECORD = make_record(ALICE, b"value", salt=b"salt", seq=1, created_ms=1_796_000_000_000, ttl_s=3600).sealed
KEY = to_bytes(key_of_peer(ALICE.peer))

VECTORS: dict[str, tuple[Ask[Any], Any]] = {
    "find peers": (m.FindPeers(KEY, None), m.PeersFound((CONTACT,))),
    "introduce": (m.Introduce(CONTACT), CONTACT),
    "get record": (m.GetRecord(KEY, None), m.RecordFound(RECORD, ())),
    "get nothing": (m.GetRecord(KEY, CONTACT), m.RecordFound(None, (CONTACT,))),
    "store record": (m.StoreRecord(RECORD), m.RecordStored("stored")),
    "store refused": (m.StoreRecord(RECORD), m.RecordStored("refused", "the store is full")),
    "find providers": (m.FindProviders(KEY, None), m.ProvidersFound((CONTACT,), ())),
    "provide": (m.Provide(KEY, CONTACT, 3600), None),
    "failure": (m.GetRecord(KEY, None), Failure("RefusedError", "too many requests", "ask more slowly")),
}


def bare(data: bytes) -> bytes:
    size, at = read_varint(data, 0)
    assert size == len(data) - at
    return data[at:]


def written() -> dict[str, dict[str, str]]:
    return {
        name: {"request": pack_request(request).hex(), "answer": pack_answer(request, value).hex()}
        for name, (request, value) in VECTORS.items()
    }


def test_the_bytes_are_the_golden_ones_and_are_read_back() -> None:
    assert written() == json.loads(COMMITTED.read_text(encoding="utf-8"))
    for request, value in VECTORS.values():
        assert read_request(bare(pack_request(request))) == request
        assert read_answer(request, bare(pack_answer(request, value))) == value


def test_every_request_of_the_dht_has_its_actor_and_a_vector() -> None:
    assert {type(request) for request, _ in VECTORS.values()} == set(PATHS)


@pytest.mark.parametrize(
    "data",
    [b"", b"\x80", dumps([0x7F01]), dumps([0x001, 1]), dumps([0x300]), dumps([0x300, b"short", None]), b"\x00" * 9],
    ids=bytes.hex,
)
def test_what_is_no_request_is_refused(data: bytes) -> None:
    with pytest.raises(DecodeError):
        read_request(data)


@pytest.mark.parametrize("answer", [[], [2, None], [0], [1, "x"], [0, 7], "text"], ids=str)
def test_what_is_no_answer_is_refused(answer: Any) -> None:
    with pytest.raises(DecodeError):
        read_answer(m.FindPeers(KEY, None), dumps(answer))


# ---- over streams

pytest.importorskip("libp2p")


@asynccontextmanager
async def node(**options: Any) -> AsyncIterator[tuple[System, Dht]]:
    key = KeyPair.generate()
    async with (
        prime.open_system(transport=Libp2p(), key=key, **options) as system,
        open_dht(system, key, settings=PRESETS["lan"]) as dht,
    ):
        yield system, dht


@asynccontextmanager
async def stranger(system: System, key: KeyPair = ALICE) -> AsyncIterator[Channel]:
    """A stream of a program that has a libp2p connection, and no link."""
    with trio.fail_after(20):
        async with Libp2p().open(key) as endpoint:
            yield await endpoint.open_stream(PROTOCOL, system.peer, system.addresses)  # type: ignore[arg-type]


def now_ms() -> int:
    return int(time.time() * 1000)


async def test_a_program_without_links_puts_and_gets_and_provides() -> None:
    record = make_record(ALICE, b"v", salt=b"", seq=0, created_ms=now_ms(), ttl_s=60)
    key = to_bytes(record.key)
    async with node() as (system, dht), stranger(system) as channel:
        assert await ask(channel, m.StoreRecord(record.sealed), 5) == m.RecordStored("stored")
        assert (await dht.get(record.key)).value == b"v"
        found = await ask(channel, m.GetRecord(key, None), 5)
        assert read_record(found.record).value == b"v"
        introduced = read_contact(await ask(channel, m.Introduce(None), 5))
        assert (introduced.peer, introduced.addresses) == (system.peer, system.addresses)
        own = make_contact(ALICE, ("/ip4/127.0.0.1/tcp/4001",), now_ms())
        assert await ask(channel, m.Provide(key, own.sealed, 60), 5) is None
        assert [each.peer for each in await dht.find_providers(record.key)] == [ALICE.peer]
        providers = await ask(channel, m.FindProviders(key, None), 5)
        assert providers.providers == ()  # it knows itself
        assert await ask(channel, m.FindPeers(key, None), 5) == m.PeersFound(())


async def test_a_refusal_is_named_and_the_stream_lives_on() -> None:
    other = make_contact(KeyPair.generate(), ("/ip4/127.0.0.1/tcp/4001",), now_ms())
    async with node() as (system, _), stranger(system) as channel:
        refused = await ask(channel, m.Provide(KEY, other.sealed, 60), 5)
        assert isinstance(refused, Failure)
        assert refused.name == "RefusedError"
        assert (await ask(channel, m.GetRecord(KEY, None), 5)).record is None


@pytest.mark.parametrize(
    "data", [b"\xff\xff\xff\x7f", b"\x80\x80\x80\x80\x01", b"\x02\x81", b"\x01\x00", b"\x03\x82\x19\x7f"], ids=bytes.hex
)
async def test_bytes_that_are_no_request_reset_the_stream_alone(data: bytes) -> None:
    async with node() as (system, dht), stranger(system) as channel:
        await channel.send(data)
        await channel.send_eof()
        with pytest.raises(anyio.BrokenResourceError):
            await channel.receive()
        assert dht.status().refused == 0
        async with stranger(system, KeyPair.generate()) as another:
            assert (await ask(another, m.GetRecord(KEY, None), 5)).record is None


async def test_who_may_not_link_may_not_ask() -> None:
    async with node(admission=Admission(deny=[ALICE.peer])) as (system, _):
        async with stranger(system, KeyPair.generate()) as channel:
            assert (await ask(channel, m.GetRecord(KEY, None), 5)).record is None
        with pytest.raises((anyio.BrokenResourceError, anyio.EndOfStream, UnreachableError)):
            async with stranger(system) as channel:
                await ask(channel, m.GetRecord(KEY, None), 5)


async def test_a_client_answers_no_streams() -> None:
    key = KeyPair.generate()
    async with (
        prime.open_system(transport=Libp2p(), key=key) as system,
        open_dht(system, key, settings=PRESETS["lan"], server=False),
    ):
        with pytest.raises(UnreachableError, match=PROTOCOL):
            async with stranger(system):
                pass


if __name__ == "__main__":
    print(json.dumps(written(), indent=1))
