"""The sparse forms by every engine: equal bytes, exact residuals, what is kept, and what is refused."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prime.errors import DecodeError, LocalProtocolError
from prime.trainer.codec.engine import Encoded, Vector
from prime.trainer.codec.sparse import BLOCK, DENSE_FROM, KEPT, TOPK, gather_form
from prime.trainer.codec.sparse_vectors import Sparse, Sums, contributions_of, gather, sparse_engine, topk
from prime.trainer.codec.vectors import codec

pytest.importorskip("numba")
pytest.importorskip("torch")

ENGINES = [sparse_engine(name) for name in ("numba", "torch", "numpy")]
CODECS = [Sparse(TOPK, engine) for engine in ENGINES]
OURS = CODECS[0]
each = pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.engine.name)

sizes = st.sampled_from([0, 1, 2, 63, 64, 65, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK + 7]) | st.integers(0, 9000)


def normal(random: np.random.Generator, size: int) -> Vector:
    return random.standard_normal(size).astype(np.float32)


def mostly_zero(random: np.random.Generator, size: int) -> Vector:
    return np.where(random.random(size) < 0.005, normal(random, size), np.float32(0)).astype(np.float32)


def tied(random: np.random.Generator, size: int) -> Vector:
    return random.integers(-2, 3, size).astype(np.float32)


def wild(random: np.random.Generator, size: int) -> Vector:
    """Of every exponent that a float32 has."""
    bits = random.integers(0, 2**32, size, dtype=np.uint32)
    return np.where(bits & 0x7F800000 == 0x7F800000, np.uint32(0), bits).astype(np.uint32).view(np.float32) / 2


KINDS: list[Callable[[np.random.Generator, int], Vector]] = [normal, mostly_zero, tied, wild]


def drawn(kind: int, seed: int, size: int, exponent: int) -> Vector:
    with np.errstate(over="ignore", under="ignore"):
        x = np.ldexp(KINDS[kind](np.random.default_rng(seed), size), exponent).astype(np.float32)
    return np.where(np.abs(x) < 1e38, x, np.float32(1))


vectors = st.builds(
    drawn,
    st.integers(0, len(KINDS) - 1),
    st.integers(0, 2**32),
    sizes,
    st.sampled_from([0, 0, 0, -100, -126, -140, 100]) | st.integers(-149, 120),
)


@given(vectors, st.integers(0, 9), st.booleans())
def test_engines_write_the_same_bytes_and_leave_out_the_same(x: Vector, seed: int, in_place: bool) -> None:
    written = []
    for each_codec in CODECS:
        residual = (x * np.random.default_rng(seed).uniform(-1, 1, x.size)).astype(np.float32)
        after = residual if in_place else np.empty_like(residual)
        encoded = each_codec.encode(x, residual=residual, residual_out=after)
        written.append((encoded.tobytes(), after.tobytes(), each_codec.encode(x).tobytes()))
    assert written[0] == written[1] == written[2]


@given(vectors, st.floats(-1000, 1000, width=32))
def test_engines_decode_to_the_same_bits(x: Vector, weight: float) -> None:
    encoded = OURS.encode(x / np.float32(1024))
    sums = []
    for each_codec in CODECS:
        into = np.linspace(-1, 1, x.size, dtype=np.float32)
        each_codec.decode_add(encoded, into, weight)
        sums.append((each_codec.decode(encoded, x.size).tobytes(), into.tobytes()))
    assert sums[0] == sums[1] == sums[2]


@given(vectors, st.integers(0, 9))
def test_decoded_and_residual_are_what_was_to_be_sent(x: Vector, seed: int) -> None:
    """Exactly, for every finite input: the levels' eight bits are never finer than the element's own."""
    residual = (x * np.random.default_rng(seed).uniform(-1, 1, x.size)).astype(np.float32)
    y = x + residual
    encoded = OURS.encode(x, residual=residual)
    decoded = OURS.decode(encoded, x.size)
    assert np.array_equal(decoded + residual, y)
    assert np.array_equal(decoded.astype(np.float64) + residual, y.astype(np.float64))  # not by float32's rounding
    assert np.array_equal(OURS.residual(y, encoded), residual)


@given(vectors)
def test_what_travels_is_among_the_largest_of_each_block(x: Vector) -> None:
    decoded = OURS.decode(OURS.encode(x), x.size)
    for first in range(0, x.size, BLOCK):
        block, sent = np.abs(x[first : first + BLOCK]), decoded[first : first + BLOCK] != 0
        assert sent.sum() <= KEPT
        if sent.any() and not sent.all():
            rank = np.sort(block)[::-1][min(KEPT, block.size) - 1]
            assert block[sent].min() >= rank
            assert (np.sign(decoded[first : first + BLOCK][sent]) == np.sign(x[first : first + BLOCK][sent])).all()
    assert (np.abs(decoded) <= 2 * np.abs(x.astype(np.float64))).all()


@each
def test_of_equal_magnitudes_the_first_travel(codec: Sparse) -> None:
    x = np.ones(200, np.float32)
    x[150] = -3
    decoded = codec.decode(codec.encode(x), 200)
    assert np.flatnonzero(decoded).tolist() == [*range(KEPT - 1), 150]


@each
def test_error_feedback_brings_every_element_through(codec: Sparse) -> None:
    x, residual, sum_ = normal(np.random.default_rng(1), BLOCK), np.zeros(BLOCK, np.float32), np.zeros(BLOCK)
    for _ in range(400):
        sum_ += codec.decode(codec.encode(x, residual=residual), BLOCK)
    error = np.linalg.norm(sum_ / 400 - x) / np.linalg.norm(x)
    assert error < 0.2, "what is left out comes later"
    assert np.allclose(sum_ + residual, 400 * x.astype(np.float64), atol=0.05)


def test_sizes() -> None:
    assert TOPK.encoded_size_bytes(BLOCK) == 116
    assert 4 * BLOCK / TOPK.encoded_size_bytes(BLOCK) > 141
    assert [TOPK.encoded_size_bytes(size) for size in (0, 1, BLOCK + 1)] == [0, 116, 232]
    forms = {count: gather_form(count) for count in (1, 2, 5, 6, 56)}
    assert {count: form.record_bytes for count, form in forms.items() if form} == {
        1: 164,
        2: 324,
        5: 804,
        6: 900,
        56: 4100,
    }
    assert gather_form(DENSE_FROM) is None
    dense = codec("int8").form.encoded_size_bytes(BLOCK)
    assert all(form and form.record_bytes < dense for form in map(gather_form, range(1, DENSE_FROM)))
    assert dense < BLOCK // 8 + KEPT * DENSE_FROM + 4


def summed(contributions: int, size: int, seed: int) -> Vector:
    total = np.zeros(size, np.float32)
    for i in range(contributions):
        x = normal(np.random.default_rng(seed + i), size)
        OURS.decode_add(OURS.encode(x), total, 1 / contributions)
    return total


@given(st.integers(1, DENSE_FROM - 1), sizes, st.integers(0, 99))
def test_a_sum_of_contributions_goes_with_all_its_places(contributions: int, size: int, seed: int) -> None:
    total = summed(contributions, size, seed)
    written = []
    for engine in ENGINES:
        ours = gather(contributions, engine)
        assert ours is not None
        residual = np.empty_like(total)
        encoded = ours.encode(total, residual_out=residual)
        written.append((encoded.tobytes(), ours.decode(encoded, size).tobytes(), residual.tobytes()))
    assert written[0] == written[1] == written[2]
    decoded = np.frombuffer(written[0][1], np.float32)
    for first in range(0, size, BLOCK):
        block = total[first : first + BLOCK].astype(np.float64)
        assert np.abs(block - decoded[first : first + BLOCK]).max() <= np.abs(block).max() / 253
    assert not decoded[total == 0].any()
    assert np.array_equal(decoded + np.frombuffer(written[0][2], np.float32), total)


def test_the_size_of_a_sum_tells_its_form() -> None:
    sizes = [form.record_bytes for count in range(1, DENSE_FROM) if (form := gather_form(count)) is not None]
    assert sizes == sorted({*sizes})
    assert sizes[-1] < codec("int8").form.encoded_size_bytes(BLOCK)
    assert [contributions_of(7 * size, 7) for size in sizes] == [*range(1, DENSE_FROM)]


@pytest.mark.parametrize("contributions", [1, 3, 8, DENSE_FROM, 80])
def test_a_sum_is_read_by_its_size(contributions: int) -> None:
    sums, total = Sums(), summed(contributions, 2 * BLOCK + 9, 3)
    encoded = sums.encode(total, contributions)
    assert encoded.size <= codec("int8").form.encoded_size_bytes(3 * BLOCK)
    error = np.linalg.norm(sums.decode(encoded, total.size) - total) / np.linalg.norm(total)
    assert error < 0.02
    with pytest.raises(DecodeError):
        sums.decode(encoded[:-4], total.size)


@pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: engine.name)
def test_a_block_that_is_not_sparse_is_refused(engine: object) -> None:
    ours = gather(1, engine)  # type: ignore[arg-type]
    assert ours is not None
    with pytest.raises(LocalProtocolError, match="more than the 64 that gather 1 has room for"):
        ours.encode(np.ones(65, np.float32))
    assert ours.encode(np.ones(64, np.float32)).size == 164


@each
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("at", [0, BLOCK - 1, BLOCK + 50])
def test_what_is_not_finite_is_refused_by_index(codec: Sparse, bad: float, at: int) -> None:
    x = np.ones(BLOCK + 300, np.float32)
    x[at] = bad
    with pytest.raises(LocalProtocolError, match=rf"the first is {bad} at index {at}"):
        codec.encode(x)


def record(changes: dict[int, int], encoded: Encoded) -> Encoded:
    encoded = encoded.copy()
    for at, byte in changes.items():
        encoded[at] = byte
    return encoded


def few(values: dict[int, float], size: int = 300) -> Vector:
    x = np.zeros(size, np.float32)
    for at, value in values.items():
        x[at] = value
    return x


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({1: 0x10 | 0, 0: 1}, "do not ascend|codes without a place"),  # 1, 1: an element twice
        ({0: 2, 1: 0x10, 2: 0}, "do not ascend"),  # 2, 1
        ({1: 0xF0, 2: 0xFF}, "beyond the vector"),  # 4095 in a vector of 300
        ({94: 1}, "do not ascend"),  # a place after the padding began
        ({111: 0x40}, "codes without a place"),
        ({112: 0xFF, 113: 0xFF}, "scale or level"),  # the lower is negative, or no number
        ({114: 0x80, 115: 0x7F}, "scale or level"),  # the upper is infinite
        ({114: 0, 115: 0}, "scale or level"),  # the lower is over the upper
        ({112: 0x40, 113: 0}, "scale or level"),  # subnormal
        ({112: 0, 113: 0, 114: 0, 115: 0}, "no scale or level"),
    ],
)
def test_what_no_encoder_of_topk_writes_is_refused(change: dict[int, int], message: str) -> None:
    encoded = record(change, OURS.encode(few({1: 1.0, 9: -2.0})))
    into = np.zeros(300, np.float32)
    with pytest.raises(DecodeError, match=message):
        OURS.decode_add(encoded, into)
    assert not into.any()


@pytest.mark.parametrize(
    ("contributions", "change", "message"),
    [
        (1, {0: 9, 1: 0x90, 2: 0}, "do not ascend|codes without"),
        (1, {96: 0}, "holds an element that is 0"),
        (1, {98: 1}, "codes without a place"),
        (1, {163: 0x80}, "scale or level"),
        (1, {162: 0x80, 163: 0x7F}, "scale or level"),
        (6, {40: 1}, "beyond the vector"),
        (6, {0: 0xFE}, "holds an element that is 0"),
        (6, {0: 0}, "codes without a place"),
        (6, dict.fromkeys(range(512), 0xFF), "names more places"),
        (6, {896: 0, 897: 0, 898: 0, 899: 0}, "no scale or level"),
    ],
)
def test_what_no_encoder_of_a_sum_writes_is_refused(contributions: int, change: dict[int, int], message: str) -> None:
    ours = gather(contributions, ENGINES[0])
    assert ours is not None
    encoded = record(change, ours.encode(few({1: 1.0, 9: -2.0})))
    with pytest.raises(DecodeError, match=message):
        ours.decode(encoded, 300)


@given(st.binary(min_size=116, max_size=116), st.integers(1, BLOCK))
def test_any_bytes_are_refused_or_decoded_by_all_engines_alike(data: bytes, elements: int) -> None:
    try:
        OURS.check(data, elements)
    except DecodeError:
        return
    decoded = [each_codec.decode(data, elements).tobytes() for each_codec in CODECS]
    assert decoded[0] == decoded[1] == decoded[2]


@given(vectors.filter(lambda x: x.size > 0), st.data())
def test_a_changed_byte_is_refused_or_decoded_by_all_engines_alike(x: Vector, data: st.DataObject) -> None:
    encoded = OURS.encode(x)
    encoded[data.draw(st.integers(0, encoded.size - 1))] ^= data.draw(st.integers(1, 255))
    try:
        OURS.check(encoded, x.size)
    except DecodeError:
        return
    decoded = [each_codec.decode(encoded, x.size).tobytes() for each_codec in CODECS]
    assert decoded[0] == decoded[1] == decoded[2]
    assert np.isfinite(np.frombuffer(decoded[0], np.float32)).all()


def test_a_buffer_of_another_size_is_refused() -> None:
    encoded = OURS.encode(np.ones(300, np.float32))
    for wrong in (encoded[:-4], np.append(encoded, encoded[:4]), encoded[:0]):
        with pytest.raises(DecodeError, match="topk vector of 300 elements takes 116 bytes"):
            OURS.check(wrong, 300)
    with pytest.raises(LocalProtocolError, match=r"needs uint8\[116\]"):
        OURS.encode(np.ones(300, np.float32), encoded[:-4])
    unaligned = memoryview(b"\x01" + encoded.tobytes())[1:]
    assert np.array_equal(topk("numba").decode(unaligned, 300), OURS.decode(encoded, 300))


@each
def test_an_empty_vector_has_no_bytes(codec: Sparse) -> None:
    nothing = np.empty(0, np.float32)
    assert codec.encode(nothing, residual=nothing).size == 0
    assert codec.decode(b"", 0).size == 0
