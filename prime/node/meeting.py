"""Meeting others: links with peers that the DHT names, and names under which the nodes of a group find each other there."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

import trio

from prime.dht.key import Key, key_of
from prime.errors import PrimeError
from prime.node.links import linked_peers

if TYPE_CHECKING:
    from prime.actor import System
    from prime.dht.contact import Contact
    from prime.dht.dht import Dht

LOOK_S: Final = 2.0
LOOK_S_MAX: Final = 60.0
"""Between two searches: longer each time that nobody new was found."""
DIALS_MAX: Final = 4
"""Peers that are dialled after one search."""


def meeting_key(name: str) -> Key:
    """Return the key that those provide who meet under a name."""
    return key_of(b"meeting:" + name.encode())


async def meet(system: System, dht: Dht, name: str) -> None:
    """Say in the DHT that this node meets others under a name, and link with those who do, until cancelled."""
    wait_s, is_said = LOOK_S, False
    while True:
        met = 0
        with contextlib.suppress(PrimeError):
            is_said = is_said or await dht.provide(meeting_key(name)) > 0
            met = await link_with_strangers(system, await dht.find_providers(meeting_key(name)))
        wait_s = LOOK_S if met or not is_said else min(2 * wait_s, LOOK_S_MAX)
        await trio.sleep(wait_s)


async def link_with_strangers(system: System, contacts: Iterable[Contact]) -> int:
    """Link with a few of those that this node has no link to; return how many there were."""
    known = {*linked_peers(system), system.peer}
    strangers = [contact for contact in contacts if contact.peer not in known]
    async with trio.open_nursery() as nursery:
        for contact in strangers[:DIALS_MAX]:
            nursery.start_soon(_link, system, contact)
    return len(strangers)


async def _link(system: System, contact: Contact) -> None:
    if system.network is None:
        return
    for address in contact.addresses:
        with contextlib.suppress(PrimeError):
            await system.network.dial(address)
            return
