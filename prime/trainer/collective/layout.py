"""Who owns what of a vector that is reduced, and in which rounds it travels. Pure.

A vector of `D` elements is cut into `W` parts, one for each rank of the group, its owner; every part is cut into chunks,
and round `k` moves chunk `k` of every part. Borders lie on multiples of `GRAIN`, so that no block of a codec lies across
one. The last parts of a short vector are short or empty.
"""

from __future__ import annotations

from typing import Final

import attrs

GRAIN: Final = 256
"""Elements; the largest block of any wire form, and a multiple of every other."""
IN_FLIGHT: Final = 1 << 23
"""Elements of one round over all parts. Fewer make more messages, each with its two wake-ups; more leave the caches."""
ROUNDS_MIN: Final = 2
"""A part goes in at least so many chunks, so that one is on the wire while the next is encoded…"""
CHUNK_MIN: Final = 1 << 16
"""…unless the chunks would be smaller than this many elements: a message has its price, too."""


@attrs.frozen
class Layout:
    """How `elements` are cut over `world` ranks. `part` and `chunk` are lengths in elements, multiples of `GRAIN`."""

    elements: int
    world: int
    part: int
    chunk: int

    @property
    def rounds(self) -> int:
        """How many chunks the longest part has."""
        return -(-min(self.part, self.elements) // self.chunk) if self.elements else 0

    def owned(self, owner: int) -> slice:
        """Return the part of a rank: a slice of the vector, empty for the last ranks of a short one."""
        return slice(min(owner * self.part, self.elements), min((owner + 1) * self.part, self.elements))

    def chunk_of(self, owner: int, k: int) -> slice:
        """Return chunk `k` of the part of a rank; it may be empty."""
        part = self.owned(owner)
        return slice(min(part.start + k * self.chunk, part.stop), min(part.start + (k + 1) * self.chunk, part.stop))


def layout(elements: int, world: int, in_flight: int = IN_FLIGHT) -> Layout:
    """Return how a vector of that many elements is cut over a group of that many ranks."""
    part = _grained(-(-elements // world))
    longest = max(GRAIN, in_flight // world)
    chunk = min(longest, max(CHUNK_MIN, -(-part // ROUNDS_MIN)))
    return Layout(elements, world, part, _grained(chunk))


def _grained(elements: int) -> int:
    return max(1, -(-elements // GRAIN)) * GRAIN
