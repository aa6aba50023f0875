"""One program, all cores: a pool of workers, each in a process of its own. One is killed, and its work is done again.

Run: python examples/05_processes.py
"""

from __future__ import annotations

import os
import signal

import trio

import prime
from prime import Actor, Ask, Restart, on
from prime.errors import ActorCrashedError


@prime.message(tag=0x1501)
class CountPrimes(Ask[int]):
    """Ask how many primes are in [start, stop)."""

    start: int
    stop: int


class Counter(Actor[CountPrimes]):
    """Computes for as long as it takes; it has a process, and so a core, of its own."""

    @on(CountPrimes)
    def count(self, m: CountPrimes) -> int:
        return sum(all(n % d for d in range(2, int(n**0.5) + 1)) for n in range(max(m.start, 2), m.stop))


async def count(pool: prime.Ref[CountPrimes], start: int, counts: dict[int, int]) -> None:
    """Ask until there is an answer: a worker that dies over a question is followed by a fresh one."""
    while start not in counts:
        try:
            counts[start] = await pool.ask(CountPrimes(start, start + 10_000), timeout=60)
        except ActorCrashedError as error:
            print(f"asked once more: {error}")


async def main() -> None:
    """Count the primes below 200 000 on every core."""
    size = min(os.cpu_count() or 1, 4)
    counts: dict[int, int] = {}
    async with prime.open_system() as system, system.supervisor("primes", restart=Restart(max=5)) as sup:
        pool = await sup.spawn_pool(system.in_process(Counter, window=1), "counters", size=size)
        workers = [info.process for branch in system.tree() for info in branch.children if info.process]
        print(f"{len(workers)} workers in processes of their own")
        async with trio.open_nursery() as nursery:
            for start in range(0, 200_000, 10_000):
                nursery.start_soon(count, pool, start, counts)
            await trio.sleep(0.1)
            os.kill(workers[0], signal.SIGKILL)
    print(f"{sum(counts.values())} primes")


if __name__ == "__main__":
    trio.run(main)
