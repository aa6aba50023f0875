"""What a rank does before it has a place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("numba")

from prime.trainer.codec.form import FP16, INT8
from prime.trainer.codec.numba_loops import kernels_of
from prime.trainer.gang.training import Training
from prime.trainer.job import job_of

TASK = Path(__file__).with_name("gang_task.py")


@pytest.mark.parametrize(("world", "compiled"), [(2, {"encode", "encode_feedback", "decode", "fold"}), (1, set())])
def test_what_reduces_is_compiled_before_a_rank_is_taken(world: int, compiled: set[str], tmp_path: Path) -> None:
    tables: dict[str, Any] = {"model": f"{TASK}:model", "data": f"{TASK}:data", "parallel": {"device": "cpu"}}
    job = job_of({**tables, "name": "gang", "compression": {"codec": "int8", "exact_below": 16}})
    kernels_of.cache_clear()
    Training(job, tmp_path, world, lambda _item: None).prepare()
    for form in (INT8, FP16):
        assert compiled <= vars(kernels_of(form)).keys()
        assert compiled or "fold" not in vars(kernels_of(form))
