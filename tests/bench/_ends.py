"""A contestant of two processes: a far end that says where it is, and a near end that runs a block for each line it hears.

Both ends of both contestants live through all pairs and rest while it is not their turn. The bench itself only reads.
"""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from importlib.util import find_spec
from pathlib import Path

import trio
from _blocks import Block, MissingError, Opening

HERE = Path(__file__).resolve().parent
ANSWER_S = 120.0
"""How long an end may take for its start, or for one block, on a busy machine."""
MEBIBYTE = bytes(2**20)
BATCH_BYTES = 64 * 2**20
"""What is sent in one direction before the other end confirms that all of it came."""
SMALL_BYTES = 100
BLOCK_S = 1.0


def two_ends(program: str, *what: str, needs: str = "") -> Opening:
    """Make a contestant of `program`, which is run as `far WHAT…` and as `near WHAT… ADDRESS`."""

    @contextlib.contextmanager
    def opened() -> Iterator[Block]:
        if needs and find_spec(needs) is None:
            raise MissingError(f"{needs} is not here (pip install 'prime-actors[all]')")
        with _end(program, "far", *what) as far, _end(program, "near", *what, _heard(far)) as near:
            _heard(near)  # it is ready

            def block() -> float:
                assert near.stdin is not None
                near.stdin.write("go\n")
                near.stdin.flush()
                return float(_heard(near))

            yield block

    return opened


@contextlib.contextmanager
def _end(program: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, str(HERE / program), *arguments]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()


def _heard(process: subprocess.Popen[str]) -> str:
    """Return a process's next line: it says one for each that it hears, so none is buffered while this waits."""
    assert process.stdout is not None
    if not select.select([process.stdout], [], [], ANSWER_S)[0]:
        raise SystemExit(f"an end of the bench said nothing for {ANSWER_S:g} s: {process.args}")
    line = process.stdout.readline()
    if not line:
        raise SystemExit(f"an end of the bench ended with status {process.wait()}: {process.args}")
    return line.strip()


# ------------------------------------------------------------------------------------------------------- inside an end


def answer(what: object) -> None:
    """Say one line to the bench."""
    print(what, flush=True)


async def questions() -> AsyncIterator[None]:
    """Yield for each line that the bench says, until it is gone."""
    while True:
        await trio.lowlevel.wait_readable(0)
        said = os.read(0, 64)
        if not said:
            return
        for _ in range(said.count(b"\n")):
            yield


class Watch:
    """A stopwatch for one block."""

    def __init__(self) -> None:
        self._started = time.perf_counter()
        self.sent_bytes = 0

    @property
    def took_s(self) -> float:
        """The seconds since the block began."""
        return time.perf_counter() - self._started

    @property
    def over(self) -> bool:
        """Whether the block has lasted long enough."""
        return self.took_s >= BLOCK_S

    def megabytes_a_second(self) -> float:
        """Return the rate of what was sent."""
        return self.sent_bytes / self.took_s / 1e6
