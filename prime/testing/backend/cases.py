"""The promises that every store keeps, those without a disk too."""
# ruff: noqa: D401 - the first line of a case says what is promised, not what to do

from __future__ import annotations

import itertools
from typing import cast

import trio

from prime.dht.backend import Entry, Removal
from prime.errors import UsageError
from prime.testing.backend.kit import BackendKit, check, entry, equal, opened, read, refused

MANY = 3000


async def begins_empty(kit: BackendKit) -> None:
    """A store that nothing was written to has nothing in it, however often it is opened."""
    equal(await read(kit), {})
    equal(await read(kit), {})


async def has_what_was_written(kit: BackendKit) -> None:
    """What was written is there when it is opened again, byte by byte, and what was removed is not."""
    bodies = {b"": b"", b"\0" * 32: bytes(range(256)), b"\xff" * 64: b"x" * 70_000, "é".encode(): b"\n"}
    async with opened(kit) as (backend, _):
        await backend.write([Entry("record", name, body) for name, body in bodies.items()])
        await backend.write([Entry("record", b"gone", b"soon"), Removal("record", b"never there")])
        await backend.write([Removal("record", b"gone")])
        await backend.write([])
    equal(await read(kit), {("record", name): body for name, body in bodies.items()})


async def keeps_kinds_and_names_apart(kit: BackendKit) -> None:
    """One name of two kinds is two entries, wherever the kind ends and the name begins."""
    places = [("a", b"b"), ("ab", b""), ("", b"ab"), ("b", b"b")]
    async with opened(kit) as (backend, _):
        await backend.write([Entry(kind, name, b"%d" % number) for number, (kind, name) in enumerate(places)])
        await backend.write([Removal("b", b"b")])
    equal(await read(kit), {place: b"%d" % number for number, place in enumerate(places[:3])})


async def makes_changes_in_their_order(kit: BackendKit) -> None:
    """Of two changes to one name, in one write or in two, the later counts."""
    async with opened(kit) as (backend, _):
        await backend.write(
            [Entry("r", b"a", b"1"), Removal("r", b"a"), Entry("r", b"b", b"1"), Entry("r", b"b", b"2")]
        )
        await backend.write([Removal("r", b"c"), Entry("r", b"c", b"3"), Entry("r", b"b", b"4")])
        await backend.write([Entry("r", b"d", b"5"), Removal("r", b"d")])
    equal(await read(kit), {("r", b"b"): b"4", ("r", b"c"): b"3"})


async def keeps_a_copy(kit: BackendKit) -> None:
    """A buffer may be used again once its write has returned."""
    body = bytearray(b"before")
    async with opened(kit) as (backend, _):
        await backend.write([Entry("record", b"a", cast("bytes", body))])  # any buffer does
        body[:] = b"behind"
    equal(await read(kit), {("record", b"a"): b"before"})


async def takes_thousands_at_once(kit: BackendKit) -> None:
    """A write of thousands of changes is one write, too."""
    async with opened(kit) as (backend, _):
        await backend.write([entry(number) for number in range(MANY)])
        await backend.write([Removal("record", b"%d" % number) for number in range(0, MANY, 2)])
    expected = (entry(number) for number in range(1, MANY, 2))
    equal(await read(kit), {(each.kind, each.name): each.body for each in expected})


async def makes_all_changes_or_none_wherever_it_is_cancelled(kit: BackendKit) -> None:
    """A write that is cancelled at any moment has made all its changes or none, and the store goes on."""
    written = 0
    async with opened(kit) as (backend, _):
        for turn in itertools.count():
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(_cancel_in, turn, scope)
                    await backend.write([entry(2 * turn), entry(2 * turn + 1)])
                    nursery.cancel_scope.cancel()
            written += not scope.cancelled_caught
            if turn >= 12 and written:
                break
        await backend.write([entry(-1)])
    found = {int(name) for _, name in await read(kit)}
    check(-1 in found, "what was written after a cancelled write is not there")
    check(all((number ^ 1) in found for number in found - {-1}), "half of a cancelled write is there")
    check(len(found) >= 2 * written + 1, "a write that returned is not there")


async def _cancel_in(turns: int, scope: trio.CancelScope) -> None:
    for _ in range(turns):
        await trio.lowlevel.checkpoint()
    scope.cancel()
    await trio.sleep_forever()


async def says_that_it_is_not_open(kit: BackendKit) -> None:
    """A store that is not open yet, or not any more, refuses what is written, with a hint."""
    backend = kit.make()
    for _ in range(2):
        with refused(UsageError, "a store that is not open took a write"):
            await backend.write([entry(1)])
        await backend.open()
        await backend.aclose()
    equal(await read(kit), {})


async def closes_twice(kit: BackendKit) -> None:
    """To close it again does no harm, nor to close what was never opened; and it can be opened again."""
    backend = kit.make()
    await backend.aclose()
    await backend.open()
    await backend.write([entry(1)])
    await backend.aclose()
    await backend.aclose()
    loaded = await backend.open()
    await backend.aclose()
    check(loaded.entries == (entry(1),), "what was written is not there again")
