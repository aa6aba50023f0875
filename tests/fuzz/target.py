"""What a fuzz target is: a function over bytes that must end in one of the ways it names, whatever the bytes are."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import attrs

VECTORS = Path(__file__).parents[2] / "spec" / "vectors" / "v1"
Feed = Callable[[bytes], None]


@attrs.frozen
class Target:
    """One decoder or protocol core under hostile bytes.

    `feed` gives it the bytes and asserts what must hold. `allowed` is how it may refuse them; any other exception is a
    bug. `seeds` are where a search begins. `dear` marks one whose call takes milliseconds.
    """

    name: str
    feed: Feed
    allowed: tuple[type[Exception], ...]
    seeds: tuple[bytes, ...]
    dear: bool = False

    def __call__(self, data: bytes) -> None:
        try:
            self.feed(data)
        except self.allowed:
            return


def vectors(name: str) -> dict[str, Any]:
    """Return the golden vectors of one file."""
    found: dict[str, Any] = json.loads((VECTORS / f"{name}.json").read_text(encoding="utf-8"))
    return found


def golden(name: str) -> tuple[bytes, ...]:
    """Return the golden bytes of one file of frames."""
    return tuple(bytes.fromhex(text) for text in vectors(name).values())


def chunks(data: bytes, sizes: Iterable[int]) -> Iterator[bytes]:
    """Cut bytes into pieces of these sizes, over and over; a size of 0 is all that is left."""
    pattern, position, index = list(sizes) or [0], 0, 0
    while position < len(data):
        size = pattern[index % len(pattern)] or len(data)
        yield data[position : position + size]
        position, index = position + size, index + 1


class Script:
    """Bytes read as a row of small numbers: how a target draws what happens next. Zeros come after the end."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def __bool__(self) -> bool:
        return self._at < len(self._data)

    def byte(self) -> int:
        """Return the next byte."""
        self._at += 1
        return self._data[self._at - 1] if self._at <= len(self._data) else 0

    def number(self) -> int:
        """Return a number of the next bytes: small ones mostly, the ends of ranges sometimes."""
        first = self.byte()
        if first < 0xF0:
            return first
        return (0, 2**16, 2**31, 2**32 - 1, 2**32, 2**63 - 1, 2**63, 2**64 - 1)[first & 7]

    def take(self, size: int) -> bytes:
        """Return the next bytes, fewer at the end."""
        self._at += size
        return self._data[self._at - size : self._at]

    def rest(self) -> bytes:
        """Return all that is left."""
        return self.take(max(0, len(self._data) - self._at))
