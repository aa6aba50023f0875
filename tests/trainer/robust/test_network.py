"""The sorting network, by the zero-one principle: what sorts every sequence of zeros and ones sorts everything."""

from __future__ import annotations

import itertools

import pytest

from prime.trainer.robust.network import pairs


@pytest.mark.parametrize("rows", range(1, 11))
def test_the_rows_asked_for_hold_what_sorting_all_would_put_there(rows: int) -> None:
    for trim in range((rows + 1) // 2):
        network = pairs(rows, trim, rows - trim)
        for bits in itertools.product((0, 1), repeat=rows):
            values = list(bits)
            for a, b in network:
                values[a], values[b] = min(values[a], values[b]), max(values[a], values[b])
            assert values[trim : rows - trim] == sorted(bits)[trim : rows - trim]


def test_its_length_grows_little_faster_than_its_rows() -> None:
    assert [len(pairs(n, 0, n)) for n in (1, 2, 4, 8, 16)] == [0, 1, 5, 19, 63]  # Batcher's own counts
    assert len(pairs(9, 4, 5)) < len(pairs(9, 0, 9))
