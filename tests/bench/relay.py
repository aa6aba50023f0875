"""What relaying costs the relay: its own asks beside a circuit that is driven as hard as it lets anybody.

Run: python tests/bench/relay.py [--json] [--turns 5]

Four processes over `tcp` on loopback: a relay, a node behind it, one that sends that node 1 MiB payloads through it without
pause, and one that asks the relay. Turns with and without load alternate. `reach`: an ask beside a circuit takes at most
twice as long (spec/protocols/relay.md 3.7). `circuit` is what came through, against the rate that the relay sets.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
PATHS = [str(HERE), str(HERE.parents[1])]
sys.path[:0] = PATHS  # a fresh checkout needs no installation
os.environ["PYTHONPATH"] = os.pathsep.join([*PATHS, os.environ.get("PYTHONPATH", "")])  # nor do the children

import trio  # noqa: E402
from _report import machine, say, show  # noqa: E402

import prime  # noqa: E402

ASKS = 400
LOAD_S = 2.0
REACH = 0.5
"""Asks without a circuit per asks with one: the relay's own may take twice as long."""
LISTEN = "/ip4/127.0.0.1/tcp/0"


@prime.message(tag=0x7C86)
class Echo(prime.Ask[int]):
    number: int


@prime.message(tag=0x7C87)
class Load:
    data: prime.Payload


@prime.message(tag=0x7C88)
class Loaded(prime.Ask[int]):
    """Ask how many bytes came."""


class Desk(prime.Actor[Echo | Load | Loaded]):
    def __init__(self) -> None:
        self.came = 0

    @prime.on(Echo)
    def echo(self, m: Echo) -> int:
        return m.number

    @prime.on(Load)
    def load(self, m: Load) -> None:
        self.came += len(m.data)

    @prime.on(Loaded)
    def loaded(self, _: Loaded) -> int:
        return self.came


def tell(value: Any) -> None:
    print(json.dumps(value), flush=True)


async def heard() -> str:
    return (await trio.to_thread.run_sync(sys.stdin.readline)).strip()


async def relay() -> None:
    """Relay, and answer asks."""
    async with (
        prime.open_system(transport=prime.Tcp(LISTEN), relay=prime.RelayLimits()) as system,
        system.supervisor("app") as sup,
    ):
        await sup.spawn(Desk, "desk")
        tell(system.addresses[0])
        await heard()


async def behind(address: str) -> None:
    """Be reached through the relay."""
    async with (
        prime.open_system(transport=prime.Tcp(LISTEN), via=[address]) as system,
        system.supervisor("app") as sup,
    ):
        await sup.spawn(Desk, "desk")
        while not system.network.announced("circuits"):  # type: ignore[union-attr]  # noqa: ASYNC110 - it is a bench
            await trio.sleep(0.01)
        tell(system.network.announced("circuits")[0])  # type: ignore[union-attr]
        await heard()


async def drive(address: str) -> None:
    """Send through the circuit for a while, whenever told to; say how many bytes came a second."""
    async with prime.open_system(transport=prime.Tcp(LISTEN), punch=False) as system:
        far = system.ref(await system.network.dial(address), "/app/desk", Desk)  # type: ignore[union-attr]
        tell("ready")
        data = bytes(1 << 20)
        while await heard():
            before, started = await far.ask(Loaded(), timeout=60), trio.current_time()
            with trio.move_on_after(LOAD_S):
                while True:
                    await far.tell(Load(data))
            tell((await far.ask(Loaded(), timeout=60) - before) / (trio.current_time() - started))


async def measure(address: str, driver: Child, turns: int) -> tuple[list[float], list[float], list[float]]:
    """Return the medians of asks, in seconds, of turns without and with load, and the bytes a second of these."""
    async with prime.open_system(transport=prime.Tcp(LISTEN)) as system:
        desk = system.ref(await system.network.dial(address), "/app/desk", Desk)  # type: ignore[union-attr]
        await _median(desk)
        quiet, loaded, rates = [], [], []
        for _ in range(turns):
            quiet.append(await _median(desk))
            driver.say("go")
            await trio.sleep(LOAD_S / 4)
            loaded.append(await _median(desk))
            rates.append(float(await trio.to_thread.run_sync(driver.hear)))
        return quiet, loaded, rates


async def _median(desk: prime.Ref[Any]) -> float:
    times = []
    for number in range(ASKS):
        started = trio.current_time()
        await desk.ask(Echo(number), timeout=30)
        times.append(trio.current_time() - started)
    return statistics.median(times)


class Child:
    """One of this file's roles in a process of its own."""

    def __init__(self, role: str, *words: str) -> None:
        command = [sys.executable, __file__, "--role", role, *words]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def say(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def hear(self) -> Any:
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())


@contextmanager
def child(role: str, *words: str) -> Iterator[Child]:
    """Run one, and end it."""
    started = Child(role, *words)
    try:
        yield started
    finally:
        started.process.kill()
        started.process.wait()


def run(turns: int) -> list[dict[str, Any]]:
    with ExitStack() as stack:
        middle = stack.enter_context(child("relay"))
        address = middle.hear()
        circuit = stack.enter_context(child("behind", address)).hear()
        driver = stack.enter_context(child("drive", circuit))
        driver.hear()
        quiet, loaded, rates = trio.run(measure, address, driver, turns)
    ratio = statistics.median(a / b for a, b in zip(quiet, loaded, strict=True))
    say(
        f"asks: {1e3 * statistics.median(quiet):.3f} ms alone, {1e3 * statistics.median(loaded):.3f} ms beside a circuit"
    )
    rate = statistics.median(rates)
    limit = prime.RelayLimits().circuit_bytes_per_s
    return [
        {
            "case": "ask_beside_circuit",
            "value": 1e3 * statistics.median(loaded),
            "unit": "ms",
            "against": "the same ask without a circuit",
            "ratio": ratio,
            "reach": REACH,
        },
        {
            "case": "circuit",
            "value": rate / 1e6,
            "unit": "MB/s",
            "against": "the rate that the relay sets a circuit",
            "ratio": rate / limit,
            "reach": 0.8,
        },
    ]


def main() -> None:
    """Run the bench, or one of its roles."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--role", choices=("relay", "behind", "drive"))
    parser.add_argument("words", nargs="*")
    options = parser.parse_args()
    if options.role:
        trio.run({"relay": relay, "behind": behind, "drive": drive}[options.role], *options.words)
        return
    before = machine()
    show("relay", run(options.turns), before, as_json=options.json)


if __name__ == "__main__":
    main()
