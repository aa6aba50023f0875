"""A program that uses a store, for the cases that do something to it: `python -m prime.testing.backend.child MADE PATH TASK`.

It says on its output what it was told: `open`, then for each write that returned its number.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import trio

from prime.dht.backend import Backend, Entry, Removal
from prime.errors import UsageError, WorldError
from prime.testing.backend.story import changes_of

FILE_BYTES_MAX = 150_000
"""How long a file may become on the disk that is full."""
WRITES_MAX = 1000
"""After so many writes a store has not noticed that it is."""


async def writes(backend: Backend) -> None:
    """Write on and on."""
    loaded = await backend.open()
    begun = next((int(entry.body) for entry in loaded.entries if entry.kind == "turn"), 0)
    _say("open")
    for number in range(begun + 1, sys.maxsize):
        await backend.write(changes_of(number))
        _say(str(number))


async def holds(backend: Backend) -> None:
    """Open it, and have it until it is killed."""
    await backend.open()
    _say("open")
    await trio.sleep_forever()


async def fills(backend: Backend) -> None:
    """Write until the disk is full, twice more, and once when there is room again; end without closing."""
    await backend.open()
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_BYTES_MAX, hard))
    refused = number = 0
    while refused < 3 and number < WRITES_MAX:
        try:
            await backend.write(
                [*changes_of(number + 1), Entry("record", b"big", os.urandom(30_000)), Removal("record", b"big")]
            )
            number += 1
        except WorldError as error:
            refused += bool(error.hint)
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    _say(str(number))
    await backend.write(changes_of(number + 1))
    _say(str(number + 1))
    os._exit(0)


def _say(line: str) -> None:
    os.write(1, line.encode() + b"\n")  # at once, and whole


def made_by(program: str) -> Callable[[str], Backend]:
    """Return what `module:callable` or `file.py:callable` names."""
    place, _, name = program.rpartition(":")
    if not place.endswith(".py"):
        return getattr(importlib.import_module(place), name)  # type: ignore[no-any-return]
    spec = importlib.util.spec_from_file_location(Path(place).stem, place)
    if spec is None or spec.loader is None:
        raise UsageError(f"{place} is no Python file", hint="name a module, or a file that ends in .py")
    module: Any = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return getattr(module, name)  # type: ignore[no-any-return]


if __name__ == "__main__":
    _, made, place, task = sys.argv
    trio.run({"writes": writes, "holds": holds, "fills": fills}[task], made_by(made)(place))
