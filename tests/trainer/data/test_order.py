"""The order of samples: each once in a pass, shares that are disjoint and cover, nothing that depends on the world."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prime.trainer.data.order import LENGTH_MAX, permuted, seed_of_node, share, step_indices

lengths = st.integers(1, 100)
batches = st.integers(1, 40)
seeds = st.integers(0, 2**64 - 1)


def line(seed: int, batch_size: int, length: int, samples: int) -> np.ndarray:
    """Return the first samples of a run, in their order."""
    steps = -(-samples // batch_size)
    return np.concatenate([step_indices(seed, step, batch_size, length) for step in range(steps)])[:samples]


@given(seeds, lengths)
def test_a_key_gives_a_permutation(key: int, length: int) -> None:
    found = permuted(np.arange(length), length, key)
    assert found.dtype == np.int64
    assert sorted(found.tolist()) == list(range(length))


@given(seeds, batches, lengths)
def test_each_pass_has_each_sample_once_also_where_the_length_is_no_multiple(
    seed: int, batch_size: int, length: int
) -> None:
    seen = line(seed, batch_size, length, 3 * length)
    for one in seen.reshape(3, length):
        assert sorted(one.tolist()) == list(range(length))


@given(seeds, lengths, batches, batches)
def test_the_line_of_samples_does_not_depend_on_the_batch(seed: int, length: int, one: int, other: int) -> None:
    assert np.array_equal(line(seed, one, length, 2 * length), line(seed, other, length, 2 * length))


@given(seeds, st.integers(0, 2**50), batches, st.integers(1, LENGTH_MAX))
def test_a_step_of_any_dataset_is_in_range_and_always_the_same(
    seed: int, step: int, batch_size: int, length: int
) -> None:
    found = step_indices(seed, step, batch_size, length)
    assert (found.shape, found.dtype) == ((batch_size,), np.int64)
    assert found.min() >= 0
    assert found.max() < length
    assert np.array_equal(found, step_indices(seed, step, batch_size, length))


def test_passes_and_seeds_have_orders_of_their_own() -> None:
    orders = {tuple(step_indices(seed, number, 50, 50).tolist()) for seed in range(10) for number in range(10)}
    assert len(orders) == 100
    nodes = {tuple(step_indices(seed_of_node(7, node), 0, 50, 50).tolist()) for node in (0, 1, 2**48, 2**63 - 1)}
    assert len(nodes) == 4


@pytest.mark.parametrize("length", [2, 3, 10])
def test_each_sample_comes_at_each_place_equally_often(length: int) -> None:
    passes = 2000
    counts = np.zeros((length, length))
    for seed in range(passes):
        counts[np.arange(length), step_indices(seed, 0, length, length)] += 1
    wanted = passes / length
    deviation = np.sqrt(wanted * (1 - 1 / length))
    assert np.abs(counts - wanted).max() < 5 * deviation  # 113 cells: one in 15 000 of chance, and it is fixed


def test_neighbours_in_the_line_are_not_neighbours_in_the_dataset() -> None:
    length = 100_000
    order = line(3, 1000, length, length)
    assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < 0.02
    assert np.mean(np.diff(order) == 1) < 1e-4


def test_golden_order() -> None:
    """The order is part of a run's identity: no change may change it unnoticed."""
    assert step_indices(0, 0, 8, 1000).tolist() == [811, 738, 935, 603, 117, 815, 632, 873]
    assert step_indices(1, 2**40, 4, 10**12).tolist() == [566004540886, 522780329791, 478405951082, 606934969966]


def test_no_memory_of_the_order_of_the_length() -> None:
    step_indices(0, 0, 32, LENGTH_MAX)
    tracemalloc.start()
    try:
        step_indices(1, 3, 32, LENGTH_MAX)
        assert tracemalloc.get_traced_memory()[1] < 50_000
    finally:
        tracemalloc.stop()


@given(st.integers(0, 70), st.integers(1, 9), st.integers(1, 5))
def test_shares_are_disjoint_cover_and_differ_by_one(size: int, world: int, microbatches: int) -> None:
    indices = np.arange(size) * 7
    parts = [[share(indices, r, world, m, microbatches) for m in range(microbatches)] for r in range(world)]
    assert np.array_equal(np.concatenate([part for ranks in parts for part in ranks]), indices)
    sizes = {part.size for ranks in parts for part in ranks}
    assert max(sizes) - min(sizes) <= 1
    of_ranks = {sum(part.size for part in ranks) for ranks in parts}
    assert max(of_ranks) - min(of_ranks) <= 1


@given(st.integers(1, 70), st.integers(1, 9), st.integers(1, 9))
def test_another_world_reads_the_same_samples(size: int, world: int, other: int) -> None:
    indices = step_indices(5, 3, size, 1000)
    one = np.concatenate([share(indices, rank, world) for rank in range(world)])
    assert np.array_equal(one, np.concatenate([share(indices, rank, other) for rank in range(other)]))


@pytest.mark.parametrize(("step", "batch_size", "length"), [(-1, 1, 1), (0, 0, 1), (0, 1, 0), (0, 1, LENGTH_MAX + 1)])
def test_what_is_no_step_is_refused(step: int, batch_size: int, length: int) -> None:
    with pytest.raises(ValueError, match="samples out of"):
        step_indices(0, step, batch_size, length)


@pytest.mark.parametrize(("rank", "microbatch"), [(2, 0), (-1, 0), (0, 3), (0, -1)])
def test_what_is_no_share_is_refused(rank: int, microbatch: int) -> None:
    with pytest.raises(ValueError, match="of 2, microbatch"):
        share(np.arange(6), rank, 2, microbatch, 3)
