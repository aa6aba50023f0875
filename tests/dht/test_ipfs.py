"""Nodes of Prime in the DHT of libp2p: they find each other, values and providers, and refuse what may not be."""

from __future__ import annotations

import hashlib
import time

import pytest
import trio

pytest.importorskip("libp2p")

import prime
from prime.dht.ipfs.ipfs import open_ipfs
from prime.dht.ipfs.namespaces import record_name
from prime.dht.key import key_of_peer
from prime.dht.record import make_record
from prime.errors import ConfigError, ConflictError, NotFoundError, RefusedError, UnreachableError
from prime.transport.identity import KeyPair
from prime.transport.peer import encode_public_key, peer_bytes
from tests.dht.ipfs_nodes import QUICK, known, nodes

KEY = KeyPair.from_seed(bytes(32))


def multihash(data: bytes) -> bytes:
    return b"\x12\x20" + hashlib.sha256(data).digest()


async def test_nodes_find_each_other_through_one() -> None:
    async with nodes(5) as found:
        first, *_, last = found
        contact = await last.ipfs.find_peer(found[2].system.peer)
        assert contact.addresses == found[2].system.addresses
        near = await first.ipfs.closest(peer_bytes(last.system.peer))
        assert near[0].peer == last.system.peer
        wanted = sorted(
            (key_of_peer(each.system.peer) ^ key_of_peer(last.system.peer), each.system.peer) for each in found[1:]
        )
        assert [each.peer for each in near] == [peer for _, peer in wanted]
        with pytest.raises(NotFoundError):
            await first.ipfs.find_peer(KEY.peer)


async def test_a_value_is_put_and_got_and_its_successor_counts() -> None:
    now_ms = int(time.time() * 1000)
    old, new = (
        make_record(KEY, value, salt=b"model", seq=seq, created_ms=now_ms, ttl_s=3600)
        for seq, value in enumerate((b"old", b"new"))
    )
    name = record_name(old.key)
    async with nodes(4) as found:
        put = await found[1].ipfs.put_value(name, old.sealed)
        assert put.asked == 3
        assert len(put.holders) == 3
        assert await found[3].ipfs.get_value(name) == old.sealed
        await found[2].ipfs.put_value(name, new.sealed)
        assert await found[3].ipfs.get_value(name) == new.sealed
        with pytest.raises(ConflictError):
            await found[1].ipfs.put_value(name, old.sealed)
        with pytest.raises(NotFoundError):
            await found[1].ipfs.get_value(record_name(key_of_peer(KEY.peer)))
        with pytest.raises(RefusedError):
            await found[1].ipfs.put_value(name, new.sealed[:-1] + b"x")
        with pytest.raises(RefusedError, match="namespace"):
            await found[1].ipfs.get_value(b"/unknown/x")


async def test_who_holds_nothing_or_an_older_value_is_given_the_best_after_a_read() -> None:
    now_ms = int(time.time() * 1000)
    old, new = (make_record(KEY, b"", salt=b"", seq=seq, created_ms=now_ms, ttl_s=3600) for seq in range(2))
    name = record_name(old.key)
    async with nodes(4) as found:
        found[0].ipfs.desk.values.put(name, new.sealed, "", now_ms)
        found[1].ipfs.desk.values.put(name, old.sealed, "", now_ms)
        assert await found[3].ipfs.get_value(name) == new.sealed
        for each in found[:3]:
            while (held := each.ipfs.desk.values.get(name, now_ms)) is None or held.value != new.sealed:  # noqa: ASYNC110 (it tells nobody)
                await trio.sleep(0.01)


async def test_a_public_key_is_put_and_got() -> None:
    async with nodes(2) as (one, other):
        value = encode_public_key(KEY.public_bytes)
        await one.ipfs.put_value(b"/pk/" + peer_bytes(KEY.peer), value)
        assert await other.ipfs.get_value(b"/pk/" + peer_bytes(KEY.peer)) == value


async def test_providers_are_found_with_their_addresses() -> None:
    async with nodes(4) as found:
        key = multihash(b"a model")
        assert await found[1].ipfs.provide(key) == 3
        assert await found[2].ipfs.provide(key) == 3
        providers = await found[3].ipfs.find_providers(key)
        assert {each.peer: each.addresses for each in providers} == {
            each.system.peer: each.system.addresses for each in found[1:3]
        }
        assert await found[3].ipfs.find_providers(multihash(b"nothing")) == ()


async def test_a_node_that_knows_nobody_says_so() -> None:
    async with nodes(1) as (alone,):
        with pytest.raises(UnreachableError):
            await alone.ipfs.get_value(b"/pk/" + peer_bytes(KEY.peer))
        with pytest.raises(UnreachableError):
            await alone.ipfs.provide(multihash(b"x"))
        assert alone.ipfs.status.contacts == 0


async def test_a_client_uses_the_dht_and_is_in_nobody_s_table() -> None:
    async with nodes(3) as found, prime.open_system(transport=prime.Libp2p()) as system:
        told = found[0].system.addresses[:1]
        async with open_ipfs(system, settings=QUICK, bootstrap=told, server=False) as client:
            await known(client, 3)
            value = encode_public_key(KEY.public_bytes)
            await client.put_value(b"/pk/" + peer_bytes(KEY.peer), value)
            assert await found[1].ipfs.get_value(b"/pk/" + peer_bytes(KEY.peer)) == value
            assert all(system.peer not in each.ipfs.desk.table for each in found)
            assert (await found[0].ipfs.find_peer(system.peer)).addresses == system.addresses


async def test_a_transport_without_streams_of_libp2p_is_named() -> None:
    async with prime.open_system(transport=prime.Tcp()) as system:
        with pytest.raises(ConfigError, match="libp2p"):
            async with open_ipfs(system):
                raise AssertionError
