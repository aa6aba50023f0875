"""What a node finds in its store when it starts: all of it, what is left of it, or what others have."""

from __future__ import annotations

import attrs
import pytest
import trio

import prime
from prime.dht.archive import open_archive
from prime.dht.backend import Entry, Loaded, Removal
from prime.dht.backends.memory import MemoryBackend
from prime.dht.facts import StoreDamaged
from prime.dht.record import Record, make_record
from prime.dht.settings import PRESETS, DhtSettings
from prime.dht.shelf import Shelf
from tests.dht.swarm import WALL_S, key_pair, open_node, open_nodes

ANN = key_pair(1)
NOW = int(WALL_S * 1000)


class Damaged(MemoryBackend):
    """A store that says once what damage took."""

    def __init__(self, *damaged: Removal, lost_writes: int = 0) -> None:
        super().__init__()
        self.lost = Loaded((), damaged, lost_writes)

    async def open(self) -> Loaded:
        lost, self.lost = self.lost, Loaded(())
        return attrs.evolve(lost, entries=(await super().open()).entries)


def records(count: int, size_bytes: int = 10) -> list[Record]:
    return [
        make_record(ANN, bytes(size_bytes), salt=b"%d" % n, seq=1, created_ms=NOW, ttl_s=3600) for n in range(count)
    ]


async def filled(backend: MemoryBackend, made: list[Record]) -> None:
    await backend.open()
    await backend.write(
        Shelf(prime.dht.key.key_of_peer(ANN.peer), DhtSettings())
        .hold_all([(each, "10.0") for each in made], NOW)
        .writes
    )


async def test_what_does_not_fit_any_more_is_given_up_in_memory_and_on_the_disk() -> None:
    backend = MemoryBackend()
    await filled(backend, records(20, 1000))
    small = attrs.evolve(PRESETS["swarm"], store_bytes_max=16_000)
    async with open_archive(ANN.peer, small, backend) as archive:
        assert archive.shelf.size_bytes <= 16_000
        held = {record.key for record in archive.shelf.records(NOW)}
        assert 5 <= len(held) < 20
    async with open_archive(ANN.peer, small, backend) as again:
        assert {record.key for record in again.shelf.records(NOW)} == held


async def test_an_entry_that_cannot_be_is_removed_and_the_others_are_used() -> None:
    backend = MemoryBackend()
    await filled(backend, records(2))
    await backend.write([Entry("record", bytes(32), b"nonsense"), Entry("provider", b"short", b"\x80")])
    async with open_archive(ANN.peer, PRESETS["lan"], backend) as archive:
        assert len(archive.shelf) == 2
        assert {each.kind for each in archive.damaged} == {"record", "provider"}
        assert archive.unsure == [0]
    async with open_archive(ANN.peer, PRESETS["lan"], backend) as again:
        assert again.damaged == []


async def test_an_elector_whose_store_has_lost_writes_is_another_one() -> None:
    backend = MemoryBackend()
    async with open_archive(ANN.peer, PRESETS["lan"], backend) as archive:
        seat = archive.elector.seat
    async with open_archive(ANN.peer, PRESETS["lan"], backend) as again:
        assert again.elector.seat == seat
    rolled_back = Damaged(lost_writes=1)
    await filled(rolled_back, [])
    rolled_back.lost = Loaded((), (), 1)
    async with open_archive(ANN.peer, PRESETS["lan"], rolled_back) as other:
        assert other.elector.seat != seat


@pytest.mark.parametrize("lost_writes", [0, 3])
async def test_what_the_store_had_lost_comes_back_from_other_nodes(
    autojump_clock: trio.abc.Clock, lost_writes: int
) -> None:
    """A damaged record is fetched; where writes are gone, an earlier version of it is surpassed before anybody asks."""
    memory = prime.Memory()
    async with open_nodes(3, transport=lambda _: memory) as nodes:
        old = await nodes[0].dht.put(b"old", salt=b"salt")
        put = await nodes[0].dht.put(b"value", salt=b"salt")
        name = put.record.key.to_bytes(32, "big")
        backend = Damaged(*([] if lost_writes else [Removal("record", name)]), lost_writes=lost_writes)
        if lost_writes:
            await filled(backend, [old.record])
            backend.lost = Loaded((), (), lost_writes)
        async with open_node(8, memory, nodes[0].system.addresses, backend) as node:
            assert [fact for fact in node.facts if isinstance(fact, StoreDamaged)] == [
                StoreDamaged(0 if lost_writes else 1, lost_writes)
            ]
            await node.dht.joined()
            await trio.sleep(5)
            assert node.dht._archive.shelf.get(put.record.key, NOW) == put.record
            assert node.dht._archive.unsure == []
