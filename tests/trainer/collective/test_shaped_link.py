"""The all-reduce between network namespaces over a link with a rate and a delay: root only."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
NETSIM = ROOT / "tests" / "netsim" / "netsim.sh"
pytestmark = [
    pytest.mark.network,
    pytest.mark.skipif(
        sys.platform != "linux" or os.geteuid() != 0 or not shutil.which("tc"),
        reason="network namespaces need Linux, root and tc",
    ),
]


@pytest.mark.parametrize(
    ("ranks", "rate", "delay"), [pytest.param(2, "100mbit", "0", marks=pytest.mark.nightly), (3, "200mbit", "5ms")]
)
def test_a_slow_link_carries_the_same_bits(ranks: int, rate: str, delay: str) -> None:
    program = [sys.executable, "-m", "prime", "bench", "allreduce", "--elements", "1000000", "--pairs", "1", "--json"]
    ended = subprocess.run(
        [str(NETSIM), str(ranks), rate, delay, "--", *program],
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT), "NETSIM_PYTHON": sys.executable},
    )
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout.splitlines()[-1])
    assert found["identical"] and found["world"] == ranks
    assert found["relative_error"] < 0.02
