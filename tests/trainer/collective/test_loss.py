"""What compression costs in loss: the character model on the standard library's text, two replicas under FSDP2."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[2] / "bench" / "loss.py"


@pytest.mark.nightly
@pytest.mark.timeout(2000)
def test_300_steps_end_within_half_a_percent_of_the_exact_run_at_int8_and_one_at_int4() -> None:
    ended = subprocess.run(
        [sys.executable, str(BENCH), "--json"], capture_output=True, text=True, timeout=1900, check=False
    )
    assert ended.returncode == 0, ended.stderr
    rows = {row["case"]: row for row in json.loads(ended.stdout.splitlines()[-1])["results"]}
    for name, bound in {"loss_int8": 0.005, "loss_int4": 0.01}.items():
        assert abs(rows[name]["off"]) < bound, rows[name]
        assert abs(rows[name]["off_training"]) < bound, rows[name]
    assert rows["loss_int8"]["bytes_ratio"] > 3.5
    assert rows["loss_int4"]["bytes_ratio"] > 6
