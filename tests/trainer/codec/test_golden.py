"""Golden bytes of the wire forms: `spec/vectors/v1/codec.json`, for other implementations and against change.

To add one, declare it in `VALUES` and run `python tests/trainer/codec/test_golden.py > spec/vectors/v1/codec.json`; the file's
difference must then hold added lines only. `values` and `decoded` are float32, little-endian.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from prime.trainer.codec.form import FORMS
from prime.trainer.codec.sparse_vectors import Sparse, gather, sparse_engine, topk
from prime.trainer.codec.vectors import Codec, EngineName, Vector, codec

COMMITTED = Path(__file__).parents[3] / "spec" / "vectors" / "v1" / "codec.json"


def _values() -> dict[str, Vector]:
    """Return vectors by name, whose values another language makes alike."""
    pattern = (np.arange(70, dtype=np.int64) * 7919 % 2003 - 1001) / 1024
    top = float(np.finfo(np.float32).max)
    values = {
        "one": [1.0],
        "ties": [7.0, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5, -7.0],
        "two_blocks": pattern,
        "negative_zero": [-0.0, 1.0, -1e-9],
        "all_residual": [2.0**-126, -1e-40, 0.0],
        "subnormal_among_normal": [1e-40, 448.0 * 2.0**-126, -(2.0**-130)],
        "largest": [top, -top, top / 3],
        "fp16_edge": [65519.0, -65504.0, 2.0**-24, 2.0**-25, 2.0**-26],
        "fp16_overflow": [65520.0, 1.0],
    }
    return {name: np.array(each, np.float32) for name, each in values.items()}


def _sparse_values() -> dict[str, Vector]:
    """Return vectors that have more than one level, ties for the last place, and a second block."""
    pattern = (np.arange(4200, dtype=np.int64) * 7919 % 2003 - 1001) / 1024
    return {"outlier": np.array([1e6, 1.0, -1.0, 1e-6], np.float32), "pattern": pattern.astype(np.float32)}


def _entry(ours: Codec | Sparse, x: Vector) -> dict[str, str]:
    encoded = ours.encode(x)
    decoded = ours.decode(encoded, x.size)
    return {
        "codec": ours.form.name,
        "values": x.astype("<f4").tobytes().hex(),
        "encoded": encoded.tobytes().hex(),
        "decoded": decoded.astype("<f4").tobytes().hex(),
    }


def written(engine: EngineName = "numpy") -> dict[str, dict[str, str]]:
    vectors = {f"{form}_{name}": _entry(codec(form, engine), x) for form in FORMS for name, x in _values().items()}
    sparse = topk(engine)
    for name, x in {**_values(), **_sparse_values()}.items():
        vectors[f"topk_{name}"] = _entry(sparse, x)
    for contributions in (2, 6):  # places as numbers, and as a map
        ours = gather(contributions, sparse_engine(engine))
        assert ours is not None
        for name, x in _sparse_values().items():
            vectors[f"gather_{contributions}_{name}"] = _entry(ours, sparse.decode(sparse.encode(x), x.size))
    return vectors


@pytest.mark.parametrize("engine", ["numba", "torch", "numpy"])
def test_every_engine_writes_and_reads_the_golden_bytes(engine: EngineName) -> None:
    pytest.importorskip(engine)
    assert written(engine) == json.loads(COMMITTED.read_text(encoding="utf-8"))


if __name__ == "__main__":
    print(json.dumps(written(), indent=1))
