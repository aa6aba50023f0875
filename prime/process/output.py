"""What a child process prints: read all the time, so that it never blocks; kept, and shown, within bounds."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import attrs
import trio

from prime.actor.contract import ProcessOutput

TAIL_BYTES = 4096
LINE_BYTES = 1024
LINES_PER_S = 200
BURST_LINES = 500
REST_S = 0.5


@attrs.frozen
class ProcessPrinted:
    """A process actor's process printed a line, on its standard output or error."""

    path: str
    process: int
    line: str


class Output:
    """The last words of one process, and its lines as they come: at most `LINES_PER_S`, the others are counted."""

    def __init__(self, descriptor: int, path: str, emit: Callable[[Any], None], where: ProcessOutput) -> None:
        self._stream = trio.lowlevel.FdStream(descriptor)
        self._path = path
        self._emit = emit
        self._where = where
        self._process = 0
        self._tail = b""
        self._line = b""
        self._tokens = float(BURST_LINES)
        self._filled_at = 0.0
        self._left_out = 0
        self._ended = trio.Event()

    async def collect(self, process: int) -> None:
        """Read until every holder of the pipe's other end is gone."""
        self._process = process
        self._filled_at = trio.current_time()
        async with self._stream:
            async for data in self._stream:
                self._tail = (self._tail + data)[-TAIL_BYTES:]
                self._split(bytes(data))
        if self._line:
            self._show(self._line)
        self._ended.set()

    async def rest(self) -> None:
        """Wait a little for the last words of a dead process; a child of its own may keep the pipe open."""
        with trio.move_on_after(REST_S):
            await self._ended.wait()

    async def aclose(self) -> None:
        """Close our end of the pipe."""
        await self._stream.aclose()

    def said(self) -> str:
        """Return the last output as the end of a sentence, or nothing."""
        text = self._tail.decode(errors="replace").strip()
        return f"; it last wrote:\n{text}" if text else ""

    def _split(self, data: bytes) -> None:
        *lines, rest = (self._line + data).split(b"\n")
        for line in lines:
            self._show(line)
        self._line = rest[-LINE_BYTES:]

    def _show(self, line: bytes) -> None:
        if not self._may_show():
            self._left_out += 1
            return
        if self._left_out:
            count, self._left_out = self._left_out, 0
            self._put(f"({count} lines left out)")
        self._put(line[:LINE_BYTES].decode(errors="replace"))

    def _may_show(self) -> bool:
        now = trio.current_time()
        self._tokens = min(self._tokens + (now - self._filled_at) * LINES_PER_S, BURST_LINES)
        self._filled_at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    def _put(self, line: str) -> None:
        if self._where == "show":
            print(line, file=sys.stderr)  # noqa: T201 - where the process would have printed by itself
        self._emit(ProcessPrinted(self._path, self._process, line))
