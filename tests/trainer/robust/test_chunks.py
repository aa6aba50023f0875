"""The rules on encoded chunks: against plain numpy, both engines bit for bit, on every wire form."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prime.errors import DecodeError
from prime.trainer.codec import codec
from prime.trainer.robust import chunks
from prime.trainer.robust.lanes import SLAB_ELEMENTS

pytest.importorskip("numba")
FORMS = ("int8", "int4", "fp8", "fp16", "none")


def encoded(form: str, rows: int, elements: int, seed: int = 0) -> list[np.ndarray]:
    x = np.random.default_rng(seed).normal(size=(rows, elements)).astype(np.float32)
    return [codec(form, "numpy").encode(row) for row in x]


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=15)
@given(rows=st.integers(1, 9), elements=st.integers(0, 1500), seed=st.integers(0, 2**32), data=st.data())
def test_both_engines_give_the_same_bits(form: str, rows: int, elements: int, seed: int, data: st.DataObject) -> None:
    trim = data.draw(st.integers(0, (rows - 1) // 2))
    inputs = encoded(form, rows, elements, seed)
    middles = [chunks.middle(codec(form, engine), inputs, elements, trim) for engine in ("numba", "numpy")]
    assert np.array_equal(middles[0].view(np.uint32), middles[1].view(np.uint32))
    grams = [np.zeros((rows, rows)), np.zeros((rows, rows))]
    for engine, gram in zip(("numba", "numpy"), grams, strict=True):
        chunks.add_gram(codec(form, engine), inputs, elements, gram)
    assert np.array_equal(*grams)


@pytest.mark.parametrize("form", FORMS)
def test_the_middle_is_the_median_and_trimming_nothing_the_mean(form: str) -> None:
    for rows in (1, 4, 7):
        inputs = encoded(form, rows, 700)
        decoded = np.array([codec(form).decode(row, 700) for row in inputs])
        assert np.allclose(chunks.middle(codec(form), inputs, 700, (rows - 1) // 2), np.median(decoded, axis=0))
        assert np.allclose(chunks.middle(codec(form), inputs, 700, 0), decoded.mean(axis=0), atol=1e-6)


@pytest.mark.parametrize("form", FORMS)
def test_a_long_chunk_is_worked_on_in_slabs_with_the_same_result(form: str) -> None:
    elements = 2 * SLAB_ELEMENTS + 777
    inputs = encoded(form, 3, elements)
    decoded = np.array([codec(form).decode(row, elements) for row in inputs])
    grams = [np.zeros((3, 3)), np.zeros((3, 3))]
    for engine, gram in zip(("numba", "numpy"), grams, strict=True):
        assert np.array_equal(chunks.middle(codec(form, engine), inputs, elements, 1), np.median(decoded, axis=0))
        chunks.add_gram(codec(form, engine), inputs, elements, gram)
    assert np.array_equal(*grams)
    assert np.allclose(grams[0], decoded.astype(np.float64) @ decoded.astype(np.float64).T, rtol=1e-9)
    with pytest.raises(DecodeError):
        chunks.middle(codec(form), [*inputs[:2], inputs[2][:-4]], elements, 1)


def test_the_trimmed_mean_is_that_of_what_is_left() -> None:
    inputs = encoded("int8", 9, 700)
    decoded = np.sort([codec("int8").decode(row, 700) for row in inputs], axis=0)
    assert np.allclose(chunks.middle(codec("int8"), inputs, 700, 3), decoded[3:6].mean(axis=0), atol=1e-6)


def test_liars_short_of_a_half_cannot_move_the_median_beyond_an_honest_value() -> None:
    rng = np.random.default_rng(3)
    honest = rng.normal(size=(5, 600)).astype(np.float32)
    for lie in (np.float32(3e38), np.float32(-3e38), np.float32(0)):
        rows = [codec("none").encode(row) for row in [*honest, *np.full((4, 600), lie)]]
        middle = chunks.middle(codec("none"), rows, 600, 4)
        assert (middle >= honest.min(axis=0)).all() and (middle <= honest.max(axis=0)).all()


def test_partial_gram_matrices_add_up_to_the_whole_ones() -> None:
    inputs = encoded("int8", 5, 2048)
    decoded = np.array([codec("int8").decode(row, 2048) for row in inputs], np.float64)
    total = np.zeros((5, 5))
    for cut in (slice(0, 1024), slice(1024, 2048)):
        piece = [codec("none").encode(np.ascontiguousarray(row[cut], np.float32)) for row in decoded]
        chunks.add_gram(codec("none"), piece, 1024, total)
    assert np.allclose(total, decoded @ decoded.T, rtol=1e-13, atol=1e-11)
    assert np.array_equal(total, total.T)


def test_inner_products_of_the_largest_floats_are_finite() -> None:
    rows = [codec("none").encode(np.full(4096, 3.4e38, np.float32))] * 2
    gram = np.zeros((2, 2))
    chunks.add_gram(codec("none"), rows, 4096, gram)
    assert np.isfinite(gram).all()


def test_a_chunk_that_no_codec_wrote_is_refused() -> None:
    inputs = encoded("int8", 3, 512)
    with pytest.raises(DecodeError):
        chunks.middle(codec("int8"), [*inputs[:2], inputs[2][:-4]], 512, 1)
