"""Gram matrices under way: which entries, in which order, and what they are a triangle of."""

from __future__ import annotations

import numpy as np
import pytest

from prime.trainer.robust.gram import added, entry_count, square


@pytest.mark.parametrize("n", [0, 1, 2, 5])
def test_the_triangle_of_a_symmetric_matrix_gives_it_back(n: int) -> None:
    rows = np.random.default_rng(n).normal(size=(n, 7))
    gram = rows @ rows.T
    entries = [float(gram[i, j]) for i in range(n) for j in range(i, n)]
    assert len(entries) == entry_count(n)
    assert np.array_equal(np.array(square(n, entries)).reshape(n, n), np.triu(gram) + np.triu(gram, 1).T)


def test_the_order_of_the_parts_is_that_of_the_sum() -> None:
    assert added(1, [[1e16], [-1e16], [1.0]]) == [1.0]
    assert added(1, [[1.0], [1e16], [-1e16]]) == [0.0]
    assert added(2, []) == [0.0, 0.0, 0.0]


def test_a_triangle_of_another_size_is_no_part_of_it() -> None:
    with pytest.raises(ValueError, match="zip"):
        added(2, [[1.0]])
