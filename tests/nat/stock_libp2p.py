"""Run by the tests in a host: a py-libp2p host as its documents make one, and nothing of Prime.

It is told what to do by lines of JSON, and answers each with one. Arguments: where to listen, and what it shall be able to:
`hop` (relays for others), `punch` (DCUtR).
"""

from __future__ import annotations

import json
import os
import secrets
import sys
import time
from typing import Any

import trio
from libp2p import create_yamux_muxer_option, new_host
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as create_noise_key_pair
from libp2p.discovery.events.peerDiscovery import peerDiscovery
from libp2p.discovery.mdns import create_mdns_discovery
from libp2p.discovery.upnp.upnp import UpnpManager
from libp2p.host.autonat.autonat import AutoNATService
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import info_from_p2p_addr
from libp2p.relay.circuit_v2.config import RelayConfig, RelayRole
from libp2p.relay.circuit_v2.dcutr import DCUtRProtocol
from libp2p.relay.circuit_v2.protocol import PROTOCOL_ID as HOP
from libp2p.relay.circuit_v2.protocol import CircuitV2Protocol
from libp2p.relay.circuit_v2.transport import CircuitV2Transport
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE
from libp2p.security.noise.transport import Transport as Noise
from libp2p.tools.anyio_service import background_trio_service
from multiaddr import Multiaddr

ECHO: Any = "/echo/1"


class Stock:
    """The host and its services."""

    def __init__(self, abilities: set[str]) -> None:
        keys = create_new_key_pair(secrets.token_bytes(32))
        noise = Noise(keys, noise_privkey=create_noise_key_pair().private_key)
        self.host: Any = new_host(key_pair=keys, sec_opt={NOISE: noise}, muxer_opt=create_yamux_muxer_option())
        self.circuits = CircuitV2Protocol(self.host, allow_hop="hop" in abilities)
        roles = RelayRole.STOP | RelayRole.HOP if "hop" in abilities else RelayRole.STOP
        self.transport = CircuitV2Transport(self.host, self.circuits, RelayConfig(roles=roles))
        self.autonat = AutoNATService(self.host)
        self.punching = DCUtRProtocol(self.host) if "punch" in abilities else None
        self.found: list[Any] = []

    async def run(self, listen: str) -> None:
        async with (
            self.host.run([Multiaddr(listen)]),
            trio.open_nursery() as self.nursery,
            background_trio_service(self.circuits),
        ):
            self.host.set_stream_handler(ECHO, self._echo)
            if self.punching is not None:
                self.nursery.start_soon(self._run_punching)
            await self.circuits.event_started.wait()
            say(peer=str(self.host.get_id()))
            async for line in lines():
                await self._obey(json.loads(line))

    async def _run_punching(self) -> None:
        async with background_trio_service(self.punching):
            await trio.sleep_forever()

    async def _obey(self, order: dict[str, Any]) -> None:
        name, started = order.pop("do"), time.monotonic()
        try:
            with trio.fail_after(30):
                answer = {"result": await getattr(self, name)(**order)}
        except Exception as error:  # noqa: BLE001 - the test looks at it
            answer = {"error": f"{type(error).__name__}: {error}"}
        say(**answer, took_s=round(time.monotonic() - started, 3))

    async def _echo(self, stream: Any) -> None:
        while data := await stream.read(65536):
            await stream.write(data)

    async def connect(self, address: str) -> None:
        await self.host.connect(info_from_p2p_addr(Multiaddr(address)))

    async def reserve(self, address: str) -> bool:
        info = info_from_p2p_addr(Multiaddr(address))
        await self.host.connect(info)
        stream = await self.host.new_stream(info.peer_id, [HOP])
        return await self.transport.reserve(stream, info.peer_id, self.nursery)

    async def circuit(self, address: str) -> None:
        await self.transport.dial(Multiaddr(address))

    async def punch(self, peer: str) -> bool:
        assert self.punching is not None
        return await self.punching.initiate_hole_punch(ID.from_string(peer))

    async def echo(self, peer: str, size: int) -> bool:
        stream = await self.host.new_stream(ID.from_string(peer), [ECHO])
        data, back = os.urandom(size), b""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream.write, data)
            while len(back) < size:
                back += await stream.read(size)
        await stream.close()
        return back == data

    async def ways(self, peer: str) -> list[str]:
        connections = self.host.get_network().connections.get(ID.from_string(peer), [])
        return sorted(connection.get_connection_type().name for connection in connections)

    async def disconnect(self, peer: str) -> None:
        await self.host.disconnect(ID.from_string(peer))

    async def ask_autonat(self, server: str, addresses: list[str]) -> int:
        raw = [Multiaddr(address).to_bytes() for address in addresses]
        status, _ = await self.autonat.query_server(ID.from_string(server), raw)
        return status

    async def map_port(self, port: int) -> list[Any]:
        manager = UpnpManager()
        found = await manager.discover() and await manager.add_port_mapping(port)
        entry = manager._gateway.getspecificportmapping(port, "TCP") if found else None
        return [found, manager.get_external_ip(), entry]

    async def discover(self, within_s: float) -> list[Any]:
        peerDiscovery.register_peer_discovered_handler(self.found.append)
        started = time.monotonic()
        mdns = create_mdns_discovery(self.host.get_network(), port=4001, host=self.host)
        mdns.start()
        stood_still_s = time.monotonic() - started
        await trio.sleep(within_s)
        mdns.stop()
        return [stood_still_s, [[str(info.peer_id), [str(each) for each in info.addrs]] for info in self.found]]


async def lines() -> Any:
    pending = b""
    async with trio.lowlevel.FdStream(os.dup(0)) as stream:
        while more := await stream.receive_some(65536):
            *whole, pending = (pending + more).split(b"\n")
            for line in whole:
                yield line


def say(**words: object) -> None:
    print(json.dumps(words), flush=True)


if __name__ == "__main__":
    trio.run(Stock(set(sys.argv[2:])).run, sys.argv[1])
