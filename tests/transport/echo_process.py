"""A program for tests: opens the transport named on its command line and sends back what comes by its first channel."""

from __future__ import annotations

import sys

import anyio
import trio

from prime.transport.choice import transport_named
from prime.transport.identity import KeyPair


async def main(name: str, address: str) -> None:
    async with transport_named(name, address).open(KeyPair.generate()) as endpoint:
        print(endpoint.addresses[0], flush=True)
        channel = await endpoint.accept()
        try:
            while True:
                await channel.send(await channel.receive(1 << 16))
        except anyio.EndOfStream:
            await channel.send_eof()
            await trio.sleep_forever()


trio.run(main, sys.argv[1], sys.argv[2])
