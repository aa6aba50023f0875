"""Nodes of the DHT that lie, each in one way: what a lookup, a table and a shelf must do without."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Literal, get_args

import attrs

from prime.actor.contract import PeerId
from prime.dht.contact import Contact
from prime.dht.key import Key, distance
from prime.dht.record import Record
from prime.sim.scenarios.finder import Finder, Question, Reply, Storing, Swarm

Lie = Literal["silent", "withholding", "misleading", "endless", "rolling back", "forging"]
LIES: Final[tuple[Lie, ...]] = get_args(Lie)


class Ring:
    """Liars that know each other, and the old versions that they keep to show again."""

    def __init__(self) -> None:
        self.contacts: list[Contact] = []
        self.old: dict[Key, Record] = {}

    def nearest(self, key: Key, count: int) -> list[Contact]:
        """Return the liars nearest to a key."""
        return sorted(self.contacts, key=lambda one: distance(one.key, key))[:count]


class Liar(Finder):
    """A node that is in tables as any other, and lies."""

    is_honest = False

    def __init__(self, swarm: Swarm, contact: Contact, ring: Ring, lie: Lie, told_of: Sequence[Contact] = ()) -> None:
        super().__init__(swarm, contact, told_of, joins=bool(told_of))
        self.ring = ring
        self.lie = lie
        self.fakes = 0

    def heard(self, source: str, message: Any) -> None:
        """See `Program.heard`."""
        if self.lie != "silent" or isinstance(message, Reply):
            super().heard(source, message)

    def reply(self, peer: PeerId, message: Question | Storing) -> Reply:
        """Say what serves the lie; a plain greeting is answered as anybody answers it."""
        if isinstance(message, Storing):
            self.ring.old.setdefault(message.record.key, message.record)
            return Reply(message.number, self.contact, stored=True)
        honest = attrs.evolve(super().reply(peer, message), record=None)
        match self.lie:
            case "misleading":
                return attrs.evolve(honest, closer=tuple(self.ring.nearest(message.key, self.settings.k)))
            case "endless":
                return attrs.evolve(honest, closer=self.nowhere(message.key))
            case "rolling back" if message.value:
                return attrs.evolve(honest, record=self.ring.old.get(message.key))
            case "forging" if message.value and message.key in self.ring.old:
                old = self.ring.old[message.key]
                return attrs.evolve(honest, record=attrs.evolve(old, seq=old.seq + 1000, value=b"forged"))
            case _:
                return honest

    def nowhere(self, key: Key) -> tuple[Contact, ...]:
        """Return signed contacts of peers that nobody is, each nearer to the key than anybody could be."""
        made = []
        for _ in range(self.settings.k):
            self.fakes += 1
            made.append(near(self.swarm, key, f"fake {self.contact.peer} {self.fakes}", 200))
        return tuple(made)


def near(swarm: Swarm, key: Key, name: str, bits: int, address: str = "") -> Contact:
    """Return a contact whose key has been ground until its first `bits` are those of `key`."""
    number = swarm.world.streams.number("address", name)
    contact = swarm.contact(name, address or f"/ip4/{100 + number % 20}.{number // 20 % 256}.1.1/tcp/4001")
    rest = (1 << 256 - bits) - 1
    object.__setattr__(contact, "key", Key(key & ~rest | contact.key & rest))  # grinding, without the hashing
    return contact


def join_ring(swarm: Swarm, ring: Ring, contact: Contact, lie: Lie, told_of: Sequence[Contact] = ()) -> None:
    """Start a liar, which joins if it is told of somebody, and else is in the tables that it is put into."""
    ring.contacts.append(contact)
    swarm.add(contact, lambda: Liar(swarm, contact, ring, lie, told_of))
