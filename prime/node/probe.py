"""Looking at the network from here: who can be dialled, and who can dial back. What `prime doctor --network` runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import attrs
import trio

from prime.config import Config, Places
from prime.errors import ActorUsageError, AddressInUseError, PrimeError
from prime.node.run import transport_of
from prime.node.sight import DhtSight, look_through
from prime.node.system import open_system
from prime.transport.contract import Transport
from prime.transport.identity import KeyPair
from prime.transport.links import Links
from prime.transport.reachability import Evidence, Judge, Reachability

WITHIN_S: Final = 30.0
"""How long all of it may take."""
POLL_S: Final = 0.1


@attrs.frozen
class Contact:
    """One address that was dialled: who answered, or why nobody did and what to do."""

    address: str
    peer: str = ""
    error: str = ""
    hint: str = ""


@attrs.frozen
class NetworkView:
    """What was found out: how others reach a node here, why, and the evidence; and the DHT, through each contact alone.

    `listening` are the addresses that a node would have, `seen` where peers saw it, `slots` the addresses that relays
    give it. `borrowed` says that the configured port was taken, so a free one stood in for it.
    """

    outcome: Reachability
    why: str
    listening: tuple[str, ...]
    seen: tuple[str, ...]
    contacts: tuple[Contact, ...]
    evidence: tuple[Evidence, ...]
    slots: tuple[str, ...]
    borrowed: bool = False
    dht: tuple[DhtSight, ...] = ()


async def view_network(config: Config, found: Places, contacts: Sequence[str]) -> NetworkView:
    """Open an endpoint as a node would, dial `contacts` and the relays, and have the peers dial back.

    It uses a key of its own, so it disturbs no node that runs. Raises `ConfigError` (an address that cannot be listened
    on) and `MissingExtraError`.
    """
    try:
        return await _view(transport_of(config, found), config.transport.via, contacts, borrowed=False)
    except AddressInUseError:
        link = attrs.evolve(config.transport, listen=_any_port(config.transport.listen))
        substitute = transport_of(attrs.evolve(config, transport=link), found)
        return await _view(substitute, config.transport.via, contacts, borrowed=True)


def _any_port(listen: str) -> str:
    head, _, _ = listen.partition("/tcp/")
    return f"{head}/tcp/0"


async def _view(transport: Transport, via: Sequence[str], contacts: Sequence[str], *, borrowed: bool) -> NetworkView:
    key = KeyPair.generate()
    async with open_system(transport=transport, key=key, via=via, reachability=True) as system:
        links = system.network
        if not isinstance(links, Links) or links.reachability is None:
            raise ActorUsageError("the system that looks has no network", hint="Give it a transport.")
        found: dict[str, Contact] = {}
        with trio.move_on_after(WITHIN_S):
            async with trio.open_nursery() as nursery:
                for address in dict.fromkeys((*contacts, *via)):
                    nursery.start_soon(_dial, links, address, found)
            await _heard(links, links.reachability)
        sights = [await look_through(system, key, each.address, each.peer) for each in found.values() if each.peer]
        judge = links.reachability
        outcome = judge.outcome
        return NetworkView(
            outcome,
            judge.why,
            links.listening,
            judge.seen,
            tuple(
                found.get(each, Contact(each, error="no answer in time")) for each in dict.fromkeys((*contacts, *via))
            ),
            judge.evidence,
            links.announced("circuits"),
            borrowed,
            tuple(sights),
        )


async def _dial(links: Links, address: str, found: dict[str, Contact]) -> None:
    try:
        found[address] = Contact(address, await links.dial(address))
    except PrimeError as error:
        found[address] = Contact(address, error=str(error), hint=error.hint)


async def _heard(links: Links, judge: Judge) -> None:
    """Wait until every peer that there is a link to has been asked and has answered."""
    while links.peers and not judge.is_settled:  # noqa: ASYNC110 - it is a core, and tells nobody
        await trio.sleep(POLL_S)
