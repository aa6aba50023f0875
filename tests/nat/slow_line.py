"""Two nodes of one process and an ask with a big payload between them, over this machine's loopback as it is.

`slow_line.py TRANSPORT whole|pieces`: `whole` are peers that take no big frame in pieces. It says as JSON what came of the
ask, how long it took in seconds, and how many links there were.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import trio

import prime
from prime import Actor, Ask, Payload, on
from prime.errors import PrimeError
from prime.transport import link
from prime.transport.facts import LinkUp

SIZE_BYTES = 6 * 2**20


@prime.message(tag=0x7ACB)
class Weigh(Ask[int]):
    data: Payload


class Scales(Actor[Weigh]):
    @on(Weigh)
    def weigh(self, m: Weigh) -> int:
        return len(m.data)


async def main(kind: str, frames: str) -> None:
    if frames == "whole":
        link.FEATURE = "none"  # type: ignore[misc]
    transport: Any = {"tcp": prime.Tcp, "libp2p": prime.Libp2p}[kind]
    links = list[LinkUp]()
    async with (
        prime.open_system(transport=transport()) as near,
        prime.open_system(transport=transport()) as far,
        far.supervisor("s") as supervisor,
    ):
        await supervisor.spawn(Scales, "scales")
        near.subscribe(lambda fact: links.append(fact) if isinstance(fact, LinkUp) else None)
        near.learn(far.peer, far.addresses)
        began = time.monotonic()
        try:
            came: Any = await near.ref(far.peer, "/s/scales", Scales).ask(Weigh(Payload(bytes(SIZE_BYTES))), timeout=60)
        except PrimeError as error:
            came = repr(error)
        print(json.dumps({"came": came, "took_s": time.monotonic() - began, "links": len(links)}), flush=True)


if __name__ == "__main__":
    trio.run(main, *sys.argv[1:])
