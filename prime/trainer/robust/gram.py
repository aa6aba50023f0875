"""A Gram matrix under way: its upper triangle, row by row, added up chunk by chunk and part by part (pure).

Whoever adds, adds in the order of the chunks and of the parts: a leader and an audit come to the same bits.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence


def entry_count(candidates: int) -> int:
    """Return how many entries the upper triangle has."""
    return candidates * (candidates + 1) // 2


def added(candidates: int, each: Iterable[Sequence[float]]) -> list[float]:
    """Return the sum of such triangles, in the order in which they come."""
    total = [0.0] * entry_count(candidates)
    for entries in each:
        total = [a + b for a, b in zip(total, entries, strict=True)]
    return total


def square(candidates: int, entries: Sequence[float]) -> list[list[float]]:
    """Return the symmetric matrix of an upper triangle."""
    gram = [[0.0] * candidates for _ in range(candidates)]
    places = itertools.combinations_with_replacement(range(candidates), 2)
    for (row, column), entry in zip(places, entries, strict=True):
        gram[row][column] = gram[column][row] = entry
    return gram
