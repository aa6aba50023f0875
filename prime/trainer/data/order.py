"""Which samples a step takes, and which of them are a rank's: functions of (seed, step) and (rank, world), no state.

The samples of a run stand in one endless line: pass after pass, each a permutation of the dataset of its own. Step s
takes places s·b to (s + 1)·b - 1 of it, for a batch of b samples. So each sample is seen once in a pass, also where the
length is no multiple of b: the last batch of a pass is filled from the next one.

No permutation is ever written down. Each is a Feistel network over pairs from 0 to a - 1, with a² just over the length
("generalised Feistel"), walked again from each value that lies beyond the length until one within comes out ("cycle
walking"): Black and Rogaway, "Ciphers with Arbitrary Finite Domains", CT-RSA 2002, sections 4 and 5. Its rounds are
keyed hashes, the finaliser of SplitMix64 (Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators",
OOPSLA 2014). An order to shuffle by, no secret.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
import numpy.typing as npt

from prime.trainer.data.contract import Indices

LENGTH_MAX: Final = 2**62
"""Samples of one dataset: twice as many still fit into an int64."""
ROUNDS: Final = 8

_Words = npt.NDArray[np.uint64]
_GOLDEN: Final = 0x9E37_79B9_7F4A_7C15  # 2**64 over the golden ratio, odd
_FIRST: Final = 0xBF58_476D_1CE4_E5B9
_SECOND: Final = 0x94D0_49BB_1331_11EB
_WORD: Final = 2**64 - 1


def step_indices(seed: int, step: int, batch_size: int, length: int) -> Indices:
    """Return the samples of a step, int64[batch_size], in their order: the same for every rank of every world.

    Takes time and memory of the order of `batch_size`, whatever the length. Raises `ValueError` where there are no
    samples, or where step or batch size cannot be.
    """
    if not 1 <= length <= LENGTH_MAX or batch_size < 1 or step < 0:
        raise ValueError(f"step {step} of {batch_size} samples out of {length}")
    first = step * batch_size
    passes = range(first // length, (first + batch_size - 1) // length + 1)
    return np.concatenate([_part(seed, number, first, first + batch_size, length) for number in passes])


def share(indices: Indices, rank: int, world: int, microbatch: int = 0, microbatches: int = 1) -> Indices:
    """Return what of a step's samples one rank takes in one of its microbatches: a view of consecutive ones.

    The shares are disjoint, cover the step, and differ by at most one sample, also from rank to rank. A share is empty
    only where a step has fewer samples than there are shares. Raises `ValueError` for a rank or microbatch that is
    none.
    """
    if not (0 <= rank < world and 0 <= microbatch < microbatches):
        raise ValueError(f"rank {rank} of {world}, microbatch {microbatch} of {microbatches}")
    part, parts = rank * microbatches + microbatch, world * microbatches
    return indices[part * indices.size // parts : (part + 1) * indices.size // parts]


def seed_of_node(seed: int, node: int) -> int:
    """Return the seed of the order of one node of a swarm, whose nodes come and go: each has an order of its own."""
    return _mixed(_mixed(seed) ^ node)


def permuted(places: Indices, length: int, key: int) -> Indices:
    """Return where a permutation of 0 to `length` - 1 puts these places, int64 of their shape; `key` chooses it."""
    side = math.isqrt(length - 1) + 1
    keys = [np.uint64(_mixed(key + turn * _GOLDEN)) for turn in range(1, ROUNDS + 1)]
    found = _network(places.astype(np.uint64), np.uint64(side), keys)
    while (beyond := found >= length).any():
        found[beyond] = _network(found[beyond], np.uint64(side), keys)
    return found.astype(np.int64)


def _part(seed: int, number: int, first: int, end: int, length: int) -> Indices:
    """Return what places first to end - 1 of the line hold, as far as they lie in the pass of that number."""
    start = number * length
    places = np.arange(max(first - start, 0), min(end - start, length), dtype=np.int64)
    return permuted(places, length, _mixed(_mixed(seed) ^ number))


def _network(values: _Words, side: np.uint64, keys: list[np.uint64]) -> _Words:
    left, right = values // side, values % side
    for key in keys:
        left, right = right, (left + _mixed_words(right ^ key) % side) % side
    return left * side + right


def _mixed_words(words: _Words) -> _Words:
    words = (words ^ (words >> np.uint64(30))) * np.uint64(_FIRST)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(_SECOND)
    return words ^ (words >> np.uint64(31))


def _mixed(word: int) -> int:
    word = (word + _GOLDEN) & _WORD
    word = ((word ^ (word >> 30)) * _FIRST) & _WORD
    word = ((word ^ (word >> 27)) * _SECOND) & _WORD
    return word ^ (word >> 31)
