"""A disk that refuses: whoever asked is told that it was not kept, nothing else fails of it, and no stranger hears of its paths."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import attrs
import pytest
import trio

import prime
from prime.actor import Ref
from prime.dht import messages as m
from prime.dht.archive import open_archive
from prime.dht.backend import Entry, Loaded, Removal
from prime.dht.backends.memory import MemoryBackend
from prime.dht.contact import make_contact
from prime.dht.facts import PeerRefused
from prime.dht.holding import HoldingActor
from prime.dht.key import key_of, to_bytes
from prime.dht.providing import ProvidingActor
from prime.dht.record import make_record
from prime.dht.registers import messages as registers
from prime.dht.registers.answering import RegistersActor
from prime.dht.registers.elector import Prepare
from prime.dht.registers.proposal import Ballot, Call, Register, read_call, signed
from prime.errors import RefusedError, WorldError
from tests.dht.swarm import LAN, WALL_S, Node, key_pair, open_nodes

NOW_MS = int(WALL_S * 1000)
PATH = "/home/somebody/dht.sqlite"


class FullDisk(MemoryBackend):
    """Takes nothing once it is full."""

    is_full = False

    async def write(self, changes: Sequence[Entry | Removal]) -> None:
        if self.is_full:
            await trio.lowlevel.checkpoint()
            raise WorldError(f"{PATH}: the disk is full", hint="free some")
        await super().write(changes)


@asynccontextmanager
async def one_with_a_full_disk() -> AsyncIterator[tuple[Node, prime.System]]:
    """Open a node whose disk is full, and a stranger that is linked with it."""
    memory, disk = prime.Memory(), FullDisk()
    async with (
        open_nodes(1, transport=lambda _: memory, backend=lambda _: disk) as (node,),
        prime.open_system(transport=memory, key=key_pair(66)) as stranger,
    ):
        stranger.learn(node.dht.peer, node.system.addresses)
        disk.is_full = True
        yield node, stranger


def called(number: int) -> bytes:
    """Return a call for a register that nobody has heard of."""
    key = key_pair(66)
    draft = Call(Register(key.peer, b"%d" % number), Ballot(0, 1, bytes(8)), b"", b"")
    return signed(key, draft).sealed


async def test_an_elector_whose_disk_is_full_refuses_and_does_not_fail(autojump_clock: trio.abc.Clock) -> None:
    async with one_with_a_full_disk() as (node, stranger):
        elector: Ref[Any] = stranger.ref(node.dht.peer, registers.REGISTERS_PATH, RegistersActor)
        for number in range(80):
            with pytest.raises(RefusedError, match="disk"):
                await elector.ask(registers.PrepareRegister(called(number), None), timeout=5)
        told = next(fact.reason for fact in node.facts if isinstance(fact, PeerRefused))
        assert told == f"its disk: {PATH}: the disk is full"


async def test_no_stranger_hears_where_the_disk_is(autojump_clock: trio.abc.Clock) -> None:
    async with one_with_a_full_disk() as (node, stranger):
        record = make_record(key_pair(7), b"x", salt=b"s", seq=1, created_ms=NOW_MS, ttl_s=60)
        keeps: Ref[Any] = stranger.ref(node.dht.peer, m.RECORDS_PATH, HoldingActor)
        answer = await keeps.ask(m.StoreRecord(record.sealed), timeout=5)
        assert (answer.outcome, PATH in answer.why) == ("refused", False)
        card = make_contact(key_pair(66), stranger.addresses, NOW_MS).sealed
        names: Ref[Any] = stranger.ref(node.dht.peer, m.PROVIDERS_PATH, ProvidingActor)
        with pytest.raises(RefusedError) as caught:
            await names.ask(m.Provide(to_bytes(key_of(b"x")), card, 60), timeout=5)
        assert PATH not in str(caught.value)


async def test_a_peer_is_not_missed_because_the_own_disk_is_full(autojump_clock: trio.abc.Clock) -> None:
    disk = FullDisk()
    async with open_nodes(2, backend=lambda number: None if number else disk) as (node, other):
        for seq, holder in ((1, node), (2, other)):
            record = make_record(key_pair(7), b"x", salt=b"s", seq=seq, created_ms=NOW_MS, ttl_s=60)
            await holder.dht._archive.hold([(record, "group")], NOW_MS)
        disk.is_full = True
        holding = node.dht._peering.holding.cell.life.actor  # type: ignore[union-attr]
        await holding._hand(record.key, other.dht.contact)
        await trio.sleep(1)
        assert node.dht.table.live == 1
        disk.is_full = False
        await holding._hand(record.key, other.dht.contact)
        held = node.dht.held(record.key)
        assert held is not None
        assert held.seq == 2


async def test_nobody_is_shown_what_is_not_on_the_disk(autojump_clock: trio.abc.Clock) -> None:
    async with one_with_a_full_disk() as (node, stranger):
        record = make_record(key_pair(7), b"x", salt=b"s", seq=1, created_ms=NOW_MS, ttl_s=60)
        keeps: Ref[Any] = stranger.ref(node.dht.peer, m.RECORDS_PATH, HoldingActor)
        assert (await keeps.ask(m.StoreRecord(record.sealed), timeout=5)).outcome == "refused"
        assert (await keeps.ask(m.GetRecord(to_bytes(record.key), None), timeout=5)).record is None
        card = make_contact(key_pair(66), stranger.addresses, NOW_MS).sealed
        names: Ref[Any] = stranger.ref(node.dht.peer, m.PROVIDERS_PATH, ProvidingActor)
        with pytest.raises(RefusedError):
            await names.ask(m.Provide(to_bytes(key_of(b"x")), card, 60), timeout=5)
        assert (await names.ask(m.FindProviders(to_bytes(key_of(b"x")), None), timeout=5)).providers == ()
        node.backend.is_full = False
        assert (await keeps.ask(m.StoreRecord(record.sealed), timeout=5)).outcome == "stored"
        assert (await keeps.ask(m.GetRecord(to_bytes(record.key), None), timeout=5)).record == record.sealed


class Damaged(MemoryBackend):
    """Says, when it is opened, that something in it is damaged, or that writes were lost."""

    damaged: tuple[Removal, ...] = ()
    lost_writes = 0

    async def open(self) -> Loaded:
        loaded = await super().open()
        return attrs.evolve(loaded, damaged=self.damaged, lost_writes=self.lost_writes)


@pytest.mark.parametrize("lost_writes", [0, 1])
async def test_an_elector_whose_store_was_damaged_votes_as_another(
    lost_writes: int, autojump_clock: trio.abc.Clock
) -> None:
    peer, disk = key_pair(1).peer, Damaged()
    async with open_archive(peer, LAN, disk) as archive:
        await archive.vote(Prepare(read_call(called(1))), NOW_MS)
        seat = archive.elector.seat
    async with open_archive(peer, LAN, disk) as archive:
        assert (archive.elector.seat, len(archive.elector.standings)) == (seat, 1)
    disk.lost_writes, disk.damaged = lost_writes, () if lost_writes else (Removal("record", bytes(32)),)
    async with open_archive(peer, LAN, disk) as archive:
        assert archive.elector.seat.store != seat.store
        assert archive.elector.standings == ()
