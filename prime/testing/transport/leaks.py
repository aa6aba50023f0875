"""Cases: what is left of channels that have come and gone."""
# ruff: noqa: D401 - the first line of a case says what is promised, not what to do

from __future__ import annotations

import gc
import os
from pathlib import Path

import trio

from prime.testing.transport.kit import CASE_TIMEOUT_S, TransportKit, check, echo, let_all_in, meet, opened
from prime.transport.contract import Endpoint

CYCLES = 40
CYCLES_LONG = 10_000
OBJECTS_PER_CYCLE_MAX = 0.5
"""Fewer than any channel is: so one that stays is found, and a cache that fills slowly is not taken for it."""
GROWTH_BYTES_MAX = 24 << 20


async def leaves_nothing_behind(kit: TransportKit) -> None:
    """Channels that have come and gone leave no descriptor and no object."""
    with trio.fail_after(CASE_TIMEOUT_S):
        async with opened(kit.make(), kit.make()) as (dialler, listener):
            await _cycle(dialler, listener, CYCLES // 2)
            before, objects = await _descriptors(), _objects()
            await _cycle(dialler, listener, CYCLES)
            await _descriptors_back_to(before)
            grown = (_objects() - objects) / CYCLES
            check(grown <= OBJECTS_PER_CYCLE_MAX, f"{grown:.1f} objects stay of each channel")


async def leaves_nothing_behind_of_ten_thousand(kit: TransportKit) -> None:
    """The same for ten thousand channels, with the memory of the process."""
    with trio.fail_after(20 * CASE_TIMEOUT_S):
        async with opened(kit.make(), kit.make()) as (dialler, listener):
            let_all_in(listener)
            await _cycle(dialler, listener, CYCLES_LONG // 10)
            before, resident = await _descriptors(), _resident_bytes()
            await _cycle(dialler, listener, CYCLES_LONG)
            await _descriptors_back_to(before)
            grown = _resident_bytes() - resident
            check(grown <= GROWTH_BYTES_MAX, f"the process grew by {grown / 2**20:.0f} MiB")


async def leaves_no_descriptor_of_an_endpoint(kit: TransportKit) -> None:
    """An endpoint that has closed leaves no descriptor, whatever was open."""
    with trio.fail_after(CASE_TIMEOUT_S):
        await _open_and_leave(kit)
        before = await _descriptors()
        for _ in range(3):
            await _open_and_leave(kit)
        await _descriptors_back_to(before)


async def _open_and_leave(kit: TransportKit) -> None:
    async with opened(kit.make(), kit.make()) as (dialler, listener):
        m = await meet(dialler, listener)
        await echo(m, b"left open")


async def _cycle(dialler: Endpoint, listener: Endpoint, cycles: int) -> None:
    for _ in range(cycles):
        m = await meet(dialler, listener)
        await echo(m, b"there and back")
        await m.near.aclose()
        await m.far.aclose()


async def _descriptors() -> int:
    """Count the descriptors of this process, once those that close are closed."""
    await trio.sleep(0.1)
    return len(os.listdir("/dev/fd"))  # noqa: PTH208 - a count, of what may be gone when looked at


async def _descriptors_back_to(before: int) -> None:
    left = before + 1
    for _ in range(50):
        left = await _descriptors()
        if left <= before:
            return
    raise AssertionError(f"{left - before} descriptors stay open")


def _objects() -> int:
    """Count what has a class of its own; Trio keeps the scopes of deadlines that are over for a while, some thousand.

    By `type` alone: `isinstance` would ask each object for its `__class__`, and some answer with a warning.
    """
    gc.collect()
    plain = {"builtins", "weakref"}
    kinds = map(type, gc.get_objects())
    return sum(kind.__module__ not in plain and not issubclass(kind, trio.CancelScope) for kind in kinds)


def _resident_bytes() -> int:
    """Return the resident memory of this process; 0 where the system does not tell it as Linux does."""
    gc.collect()
    try:
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0
