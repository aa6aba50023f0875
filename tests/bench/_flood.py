"""A node with two peers, each in a process of its own: what one peer's asks take while the other floods the node.

Run: python tests/bench/_flood.py [--transport tcp] [--floods tells,asks] [--turn-s 1.0] [--turns 5] [--json]

For each flood, turns with the flooder at rest and turns with it flooding follow each other; `p50` and `p99` are over all
asks of a kind, and the ratio is the median of the turns' ratios of medians. The flooder holds at most what it is given:
the node's own limits are the defaults. `spin` floods nothing and only computes: what sharing the machine's cores costs.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parents[1])]
os.environ["PYTHONPATH"] = os.pathsep.join([str(HERE.parents[1]), os.environ.get("PYTHONPATH", "")])

import trio  # noqa: E402

import prime  # noqa: E402
from prime import Actor, Ask, KeyPair, Mailbox, Payload, System, on  # noqa: E402
from prime.actor.contract import PeerId  # noqa: E402
from prime.errors import PrimeError  # noqa: E402
from prime.transport.tls import TlsSession, open_credentials  # noqa: E402
from prime.wire.frame import pack  # noqa: E402

REACH = 2.0
"""A flooding peer shall not slow another peer's asks by more than this."""
IN_FLIGHT = 64


@prime.message(tag=0x7AB0)
class Echo(Ask[int]):
    number: int


@prime.message(tag=0x7AB1)
class Note:
    number: int


@prime.message(tag=0x7A67)
class Bulk:
    data: Payload


class Host(Actor[Echo | Note | Bulk]):
    """Answers, and drops what it is told."""

    @on(Echo)
    def echo(self, m: Echo) -> int:
        return m.number

    @on(Note)
    def note(self, _: Note) -> None:
        """Drop it."""

    @on(Bulk)
    def bulk(self, _: Bulk) -> None:
        """Drop it."""


def transport_of(name: str) -> Any:
    """Return the transport of that name."""
    return {"tcp": prime.Tcp, "libp2p": prime.Libp2p}[name]()


# ------------------------------------------------------------------------------------------------------- the flooder


async def tells(system: System, node: PeerId) -> None:
    """Tell as fast as credit comes."""
    ref = system.ref(node, "/s/sink", Host)
    for number in itertools.count():
        await ref.tell(Note(number))


async def asks(system: System, node: PeerId) -> None:
    """Ask with many in flight."""
    ref = system.ref(node, "/s/sink", Host)

    async def ask() -> None:
        while True:
            await ref.ask(Echo(1), timeout=60)

    async with trio.open_nursery() as nursery:
        for _ in range(IN_FLIGHT):
            nursery.start_soon(ask)


async def bulk(system: System, node: PeerId) -> None:
    """Tell payloads of a MiB."""
    ref, data = system.ref(node, "/s/sink", Host), Payload(bytes(2**20))
    while True:
        await ref.tell(Bulk(data))


async def many(system: System, node: PeerId) -> None:
    """Tell many actors that are not there: each message is a dead letter."""
    for number in itertools.count():
        await system.ref(node, f"/s/nobody{number % 5000}", Host).tell(Note(number))


async def stale(system: System, node: PeerId) -> None:
    """Ask and give up at once: ASK and CANCEL, again and again."""
    ref = system.ref(node, "/s/sink", Host)
    while True:
        with trio.move_on_after(0):
            await ref.ask(Echo(1), timeout=60)
        await trio.lowlevel.checkpoint()


async def violations(system: System, node: PeerId) -> None:
    """Dial, say what is against the protocol, and dial again, under the same identity."""
    await _storm(node, system.network, send=pack(b"\x9f" * 64, ()), key=KeyPair.generate())


async def strangers(system: System, node: PeerId) -> None:
    """Dial with a fresh identity each time, and hang up."""
    await _storm(node, system.network, send=(), key=None)


async def half_open(_system: System, node: PeerId) -> None:
    """Open connections and never say anything."""
    host, port = _place(_system.network, node)
    sockets: list[Any] = []
    while True:
        try:
            sockets.append(await trio.open_tcp_stream(host, port))
        except OSError:
            await trio.sleep(0.01)
        if len(sockets) > 500:
            await sockets.pop(0).aclose()


async def spin(_system: System, _node: PeerId) -> None:
    """Compute."""
    while True:
        sum(range(10_000))
        await trio.lowlevel.checkpoint()


FLOODS: dict[str, Callable[[System, PeerId], Awaitable[None]]] = {
    each.__name__: each for each in (spin, tells, asks, bulk, many, stale, violations, strangers, half_open)
}


def _place(network: Any, node: PeerId) -> tuple[str, int]:
    parts = network.known_addresses(node)[0].split("/")
    return parts[2], int(parts[4])


async def _storm(node: PeerId, network: Any, *, send: Any, key: KeyPair | None) -> None:
    """Shake hands over TCP and TLS as a raw caller, a few at a time."""
    host, port = _place(network, node)

    async def one(credentials: Any) -> None:
        stream = await trio.open_tcp_stream(host, port)
        try:
            session = TlsSession(credentials, server_side=False)
            while not session.handshake():
                await stream.send_all(session.output())
                session.feed(await stream.receive_some(65536))
            data = b"".join(send)
            await stream.send_all(session.output() + (session.encrypt(data) if data else b""))
            if data:
                with trio.move_on_after(1):
                    while await stream.receive_some(65536):
                        pass
        finally:
            await trio.aclose_forcefully(stream)

    async def again() -> None:
        while True:
            with open_credentials(key or KeyPair.generate()) as credentials:
                for _ in range(20 if key else 1):
                    try:
                        await one(credentials)
                    except (OSError, PrimeError, ssl.SSLError, trio.BrokenResourceError):
                        await trio.sleep(0.005)

    async with trio.open_nursery() as nursery:
        for _ in range(8):
            nursery.start_soon(again)


# ------------------------------------------------------------------------------------------------------ the processes


async def line() -> str:
    """Return the next line of standard input."""
    return (await trio.to_thread.run_sync(sys.stdin.readline, abandon_on_cancel=True)).strip()


async def serve(transport: str) -> None:
    """Be the node."""
    async with prime.open_system(transport=transport_of(transport)) as system, system.supervisor("s") as supervisor:
        await supervisor.spawn(Host, "host")
        await supervisor.spawn(Host, "sink", mailbox=Mailbox(1024))
        print(system.addresses[0], flush=True)
        await line()


async def _join(system: System) -> PeerId:
    address = await line()
    node = PeerId(address.rpartition("/")[2])
    system.learn(node, (address,))
    return node


async def flooder(transport: str) -> None:
    """Flood on `start NAME`, rest on `stop`."""
    async with prime.open_system(transport=transport_of(transport)) as system:
        node = await _join(system)
        while (words := (await line()).split()) and words[0] == "start":
            async with trio.open_nursery() as nursery:
                nursery.start_soon(FLOODS[words[1]], system, node)
                print("started", flush=True)
                await line()
                nursery.cancel_scope.cancel()
            print("stopped", flush=True)


async def asker(transport: str) -> None:
    """Ask for as long as each line says, in seconds; say how long each ask took, in ms."""
    async with prime.open_system(transport=transport_of(transport)) as system:
        node = await _join(system)
        ref = system.ref(node, "/s/host", Host)
        await ref.ask(Echo(0), timeout=30)
        print("ready", flush=True)
        while seconds := await line():
            took, until = list[float](), time.monotonic() + float(seconds)
            while (began := time.monotonic()) < until:
                await ref.ask(Echo(1), timeout=60)
                took.append((time.monotonic() - began) * 1000)
            print(json.dumps(took), flush=True)


class Process:
    """One of the three."""

    def __init__(self, role: str, transport: str) -> None:
        words = [sys.executable, __file__, "--role", role, "--transport", transport]
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - as long as the process
        self._process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True
        )

    def say(self, text: str) -> None:
        """Write a line."""
        assert self._process.stdin is not None
        self._process.stdin.write(text + "\n")
        self._process.stdin.flush()

    def hear(self) -> str:
        """Read a line."""
        assert self._process.stdout is not None
        text = self._process.stdout.readline().strip()
        if not text:
            self._errors.seek(0)
            raise RuntimeError(f"{self._process.args}: {self._errors.read()[-2000:]}")
        return text

    def end(self) -> None:
        """End it."""
        self._process.kill()
        self._process.communicate()


def flood(name: str, *, transport: str = "tcp", turns: int = 5, turn_s: float = 1.0) -> dict[str, Any]:
    """Measure one flood; returns the figures of both states in ms, and how much slower asks are."""
    node, ours, theirs = (Process(role, transport) for role in ("serve", "asker", "flooder"))
    try:
        address = node.hear()
        for process in (ours, theirs):
            process.say(address)
        ours.hear()
        times: dict[bool, list[float]] = {False: [], True: []}
        ratios = []
        for _ in range(turns):
            medians = []
            for floods in (False, True):
                if floods:
                    theirs.say(f"start {name}")
                    theirs.hear()
                    time.sleep(0.3)
                ours.say(str(turn_s))
                took = json.loads(ours.hear())
                times[floods] += took
                medians.append(statistics.median(took))
                if floods:
                    theirs.say("stop")
                    theirs.hear()
                    time.sleep(0.3)
            ratios.append(medians[1] / medians[0])
        quiet, loud = (statistics.quantiles(times[floods], n=100) for floods in (False, True))
        return {
            "flood": name,
            "transport": transport,
            "ratio_p50": round(statistics.median(ratios), 2),
            "ratio_p99": round(loud[98] / quiet[98], 2),
            "quiet_ms": [round(quiet[49], 3), round(quiet[98], 3)],
            "flooded_ms": [round(loud[49], 3), round(loud[98], 3)],
            "reach": REACH,
        }
    finally:
        for process in (node, ours, theirs):
            process.end()


def main() -> None:
    """Run the bench, or be one of its processes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--role", choices=("serve", "asker", "flooder"))
    parser.add_argument("--transport", default="tcp", choices=("tcp", "libp2p"))
    parser.add_argument("--floods", default=",".join(FLOODS))
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--turn-s", type=float, default=1.0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.role:
        trio.run({"serve": serve, "asker": asker, "flooder": flooder}[options.role], options.transport)
        return
    for name in options.floods.split(","):
        found = flood(name, transport=options.transport, turns=options.turns, turn_s=options.turn_s)
        print(json.dumps(found) if options.json else found, flush=True)


if __name__ == "__main__":
    main()
