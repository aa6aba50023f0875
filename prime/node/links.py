"""The links of a node, behind whatever its network is made of."""

from __future__ import annotations

from prime.actor import System
from prime.process.network import Routes
from prime.transport.links import Links


def links_of(system: System) -> Links | None:
    """Return the links with other nodes; `None` where a system has no transport, or one without links (a simulated one)."""
    network = system.network.outer if isinstance(system.network, Routes) else system.network
    return network if isinstance(network, Links) else None


def linked_peers(system: System) -> tuple[str, ...]:
    """Return the peers that there is a link to."""
    links = links_of(system)
    return links.peers if links is not None else ()
