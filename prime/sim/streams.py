"""Randomness by name: each purpose has a stream of its own, so a new draw in one place shifts no other (pure)."""

from __future__ import annotations

import hashlib
from random import Random


class Streams:
    """The random streams of one seed. The same name gives the same stream, going on where it stands."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._streams: dict[tuple[str, ...], Random] = {}

    def stream(self, *name: str) -> Random:
        """Return the stream of a name, e.g. `stream("network", "n1", "n2")`."""
        found = self._streams.get(name)
        if found is None:
            found = self._streams[name] = Random(self.number(*name))  # noqa: S311 - repeatable on purpose
        return found

    def number(self, *name: str) -> int:
        """Return 64 bits that depend on the seed and the name alone."""
        parts = b"".join(len(part.encode()).to_bytes(4, "big") + part.encode() for part in (str(self.seed), *name))
        return int.from_bytes(hashlib.blake2b(parts, digest_size=8).digest(), "big")
