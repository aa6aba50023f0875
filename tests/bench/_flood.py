"""A node with two peers, each in a process of its own: what one peer's asks take while the other floods the node.

Run: python tests/bench/_flood.py [--transport tcp] [--floods tells,asks] [--turn-s 1.0] [--turns 5] [--json]

Turns with the flooder at work and turns in which it only computes (`spin`) follow each other, so that what sharing the
machine's cores costs is in both. `calm_ms` and `flooded_ms` are p50 and p99 over all asks of a kind, the ratio is the
median of the turns' ratios of medians, and `turn_us` how long a turn of the node's loop is in time of the processor,
without and with the flood. The flood `spin` is measured against a flooder at rest. The node's limits are the defaults.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import itertools
import json
import os
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, Self

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parents[1])]
os.environ["PYTHONPATH"] = os.pathsep.join([str(HERE.parents[1]), os.environ.get("PYTHONPATH", "")])

import trio  # noqa: E402
from _blocks import Block, MissingError, Opening  # noqa: E402

import prime  # noqa: E402
from prime import Actor, Ask, KeyPair, Mailbox, Payload, System, on  # noqa: E402
from prime.actor.contract import PeerId  # noqa: E402
from prime.errors import PrimeError  # noqa: E402
from prime.transport import multistream, yamux  # noqa: E402
from prime.transport.tls import ALPN, TlsSession, open_credentials  # noqa: E402
from prime.wire.frame import pack  # noqa: E402

REACH = 2.0
"""A flooding peer shall not slow another peer's asks by more than this."""
IN_FLIGHT = 64
TURN_S = 1.0
SETTLE_S = 0.3
"""A flood is under way, or over, so long after its begin or end."""


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


async def tells(system: System, node: PeerId, _transport: str) -> None:
    """Tell as fast as credit comes."""
    ref = system.ref(node, "/s/sink", Host)
    for number in itertools.count():
        await ref.tell(Note(number))


async def asks(system: System, node: PeerId, _transport: str) -> None:
    """Ask with many in flight."""
    ref = system.ref(node, "/s/sink", Host)

    async def ask() -> None:
        while True:
            await ref.ask(Echo(1), timeout=60)

    async with trio.open_nursery() as nursery:
        for _ in range(IN_FLIGHT):
            nursery.start_soon(ask)


async def bulk(system: System, node: PeerId, _transport: str) -> None:
    """Tell payloads of a MiB."""
    ref, data = system.ref(node, "/s/sink", Host), Payload(bytes(2**20))
    while True:
        await ref.tell(Bulk(data))


async def many(system: System, node: PeerId, _transport: str) -> None:
    """Tell many actors that are not there: each message is a dead letter."""
    for number in itertools.count():
        await system.ref(node, f"/s/nobody{number % 5000}", Host).tell(Note(number))


async def stale(system: System, node: PeerId, _transport: str) -> None:
    """Ask and give up at once: ASK and CANCEL, again and again."""
    ref = system.ref(node, "/s/sink", Host)
    while True:
        with trio.move_on_after(0):
            await ref.ask(Echo(1), timeout=60)
        await trio.lowlevel.checkpoint()


async def violations(system: System, node: PeerId, transport: str) -> None:
    """Dial, say what is against the protocol, and dial again, under the same identity."""
    await _storm(_place(system.network, node), transport, send=b"".join(pack(b"\x9f" * 64, ())), key=KeyPair.generate())


async def strangers(system: System, node: PeerId, transport: str) -> None:
    """Dial with a fresh identity each time, and hang up."""
    await _storm(_place(system.network, node), transport, send=b"", key=None)


async def half_open(system: System, node: PeerId, _transport: str) -> None:
    """Open connections and never say anything."""
    host, port = _place(system.network, node)
    sockets: list[Any] = []
    while True:
        try:
            sockets.append(await trio.open_tcp_stream(host, port))
        except OSError:
            await trio.sleep(0.01)
        if len(sockets) > 500:
            await sockets.pop(0).aclose()


async def spin(_system: System, _node: PeerId, _transport: str) -> None:
    """Compute."""
    while True:
        sum(range(10_000))
        await trio.lowlevel.checkpoint()


FLOODS: dict[str, Callable[[System, PeerId, str], Awaitable[None]]] = {
    each.__name__: each for each in (spin, tells, asks, bulk, many, stale, violations, strangers, half_open)
}


def _place(network: Any, node: PeerId) -> tuple[str, int]:
    parts = network.known_addresses(node)[0].split("/")
    return parts[2], int(parts[4])


async def _secured(stream: trio.SocketStream, credentials: Any, transport: str) -> TlsSession:
    """Do the TLS handshake of a transport; what the caller says last of it is in the session's output."""
    protocols = (yamux.PROTOCOL, ALPN) if transport == "libp2p" else ()
    if protocols:
        await multistream.propose(stream.send_all, stream.receive_some, ("/tls/1.0.0",))
    session = TlsSession(credentials, server_side=False, protocols=protocols or (ALPN,))
    while not session.handshake():
        await stream.send_all(session.output())
        session.feed(await stream.receive_some(65536))
    return session


async def _storm(place: tuple[str, int], transport: str, *, send: bytes, key: KeyPair | None) -> None:
    """Shake hands as a raw caller, a few at a time."""

    async def one(credentials: Any) -> None:
        stream = await trio.open_tcp_stream(*place)
        try:
            session = await _secured(stream, credentials, transport)
            await stream.send_all(session.output() + (session.encrypt(send) if send else b""))
            if send:
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


class Loop(trio.abc.Instrument):
    """How long the turns of a node's loop are: a message that comes meanwhile waits for the end of one.

    In time of the processor, so that it is the same however busy the machine is.
    """

    def __init__(self) -> None:
        self.turns_s: list[float] = []
        self._since = time.thread_time()

    def after_io_wait(self, _timeout: float) -> None:
        """See `trio.abc.Instrument`: a turn begins."""
        self._since = time.thread_time()

    def before_io_wait(self, _timeout: float) -> None:
        """See `trio.abc.Instrument`: a turn is over."""
        self.turns_s.append(time.thread_time() - self._since)

    def typical_us(self) -> float:
        """Return how long the turn is that is met at any moment of work: long ones are met more often. Begins anew."""
        turns, self.turns_s = self.turns_s, []
        return 1e6 * sum(turn**2 for turn in turns) / (sum(turns) or 1.0)


async def serve(transport: str) -> None:
    """Be the node; on each line, say how long a turn of the loop was since the last."""
    async with prime.open_system(transport=transport_of(transport)) as system, system.supervisor("s") as supervisor:
        await supervisor.spawn(Host, "host")
        await supervisor.spawn(Host, "sink", mailbox=Mailbox(1024))
        print(system.addresses[0], flush=True)
        loop = Loop()
        trio.lowlevel.add_instrument(loop)
        while await line():
            print(loop.typical_us(), flush=True)


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
                nursery.start_soon(FLOODS[words[1]], system, node, transport)
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
        words = [sys.executable, sys.modules[__name__].__file__, "--role", role, "--transport", transport]
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


class Site:
    """The three processes, while they live."""

    def __init__(self, transport: str) -> None:
        self.turn_us = 0.0
        """How long a turn of the node's loop was during the last asks; see `Loop`."""
        self._node, self._asker, self._flooder = (Process(role, transport) for role in ("serve", "asker", "flooder"))

    def __enter__(self) -> Self:
        address = self._node.hear()
        for process in (self._asker, self._flooder):
            process.say(address)
        self._asker.hear()
        return self

    def __exit__(self, *_: object) -> None:
        for process in (self._node, self._asker, self._flooder):
            process.end()

    def asked_ms(self, flood: str, turn_s: float = TURN_S) -> list[float]:
        """Return how long asks take while the flooder does something; nothing if it is `rest`."""
        if flood != "rest":
            self._flooder.say(f"start {flood}")
            self._flooder.hear()
            time.sleep(SETTLE_S)
        self._typical_turn_us()
        self._asker.say(str(turn_s))
        took: list[float] = json.loads(self._asker.hear())
        self.turn_us = self._typical_turn_us()
        if flood != "rest":
            self._flooder.say("stop")
            self._flooder.hear()
            time.sleep(SETTLE_S)
        return took

    def _typical_turn_us(self) -> float:
        self._node.say("?")
        return float(self._node.hear())


def contestants(flood: str, transport: str) -> tuple[Opening, Opening]:
    """Return asks beside a flood, and the same asks beside a process that only computes."""
    sites: list[Site] = []

    @contextlib.contextmanager
    def flooded() -> Iterator[Block]:
        if transport == "libp2p" and importlib.util.find_spec("libp2p") is None:
            raise MissingError("libp2p is not installed")
        with Site(transport) as site:
            sites.append(site)
            yield lambda: statistics.median(site.asked_ms(flood))

    @contextlib.contextmanager
    def calm() -> Iterator[Block]:
        yield lambda: statistics.median(sites[-1].asked_ms("spin"))

    return flooded, calm


def measure(name: str, *, transport: str = "tcp", turns: int = 5, turn_s: float = TURN_S) -> dict[str, Any]:
    """Measure one flood; returns the figures of both states in ms, and how much slower asks are."""
    before = "rest" if name == "spin" else "spin"
    times: dict[str, list[float]] = {before: [], name: []}
    turns_us: dict[str, list[float]] = {before: [], name: []}
    ratios = []
    with Site(transport) as site:
        for _ in range(turns):
            medians = []
            for flood in (before, name):
                took = site.asked_ms(flood, turn_s)
                turns_us[flood].append(site.turn_us)
                times[flood] += took
                medians.append(statistics.median(took))
            ratios.append(medians[1] / medians[0])
    calm, loud = (statistics.quantiles(times[flood], n=100) for flood in (before, name))
    return {
        "flood": name,
        "transport": transport,
        "ratio_p50": round(statistics.median(ratios), 2),
        "ratio_p99": round(loud[98] / calm[98], 2),
        "calm_ms": [round(calm[49], 3), round(calm[98], 3)],
        "flooded_ms": [round(loud[49], 3), round(loud[98], 3)],
        "turn_us": [round(statistics.median(turns_us[flood])) for flood in (before, name)],
        "reach": REACH,
    }


def main() -> None:
    """Run the bench, or be one of its processes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--role", choices=("serve", "asker", "flooder"))
    parser.add_argument("--transport", default="tcp", choices=("tcp", "libp2p"))
    parser.add_argument("--floods", default=",".join(FLOODS))
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--turn-s", type=float, default=TURN_S)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.role:
        trio.run({"serve": serve, "asker": asker, "flooder": flooder}[options.role], options.transport)
        return
    for name in options.floods.split(","):
        found = measure(name, transport=options.transport, turns=options.turns, turn_s=options.turn_s)
        print(json.dumps(found) if options.json else found, flush=True)


if __name__ == "__main__":
    main()
