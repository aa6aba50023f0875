"""Every form by every engine: equal bytes, the algebra of the residual, error bounds, and what is refused."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from prime.errors import ConfigError, DecodeError, LocalProtocolError
from prime.trainer.codec.engine import Encoded, Vector
from prime.trainer.codec.form import FORMS, FP8, FP16, FP16_OVERFLOW, INT4, INT8, NON_FINITE, NONE, OVERFLOW, Form, form
from prime.trainer.codec.vectors import Codec, codec

pytest.importorskip("numba")
torch = pytest.importorskip("torch")

ENGINES = ("numba", "torch", "numpy")
CODECS = {name: [codec(name, engine) for engine in ENGINES] for name in FORMS}  # type: ignore[arg-type]
OURS = {name: codecs[0] for name, codecs in CODECS.items()}
every_form = pytest.mark.parametrize("name", FORMS)
each = pytest.mark.parametrize(
    "codec", [c for codecs in CODECS.values() for c in codecs], ids=lambda c: f"{c.form.name}-{c.engine.name}"
)

sizes = st.sampled_from([0, 1, 2, 63, 64, 65, 127, 255, 256, 257, 511, 513]) | st.integers(0, 700)


def drawn(seed: int, size: int, exponent: int) -> Vector:
    return np.ldexp(np.random.default_rng(seed).standard_normal(size), exponent).astype(np.float32)


def tied(seed: int, size: int, exponent: int) -> Vector:
    """Halves of a step: with the largest code among them, every quotient is a tie or a whole number."""
    halves = np.random.default_rng(seed).integers(-14, 15, size)
    halves[:1] = 14
    return np.ldexp(halves / 2, exponent).astype(np.float32)


def vectors(top: float = float(np.finfo(np.float32).max) / 2) -> st.SearchStrategy[Vector]:
    finite = st.floats(-top, top, width=32)
    seeds = st.integers(0, 2**32)
    return (
        hnp.arrays(np.float32, sizes, elements=finite)
        | st.builds(drawn, seeds, sizes, st.integers(-150, int(math.log2(top)) - 4))
        | st.builds(tied, seeds, sizes, st.integers(-149, int(math.log2(top)) - 4))
    )


def residual_of(x: Vector, seed: int) -> Vector:
    """A residual of the size that a codec leaves of such a vector."""
    return (x * np.random.default_rng(seed).uniform(-0.05, 0.05, x.size)).astype(np.float32)


FITS = {name: vectors() for name in FORMS} | {"fp16": vectors(FP16_OVERFLOW / 2)}
any_form = st.sampled_from(list(FORMS))
form_and_vector = any_form.flatmap(lambda name: st.tuples(st.just(name), FITS[name]))


@given(form_and_vector, st.integers(0, 99), st.booleans())
def test_engines_write_the_same_bytes_and_leave_out_the_same(
    case: tuple[str, Vector], seed: int, in_place: bool
) -> None:
    name, x = case
    written = []
    for each_codec in CODECS[name]:
        before = residual_of(x, seed)
        after = before if in_place else np.empty_like(before)
        encoded = each_codec.encode(x, residual=before, residual_out=after)
        plain = each_codec.encode(x)
        written.append((encoded.tobytes(), after.tobytes(), plain.tobytes()))
    assert written[0] == written[1] == written[2]


@given(form_and_vector, st.floats(-1000, 1000, width=32))
def test_engines_decode_to_the_same_bits(case: tuple[str, Vector], weight: float) -> None:
    name, x = case
    x = x / np.float32(1024)
    encoded = OURS[name].encode(x)
    sums = []
    for each_codec in CODECS[name]:
        into = np.linspace(-1, 1, x.size, dtype=np.float32)
        each_codec.decode_add(encoded, into, weight)
        sums.append((each_codec.decode(encoded, x.size).tobytes(), into.tobytes()))
    assert sums[0] == sums[1] == sums[2]


@given(any_form, st.integers(0, 99), sizes | st.integers(8000, 9000), st.integers(1, 7), st.booleans())
def test_engines_reduce_to_the_same_bytes(name: str, seed: int, size: int, ranks: int, feeds_back: bool) -> None:
    rows = np.stack([OURS[name].encode(drawn(seed + rank, size, 0)) for rank in range(ranks)])
    weights = np.random.default_rng(seed).uniform(0.1, 1, ranks).astype(np.float32)
    results = []
    for each_codec in CODECS[name]:
        residual = residual_of(drawn(seed, size, 0), seed) if feeds_back else None
        out = each_codec.reduce(rows, weights, size, residual=residual)
        results.append((out.tobytes(), None if residual is None else residual.tobytes()))
    assert results[0] == results[1] == results[2]


@given(any_form, st.integers(0, 99), sizes, st.integers(1, 7))
def test_a_reduction_is_the_sum_in_rank_order_encoded_again(name: str, seed: int, size: int, ranks: int) -> None:
    ours = OURS[name]
    rows = np.stack([ours.encode(drawn(seed + rank, size, 0)) for rank in range(ranks)])
    weights = np.full(ranks, 1 / ranks, np.float32)
    total, residual = np.zeros(size, np.float32), residual_of(drawn(seed, size, 0), seed)
    expected_residual = residual.copy()
    for row, weight in zip(rows, weights, strict=True):
        ours.decode_add(row, total, float(weight))
    expected = ours.encode(total, residual=expected_residual)
    assert np.array_equal(ours.reduce(rows, weights, size, residual=residual), expected)
    assert np.array_equal(residual, expected_residual)


@given(form_and_vector, st.integers(0, 99))
def test_decoded_and_residual_are_what_was_to_be_sent(case: tuple[str, Vector], seed: int) -> None:
    """Exactly, in float32, for every finite input: the residual is a difference of floats within a factor of two, or of 0."""
    name, x = case
    residual = residual_of(x, seed)
    y = x + residual
    encoded = OURS[name].encode(x, residual=residual)
    decoded = OURS[name].decode(encoded, x.size)
    assert np.array_equal(decoded + residual, y)
    assert np.array_equal(decoded.astype(np.float64) + residual, y.astype(np.float64))  # not by float32's rounding
    assert np.array_equal(OURS[name].residual(y, encoded), residual)


def error_bound(form_: Form, y: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """The most that a form leaves out of an element, in float64; `steps` are the scales of its elements' blocks."""
    if form_ is FP16:
        return np.maximum(np.abs(y) * 2.0**-11, 2.0**-25)
    if form_ is NONE:
        return np.zeros_like(y)
    rounding = 2.0**-22 * np.abs(y)  # of the scale, the quotient and the product, each in float32
    if form_ is FP8:
        return np.maximum(np.abs(y) * 2.0**-4, steps * 2.0**-10) + rounding
    return steps / 2 + rounding


@given(form_and_vector)
def test_no_more_is_left_out_than_half_a_step(case: tuple[str, Vector]) -> None:
    name, x = case
    form_ = form(name)
    encoded = OURS[name].encode(x)
    error = np.abs(x.astype(np.float64) - OURS[name].decode(encoded, x.size))
    steps = np.zeros(x.size)
    if form_.scale_bytes:
        scales = encoded[form_.codes_bytes(x.size) :].view("<f4").astype(np.float64)
        steps = np.repeat(scales, form_.block)[: x.size]
    lost = (steps == 0) & bool(form_.scale_bytes)
    assert np.all((error <= error_bound(form_, x.astype(np.float64), steps)) | lost)
    assert np.all(np.abs(x[lost]) <= form_.code_max * 2.0**-126 * (1 + 2.0**-23))


@given(
    any_form,
    st.lists(st.tuples(st.integers(0, 2**32), st.integers(-20, 4)), min_size=1, max_size=30),
    st.integers(1, 70),
)
def test_over_many_steps_what_arrives_is_what_was_sent_but_for_one_residual(
    name: str, steps: list[tuple[int, int]], size: int
) -> None:
    """Sum of inputs = sum of decoded + the last residual, but for one float32 rounding a step, of input plus residual.

    Both sides are exact fractions; the bound is half an ulp of each step's sum, and there is no other error.
    """
    ours, residual = OURS[name], np.zeros(size, np.float32)
    sent, arrived, rounding = [[Fraction(0)] * size for _ in range(3)]
    for seed, exponent in steps:
        x = drawn(seed, size, exponent)
        y = x + residual
        decoded = ours.decode(ours.encode(x, residual=residual), size)
        sent = [total + Fraction(float(value)) for total, value in zip(sent, x, strict=True)]
        arrived = [total + Fraction(float(value)) for total, value in zip(arrived, decoded, strict=True)]
        rounding = [
            total + Fraction(float(ulp)) / 2 for total, ulp in zip(rounding, np.spacing(np.abs(y)), strict=True)
        ]
    for i in range(size):
        assert abs(sent[i] - arrived[i] - Fraction(float(residual[i]))) <= rounding[i]


@pytest.mark.parametrize("name", ["int8", "int4", "fp8"])
def test_a_residual_does_not_grow_with_the_steps(name: str) -> None:
    x, residual = drawn(7, 256, 0), np.zeros(256, np.float32)
    ours, sum_ = OURS[name], np.zeros(256)
    for _ in range(200):
        sum_ += ours.decode(ours.encode(x, residual=residual), 256)
    largest = {"int8": 1 / 254, "int4": 1 / 14, "fp8": 1 / 16}[name] * 1.2 * np.abs(x).max()
    assert np.abs(residual).max() <= largest
    assert np.abs(sum_ / 200 - x).max() <= largest / 200 * 1.01
    once = ours.decode(ours.encode(x), 256)
    assert np.abs(once - x).max() > 20 * np.abs(sum_ / 200 - x).max()


def test_every_code_of_fp8_is_that_of_torch() -> None:
    codes = np.delete(np.arange(256, dtype=np.uint8), [0x7F, 0xFF])
    encoded = np.zeros(FP8.encoded_size_bytes(codes.size), np.uint8)
    encoded[: codes.size] = codes
    encoded[-4:] = np.float32(1).reshape(1).view(np.uint8)
    theirs = torch.from_numpy(codes).view(torch.float8_e4m3fn).float().numpy()
    for each_codec in CODECS["fp8"]:
        assert each_codec.decode(encoded, codes.size).tobytes() == theirs.tobytes()


def test_every_number_of_fp16_comes_back_and_every_middle_goes_to_the_even() -> None:
    numbers = np.arange(65536, dtype=np.uint16).view(np.float16)
    numbers = np.sort(numbers[np.isfinite(numbers)].astype(np.float32))
    middles = (numbers[1:] + numbers[:-1]) / 2
    for each_codec in CODECS["fp16"]:
        assert np.array_equal(each_codec.decode(each_codec.encode(numbers), numbers.size), numbers)
        encoded = each_codec.encode(middles)[: 2 * middles.size].view(np.float16)
        assert encoded.tobytes() == middles.astype(np.float16).tobytes()


@given(vectors())
def test_the_smallest_code_of_an_integer_form_is_never_written(x: Vector) -> None:
    codes = OURS["int8"].encode(x)[: INT8.codes_bytes(x.size)].view(np.int8)
    nibbles = OURS["int4"].encode(x)[: INT4.codes_bytes(x.size)]
    assert not (codes == -128).any()
    assert not ((nibbles & 15 == 8) | (nibbles >> 4 == 8)).any()


@each
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("at", [0, 255, 299])
def test_what_is_not_finite_is_refused_by_index(codec: Codec, bad: float, at: int) -> None:
    x = np.ones(300, np.float32)
    x[at] = bad
    for residual in (None, np.zeros(300, np.float32)):
        with pytest.raises(
            LocalProtocolError, match=rf"1 of 300 elements are not finite; the first is {bad} at index {at}"
        ):
            codec.encode(x, residual=residual)


@each
def test_a_sum_with_the_residual_that_overflows_is_refused(codec: Codec) -> None:
    top = np.full(3, np.finfo(np.float32).max, np.float32)
    with np.errstate(over="ignore"), pytest.raises(LocalProtocolError, match="the vector and its residual together"):
        codec.encode(top, residual=top.copy())


@each
def test_the_largest_floats_stay_finite(codec: Codec) -> None:
    top = np.finfo(np.float32).max
    x = np.array([top, -top, top / 3], np.float32)
    decoded = codec.decode(codec.encode(x), 3)
    assert np.isfinite(decoded).all()
    np.testing.assert_allclose(decoded[:2], x[:2], rtol=1e-6)


@pytest.mark.parametrize("codec", CODECS["fp16"], ids=ENGINES)
def test_a_vector_that_overflows_fp16_goes_as_float32_by_a_flag(codec: Codec) -> None:
    x = np.array([1.0, FP16_OVERFLOW, 1e-30], np.float32)
    residual = np.array([0.0, 0.0, 1.0], np.float32)
    encoded = codec.encode(x, residual=residual)
    assert encoded.nbytes == 4 * 3 + 4
    assert encoded[-4:].tobytes() == b"\x01\0\0\0"
    assert np.array_equal(codec.decode(encoded, 3), x + np.array([0, 0, 1], np.float32))
    assert not residual.any()
    fits = codec.encode(np.nextafter(x, np.float32(0)))
    assert fits.nbytes == codec.form.encoded_size_bytes(3) == 2 * 4 + 4
    assert codec.decode(fits, 3)[1] == 65504
    flags = codec.engine.encode(FP16, x, np.empty(12, np.uint8), None, None)
    assert flags == OVERFLOW
    x[0] = np.nan
    assert codec.engine.encode(FP16, x, np.empty(12, np.uint8), None, None) == NON_FINITE


def damaged(name: str, change: dict[int, int]) -> Encoded:
    encoded = OURS[name].encode(np.ones(300, np.float32))
    for at, byte in change.items():
        encoded[at] = byte
    return encoded


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("fp8", {7: 0x7F}, "code of element 7 is no finite number"),
        ("fp8", {299: 0xFF}, "code of element 299"),
        ("fp16", {11: 0x7C, 10: 0x00}, "code of element 5"),
        ("none", {4 * 9 + 3: 0x7F, 4 * 9 + 2: 0xC0}, "code of element 9"),
        ("fp16", {603: 1}, "flag of an fp16 vector"),
        ("int4", {160 + 3: 0x80}, "scale of block 0 is -"),
        ("int4", {160 + 7: 0x7F, 160 + 6: 0xFF}, "scale of block 1 is nan"),
    ],
)
def test_what_no_encoder_writes_is_refused(name: str, change: dict[int, int], message: str) -> None:
    into = np.zeros(300, np.float32)
    with pytest.raises(DecodeError, match=message):
        OURS[name].decode_add(damaged(name, change), into)
    assert not into.any()


@every_form
def test_a_buffer_of_another_size_is_refused(name: str) -> None:
    encoded = OURS[name].encode(np.ones(300, np.float32))
    for wrong in (encoded[:-4], np.append(encoded, encoded[:4]), encoded[:0]):
        with pytest.raises(DecodeError, match=f"{name} vector of 300 elements takes {encoded.size} bytes"):
            OURS[name].check(wrong, 300)
    with pytest.raises(LocalProtocolError, match=rf"needs uint8\[{encoded.size}\]"):
        OURS[name].encode(np.ones(300, np.float32), encoded[:-4])


@every_form
def test_an_empty_vector_has_no_bytes(name: str) -> None:
    for each_codec in CODECS[name]:
        nothing = np.empty(0, np.float32)
        assert each_codec.encode(nothing, residual=nothing).size == each_codec.form.encoded_size_bytes(0) == 0
        assert each_codec.decode(b"", 0).size == 0
        assert each_codec.reduce(np.empty((3, 0), np.uint8), np.ones(3, np.float32), 0).size == 0


def test_sizes() -> None:
    assert [form(name).encoded_size_bytes(1) for name in FORMS] == [260, 36, 260, 8, 4]
    ratios = {name: 4e6 / form(name).encoded_size_bytes(1_000_000) for name in FORMS}
    assert {name: round(ratio, 2) for name, ratio in ratios.items()} == {
        "int8": 3.94,
        "int4": 7.11,
        "fp8": 3.94,
        "fp16": 2.0,
        "none": 1.0,
    }
    with pytest.raises(ConfigError, match="no codec is called 'int2'"):
        form("int2")


@pytest.mark.parametrize("form_", [INT8, INT4, FP8], ids=lambda f: f.name)
def test_the_largest_scale_is_the_last_whose_largest_number_is_finite(form_: Form) -> None:
    scale = np.float32(form_.scale_max)
    assert float(scale) == form_.scale_max
    with np.errstate(over="ignore"):
        assert np.isfinite(scale * np.float32(form_.code_max))
        assert np.nextafter(scale, np.float32(np.inf)) * np.float32(form_.code_max) == np.inf
