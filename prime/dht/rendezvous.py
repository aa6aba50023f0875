"""A rendezvous point: peers register under a namespace, and whoever asks for it is shown who has. Pure.

After libp2p's rendezvous protocol: a registration holds for a time that its peer asks for and the point grants, and who
asks again is shown what came since (`after`). A peer registers itself alone. Nobody fills the point: the registrations of
one group of addresses are counted, of one peer too, and those of all.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from typing import Final

import attrs

from prime.actor.contract import PeerId
from prime.dht.contact import Contact

TTL_S_MAX: Final = 2 * 3600
"""The longest that a registration holds."""
REGISTRATIONS_MAX: Final = 8192
"""Registrations of all peers."""
NAMESPACE_GROUP_MAX: Final = 64
"""Registrations of one group under one namespace: who comes is shown the first few hundred, and others should be among them."""
PEER_MAX: Final = 32
"""Namespaces of one peer."""


@attrs.frozen
class Registration:
    """A peer is registered under a namespace until `ends_s` (monotonic seconds); later ones have greater numbers."""

    namespace: str
    contact: Contact
    group: str
    ends_s: float
    number: int


class Rendezvous:
    """What is registered with one node. `group_max` is how much one group of addresses may register."""

    def __init__(self, group_max: int) -> None:
        self._group_max = group_max
        self._namespaces: dict[str, OrderedDict[PeerId, Registration]] = {}
        self._peers: Counter[str] = Counter()
        self._groups: Counter[str] = Counter()
        self._number = 0

    def __len__(self) -> int:
        """Return how many registrations there are, among them some that have ended and wait to be swept."""
        return self._peers.total()

    def register(self, namespace: str, contact: Contact, group: str, ttl_s: int, now: float) -> str:
        """Register a peer, anew too; return why not, or an empty text."""
        self.unregister(namespace, contact.peer)
        if self._groups[group] >= self._group_max:
            return f"{self._group_max} registrations came from {group}: that is its quota"
        there = self._namespaces.get(namespace, OrderedDict())
        if sum(each.group == group for each in there.values()) >= NAMESPACE_GROUP_MAX:
            return f"{NAMESPACE_GROUP_MAX} of {group} are registered there already"
        if self._peers[contact.peer] >= PEER_MAX:
            return f"one peer may be in {PEER_MAX} namespaces"
        if len(self) >= REGISTRATIONS_MAX:
            return "too many are registered here"
        self._number += 1
        made = Registration(namespace, contact, group, now + min(ttl_s, TTL_S_MAX), self._number)
        self._namespaces.setdefault(namespace, OrderedDict())[contact.peer] = made
        self._peers[contact.peer] += 1
        self._groups[group] += 1
        return ""

    def unregister(self, namespace: str, peer: PeerId) -> None:
        """Forget a registration, if there is one."""
        there = self._namespaces.get(namespace, OrderedDict())
        gone = there.pop(peer, None)
        if gone is None:
            return
        if not there:
            del self._namespaces[namespace]
        _count_down(self._peers, peer)
        _count_down(self._groups, gone.group)

    def discover(self, namespace: str, after: int, count_max: int, now: float) -> tuple[list[Contact], int]:
        """Return who registered after the number `after`, the first of them first, and the number to go on with."""
        there = self._namespaces.get(namespace, OrderedDict())
        later = [each for each in there.values() if each.number > after and now < each.ends_s][:count_max]
        return [each.contact for each in later], later[-1].number if later else after

    def sweep(self, now: float) -> None:
        """Forget what has ended."""
        ended = [each for there in self._namespaces.values() for each in there.values() if now >= each.ends_s]
        for each in ended:
            self.unregister(each.namespace, each.contact.peer)


def _count_down(counter: Counter[str], name: str) -> None:
    counter[name] -= 1
    if not counter[name]:
        del counter[name]
