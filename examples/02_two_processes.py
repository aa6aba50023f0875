"""The same ref between two operating-system processes, over libp2p (or TLS over TCP where libp2p is not installed).

Run: python examples/02_two_processes.py [--transport libp2p|tcp]
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

import prime
from prime import Actor, Ask, Ref, on

LISTEN = "/ip4/127.0.0.1/tcp/0"
START_S = 60


# Messages that travel need a tag, from 0x1000 on: it stands for the class on the wire.
@prime.message(tag=0x1001)
class Put:
    """Keep a value."""

    key: str
    value: bytes


@prime.message(tag=0x1002)
class Get(Ask[bytes | None]):
    """Ask for a value."""

    key: str


class Store(Actor[Put | Get]):
    """Keeps values."""

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}

    @on(Put)
    def put(self, m: Put) -> None:
        self.values[m.key] = m.value

    @on(Get)
    def get(self, m: Get) -> bytes | None:
        return self.values.get(m.key)


def transport(name: str) -> prime.Libp2p | prime.Tcp:
    """One argument chooses how bytes travel; nothing else of a program changes."""
    return prime.Libp2p(LISTEN) if name == "libp2p" else prime.Tcp(LISTEN)


async def use(store: Ref[Put | Get], where: str) -> None:
    """Use a store; whether it is near or far cannot be told from here."""
    await store.tell(Put("answer", b"42"))
    print(f"{where}: {(await store.ask(Get('answer'), timeout=10))!r}", flush=True)


async def parent(name: str) -> None:
    async with prime.open_system(transport=transport(name)) as system, system.supervisor("kv") as sup:
        await use(await sup.spawn(Store, "store"), f"process {os.getpid()}, my own store")
        async with child_process(name) as (process, address):
            assert system.network is not None
            peer = await system.network.dial(address)  # proves that who answers has the key of that peer id
            await use(system.ref(peer, "/kv/store", Store), f"process {process}, over {name}")
    print("the child has ended")


@asynccontextmanager
async def child_process(name: str) -> AsyncIterator[tuple[int, str]]:
    """Run this file once more as a child; give its process id and address, and end it with the block."""
    command = [sys.executable, __file__, "--transport", name, "--child"]
    async with trio.open_nursery() as nursery:
        # Cancelling the nursery ends the child; and should this process be killed, the child's input closes.
        process: trio.Process = await nursery.start(
            functools.partial(trio.run_process, command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, check=False)
        )
        with trio.fail_after(START_S):
            address = await first_line(process)
        yield process.pid, address
        nursery.cancel_scope.cancel()


async def first_line(process: trio.Process) -> str:
    data = b""
    assert process.stdout is not None
    while not data.endswith(b"\n"):
        more = await process.stdout.receive_some()
        if not more:
            raise SystemExit("the child ended before it listened")
        data += more
    return data.decode().strip()


async def child(name: str) -> None:
    async with prime.open_system(transport=transport(name)) as system, system.supervisor("kv") as sup:
        await sup.spawn(Store, "store")
        print(system.addresses[0], flush=True)
        async with trio.lowlevel.FdStream(os.dup(0)) as parent_pipe:
            while await parent_pipe.receive_some():
                pass  # nothing is sent: the end of this pipe is the end of the parent


def main() -> None:
    parser = argparse.ArgumentParser(description="The same ref between two processes.")
    parser.add_argument("--transport", choices=("libp2p", "tcp"), default="libp2p")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    name = arguments.transport
    if name == "libp2p" and importlib.util.find_spec("libp2p") is None:
        print("libp2p is not installed (pip install 'prime-actors[libp2p]'): using tcp")
        name = "tcp"
    trio.run(child if arguments.child else parent, name)


if __name__ == "__main__":
    main()
