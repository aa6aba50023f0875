"""A node of Prime's DHT, for the bench of the DHT: over libp2p's TLS and Yamux, what it holds on the disk by SQLite.

It says where it listens, then obeys the lines of JSON that it hears, each with one of its own.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # a fresh checkout needs no installation

import attrs
import trio
from _dht_orders import VALUE, obey, say, timed

import prime
from prime.actor.contract import PeerId
from prime.dht.backends.memory import MemoryBackend
from prime.dht.backends.sqlite import SqliteBackend
from prime.dht.dht import Dht, open_dht
from prime.dht.key import key_of
from prime.dht.record import mutable_key
from prime.dht.settings import PRESETS
from prime.errors import WorldError

SETTINGS = attrs.evolve(PRESETS["swarm"], requests_per_s=10_000.0)
"""One node asks for all that is measured: more than one peer may ask for over time."""

MEET_S = 180.0


class Node:
    """One node and what it is told to do."""

    def __init__(self, system: prime.System, dht: Dht) -> None:
        self._system = system
        self._dht = dht

    async def meet(self, addresses: list[str]) -> int:
        """Wait until this node has found its place, and link with all these."""
        with trio.fail_after(MEET_S):
            for address in addresses:
                await self._link(address)
            await self._dht.joined()
        return self._dht.status().contacts

    async def _link(self, address: str) -> None:
        """Dial until it is there: a node takes so many connections a second from one host, and all are on this one."""
        network = self._system.network
        assert network is not None
        while True:
            try:
                await network.dial(address)
            except WorldError:
                await trio.sleep(0.5)
            else:
                return

    async def put(self, names: list[str]) -> list[float]:
        """Store signed values of 1 KiB; return how long each took."""

        async def write(name: str) -> None:
            await self._dht.put(VALUE, salt=name.encode(), seq=0)

        return await timed([lambda name=name: write(name) for name in names])

    async def get(self, names: list[str]) -> list[float]:
        """Read values that another stored (`PEER/NAME`), three agreeing answers each."""

        async def read(name: str) -> None:
            publisher, _, salt = name.partition("/")
            found = await self._dht.get(mutable_key(PeerId(publisher), salt.encode()))
            if found.value != VALUE:
                raise SystemExit(f"Prime did not find {name}")

        return await timed([lambda name=name: read(name) for name in names])

    async def find(self, names: list[str]) -> list[float]:
        """Look up the peers closest to keys."""
        return await timed([lambda name=name: self._dht.closest(key_of(name.encode())) for name in names])


async def main(mode: str, transport: str, store: str, *bootstrap: str) -> None:
    """Be a node: `server`, or `client`, which holds nothing itself."""
    key = prime.KeyPair.generate()
    with tempfile.TemporaryDirectory() as folder:
        backend = SqliteBackend(Path(folder) / "dht.sqlite") if store == "sqlite" else MemoryBackend()
        async with (
            prime.open_system(transport=transport, key=key) as system,
            open_dht(
                system, key, settings=SETTINGS, backend=backend, bootstrap=bootstrap, server=mode == "server"
            ) as dht,
        ):
            assert system.network is not None
            say({"address": system.network.addresses[0], "peer": key.peer})
            await obey(Node(system, dht))


if __name__ == "__main__":
    trio.run(main, *sys.argv[1:])
