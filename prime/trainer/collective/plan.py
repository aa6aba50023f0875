"""Which elements of a flat gradient travel together: those of one codec. Pure.

A flat gradient is a row of parameters, each with the codec that the job's policy gives it. Neighbours with one codec
travel as they lie in memory, without a copy; the short runs that remain (norms and biases between matrices) are packed
into one vector a codec, because hundreds of tiny messages cost more than copying what is in them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import attrs

PACKED_BELOW: Final = 1 << 15
"""Elements; a shorter run is packed."""


@attrs.frozen
class Parcel:
    """What travels as one vector: the slices of the flat gradient that it is put together from, in order."""

    codec: str
    slices: tuple[slice, ...]

    @property
    def elements(self) -> int:
        """How long the vector is."""
        return sum(each.stop - each.start for each in self.slices)

    def place_in_flat(self, place: int) -> int:
        """Return which element of the flat gradient is element `place` of this vector."""
        for each in self.slices:
            if place < each.stop - each.start:
                return each.start + place
            place -= each.stop - each.start
        raise IndexError(place)


def parcels(segments: Sequence[tuple[int, str]]) -> list[Parcel]:
    """Return how parameters of (elements, codec), one after the other, travel: the same list on every rank."""
    runs = _runs(segments)
    long = [Parcel(codec, (run,)) for codec, run in runs if run.stop - run.start >= PACKED_BELOW]
    short: dict[str, list[slice]] = {}
    for codec, run in runs:
        if run.stop - run.start < PACKED_BELOW:
            short.setdefault(codec, []).append(run)
    return long + [Parcel(codec, tuple(slices)) for codec, slices in short.items()]


def _runs(segments: Sequence[tuple[int, str]]) -> list[tuple[str, slice]]:
    runs: list[tuple[str, slice]] = []
    end = 0
    for elements, codec in segments:
        if elements == 0:
            continue
        if runs and runs[-1][0] == codec:
            runs[-1] = codec, slice(runs[-1][1].start, end + elements)
        else:
            runs.append((codec, slice(end, end + elements)))
        end += elements
    return runs
