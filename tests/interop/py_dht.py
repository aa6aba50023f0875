"""py-libp2p hosts in its own `KadDHT`, and nothing of Prime; told what to do as `js/dht.mjs` is: `python py_dht.py 2`."""

from __future__ import annotations

import base64
import json
import os
import secrets
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import trio
from libp2p import create_yamux_muxer_option, new_host
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as create_noise_key_pair
from libp2p.kad_dht.kad_dht import DHTMode, KadDHT
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import info_from_p2p_addr
from libp2p.records.pubkey import PublicKeyValidator
from libp2p.records.validator import NamespacedValidator, Validator
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE
from libp2p.security.noise.transport import Transport as Noise
from libp2p.tools.anyio_service import background_trio_service
from multiaddr import Multiaddr

PATIENCE_S = 15.0


class Greatest(Validator):
    """Any value may stand, and the greatest counts; what Prime signs is for Prime to judge."""

    def validate(self, key: str, value: bytes) -> None:
        pass

    def select(self, key: str, values: list[bytes]) -> int:
        return values.index(max(values))


class Node:
    """One host and its DHT."""

    def __init__(self) -> None:
        keys = create_new_key_pair(secrets.token_bytes(32))
        noise = Noise(keys, noise_privkey=create_noise_key_pair().private_key)
        self.host: Any = new_host(key_pair=keys, sec_opt={NOISE: noise}, muxer_opt=create_yamux_muxer_option())
        known = {"pk": PublicKeyValidator(), "app": Greatest(), "prime": Greatest()}
        self.dht = KadDHT(self.host, DHTMode.SERVER, validator=NamespacedValidator(known))

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        async with self.host.run([Multiaddr("/ip4/127.0.0.1/tcp/0")]), background_trio_service(self.dht):
            task_status.started()
            await trio.sleep_forever()

    @property
    def shown(self) -> dict[str, str]:
        peer = str(self.host.get_id())
        address = str(self.host.get_addrs()[0]).partition("/p2p/")[0]
        return {"peer": peer, "address": f"{address}/p2p/{peer}"}

    async def connect(self, address: str) -> dict[str, Any]:
        info = info_from_p2p_addr(Multiaddr(address))
        await self.host.connect(info)
        await self.dht.add_peer(info.peer_id, skip_server_mode_check=True)
        return {}

    async def size(self) -> dict[str, Any]:
        return {"size": self.dht.get_routing_table_size()}

    async def findPeer(self, peer: str) -> dict[str, Any]:  # noqa: N802 - the names are those of dht.mjs
        found = await self.dht.find_peer(ID.from_string(peer))
        return {"found": shown([found] if found else [])}

    async def put(self, key: str, value: str) -> dict[str, Any]:
        await self.dht.put_value(base64.b64decode(key).decode(), base64.b64decode(value))
        return {}

    async def get(self, key: str) -> dict[str, Any]:
        found = await self.dht.get_value(base64.b64decode(key).decode())
        return {"value": base64.b64encode(found).decode() if found else None}

    async def provide(self, multihash: str) -> dict[str, Any]:
        return {"told": await self.dht.provide(base64.b64decode(multihash).hex())}

    async def findProviders(self, multihash: str) -> dict[str, Any]:  # noqa: N802
        return {"found": shown(await self.dht.find_providers(base64.b64decode(multihash).hex()))}


def shown(infos: list[Any]) -> list[dict[str, Any]]:
    return [{"peer": str(info.peer_id), "addresses": [str(each) for each in info.addrs]} for info in infos]


def say(**fields: Any) -> None:
    os.write(1, json.dumps(fields).encode() + b"\n")


async def lines() -> AsyncIterator[bytes]:
    heard = b""
    stream = trio.lowlevel.FdStream(os.dup(0))
    async for some in stream:
        *whole, heard = (heard + some).split(b"\n")
        for line in whole:
            yield line


async def main() -> None:
    async with AsyncExitStack() as stack:
        nursery = await stack.enter_async_context(trio.open_nursery())
        nodes = [Node() for _ in range(int(sys.argv[1]))]
        for node in nodes:
            await nursery.start(node.run)
        say(nodes=[node.shown for node in nodes])
        async for line in lines():
            command = json.loads(line)
            do = getattr(nodes[command.pop("node")], command.pop("do"))
            try:
                with trio.fail_after(PATIENCE_S):
                    say(**await do(**command))
            except Exception as error:  # noqa: BLE001 - it goes to the test
                say(error=repr(error))
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main)
