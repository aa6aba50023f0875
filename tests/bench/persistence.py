"""Events on the disk: appends, asks of persistent actors, and recovery, against the same bytes in one file by hand.

Run: python tests/bench/persistence.py [--json] [--pairs 5] [--folder .]

Rates are medians; ours and the file's take turns in the same folder. The file is the least that could be: a write and an
fsync for each event, no checksum, no key, no order among writers.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # a fresh checkout needs no installation

import trio
from _report import machine, say, show

import prime
from prime import Ask, EventStore, Persistent, SqliteEventStore, applies, on

BODY = b"x" * 100
RUN_S = 1.0
WRITERS = 64
EVENTS = 50_000


@prime.message(tag=0x7B81)
class Added:
    """An event of about the size of `BODY`."""

    data: bytes


@prime.message
class Add(Ask[int]):
    """Store one event."""


class Adder(Persistent[Add, Added]):
    """The smallest state."""

    def __init__(self, store: EventStore, key: str) -> None:
        super().__init__(store, key)
        self.total = 0

    @on(Add)
    async def add(self, _: Add) -> int:
        """Store one event."""
        await self.persist(Added(BODY))
        return self.total

    @applies(Added)
    def added(self, event: Added) -> None:
        """Count its bytes."""
        self.total += len(event.data)


def file_rate(folder: Path) -> float:
    """Return writes with an fsync each, a second."""
    handle = os.open(folder / "file", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    count, started = 0, time.perf_counter()
    while time.perf_counter() - started < RUN_S:
        os.write(handle, BODY)
        os.fsync(handle)
        count += 1
    os.close(handle)
    return count / (time.perf_counter() - started)


async def repeated(call: Callable[[], Awaitable[object]], tasks: int) -> float:
    """Return calls a second, from so many tasks at once."""
    count, started = 0, time.perf_counter()

    async def work() -> None:
        nonlocal count
        while time.perf_counter() - started < RUN_S:
            await call()
            count += 1

    async with trio.open_nursery() as nursery:
        for _ in range(tasks):
            nursery.start_soon(work)
    return count / (time.perf_counter() - started)


async def appends(store: SqliteEventStore, tasks: int) -> float:
    """Return appends a second, each task to keys of its own."""
    keys = iter(range(10**9))
    return await repeated(lambda: store.append(f"{time.monotonic_ns()}/{next(keys)}", 0, [BODY]), tasks)


async def asks(store: SqliteEventStore, tasks: int) -> float:
    """Return answered asks a second over as many persistent actors as tasks, an event each."""
    run = time.monotonic_ns()
    async with prime.open_system() as system, system.supervisor("s") as sup:
        refs = [await sup.spawn(lambda n=n: Adder(store, f"{run}/{n}"), f"a{n}") for n in range(tasks)]  # type: ignore[misc]
        turns = iter(range(10**9))
        return await repeated(lambda: refs[next(turns) % tasks].ask(Add(), timeout=60), tasks)


async def recovery(store: SqliteEventStore) -> float:
    """Return events a second that a starting actor reads, checks, decodes and applies."""
    from prime.actor.persistent import encoded

    key = f"recovery/{time.monotonic_ns()}"
    await store.append(key, 0, [encoded(Added(BODY))] * EVENTS)
    async with prime.open_system() as system, system.supervisor("s") as sup:
        started = time.perf_counter()
        await sup.spawn(lambda: Adder(store, key), "a")
        return EVENTS / (time.perf_counter() - started)


async def measured(folder: Path, pairs: int) -> list[dict[str, object]]:
    """Run each case and the file in turns."""
    results: list[dict[str, object]] = []
    cases: dict[str, tuple[Callable[[SqliteEventStore], Awaitable[float]], str]] = {
        "append": (lambda store: appends(store, 1), "append/s"),
        f"append_{WRITERS}": (lambda store: appends(store, WRITERS), "append/s"),
        "ask": (lambda store: asks(store, 1), "ask/s"),
        f"ask_{WRITERS}": (lambda store: asks(store, WRITERS), "ask/s"),
        "recovery": (recovery, "event/s"),
    }
    async with await SqliteEventStore.open(folder / "events.db") as store:
        for case, (work, unit) in cases.items():
            found = [(await work(store), file_rate(folder)) for _ in range(pairs)]
            value = statistics.median(ours for ours, _ in found)
            ratio = None if case == "recovery" else statistics.median(ours / theirs for ours, theirs in found)
            against = "write and fsync"
            results.append({"case": case, "value": value, "unit": unit, "against": against, "ratio": ratio})
            say(f"{case}: {value:,.0f} {unit}")
    return results


def main() -> None:
    """Run the bench."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("--pairs", type=int, default=5, help="runs of each, in turns")
    parser.add_argument("--folder", type=Path, help="a folder on the disk to measure (default: the temporary one)")
    arguments = parser.parse_args()
    before = machine()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        results = trio.run(measured, Path(folder), arguments.pairs)
    show("persistence", results, before, as_json=arguments.json)


if __name__ == "__main__":
    main()
