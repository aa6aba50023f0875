"""A node of py-libp2p's own Kademlia (`libp2p.kad_dht`), for the bench of the DHT: `new_host` with Noise and Yamux.

It says where it listens, then obeys the lines of JSON that it hears, each with one of its own. Its traps are kept off: every
node is told of all others and has connected to them before anything is measured, and validates the bench's keys.
"""

from __future__ import annotations

import socket
import sys
from typing import Any

import trio
from _dht_orders import VALUE, obey, say, timed
from _net_peers import stock_host
from libp2p.kad_dht.kad_dht import DHTMode, KadDHT
from libp2p.peer.peerinfo import info_from_p2p_addr
from libp2p.records.validator import NamespacedValidator, Validator
from libp2p.tools.anyio_service.context import background_trio_service
from multiaddr import Multiaddr

KEY = "/bench/{}"


class Anything(Validator):
    """Takes every value under the bench's keys."""

    def validate(self, key: str, value: bytes) -> None:
        """Take it."""

    def select(self, key: str, values: list[bytes]) -> int:
        """Choose the first."""
        return 0


class Node:
    """One node and what it is told to do."""

    def __init__(self, host: Any, dht: Any) -> None:
        self._host = host
        self._dht = dht

    async def meet(self, addresses: list[str]) -> int:
        """Connect to all these and put them into the table."""
        for address in addresses:
            info = info_from_p2p_addr(Multiaddr(address))
            if info.peer_id == self._host.get_id():
                continue
            await self._host.connect(info)
            await self._dht.add_peer(info.peer_id)
        return int(self._dht.get_routing_table_size())

    async def put(self, names: list[str]) -> list[float]:
        """Store values of 1 KiB; return how long each took."""
        return await timed([lambda name=name: self._dht.put_value(KEY.format(name), VALUE) for name in names])

    async def get(self, names: list[str]) -> list[float]:
        """Read values that others stored, three agreeing answers each."""

        async def read(name: str) -> None:
            found = await self._dht.get_value(KEY.format(name), 3)
            if found != VALUE:
                raise SystemExit(f"py-libp2p did not find {name}")

        return await timed([lambda name=name: read(name) for name in names])

    async def find(self, names: list[str]) -> list[float]:
        """Look up the peers closest to keys."""

        async def look(name: str) -> None:
            if not await self._dht.peer_routing.find_closest_peers_network(name.encode()):
                raise SystemExit("py-libp2p found nobody")

        return await timed([lambda name=name: look(name) for name in names])


async def main(mode: str) -> None:
    """Be a node: `server`, or `client`, which holds nothing itself."""
    with socket.socket() as probe:  # its addresses do not tell a port that the system chose
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    host = stock_host()
    validator = NamespacedValidator({"bench": Anything()})
    dht = KadDHT(host, DHTMode[mode.upper()], validator=validator, validator_changed=True)
    async with host.run(listen_addrs=[Multiaddr(f"/ip4/127.0.0.1/tcp/{port}")]), background_trio_service(dht):
        node = Node(host, dht)
        say({"address": f"/ip4/127.0.0.1/tcp/{port}/p2p/{host.get_id()}"})
        await obey(node)


if __name__ == "__main__":
    trio.run(main, sys.argv[1])
