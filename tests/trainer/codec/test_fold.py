"""`Engine.fold`, what an owner does with a chunk in one pass: the bits of `reduce` and `decode`."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prime.trainer.codec.cpu import codec_engine
from prime.trainer.codec.engine import folded
from prime.trainer.codec.form import FORMS, form


@pytest.mark.parametrize("name", sorted(FORMS))
@given(
    elements=st.integers(1, 3000),
    peers=st.integers(1, 4),
    seed=st.integers(0, 2**32 - 1),
    feedback=st.booleans(),
    fault=st.sampled_from([0.0, 0.0, 0.0, np.nan, -np.inf]),
)
def test_numba_folds_as_numpy_does_step_by_step(
    name: str, elements: int, peers: int, seed: int, feedback: bool, fault: float
) -> None:
    wire, draw = form(name), np.random.default_rng(seed)
    size = wire.encoded_size_bytes(elements)
    rows, weights = np.empty((peers, size), np.uint8), np.full(peers, 0.3, np.float32)
    for row in rows:
        codec_engine("numpy").encode(wire, draw.standard_normal(elements, np.float32), row, None, None)
    own = draw.standard_normal(elements, np.float32)
    place = int(draw.integers(elements))
    own[place] += np.float32(fault)
    left = draw.standard_normal(elements, np.float32) if feedback else None
    found = []
    for fold in (codec_engine("numba").fold, lambda *given: folded(codec_engine("numpy"), *given)):
        mine, kept, encoded = own.copy(), None if left is None else left.copy(), np.empty(size, np.uint8)
        flags = fold(wire, rows, weights, mine, np.float32(0.3), encoded, kept, kept)
        found.append((flags, mine, kept, encoded))
    (flags, mine, kept, encoded), (wanted_flags, wanted_mine, wanted_kept, wanted_encoded) = found
    assert flags == wanted_flags == (0 if fault == 0 else 1)
    if flags:
        assert not np.isfinite(mine[place]) and np.isfinite(np.delete(mine, place)).all()
    else:
        assert np.array_equal(mine.view(np.uint32), wanted_mine.view(np.uint32))
        assert encoded.tobytes() == wanted_encoded.tobytes()
        assert kept is None or np.array_equal(kept.view(np.uint32), wanted_kept.view(np.uint32))
