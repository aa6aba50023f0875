"""Vectors by int8, the form that goes between nodes: golden bytes, sizes, tiny blocks, any buffer, refusals, engines."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from prime.errors import ConfigError, DecodeError, LocalProtocolError, MissingExtraError
from prime.trainer.codec.cpu import codec_engine
from prime.trainer.codec.engine import Vector
from prime.trainer.codec.engine_numpy import NumpyEngine
from prime.trainer.codec.form import INT8, SCALE_MIN
from prime.trainer.codec.vectors import Codec
from prime.trainer.codec.vectors import codec as codec_named

pytest.importorskip("numba")
pytest.importorskip("torch")

CODECS = {name: codec_named("int8", name) for name in ("numba", "torch", "numpy")}
every_engine = pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS.keys())

finite = st.floats(width=32, allow_nan=False, allow_infinity=False)
vectors = hnp.arrays(np.float32, st.integers(0, 700), elements=finite) | st.builds(
    lambda seed, size, exponent: (np.random.default_rng(seed).standard_normal(size) * 2.0**exponent).astype(np.float32),
    st.integers(0, 2**32),
    st.integers(0, 2000),
    st.integers(-140, 100),
)


def scales_of(encoded: np.ndarray, elements: int) -> Vector:
    return encoded[-(-elements // INT8.block) * INT8.block :].view("<f4")


@every_engine
def test_golden_bytes(codec: Codec) -> None:
    x = np.array([127.0, -127.0, 0.5, 1.5, 2.5, -0.5, -1.5, 0.0, 63.49], np.float32)  # scale 1: half goes to even
    encoded = codec.encode(x)
    assert encoded[:9].view(np.int8).tolist() == [127, -127, 0, 2, 2, 0, -2, 0, 63]
    assert encoded[9:].tobytes() == bytes(247) + b"\x00\x00\x80\x3f"


@every_engine
def test_golden_hash_of_a_long_vector(codec: Codec) -> None:
    x = ((np.arange(1000, dtype=np.int64) * 7919 % 2003 - 1001) / 1024).astype(np.float32)
    assert hashlib.sha256(codec.encode(x)).hexdigest() == (
        "058923a438edc88de55789c3178fabd81a891033d6a1b2cfd3db4a2ade576c1f"
    )


@given(vectors)
def test_encoding_is_the_same_from_a_read_only_vector_and_any_buffer(x: Vector) -> None:
    codec = CODECS["numba"]
    encoded = codec.encode(x)
    x.setflags(write=False)
    assert codec.encode(x).tobytes() == encoded.tobytes()
    unaligned = memoryview(b"\x01" + encoded.tobytes())[1:]
    for buffer in (encoded.tobytes(), bytearray(encoded), unaligned):
        assert np.array_equal(codec.decode(buffer, x.size), codec.decode(encoded, x.size))


@every_engine
@pytest.mark.parametrize("size", [0, 1, 255, 256, 257, 512])
def test_sizes_around_a_block(codec: Codec, size: int) -> None:
    x = np.full(size, -3.0, np.float32)
    encoded = codec.encode(x)
    assert encoded.nbytes == codec.form.encoded_size_bytes(size) == -(-size // 256) * 260
    assert np.array_equal(codec.decode(encoded, size), x)


@every_engine
def test_tiny_blocks_are_all_residual(codec: Codec) -> None:
    x = np.full(300, 1e-40, np.float32)
    x[256:] = SCALE_MIN  # the largest value is 2**-126, so the scale would be below it
    encoded = codec.encode(x)
    assert not encoded.any()
    assert np.array_equal(codec.residual(x, encoded), x)


@every_engine
def test_the_smallest_scale_that_counts(codec: Codec) -> None:
    x = np.full(3, np.float32(127 * SCALE_MIN), np.float32)
    encoded = codec.encode(x)
    assert scales_of(encoded, 3)[0] == SCALE_MIN
    assert np.array_equal(codec.decode(encoded, 3), x)


@pytest.mark.parametrize(
    "x", [np.ones(8), np.ones((2, 4), np.float32), np.ones(8, np.float32)[::2], np.frombuffer(b"x" * 9, "<f4", 2, 1)]
)
def test_another_shape_is_refused(x: Vector) -> None:
    with pytest.raises(LocalProtocolError, match="flat, contiguous float32 vector"):
        CODECS["numpy"].encode(x)


@pytest.mark.parametrize("size", [0, 259, 261, 520])
def test_a_buffer_of_another_size_is_refused(size: int) -> None:
    with pytest.raises(DecodeError, match=f"takes 260 bytes, got {size}"):
        CODECS["numba"].decode(bytes(size), 256)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -1.0, INT8.scale_max * 2])
def test_a_poisoned_scale_is_refused_and_leaves_the_sum(bad: float) -> None:
    codec = CODECS["numba"]
    encoded = codec.encode(np.ones(600, np.float32))
    encoded[-8:-4] = np.frombuffer(np.float32(bad).tobytes(), np.uint8)
    into = np.zeros(600, np.float32)
    with pytest.raises(DecodeError, match="scale of block 1"):
        codec.decode_add(encoded, into)
    assert not into.any()


def test_decoding_into_a_vector_of_ones_own() -> None:
    codec = CODECS["numba"]
    encoded = codec.encode(np.ones(300, np.float32))
    into = np.empty(300, np.float32)
    assert codec.decode(encoded, 300, into) is into
    assert (into == 1).all()
    with pytest.raises(LocalProtocolError, match="299 elements cannot take 300"):
        codec.decode(encoded, 300, into[:299])


def test_an_unknown_engine_is_a_configuration_error() -> None:
    with pytest.raises(ConfigError, match="'fast'"):
        codec_engine("fast")  # type: ignore[arg-type]


def test_a_big_endian_machine_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(np, "little_endian", False)
    with pytest.raises(ConfigError, match="big-endian"):
        codec_named("int8", "numpy")


def test_without_numba_numpy_does_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "numba", None)
    for name in ("engine_numba", "numba_loops"):
        monkeypatch.delitem(sys.modules, f"prime.trainer.codec.{name}", raising=False)
    assert isinstance(codec_engine("auto"), NumpyEngine)
    with pytest.raises(MissingExtraError, match="numba") as caught:
        codec_engine("numba")
    assert "pip install" in caught.value.hint


def test_a_cache_directory_that_cannot_be_written(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("no directory")
    program = (
        "import numpy as np; from prime.trainer.codec import codec\n"
        "import numba.core.caching as c\n"
        "c.CacheImpl._locator_classes = [getattr(c, 'UserProvidedCacheLocator', None) or c._UserProvidedCacheLocator]\n"
        "print(codec('int8', 'numba').encode(np.ones(1, np.float32))[0])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "NUMBA_CACHE_DIR": str(blocked / "below")},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout.strip()) == (0, "127"), done.stderr


def test_importing_the_room_loads_neither_torch_nor_numba() -> None:
    program = "import sys, prime.trainer, prime.trainer.codec, prime.trainer.codec.vectors; print([m for m in ('torch', 'numba') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"
