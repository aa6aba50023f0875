"""`open_ipfs`: a node of Prime in the DHT of libp2p, and `Ipfs`, what a program does with it.

It is a second instance of the DHT's cores, with a table, values and providers of its own: its peers sign no contacts, so
nothing of what they say gets into Prime's own DHT.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from random import Random
from typing import Final, TypeVar

import attrs
import trio

from prime.actor import Restart, System
from prime.actor.contract import PeerId
from prime.dht.bootstrap import Bootstrap
from prime.dht.contact import Contact
from prime.dht.ipfs.asking import ASKING_ERRORS, Asking, Heard, with_each
from prime.dht.ipfs.desk import PROVIDER_KEY_BYTES_MAX, Desk
from prime.dht.ipfs.message import Kind, Message, Value
from prime.dht.ipfs.name import words_of
from prime.dht.ipfs.namespaces import Namespace, Namespaces
from prime.dht.ipfs.values import OWN_GROUP
from prime.dht.key import key_of
from prime.dht.lookup import Peer
from prime.dht.messages import IpfsStatus
from prime.dht.rates import Rates
from prime.dht.settings import PRESETS, DhtSettings
from prime.errors import (
    ConfigError,
    ConflictError,
    CorruptedError,
    NotFoundError,
    RefusedError,
    UnreachableError,
    UsageError,
)
from prime.process.network import Routes
from prime.transport.contract import Protocols
from prime.transport.links import Links
from prime.transport.multiaddr import parse_address
from prime.transport.peer import peer_bytes

_V = TypeVar("_V")

OWN_MAX: Final = 1024
"""Values and provisions that this node keeps up."""
_RESTART: Final = Restart(max=10, within=60)


@attrs.frozen
class Put:
    """Who holds a value now, of so many that were asked to."""

    holders: tuple[PeerId, ...]
    asked: int


class Ipfs:
    """A node's part in the DHT of libp2p (`/ipfs/kad/1.0.0`). Keys and values are bytes, as its specification has them."""

    def __init__(self, asking: Asking, bootstrap: Sequence[Contact], *, server: bool, random: Random) -> None:
        self.asking = asking
        self.desk = asking.desk
        self.server = server
        self.random = random
        self.told_of = tuple(bootstrap)
        self.rates = Rates(self.desk.settings.requests_per_s)
        self.published: dict[bytes, bytes] = {}
        self.provided: dict[bytes, None] = {}
        self.served = self.refused = 0
        self.has_joined = trio.Event()
        """Set by the actor."""

    def new_joining(self) -> Bootstrap:
        """Return the core of a joining that begins now, with whom the table has."""
        desk, bits = self.desk, self.random.getrandbits
        told_of, now = len(self.told_of), trio.current_time()
        return Bootstrap(desk.table, told_of=told_of, settings=desk.settings, bits=bits, now=now)

    async def joined(self) -> None:
        """Wait until this node has first found its place, or was told of nobody."""
        await self.has_joined.wait()

    @property
    def status(self) -> IpfsStatus:
        """What it knows and holds now."""
        desk = self.desk
        return IpfsStatus(
            self.server,
            len(desk.table),
            len(desk.values),
            desk.values.size_bytes,
            len(desk.providers),
            self.served,
            self.refused,
        )

    # ---- peers

    async def find_peer(self, peer: PeerId) -> Contact:
        """Return where a peer is, once it has proved to be there. Raises `NotFoundError`, `UnreachableError`."""
        target = peer_bytes(peer)
        noted, request = self.desk.noted(peer), Message(Kind.FIND_NODE, target)
        starts = () if noted is None else (noted,)
        looked = await self.asking.look_up(target, request, want=Peer(peer, key_of(target)), starts=starts)
        found = next((each.contact for each in looked.heard if each.contact.peer == peer), None)
        if found is None:
            raise _nothing(looked.heard, f"the peer {peer}")
        return found

    async def closest(self, key: bytes) -> tuple[Contact, ...]:
        """Return the peers nearest to a key that answered, nearest first."""
        looked = await self.asking.look_up(key, Message(Kind.GET_VALUE, key))
        return tuple(each.contact for each in looked.heard[: self.desk.settings.k])

    # ---- values

    async def get_value(self, key: bytes) -> bytes:
        """Return the best value under a key, and correct those who hold a worse one or none.

        Raises `NotFoundError` (peers answered but held nothing), `UnreachableError` (no peer answered), `CorruptedError`
        (only values that are not valid were found), `RefusedError` (a key of no known namespace).
        """
        self.desk.namespaces.check(key)
        poll = _Poll(self.desk, key, self.asking.wall_ms)
        looked = await self.asking.look_up(key, Message(Kind.GET_VALUE, key), enough=poll.take)
        best = poll.best()
        if best is None:
            if poll.forged:
                raise CorruptedError(
                    f"{poll.forged} values were found under {words_of(key)}, and none is valid",
                    hint="have it published anew",
                )
            raise _nothing(looked.heard, words_of(key))
        self._correct(key, best, looked.heard, poll)
        return best

    def _correct(self, key: bytes, best: bytes, heard: Sequence[Heard], poll: _Poll) -> None:
        """Give the best value to those of the nearest that showed another or none ("kad-dht", "entry correction").

        The reader does not wait for that.
        """
        near = heard[: self.desk.settings.replicas]
        stale = [each.contact for each in near if poll.shown.get(each.contact.peer) != best]
        if stale:
            self.asking.do_later(partial(self._store, key, best, stale))

    async def put_value(self, key: bytes, value: bytes) -> Put:
        """Store a value with the peers nearest to its key, and keep it up while this node runs.

        Raises `RefusedError` (not valid, or nobody took it), `ConflictError` (a better one is there), `UnreachableError`.
        """
        self.desk.namespaces.validate(key, value, self.asking.wall_ms())
        poll = _Poll(self.desk, key, self.asking.wall_ms)
        looked = await self.asking.look_up(key, Message(Kind.GET_VALUE, key))
        for heard in looked.heard:
            poll.take(heard)
        best = poll.best()
        if best is not None and self.desk.namespaces.best(key, [best, value]) != value:
            raise ConflictError(
                f"a better value is there under {words_of(key)}", hint="get it, and put one that follows it"
            )
        if not looked.heard:
            raise _nothing((), words_of(key))
        near = [each.contact for each in looked.heard[: self.desk.settings.replicas]]
        holders = await self._store(key, value, near)
        holders |= {peer for peer, shown in poll.shown.items() if shown == value}
        if not holders:
            raise RefusedError(
                f"none of {len(near)} peers took the value of {words_of(key)}", hint="do they know its namespace?"
            )
        self.desk.values.put(key, value, OWN_GROUP, self.asking.wall_ms())
        _keep(self.published, key, value)
        return Put(tuple(sorted(holders)), len(near))

    async def _store(self, key: bytes, value: bytes, contacts: Sequence[Contact]) -> set[PeerId]:
        """Ask peers to hold a value; return those that do."""
        request = Message(Kind.PUT_VALUE, key, Value(key, value))
        holders: set[PeerId] = set()

        async def put(contact: Contact) -> None:
            try:
                answer = (await self.asking.ask(contact, request)).message.value
            except ASKING_ERRORS:
                return
            if answer is not None and answer.value == value:
                holders.add(contact.peer)

        await with_each(contacts, self._at_once, put)
        return holders

    # ---- providers

    async def provide(self, multihash: bytes) -> int:
        """Say that this node has what a multihash names, and go on saying so; return how many peers heard it.

        Raises `UsageError` for no multihash, `UnreachableError` where nobody answers.
        """
        if not 0 < len(multihash) <= PROVIDER_KEY_BYTES_MAX:
            raise UsageError("what is provided is named by a multihash", hint="give its bytes: 0x12 0x20, SHA-256")
        now_ms = self.asking.wall_ms()
        self.desk.hold_provider(multihash, attrs.evolve(self.desk.contact, stamp_ms=now_ms), OWN_GROUP, now_ms)
        _keep(self.provided, multihash, None)
        looked = await self.asking.look_up(multihash, Message(Kind.GET_PROVIDERS, multihash))
        if not looked.heard:
            raise _nothing((), multihash.hex())
        told: set[PeerId] = set()

        async def tell(contact: Contact) -> None:
            try:
                if await self.asking.announce(contact, multihash):
                    told.add(contact.peer)
            except ASKING_ERRORS:
                return

        near = [each.contact for each in looked.heard[: self.desk.settings.k]]
        await with_each(near, self._at_once, tell)
        return len(told)

    def stop_providing(self, multihash: bytes) -> int:
        """Say no more that this node has what a multihash names. What others remember ends within two days; nobody is told: 0."""
        if multihash in self.provided:
            del self.provided[multihash]
            self.desk.hold_provider(multihash, self.desk.contact, OWN_GROUP, self.asking.wall_ms(), 0)
        return 0

    async def find_providers(self, multihash: bytes, *, count_max: int = 20) -> tuple[Contact, ...]:
        """Return those who say that they have what a multihash names, at most `count_max`. Raises `UnreachableError`."""
        found: dict[PeerId, Contact] = {}
        for contact in self.desk.providers.find(key_of(multihash), self.asking.wall_ms(), count_max):
            found[contact.peer] = contact

        def take(heard: Heard) -> bool:
            for contact in heard.providers:
                found.setdefault(contact.peer, contact)
            return len(found) >= count_max

        if len(found) < count_max:
            looked = await self.asking.look_up(multihash, Message(Kind.GET_PROVIDERS, multihash), enough=take)
            if not looked.heard and not found:
                raise _nothing((), multihash.hex())
        return tuple(found.values())[:count_max]

    @property
    def _at_once(self) -> int:
        return self.desk.settings.alpha * self.desk.settings.paths


class _Poll:
    """What peers showed under a key: valid values by who showed them, and on which path."""

    def __init__(self, desk: Desk, key: bytes, wall_ms: Callable[[], int]) -> None:
        self._desk = desk
        self._key = key
        self._wall_ms = wall_ms
        self._paths: dict[bytes, set[int]] = {}
        self.shown: dict[PeerId, bytes] = {}
        self.forged = 0
        held = desk.values.get(key, wall_ms())
        if held is not None:
            self._paths[held.value] = set()

    def take(self, heard: Heard) -> bool:
        """Take an answer; tell whether enough paths agree on the best value."""
        value = heard.message.value
        if value is None:
            return False
        try:
            self._desk.namespaces.validate(self._key, value.value, self._wall_ms())
        except RefusedError:
            self.forged += 1
            return False
        self.shown[heard.contact.peer] = value.value
        self._paths.setdefault(value.value, set()).add(heard.path)
        best = self.best()
        return best is not None and len(self._paths[best]) >= self._desk.settings.agreeing

    def best(self) -> bytes | None:
        """Return the best value so far."""
        values = list(self._paths)
        return self._desk.namespaces.best(self._key, values) if values else None


def _keep(kept: dict[bytes, _V], key: bytes, value: _V) -> None:
    """Put something among what is kept up, unless that is too much already."""
    if key not in kept and len(kept) >= OWN_MAX:
        raise RefusedError(f"this node keeps up {OWN_MAX} already", hint="stop providing something")
    kept[key] = value


def _nothing(heard: Sequence[Heard], what: str) -> NotFoundError | UnreachableError:
    if heard:
        return NotFoundError(
            f"answered but held nothing of {what}: {len(heard)} of those asked", hint="is it published?"
        )
    return UnreachableError(f"no peer answered that was asked for {what}", hint="name a peer to begin with: bootstrap=")


@asynccontextmanager
async def open_ipfs(
    system: System,
    *,
    settings: DhtSettings = PRESETS["swarm"],
    bootstrap: Sequence[str] = (),
    namespaces: Mapping[str, Namespace] | None = None,
    server: bool = True,
    wall_s: Callable[[], float] = time.time,
) -> AsyncIterator[Ipfs]:
    """Take part in the DHT of libp2p over a system whose transport is libp2p; the actor is at `/ipfs/kad`.

    `bootstrap` are addresses of peers to begin with, each with its `/p2p/`. `namespaces` judge values of a user's own
    kinds, by the first part of their keys. Without `server` this node asks and answers nobody. Raises `ConfigError`.
    """
    from prime.dht.ipfs.answering import NAME, SUPERVISOR, IpfsActor

    def wall_ms() -> int:
        return int(wall_s() * 1000)

    def addresses() -> Iterable[str]:
        return system.addresses

    told_of = tuple(_told_of(address) for address in bootstrap)
    peer = PeerId(system.peer)
    desk = Desk(peer, settings, Namespaces(namespaces), addresses, trio.current_time())
    asking = Asking(_protocols(system), desk, wall_ms)
    ipfs = Ipfs(asking, told_of, server=server, random=system.random)
    async with system.supervisor(SUPERVISOR, restart=_RESTART) as sup:
        await sup.spawn(partial(IpfsActor, ipfs), NAME)
        yield ipfs


def _told_of(text: str) -> Contact:
    address = parse_address(text)
    if address.peer is None:
        raise ConfigError(f"{text} does not say who answers there.", hint="Write /ip4/HOST/tcp/PORT/p2p/ID.")
    return Contact(address.peer, (text,), 0, b"")


def _protocols(system: System) -> Protocols:
    network = system.network
    links = network.outer if isinstance(network, Routes) else network
    found = links.protocols if isinstance(links, Links) else None
    if found is None:
        raise ConfigError(
            "The DHT of libp2p needs streams of libp2p, and this system's transport has none.",
            hint="Choose the transport libp2p, or leave the DHT of libp2p out.",
        )
    return found
