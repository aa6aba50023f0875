"""Prime's side of the actor bench, one function for each thing measured."""

from __future__ import annotations

import contextlib
import inspect
import os
import sys
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import trio
from _blocks import MissingError, rate, resident_bytes

import prime
from prime import Actor, Ask, Ref, on

BATCH = 1000
"""Messages put into a mailbox before it is drained; its room is 1,024."""
ASKS = 100
BURNS, TURNS = 10, 100_000


@prime.message
class Note:
    """What is told."""

    number: int


@prime.message
class Last:
    """What is told after a batch, to hear that all of it was handled."""

    done: Any


@prime.message
class Question(Ask[int]):
    """What is asked."""

    number: int


class Sync(Actor[Note | Last | Question]):
    """Handles all in plain functions."""

    @on(Note)
    def note(self, m: Note) -> None:
        """Do nothing: the runtime is what is measured."""

    @on(Last)
    def last(self, m: Last) -> None:
        """Say that the batch is through."""
        m.done.set()

    @on(Question)
    def question(self, m: Question) -> int:
        """Answer at once."""
        return m.number


class Async(Actor[Note | Last]):
    """Handles notes in a coroutine that awaits nothing."""

    @on(Note)
    async def note(self, m: Note) -> None:
        """Do nothing."""

    @on(Last)
    def last(self, m: Last) -> None:
        """Say that the batch is through."""
        m.done.set()


class AsyncAnswer(Actor[Question]):
    """Answers in a coroutine that awaits nothing."""

    @on(Question)
    async def question(self, m: Question) -> int:
        """Answer at once."""
        return m.number


@contextlib.asynccontextmanager
async def actor(kind: Callable[[], Actor[Any]], **options: Any) -> AsyncIterator[Ref[Any]]:
    """Run one actor in a system of its own."""
    async with prime.open_system(**options) as system, system.supervisor("bench") as sup:
        yield await sup.spawn(kind, "one")


async def tell_nowait() -> float:
    """Fill a mailbox, let the actor drain it, and so on."""
    message = Note(1)
    async with actor(Sync) as ref:

        async def batch() -> None:
            tell, done = ref.tell_nowait, trio.Event()
            for _ in range(BATCH):
                tell(message)
            tell(Last(done))
            await done.wait()

        return await rate(batch, BATCH)


async def tell(kind: Callable[[], Actor[Any]], **options: Any) -> float:
    """Tell with `await`, so that a full mailbox would hold the sender."""
    message = Note(1)
    async with actor(kind, **options) as ref:

        async def batch() -> None:
            tell, done = ref.tell, trio.Event()
            for _ in range(BATCH):
                await tell(message)
            await tell(Last(done))
            await done.wait()

        return await rate(batch, BATCH)


async def tell_counted(*, statistics: bool) -> float:
    """Tell with the statistics of a system on or off."""
    if "statistics" not in inspect.signature(prime.open_system).parameters:
        raise MissingError("open_system has no parameter `statistics`")
    if not statistics:
        return await tell(_Uncounted, statistics=False)
    return await tell(Sync, statistics=True)


class _Uncounted(Sync):
    """A class of its own, so that neither warms up the other's call sites."""


async def ask(kind: Callable[[], Actor[Any]]) -> float:
    """Ask, one after the other, each with its deadline."""
    question = Question(1)
    async with actor(kind) as ref:

        async def batch() -> None:
            for _ in range(ASKS):
                await ref.ask(question, timeout=1)

        return await rate(batch, ASKS)


# --------------------------------------------------------------------------------------------------------- many actors


class Roll:
    """Who has answered so far."""

    def __init__(self, missing: int) -> None:
        self.missing = missing
        self.complete = trio.Event()

    def note(self) -> None:
        """Tick one off."""
        self.missing -= 1
        if not self.missing:
            self.complete.set()


@prime.message
class Call:
    """What each of many actors is told."""

    roll: Any


class Present(Actor[Call]):
    """One of many."""

    @on(Call)
    async def call(self, m: Call) -> None:
        """Say so."""
        m.roll.note()


async def spawn(count: int, *, started: bool) -> float:
    """Spawn `count` actors; with `started` each has handled one message in a task of its own."""
    async with prime.open_system() as system, system.supervisor("bench") as sup:
        begun = time.perf_counter()
        await spawn_all(sup, count, started=started)
        return count / (time.perf_counter() - begun)


async def spawn_all(sup: Any, count: int, *, started: bool) -> None:
    """Spawn them under one supervisor; `started`: then tell each one, and wait until all have handled it in their tasks."""
    refs = [await sup.spawn(Present, f"{number}") for number in range(count)]
    if started:
        roll = Roll(count)
        message = Call(roll)
        for ref in refs:
            ref.tell_nowait(message)
        await roll.complete.wait()


async def stop(count: int) -> float:
    """Leave the block of a supervisor that has `count` actors which have run."""
    async with prime.open_system() as system:
        async with system.supervisor("bench") as sup:
            await spawn_all(sup, count, started=True)
            begun = time.perf_counter()
        return count / (time.perf_counter() - begun)


async def spawn_bytes(count: int, *, started: bool) -> float:
    """Return the memory of one actor of `count`."""
    async with prime.open_system() as system, system.supervisor("bench") as sup:
        before = resident_bytes()
        await spawn_all(sup, count, started=started)
        after = resident_bytes()
        sys.stdout.write(f"{(after - before) / count}\n")
        sys.stdout.flush()
        os._exit(0)  # stopping them is another case


# ---------------------------------------------------------------------------------------------------------- many cores


@prime.message(tag=0x7B03)
class Burn(Ask[int]):
    """Keep a core busy for some milliseconds."""

    turns: int


class Burner(Actor[Burn]):
    """Computes for its asker."""

    @on(Burn)
    def burn(self, m: Burn) -> int:
        """Return something that takes its time."""
        total = 0
        for turn in range(m.turns):
            total += turn & 3
        return total


async def burn(processes: int) -> float:
    """Ask process actors to compute, two questions at a time for each; return asks a second."""
    async with prime.open_system() as system, system.supervisor("bench") as sup:
        refs = [await sup.spawn_process(Burner, f"{number}") for number in range(processes)]
        question = Burn(TURNS)

        async def keep_asking(ref: Ref[Any]) -> None:
            for _ in range(BURNS):
                await ref.ask(question, timeout=60)

        async def batch() -> None:
            async with trio.open_nursery() as nursery:
                for ref in refs * 2:
                    nursery.start_soon(keep_asking, ref)

        return await rate(batch, BURNS * 2 * processes)
