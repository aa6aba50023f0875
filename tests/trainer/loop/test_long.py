"""Long runs: what a codec costs in loss over 300 steps of the character model, and four ranks as 2 x 2."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from tests.trainer.loop.group import group  # noqa: E402 - after the check that torch is there
from tests.trainer.loop.test_learner import coded, fsdp, tables  # noqa: E402

STEPS = 300
pytestmark = [pytest.mark.nightly, pytest.mark.timeout(1_800)]


def charlm(codec: str) -> dict[str, Any]:
    return {
        "model": "charlm",
        "steps": STEPS,
        "batch_size": 16,
        "optimiser": {"learning_rate": 1.5e-3},
        "schedule": {"warmup_steps": 20},
        "data_options": {"context": 32},
        "model_options": {"width": 64, "layers": 2},
        "parallel": {"strategy": "fsdp", "replicas": 2, "device": "cpu"},
        "compression": {"codec": codec},
    }


@pytest.fixture(scope="module")
def held_out(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    cases = [(codec, charlm(codec), STEPS, {}) for codec in ("none", "int8", "int4")]
    return group(tmp_path_factory.mktemp("codecs"), 2, cases, timeout_s=1_500)[0]


@pytest.mark.parametrize(("codec", "bound"), [("int8", 0.005), ("int4", 0.01)])
def test_compressed_fsdp_keeps_the_loss_over_300_steps(held_out: dict[str, Any], codec: str, bound: float) -> None:
    exact, found = held_out["none"], held_out[codec]
    assert exact["held_out"] < 0.75 * exact["losses"][0]  # it has learnt
    assert found["held_out"] == pytest.approx(exact["held_out"], rel=bound)
    last = slice(-50, None)
    assert sum(found["losses"][last]) == pytest.approx(sum(exact["losses"][last]), rel=bound)
    sent, whole = found["bytes"]
    assert whole / sent > {"int8": 3.5, "int4": 6.0}[codec]


def test_four_ranks_as_two_copies_of_two_shards(tmp_path: Path) -> None:
    two_by_two = fsdp(replicas=2)
    saved = str(tmp_path / "saved")
    cases = [
        ("ddp", tables(), 6, {}),
        ("exact", tables(parallel=two_by_two), 6, {}),
        ("accumulate", tables(parallel=two_by_two, batch_size=14, gradients={"accumulate": 3}), 6, {}),
        ("ddp accumulate", tables(batch_size=14, gradients={"accumulate": 3}), 6, {}),
        ("int8", tables(parallel=two_by_two, compression=coded("int8")), 6, {}),
        ("half", tables(parallel=fsdp(replicas=2, precision="bfloat16"), compression=coded("int8")), 6, {}),
        ("int4", tables(parallel=two_by_two, compression=coded("int4")), 3, {"save": saved, "more": 3}),
        ("int4 again", tables(parallel=two_by_two, compression=coded("int4")), 3, {"load": saved}),
    ]
    ranks = group(tmp_path, 4, cases, timeout_s=300)
    for found in ranks:
        assert found["exact"]["losses"] == pytest.approx(found["ddp"]["losses"], rel=1e-5)
        assert found["accumulate"]["losses"] == pytest.approx(found["ddp accumulate"]["losses"], rel=1e-5)
        assert found["int8"]["losses"] == pytest.approx(found["ddp"]["losses"], rel=0.02)
        assert found["half"]["losses"] == pytest.approx(found["ddp"]["losses"], rel=0.04)
        assert found["int4 again"]["losses"] == found["int4"]["losses"][3:]
        assert found["exact"]["local_elements"] < 0.6 * found["exact"]["elements"]
    assert ranks[0]["int4 again"]["bits"] == ranks[0]["int4"]["bits"]
