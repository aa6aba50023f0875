"""An order for the DHT without a node: this program joins the network for a moment, answers nobody, and leaves."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from prime.config import Config, Places
from prime.node.contacts import find_contacts
from prime.node.dht import in_ipfs, settings_of
from prime.node.orders import Order, carry_out, of_ipfs
from prime.node.run import sole_owner, transport_of
from prime.node.system import open_system
from prime.transport.identity import KeyPair

if TYPE_CHECKING:
    from prime.actor import System
    from prime.dht.dht import Dht


async def as_client(config: Config, found: Places, order: Order, *, own_key: bool) -> Any:
    """Carry an order out as a client of the network that `transport.join` names.

    With `own_key` in the name of the node of this configuration, which must not be running: what is published is its.
    Raises as `carry_out`, `UnreachableError` where nobody answers there, and `ConfigError` for a key that cannot be used
    or a node that runs.
    """
    from prime.dht.dht import open_dht

    with sole_owner(found) if own_key else contextlib.nullcontext():
        key = KeyPair.load_or_create(found.key_file) if own_key else KeyPair.generate()
        async with open_system(transport=transport_of(config, found), key=key) as system:
            settings = settings_of(config, system.addresses)
            async with (
                open_dht(system, key, settings=settings, bootstrap=config.transport.join, server=False) as dht,
                in_ipfs(dht, system, config, settings, server=False),
            ):
                await _joined(dht, system, config, order)
                return await carry_out(dht, order)


async def _joined(dht: Dht, system: System, config: Config, order: Order) -> None:
    """Wait until the DHT that an order is about can be asked; those to begin with in libp2p's need not be Prime's."""
    if dht.ipfs is not None and of_ipfs(order):
        await dht.ipfs.joined()
        return
    await find_contacts(system, config.transport.join, 0.0)
    await dht.joined()
