"""Run by the tests in a host: a node that looks for its run on the local network, and says what it found.

Arguments: the run, the transport, how long to listen, and with `liar` instead of a run many announcements of nonsense.
"""

from __future__ import annotations

import json
import sys

import trio

import prime
from prime.config import Config, TrainConfig, TransportConfig
from prime.node.neighbourhood import open_neighbourhood
from prime.transport.choice import transport_named

EVERYWHERE = "/ip4/0.0.0.0/tcp/0"


def say(**words: object) -> None:
    print(json.dumps(words), flush=True)


async def look(run: str, kind: str, wait_s: float) -> None:
    link = TransportConfig(kind=kind, listen=EVERYWHERE, mdns=True, mdns_wait_s=wait_s)
    config = Config(transport=link, train=TrainConfig(run=run))
    async with prime.open_system(transport=transport_named(kind, EVERYWHERE)) as system:
        say(peer=system.peer)
        async with open_neighbourhood(system, config) as neighbours:
            started = trio.current_time()
            contacts = await neighbours.look(lambda text: print(text, file=sys.stderr, flush=True))
            took_s = trio.current_time() - started
            assert system.network is not None
            dialled = [await system.network.dial(contact) for contact in contacts[:1]]
            say(contacts=contacts, dialled=dialled, took_s=took_s)
            await neighbours.announce(member=True)
            await trio.sleep_forever()


def lie(run: str) -> None:
    """Announce 200 nodes that are none: garbage, members elsewhere, and names that nobody explains."""
    import secrets

    from zeroconf import ServiceInfo, Zeroconf

    from prime.transport.identity import KeyPair
    from prime.transport.neighbours import SERVICE, Announcement, run_digest, write_announcement

    zeroconf = Zeroconf()
    elsewhere = Announcement(KeyPair.generate().peer, run_digest(run), "tcp", True, (("51.0.0.1", 22),))
    records = [write_announcement(elsewhere), {"v": "1", "p": "x" * 200}, {str(n): "y" * 200 for n in range(40)}, {}]
    for n in range(200):
        name = f"{secrets.token_hex(8)}.{SERVICE}"
        service = ServiceInfo(
            SERVICE, name, addresses=[b"\x33\0\0\1"], port=22, properties=records[n % 4], server="liar.local."
        )
        zeroconf.registry.async_add(service)
        zeroconf.send(zeroconf.generate_service_broadcast(service, 120))
    say(lies=200)
    sys.stdin.readline()


if __name__ == "__main__":
    if sys.argv[1] == "liar":
        lie(sys.argv[2])
    else:
        trio.run(look, sys.argv[1], sys.argv[2], float(sys.argv[3]))
