"""The program that the tutorial about actors grows: a library of texts, and who counts their words.

Run: python words.py
"""

from __future__ import annotations

import trio

import prime
from prime import Actor, Ask, Down, Ref, on
from prime.errors import NotFoundError

TEXTS = {
    "atlas": "here be dragons",
    "poem": "so much depends upon a red wheel barrow",
    "scan": "\0",
}


@prime.message(tag=0x2101)
class Count(Ask[int]):
    """Ask how many words a text has."""

    text: str


@prime.message(tag=0x2102)
class Done(Ask[int]):
    """Ask how many texts were counted so far."""


class Counter(Actor[Count | Done]):
    """Counts words."""

    def __init__(self) -> None:
        self.done = 0

    @on(Count)
    def count(self, m: Count) -> int:
        if "\0" in m.text:
            raise ValueError("that is no text")
        self.done += 1
        return len(m.text.split())

    @on(Done)
    def tell_done(self, _: Done) -> int:
        return self.done


@prime.message(tag=0x2103)
class Fetch(Ask[str]):
    """Ask for the text of a title."""

    title: str


@prime.message(tag=0x2104)
class Burn:
    """Forget a title for good."""

    title: str


class Library(Actor[Fetch | Burn]):
    """Keeps texts; whoever fetches one waits for `walk_s` seconds."""

    def __init__(self, walk_s: float = 0.0) -> None:
        self.texts = dict(TEXTS)
        self.walk_s = walk_s

    @on(Fetch)
    async def fetch(self, m: Fetch) -> str:
        await trio.sleep(self.walk_s)
        if m.title not in self.texts:
            raise NotFoundError(f"no {m.title} here")
        return self.texts[m.title]

    @on(Burn)
    def burn(self, m: Burn) -> None:
        self.texts.pop(m.title, None)


@prime.message
class NextTitle:
    """The clerk's timer says so to the clerk."""


class Clerk(Actor[NextTitle]):
    """Takes one title after the other, has its words counted, and goes home."""

    def __init__(self, titles: tuple[str, ...], library: Ref[Fetch], counter: Ref[Count]) -> None:
        self.titles = list(titles)
        self.library = library
        self.counter = counter

    async def started(self) -> None:
        self.ctx.every(0.01, NextTitle())

    @on(NextTitle)
    async def take_next(self, _: NextTitle) -> None:
        if not self.titles:
            self.ctx.stop()
            return
        title = self.titles.pop(0)
        text = await self.library.ask(Fetch(title), timeout=1)
        print(title, await self.counter.ask(Count(text), timeout=1))


class Porter(Actor[Down]):
    """Locks up when the clerk has gone."""

    def __init__(self, clerk: Ref[NextTitle], locked: trio.Event) -> None:
        self.clerk = clerk
        self.locked = locked

    async def started(self) -> None:
        self.ctx.watch(self.clerk)

    @on(Down)
    def lock(self, m: Down) -> None:
        print(m.path, "went home:", m.reason)
        self.locked.set()


@prime.message(tag=0x2105)
class Counted:
    """So many words were in that title."""

    title: str
    words: int


@prime.message(tag=0x2106)
class CountTitles:
    """Fetch these from the library, count them, and tell `reply_to` about each."""

    titles: tuple[str, ...]
    library: Ref[Fetch]
    reply_to: Ref[Counted]


class Bureau(Actor[CountTitles]):
    """Counts for others, also from another machine."""

    def __init__(self, counters: Ref[Count]) -> None:
        self.counters = counters

    @on(CountTitles)
    async def count(self, m: CountTitles) -> None:
        for title in m.titles:
            text = await m.library.ask(Fetch(title), timeout=5)
            words = await self.counters.ask(Count(text), timeout=5)
            await m.reply_to.tell(Counted(title, words))


class Client(Actor[Counted]):
    """Hears what the bureau has counted."""

    def __init__(self, expected: int, complete: trio.Event) -> None:
        self.expected = expected
        self.complete = complete

    @on(Counted)
    def note(self, m: Counted) -> None:
        print(m.title, m.words)
        self.expected -= 1
        if not self.expected:
            self.complete.set()


async def main() -> None:
    """Count on every core."""
    async with prime.open_system() as system, system.supervisor("office") as office:
        counters = await office.spawn_pool(system.in_process(Counter), "counters", size=2)
        bureau = await office.spawn(lambda: Bureau(counters), "bureau")
        library = await office.spawn(Library, "library")
        complete = trio.Event()
        client = await office.spawn(lambda: Client(2, complete), "client")
        await bureau.tell(CountTitles(("atlas", "poem"), library.narrow(Fetch), client))
        await complete.wait()


if __name__ == "__main__":
    trio.run(main)
