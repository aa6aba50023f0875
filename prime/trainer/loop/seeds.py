"""What a model draws at random is, like the data, a function of seed, step and rank alone. Pure."""

from __future__ import annotations

from typing import Final

SEED_STRIDE: Final = 0x9E37_79B9_7F4A_7C15
"""2**64 over the golden ratio: neighbouring steps and ranks get seeds far apart (Steele et al., SplitMix, 2014)."""


def step_seed(seed: int, step: int, rank: int) -> int:
    """Return the seed of what is drawn (dropout) in a step of a rank, from 0 to under 2**63."""
    return (seed + SEED_STRIDE * (step + 1) + rank) % 2**63
