"""The promises of a store that outlives its process: against kills, a full disk, damage and a second program."""
# ruff: noqa: D401 - the first line of a case says what is promised, not what to do

from __future__ import annotations

import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from subprocess import PIPE

import trio

from prime.dht.backend import Backend, Loaded
from prime.errors import PrimeError, WorldError
from prime.testing.backend.kit import BackendKit, Bodies, bodies_of, check, entry, equal, opened, read, refused
from prime.testing.backend.story import bodies_after, changes_of

CHILD_S = 60.0
KILLS, MANY_KILLS = 4, 60
FLIPS, MANY_FLIPS = 24, 800
WRITES = 70


async def has_what_a_killed_program_was_told(kit: BackendKit) -> None:
    """After SIGKILL at any moment each write that had returned is there, and of the next one all or nothing."""
    await _kill(kit, KILLS)


async def has_what_many_killed_programs_were_told(kit: BackendKit) -> None:
    """The same, many times over."""
    await _kill(kit, MANY_KILLS)


async def refuses_a_second_program(kit: BackendKit) -> None:
    """While one program has it open another is refused, with a hint, and disturbs nothing; afterwards it gets it."""
    async with _child(kit, "holds") as child:
        await child.line()
        for _ in range(2):
            await _is_refused(kit.make())
    async with opened(kit) as (backend, bodies):
        equal(bodies, {})
        await backend.write([entry(1)])
        await _is_refused(kit.make())
        await backend.write([entry(2)])
    check(len(await read(kit)) == 2, "a second program disturbed the first")


async def changes_nothing_on_a_full_disk(kit: BackendKit) -> None:
    """A write that a full disk refused has changed nothing, and with room again the next one is taken."""
    async with _child(kit, "fills") as child:
        before, after = int(await child.line()), int(await child.line())
    check(before > 0, "the disk was full before anything was written")
    equal(await read(kit), bodies_after(after))


async def names_what_a_flipped_bit_took(kit: BackendKit) -> None:
    """With any one bit turned over all entries are there as they were, or what is missing is named; and it goes on."""
    await _flip(kit, FLIPS)


async def names_what_many_flipped_bits_took(kit: BackendKit) -> None:
    """The same, at many more places."""
    await _flip(kit, MANY_FLIPS)


# ---- programs


class _Child:
    def __init__(self, process: trio.Process) -> None:
        self._process = process
        self._out: trio.abc.ReceiveStream = process.stdout  # type: ignore[assignment] # it was asked for
        self._ahead = b""

    async def line(self) -> str:
        """Return the next line that it says."""
        while b"\n" not in self._ahead:
            data = await self._out.receive_some()
            if not data:
                raise AssertionError("the program that uses the store has ended: its error is above")
            self._ahead += data
        line, _, self._ahead = self._ahead.partition(b"\n")
        return line.decode()

    async def killed(self) -> list[str]:
        """Kill it, and return the whole lines that it had said by then."""
        self._process.kill()
        await self._process.wait()
        async for data in self._out:
            self._ahead += data
        return self._ahead.decode().split("\n")[:-1]

    async def aclose(self) -> None:
        """Kill it, if it still runs, and read nothing more."""
        self._process.kill()
        await self._process.wait()
        await self._out.aclose()


@asynccontextmanager
async def _child(kit: BackendKit, task: str) -> AsyncIterator[_Child]:
    check(bool(kit.program), "the kit says no `program`: see BackendKit")
    command = [sys.executable, "-m", "prime.testing.backend.child", kit.program, str(kit.path), task]
    with trio.fail_after(CHILD_S):
        child = _Child(await trio.lowlevel.open_process(command, stdout=PIPE))
        try:
            yield child
        finally:
            with trio.CancelScope(shield=True):
                await child.aclose()


async def _kill(kit: BackendKit, kills: int) -> None:
    random = Random(1)  # noqa: S311 - moments, drawn alike each time
    told = 0
    for _ in range(kills):
        async with _child(kit, "writes") as child:
            await child.line()
            await trio.sleep(random.random() * 0.15)
            lines = await child.killed()
        told = int(lines[-1]) if lines else told
        found = await read(kit)
        if found != bodies_after(told):
            equal(found, bodies_after(told + 1))
        told = int(found.get(("turn", b""), b"0"))


async def _is_refused(backend: Backend) -> None:
    with refused(WorldError, "two programs have it at once"):
        await backend.open()
    await backend.aclose()


# ---- damage


async def _flip(kit: BackendKit, flips: int) -> None:
    """Damage copies of the files as they are while it is open, and after it was closed."""
    folder = kit.path.parent
    states = [folder.with_name(f"{folder.name}-{name}") for name in ("live", "closed")]
    async with opened(kit) as (backend, _):
        for number in range(1, WRITES + 1):
            await backend.write(changes_of(number))
        shutil.copytree(folder, states[0])
    shutil.copytree(folder, states[1])
    random = Random(2)  # noqa: S311 - places, drawn alike each time
    for turn in range(flips):
        shutil.rmtree(folder)
        shutil.copytree(states[turn % 2], folder)
        place = _flip_one(folder, random)
        await _is_named(kit, bodies_after(WRITES), place)
    for state in states:
        shutil.rmtree(state)


def _flip_one(folder: Path, random: Random) -> str:
    path = random.choice([path for path in sorted(folder.iterdir()) if path.is_file() and path.stat().st_size])
    data = bytearray(path.read_bytes())
    bit = random.randrange(8 * len(data))
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)
    return f"bit {bit % 8} of byte {bit // 8} of {path.name}"


async def _is_named(kit: BackendKit, written: Bodies, place: str) -> None:
    loaded = await _opened_in_the_end(kit)
    if loaded is not None and not loaded.lost_writes:
        found = bodies_of(loaded)
        wrong = [name for name, body in found.items() if written.get(name) != body]
        check(not wrong, f"{place}: an entry is not as it was written, and nothing says so")
        missing = written.keys() - found.keys() - {(each.kind, each.name) for each in loaded.damaged}
        check(not missing, f"{place}: {len(missing)} entries are gone, and nothing says so")
    async with opened(kit) as (backend, before):
        await backend.write([entry(-1)])
    check(len(await read(kit)) == len(before) + 1, f"{place}: it does not go on")


async def _opened_in_the_end(kit: BackendKit) -> Loaded | None:
    """Open and close it; `None` if it could not be opened, which has to be said with the next step, and only once."""
    backend = kit.make()
    try:
        return await backend.open()
    except PrimeError as error:
        check(bool(error.hint), f"an error has no hint: {error}")
        return None
    finally:
        await backend.aclose()
