"""Planted: an acknowledgement before the sync. A log answers when an entry is written, and syncs now and then."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import trio

from prime import Actor, Ask, message, on, sim
from prime.store.files import Files, Work

PATH = Path("/log")
SYNC_S = 0.5
_ENTRY = struct.Struct(">QI")


@message(tag=0x2A51)
class Append(Ask[None]):
    number: int


@message(tag=0x2A52)
class Entries(Ask[tuple[int, ...]]):
    pass


@message
class SyncNow:
    pass


def packed(number: int) -> bytes:
    return _ENTRY.pack(number, zlib.crc32(number.to_bytes(8, "big")))


def unpacked(data: bytes) -> list[int]:
    """Return the entries up to the first that is not whole."""
    found: list[int] = []
    for at in range(0, len(data) - _ENTRY.size + 1, _ENTRY.size):
        number, _ = _ENTRY.unpack_from(data, at)
        if data[at : at + _ENTRY.size] != packed(number):
            break
        found.append(number)
    return found


class Log(Actor[Append | Entries | SyncNow]):
    """A file of numbers."""

    def __init__(self, files: Files) -> None:
        self.files = files
        self.handle = 0
        self.entries: list[int] = []

    async def started(self) -> None:
        await self.files.run(self.open)
        self.ctx.every(SYNC_S, SyncNow())

    @on(Append)
    async def append(self, m: Append) -> None:
        await self.files.run(lambda: self.write(m.number))

    @on(Entries)
    def tell_entries(self, _: Entries) -> tuple[int, ...]:
        return tuple(self.entries)

    @on(SyncNow)
    async def sync_now(self, _: SyncNow) -> None:
        await self.files.run(self.sync)

    def open(self) -> Work[None]:
        yield
        self.handle = self.files.open(PATH)
        yield
        self.files.sync_folder(PATH.parent)
        yield
        self.entries = unpacked(self.files.read(PATH))
        yield
        self.files.truncate(self.handle, len(self.entries) * _ENTRY.size)
        yield from self.sync()

    def write(self, number: int) -> Work[None]:
        yield
        self.files.write(self.handle, packed(number), len(self.entries) * _ENTRY.size)
        self.entries.append(number)

    def sync(self) -> Work[None]:
        yield
        self.files.sync(self.handle)


class MendedLog(Log):
    def write(self, number: int) -> Work[None]:
        yield from super().write(number)
        yield from self.sync()


async def play(world: sim.World, log: type[Log]) -> None:
    acknowledged: dict[int, None] = {}

    async def main(node: sim.Node) -> None:
        if comes_without_disk(world):
            acknowledged.clear()
        files = node.disk.files()
        async with node.system() as system, system.supervisor("app") as sup:
            ref = await sup.spawn(lambda: log(files), "log")
            entries = await ref.ask(Entries(), timeout=10)
            lost = [number for number in acknowledged if number not in entries]
            assert not lost, f"acknowledged and not in the log: {lost}"
            while True:
                number = len(acknowledged)
                await ref.ask(Append(number), timeout=10)
                acknowledged[number] = None
                await trio.sleep(node.random("entries").expovariate(10))

    world.start(main)
    await world.storm()
    await trio.sleep(5)


def comes_without_disk(world: sim.World) -> bool:
    """Tell whether the last crash took the disk: a new one can promise nothing about the old."""
    crashes = [event for event in world.history if event.kind == "crashes"]
    return bool(crashes) and "disk lost" in crashes[-1].detail


@sim.scenario(nodes=("log",), kinds=frozenset({"crash", "unsynced", "torn"}), storm_s=10)
async def broken(world: sim.World) -> None:
    await play(world, Log)


@sim.scenario(nodes=("log",), kinds=frozenset({"crash", "unsynced", "torn"}), storm_s=10)
async def mended(world: sim.World) -> None:
    await play(world, MendedLog)
