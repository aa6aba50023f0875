"""All that a node keeps for the DHT, outside of the actors that use it: shelf, providers, publications; behind them its store.

An actor that ends, at whichever await, loses nothing of it. A change is planned, written and committed with no other in
between, so that whoever has its answer finds it on the disk.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Final, Protocol, TypeVar

import trio

from prime.actor.contract import PeerId
from prime.dht import key as keys
from prime.dht import providers as provisions
from prime.dht import publications as published
from prime.dht import row as rows
from prime.dht.backend import Backend, Entry, Loaded, Removal
from prime.dht.contact import Contact
from prime.dht.key import Key, key_of_peer
from prime.dht.providers import Offer, Providers, ProvisionPlan, read_provider, read_provision
from prime.dht.publications import Provided, Publication, Publications, read_publication
from prime.dht.record import Record
from prime.dht.registers import elector as el
from prime.dht.registers import standing as standings
from prime.dht.registers.elector import Elector, Question
from prime.dht.registers.proposal import STORE_BYTES, Register, Seat
from prime.dht.registers.standing import Restored, standing_entry, standing_removal, tended_entry
from prime.dht.row import read_row
from prime.dht.settings import DhtSettings
from prime.dht.shelf import Plan, Shelf
from prime.errors import DecodeError

ENDED_S: Final = 24 * 3600.0
"""How long a register must have been seen to have ended before it is forgotten, whatever the time of day."""
READ_AT_ONCE: Final = 64
"""Entries of a store that are read before others may run."""
CLOSE_S: Final = 5.0
"""The longest that closing the store may take."""

T = TypeVar("T")


class _Plan(Protocol):
    @property
    def writes(self) -> tuple[Entry | Removal, ...]: ...


P = TypeVar("P", bound=_Plan)


class Archive:
    """What one node keeps. Make one with `open_archive`. What changes it raises `WorldError` where the disk refuses."""

    def __init__(self, peer: PeerId, settings: DhtSettings, backend: Backend) -> None:
        own = key_of_peer(peer)
        self.peer = peer
        self.shelf = Shelf(own, settings)
        self.providers = Providers(own, settings)
        self.publications = Publications(settings)
        self.elector = Elector(Seat(peer, b""))
        """This node's votes on registers."""
        self.tended: dict[Register, None] = {}
        """Registers of this node's own that it keeps alive."""
        self.damaged: list[Removal] = []
        """What was in the store and could not be used: other nodes have it."""
        self.lost_writes = 0
        """How many writes the store had lost; see `Loaded`."""
        self.unsure: list[Key] = []
        """Keys of which other nodes may have more than this one: the damaged ones, and all, where writes were lost."""
        self._ended: dict[Register, float] = {}  # when a register was first seen to have ended
        self._backend = backend
        self._turn = trio.Lock()

    async def hold(self, offers: Sequence[tuple[Record, str]], now_ms: int) -> Plan:
        """Keep records that came from somebody of an IP group; the answers in the plan are true on the disk."""
        return await self._change(lambda: self.shelf.hold_all(offers, now_ms), self.shelf.commit)

    async def drop(self, record: Record, now_ms: int) -> None:
        """Keep a record no longer, unless another version has taken its place."""
        shelf, key = self.shelf, record.key
        await self._change(lambda: shelf.drop([key] if shelf.get(key, now_ms) == record else []), shelf.commit)

    async def provide(self, offers: Sequence[Offer], now_ms: int) -> ProvisionPlan:
        """Remember what peers say that they have; the answers in the plan are true on the disk."""
        return await self._change(lambda: self.providers.hold_all(offers, now_ms), self.providers.commit)

    async def publish(self, *changes: Publication) -> None:
        """Keep alive what this node publishes, or no longer."""
        async with self._turn:
            await self._write([change.entry() for change in changes])
            for change in changes:
                self.publications.commit(change)

    async def vote(self, question: Question, now_ms: int) -> tuple[el.Command, ...]:
        """Vote on a register; what is answered is on the disk. Who has accepted something provides its key, so that it is found."""
        async with self._turn:
            commands = self.elector.step(question, now_ms)
            for kept in (command for command in commands if isinstance(command, el.Keep)):
                key = kept.standing.register.key
                is_said = kept.standing.accepted is None or self.publications.provides(key)
                found = () if is_said else (Provided(key, 0),)
                await self._write([standing_entry(kept.standing), *(each.entry() for each in found)])
                self.elector.step(el.Kept(kept.standing), now_ms)
                for each in found:
                    self.publications.commit(each)
        return commands

    async def tend(self, register: Register) -> None:
        """Keep a register of this node's own alive from now on."""
        async with self._turn:
            if register not in self.tended:
                await self._write([tended_entry(register)])
                self.tended[register] = None

    async def sweep(self, now_ms: int) -> list[Plan]:
        """Forget what is over; return what that was of the shelf."""
        await self._forget(self._long_ended(now_ms))
        shelf, providers, swept = self.shelf, self.providers, list[Plan]()
        while shelf.due_ms is not None and shelf.due_ms <= now_ms:
            swept.append(await self._change(lambda: shelf.sweep(now_ms), shelf.commit))
        while providers.due_ms is not None and providers.due_ms <= now_ms:
            await self._change(lambda: providers.sweep(now_ms), providers.commit)
        return swept

    def _long_ended(self, now_ms: int) -> list[Register]:
        """Return the registers to forget: those that have ended by every look of a day, as clocks jump and are set right.

        An elector that forgot what it promised, and votes again, would break what its quorum decided.
        """
        now = trio.current_time()
        self._ended = {register: self._ended.get(register, now) for register in self.elector.ended(now_ms)}
        return [register for register, since in self._ended.items() if now - since >= ENDED_S]

    async def _forget(self, registers: Sequence[Register]) -> None:
        """Forget registers that ended long ago."""
        async with self._turn:
            gone = [Provided(register.key, None) for register in registers]
            await self._write([*map(standing_removal, registers), *(each.entry() for each in gone)])
            self.elector.forget(registers)
            for each in gone:
                self.publications.commit(each)

    async def restore(self, loaded: Loaded) -> None:
        """Take in what was in the store; what cannot be used is removed from it."""
        taken = _Taken()
        self.damaged = list(loaded.damaged)
        for number, entry in enumerate(loaded.entries):
            if (bad := taken.take(entry)) is not None:
                self.damaged.append(bad)
            if number % READ_AT_ONCE == 0:  # each has a signature to check, and there may be a hundred thousand
                await trio.lowlevel.checkpoint()
        self.lost_writes = loaded.lost_writes
        fits = self.shelf.restore(taken.rows)
        known = self.providers.restore(taken.provisions, taken.contacts)
        self.publications.restore(taken.publications)
        self.tended = {Register(self.peer, salt): None for salt in taken.tended}
        taken.registers.is_damaged = bool(self.damaged or loaded.lost_writes)
        self.elector, named = taken.registers.elector(self.peer)
        await self._write([*self.damaged, *fits.writes, *known.writes, *named])
        self.shelf.commit(fits)
        self.providers.commit(known)
        self.unsure = [*_keys_of(self.damaged), *(row.key for row in taken.rows if loaded.lost_writes)]

    async def _change(self, plan: Callable[[], P], commit: Callable[[P], None]) -> P:
        async with self._turn:
            made = plan()
            await self._write(made.writes)
            commit(made)
        return made

    async def _write(self, changes: Sequence[Entry | Removal]) -> None:
        if changes:
            await self._backend.write(changes)


def _keys_of(damaged: Sequence[Removal]) -> list[Key]:
    """Return the keys of the records that were damaged; a name may be damaged, too."""
    names = (each.name for each in damaged if each.kind == rows.KIND)
    return [Key(int.from_bytes(name, "big")) for name in names if len(name) == keys.SIZE_BYTES]


class _Taken:
    """What was read from a store, sorted."""

    def __init__(self) -> None:
        self.rows: list[rows.Row] = []
        self.provisions: list[provisions.Provision] = []
        self.contacts: list[Contact] = []
        self.publications: list[Publication] = []
        self.tended: list[bytes] = []
        self.registers = Restored(secrets.token_bytes(STORE_BYTES))

    def take(self, entry: Entry) -> Removal | None:
        """Take one entry; return its removal if it cannot be used."""
        try:
            match entry.kind:
                case rows.KIND:
                    self.rows.append(read_row(entry))
                case provisions.KIND:
                    self.provisions.append(read_provision(entry))
                case provisions.CONTACT_KIND:
                    self.contacts.append(read_provider(entry))
                case published.RECORD_KIND | published.KEY_KIND:
                    self.publications.append(read_publication(entry))
                case standings.KIND | standings.STORE_KIND:
                    self.registers.take(entry)
                case standings.TENDED_KIND:
                    self.tended.append(entry.body)
        except DecodeError:
            return Removal(entry.kind, entry.name)
        return None


@asynccontextmanager
async def open_archive(peer: PeerId, settings: DhtSettings, backend: Backend) -> AsyncIterator[Archive]:
    """Read what a store has, and keep it open for the length of the block. Raises as `Backend.open`."""
    loaded = await backend.open()
    try:
        archive = Archive(peer, settings, backend)
        await archive.restore(loaded)
        yield archive
    finally:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + CLOSE_S):
            await backend.aclose()
