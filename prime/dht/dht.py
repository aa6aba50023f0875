"""`open_dht`: one call that makes a node part of a DHT, and `Dht`, what a program does with it.

No message waits for a lookup: what is found here are contacts, whose addresses the links are taught, and small values.
"""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

from prime.actor import Restart, System
from prime.actor.contract import PeerId
from prime.dht import discovery
from prime.dht import lookup as core
from prime.dht import messages as m
from prime.dht import name as names
from prime.dht.archive import Archive, open_archive
from prime.dht.backend import Backend
from prime.dht.backends.memory import MemoryBackend
from prime.dht.contact import Contact
from prime.dht.discovery import DiscoveryActor
from prime.dht.facts import StoreDamaged
from prime.dht.holding import HoldingActor
from prime.dht.ipfs.kad import answering_streams
from prime.dht.key import Key, checked, key_of_peer
from prime.dht.looking import Lookups
from prime.dht.peering import Peering
from prime.dht.providing import ProvidingActor
from prime.dht.publishing import Publisher, PublishingActor, Put
from prime.dht.record import TTL_S_MAX, Record, later_of, mutable_key
from prime.dht.registers.acting import Registers
from prime.dht.registers.answering import RegistersActor
from prime.dht.registers.proposal import Register, Version
from prime.dht.registers.tending import TendingActor
from prime.dht.routing import RoutingActor, Told
from prime.dht.sealed import Signer
from prime.dht.settings import PRESETS, DhtSettings
from prime.dht.storing import Storings
from prime.dht.table import Table
from prime.errors import (
    ActorUsageError,
    CorruptedError,
    NotFoundError,
    UnreachableError,
    WorldError,
)
from prime.transport.multiaddr import parse_address
from prime.transport.signing import wall_clock_s

if TYPE_CHECKING:
    from prime.dht.ipfs.ipfs import Ipfs

RESTART: Final = Restart(max=60, within=60.0, backoff=(0.05, 2.0))
"""Strangers' bad input never fails an actor; this bounds what a defect may do."""
SEEN_MAX: Final = 4096
"""Keys of which it is remembered what was read."""


class Dht:
    """One node's view of the DHT. Make one with `open_dht`; all calls may run at the same time."""

    def __init__(
        self,
        peering: Peering,
        archive: Archive,
        lookups: Lookups,
        storings: Storings,
        publisher: Publisher,
        registers: Registers,
    ) -> None:
        self._peering = peering
        self._archive = archive
        self._lookups = lookups
        self._storings = storings
        self._publisher = publisher
        self.ipfs: Ipfs | None = None
        """This node's part in libp2p's own DHT, if it has one (`open_ipfs`)."""
        self._registers = registers
        self._seen = _Seen()

    @property
    def settings(self) -> DhtSettings:
        """What it is tuned by."""
        return self._peering.settings

    @property
    def contact(self) -> Contact:
        """What this node says of itself now."""
        return self._peering.contact

    @property
    def peer(self) -> PeerId:
        """This node's id."""
        return self._peering.peer

    @property
    def table(self) -> Table:
        """The routing table as it is now: for reading."""
        return self._peering.table

    # ---- records

    async def get(self, key: Key, *, critical: bool = False) -> Record:
        """Return the record under a key: the latest version that enough holders agree on.

        `critical` asks along more disjoint paths and waits for each, for where a lie would cost most. Raises `NotFoundError` (answered but
        held nothing), `UnreachableError` (no peer answered), `CorruptedError` (found but the signature is bad) and
        `DeadlineError`.
        """
        own = self._publisher.known(checked(key))
        votes = own is not None and self._peering.server
        agreeing = 0 if critical else max(1, self.settings.agreeing - votes)
        outcome = await self._lookups.run(core.Value(key, agreeing, self._seen.seq_min(key)), critical=critical)
        best = self._seen.latest(later_of(own, outcome.record))
        if best is None:
            raise _not_found(outcome)
        await self._correct(best, outcome)
        if best.removed:
            raise NotFoundError(f"what {best.publisher} had there is removed", hint="its publisher took it back")
        return best

    def held(self, key: Key) -> Record | None:
        """Return the record of a key that this node holds for the swarm; a removal is one too."""
        return self._archive.shelf.get(key, self._peering.now_ms())

    async def put(
        self, value: bytes, *, salt: bytes | None = None, ttl_s: int | None = None, seq: int | None = None
    ) -> Put:
        """Store a value: under its own hash, or with a `salt` under this node's id and that, where it can be changed.

        It holds for `ttl_s` and is published anew before that, as long as this node runs. `seq` is the version's number,
        by default one more than the highest that is found. Raises `UsageError` for what cannot be a record, `RefusedError`
        where less than a quorum of holders took it, `ConflictError` where a later version is held, `UnreachableError`
        where nobody answered, and `DeadlineError`.
        """
        ttl_s = self.settings.ttl_s if ttl_s is None else ttl_s
        return await self._publisher.put(value, salt=salt, seq=seq, ttl_s=ttl_s)

    async def remove(self, salt: bytes) -> Put:
        """Take back what was put with this salt. Raises as `put`."""
        return await self._publisher.put(b"", salt=salt, seq=None, ttl_s=TTL_S_MAX, removed=True)

    async def stop_publishing(self, key: Key) -> None:
        """Let what this node has put under a key end with its time: it is not published anew. Raises `WorldError`."""
        await self._publisher.stop_publishing(key)

    # ---- registers

    async def compare_and_set(
        self, salt: bytes, expected_seq: int, value: bytes | None, *, signer: Signer | None = None
    ) -> Version:
        """Put a value into a register if the version there is `expected_seq`, which is 0 for one that was never written.

        The register is that of `signer` (this node by default) under `salt`; `None` as the value removes what is there.
        Writers with one key, on whichever nodes, never both replace one version. Raises `ConflictError` (`found` is the
        version that is there), `UnreachableError` where too few of its electors answer: its hint says whether the write
        may have taken effect; and `UsageError` for what no register can have.
        """
        signer = signer or self._peering.signer
        return await self._registers.write(Register(signer.peer, salt), expected_seq, value, signer)

    async def tend_register(self, salt: bytes, *, signer: Signer | None = None) -> tuple[PeerId, ...]:
        """Finish what was begun on a register of `signer` (this node by default), and return which electors are away.

        Those that were away the last time, too, are replaced by others, and so is at once who came back with another
        store. A node does this by itself every `replicate_s` for the registers that it has written, and so keeps them
        alive: of one that nobody with its key tends or writes, nothing is left after 90 days. Raises as `compare_and_set`.
        """
        signer = signer or self._peering.signer
        return await self._registers.tend(Register(signer.peer, salt), signer)

    async def read_register(self, publisher: PeerId, salt: bytes) -> Version:
        """Return the version that is in a publisher's register now: no earlier one than any that was seen before this call.

        Raises `NotFoundError` for an empty register, `UnreachableError` where too few of its electors answer, and
        `CorruptedError` where it went back.
        """
        return await self._registers.read(Register(publisher, salt))

    # ---- providers

    async def provide(self, key: Key) -> int:
        """Say that this node has what a key names, also anew while it runs; return how many nodes remember it.

        Raises `RefusedError`, `UnreachableError` and `DeadlineError`: it is said again all the same, until `stop_providing`.
        """
        return await self._publisher.provide(checked(key))

    async def stop_providing(self, key: Key) -> None:
        """Say no more that this node has what a key names. Raises as `provide`; from then on it is not said anew."""
        await self._publisher.stop_providing(checked(key))

    async def find_providers(self, key: Key, *, count_max: int = 20) -> tuple[Contact, ...]:
        """Return those who say that they have what a key names, at most `count_max`, without this node; none is no error.

        Raises `UnreachableError` where no peer answered and this node knows none itself, and `DeadlineError`.
        """
        known = self._archive.providers.find(checked(key), self._peering.now_ms(), count_max)
        outcome = await self._lookups.run(core.Providers(key, count_max))
        if not outcome.answered and not self._peering.server:
            raise UnreachableError("no peer answered", hint=_ALONE)
        found = {each.peer: each for each in (*outcome.providers, *known) if each.peer != self.peer}
        return tuple(found.values())[:count_max]

    async def _correct(self, best: Record, outcome: core.Outcome) -> None:
        """Give the best record to those of its places that hold an older one or none."""
        known = {each.peer: each for each in (*self.table.closest(best.key, self.settings.k), *outcome.closest)}
        near = self._storings.places(best.key, tuple(known.values()))
        places = {each.peer for each in near[: self.settings.replicas]}
        stale = [each for each in outcome.stale if each.peer in places]
        if self.peer in places and self._archive.shelf.get(best.key, self._peering.now_ms()) != best:
            stale.append(self.contact)
        if stale:
            source = outcome.holders[0].peer if outcome.holders else self.peer
            await self._storings.begin(best, stale, self._peering.share_of(source))

    # ---- peers

    async def find_peer(self, peer: PeerId) -> Contact:
        """Return the contact of a peer, which has answered. Raises `NotFoundError`, `UnreachableError`, `DeadlineError`."""
        key = key_of_peer(peer)
        if peer == self.peer:
            return self.contact
        outcome = await self._lookups.run(core.Peer(peer, key))
        if outcome.found is None:
            raise _not_found(outcome)
        return outcome.found

    async def closest(self, key: Key) -> tuple[Contact, ...]:
        """Return the `k` peers nearest to a key that answer, nearest first, this node left out."""
        outcome = await self._lookups.run(core.Nearest(checked(key)))
        if not outcome.answered:
            raise UnreachableError("no peer answered", hint=_ALONE)
        return outcome.closest

    def begin_with(self, address: str) -> None:
        """Begin with the node at this address, too: one that the user or the local network named."""
        self._peering.tell_routing(Told(address))

    def serve(self, *, others: bool) -> None:
        """Be in others' tables from now on, or no more: while nobody can dial this node it is of no use there.

        One that was opened as a client stays one.
        """
        self._peering.server = others and self._peering.can_serve

    def known(self) -> tuple[Contact, ...]:
        """Return whom this node has in its table: peers that have answered it, and where they can be dialled."""
        return tuple(self._peering.table)

    # ---- rendezvous

    async def register(self, namespace: str, point: PeerId, *, ttl_s: int = 7200) -> int:
        """Have a peer of the DHT show this node to who asks it for a namespace; return for how many seconds it will.

        Raises `RefusedError`, `UnreachableError`, `DeadlineError`.
        """
        return await discovery.register(self._peering, point, namespace, ttl_s)

    async def discover(self, namespace: str, point: PeerId) -> tuple[Contact, ...]:
        """Return who is registered with a peer under a namespace, this node left out. Raises as `register`."""
        return await discovery.discover(self._peering, point, namespace)

    # ---- names

    async def set_name(self, name: str, value: bytes) -> Put:
        """Publish a value as `PEER/NAME`, where PEER is this node's id. Raises as `put`."""
        return await self.put(value, salt=names.salt_of(name))

    async def resolve(self, name: str) -> bytes:
        """Return the value of `PEER/NAME`, or of this node's own `NAME`. Raises as `get`."""
        peer, own = names.split_name(name)
        record = await self.get(mutable_key(peer or self.peer, names.salt_of(own)))
        return record.value

    # ---- what it sees

    async def joined(self) -> None:
        """Wait until this node has found its place: it is merged, or was told of nobody and is the first."""
        await self._peering.joined.wait()

    def status(self) -> m.DhtStatus:
        """Return what this node knows and holds now."""
        peering, archive = self._peering, self._archive
        table = peering.table
        sight = peering.sight() if peering.sight is not None else None
        return m.DhtStatus(
            peer=self.peer,
            server=peering.server,
            joined=sight is not None and sight.phase == "merged",
            contacts=len(table),
            table=tuple(m.BucketFill(bucket, count) for bucket, count in sorted(table.fill().items())),
            records=len(archive.shelf),
            record_bytes=archive.shelf.size_bytes,
            published=len(archive.publications.records()),
            provided=len(archive.publications.provided()),
            providers=len(archive.providers),
            lookups=self._lookups.times,
            served=peering.served,
            refused=peering.refused,
            phase=sight.phase if sight is not None else "",
            sight=sight.words if sight is not None else "",
            tries=sight.tries if sight is not None else 0,
            ipfs=None if self.ipfs is None else self.ipfs.status,
        )


_ALONE: Final = "name nodes of the DHT to begin with, and see `prime doctor`"


class _Seen:
    """The latest versions that this node has read, so that no earlier one is ever returned after."""

    def __init__(self) -> None:
        self._seqs: OrderedDict[Key, int] = OrderedDict()

    def seq_min(self, key: Key) -> int:
        """Return below which number a version of a key does not count."""
        return self._seqs.get(key, 0)

    def latest(self, record: Record | None) -> Record | None:
        """Return a record and remember it, unless a later one was read before."""
        if record is None or record.seq < self.seq_min(record.key):
            return None
        if record.seq:
            self._seqs[record.key] = record.seq
            self._seqs.move_to_end(record.key)
            if len(self._seqs) > SEEN_MAX:
                self._seqs.popitem(last=False)
        return record


def _not_found(outcome: core.Outcome) -> WorldError:
    asked = f"{outcome.answered} of {outcome.asked} peers answered"
    match outcome.cause:
        case "no peer answered":
            return UnreachableError(f"no peer answered: {outcome.asked} were asked", hint=_ALONE)
        case "found but the signature is bad":
            return CorruptedError(
                f"found but the signature is bad: {asked}, {outcome.forged} with what nobody signed",
                hint="somebody lies: ask along more paths (`critical`)",
            )
        case _:
            return NotFoundError(f"answered but held nothing: {asked}", hint="it was never there, or its time is over")


@asynccontextmanager
async def open_dht(
    system: System,
    key_pair: Signer,
    *,
    settings: DhtSettings = PRESETS["swarm"],
    backend: Backend | None = None,
    bootstrap: Sequence[str] = (),
    rendezvous: Sequence[str] = (),
    server: bool = True,
    linked: bool = True,
    wall_s: Callable[[], float] = wall_clock_s,
) -> AsyncIterator[Dht]:
    """Take part in a DHT for the length of the block.

    `key_pair` is the key of `system`'s node. `bootstrap` are addresses of nodes that are in it; with none this node
    waits for others. `rendezvous` are addresses of points where nodes register and find each other; any node of a DHT is
    one, and need not be one that this node keeps in its table. `backend` keeps what this node holds for others (in memory by default); it is opened and closed
    here. Without `server` this node uses the DHT and answers nobody. Peers that `system` is linked with for
    something else lead into the DHT too; without `linked` they do not. `wall_s` returns seconds since 1970 (UTC).

    Raises `ActorUsageError` for a system without a network or of another key, `ConfigError` for what is no address,
    `WorldError` and `CorruptedError` where the backend cannot be opened.
    """
    if system.peer != key_pair.peer:
        raise ActorUsageError(
            f"the DHT of {key_pair.peer} in a system of {system.peer or 'no network'}",
            hint="open_system(transport=..., key=key), and the same key here",
        )
    for address in (*bootstrap, *rendezvous):
        parse_address(address)
    peering = Peering(system, key_pair, settings, server=server, wall_s=wall_s)
    async with (
        open_archive(peering.peer, settings, backend or MemoryBackend()) as archive,
        system.supervisor("dht", restart=RESTART) as supervisor,
    ):
        if archive.damaged or archive.lost_writes:
            system.emit(StoreDamaged(len(archive.damaged), archive.lost_writes))
        lookups = Lookups(peering, supervisor)
        storings = Storings(peering, supervisor)
        publisher = Publisher(peering, archive, lookups, storings)
        make_routing = functools.partial(RoutingActor, peering, bootstrap, lookups, linked=linked)
        remote = (m.FindPeers, m.Introduce) if server else ()
        peering.routing = await supervisor.spawn(make_routing, "routing", remote=remote)
        if server:
            make_holding = functools.partial(HoldingActor, peering, archive, lookups)
            peering.holding = await supervisor.spawn(make_holding, "records")
            await supervisor.spawn(functools.partial(ProvidingActor, peering, archive), "providers")
            await supervisor.spawn(functools.partial(DiscoveryActor, peering, rendezvous), "discovery")
            await supervisor.spawn(functools.partial(RegistersActor, peering, archive), "registers")
        registers = Registers(peering, archive, lookups)
        make_publishing = functools.partial(PublishingActor, publisher, archive, peering)
        await supervisor.spawn(make_publishing, "publishing", remote=())
        await supervisor.spawn(functools.partial(TendingActor, registers, settings.replicate_s), "tending", remote=())
        with answering_streams(peering):
            yield Dht(peering, archive, lookups, storings, publisher, registers)
