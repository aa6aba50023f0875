"""The DHT as seen from several nodes: whether each is in one, and whether it is the same. What `prime doctor` looks at.

Two nodes that were begun with different addresses may be in two DHTs that know nothing of each other: everything seems to
work, and each finds half of what there is.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

import attrs
import trio

from prime.dht.dht import open_dht
from prime.dht.key import key_of_peer
from prime.dht.settings import PRESETS
from prime.errors import PrimeError

if TYPE_CHECKING:
    from prime.actor import System
    from prime.transport.identity import KeyPair

WITHIN_S: Final = 8.0
"""How long one node's DHT is looked at."""
POLL_S: Final = 0.05
_SETTINGS: Final = attrs.evolve(PRESETS["lan"], request_s=3.0, lookup_s=WITHIN_S)


@attrs.frozen
class DhtSight:
    """What is found of a DHT through one node alone: the peers nearest to this machine's key, that node among them.

    None, if it is in no DHT, or did not answer in time.
    """

    address: str
    peers: frozenset[str] = frozenset()


async def look_through(system: System, key: KeyPair, address: str, peer: str) -> DhtSight:
    """Look at the DHT that the node at an address is in, through it alone; answers nobody meanwhile."""
    with trio.move_on_after(WITHIN_S), contextlib.suppress(PrimeError):
        async with open_dht(system, key, settings=_SETTINGS, bootstrap=(address,), server=False, linked=False) as dht:
            while (seen := dht.status()).phase != "merged":
                if seen.tries > 1 and not seen.contacts:
                    return DhtSight(address)  # it answers, but not for the DHT
                await trio.sleep(POLL_S)
            found = await dht.closest(key_of_peer(dht.peer))
            return DhtSight(address, frozenset(contact.peer for contact in found) | {peer})
    return DhtSight(address)


def parts(sights: Iterable[DhtSight]) -> list[list[DhtSight]]:
    """Return who is in one DHT with whom: nodes that see a peer in common. Those that are in none are left out."""
    found: list[list[DhtSight]] = []
    for sight in sights:
        if not sight.peers:
            continue
        same = [part for part in found if any(sight.peers & other.peers for other in part)]
        found = [part for part in found if part not in same]
        found.append([*(each for part in same for each in part), sight])
    return found
