"""A sorting network for a few rows: pairs of rows to put in order, one pair after the other, whatever their values (pure).

Comparing whole rows element by element needs no branch, so a loop over them is vectorised; and the order of work does not
depend on the values.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator

Pairs = tuple[tuple[int, int], ...]
"""Each is (a, b) with a < b: after it, no value of row a is above that of row b at the same place."""


@functools.cache
def pairs(rows: int, first: int, last: int) -> Pairs:
    """Return the pairs after which the rows from `first` to before `last` hold what sorting all rows would put there.

    Source: Batcher, "Sorting Networks and their Applications", 1968 (odd-even merge sort, here for any number of rows);
    pairs on which none of the rows asked for depends are left out.
    """
    wanted, kept = set(range(first, last)), []
    for a, b in reversed([*_merge_sort(rows)]):
        if a in wanted or b in wanted:
            wanted |= {a, b}
            kept.append((a, b))
    return tuple(reversed(kept))


def _merge_sort(rows: int) -> Iterator[tuple[int, int]]:
    run = 1
    while run < rows:
        step = run
        while step:
            for start in range(step % run, rows - step, 2 * step):
                for a in range(start, min(start + step, rows - step)):
                    if a // (2 * run) == (a + step) // (2 * run):
                        yield a, a + step
            step //= 2
        run *= 2
