"""`prime bench`: an all-reduce among ranks of this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from prime.cli.main import run


def test_ranks_of_this_machine_reduce_both_ways() -> None:
    program = [sys.executable, "-m", "prime", "bench", "allreduce", "--elements", "5000", "--pairs", "2", "--json"]
    ended = subprocess.run(program, capture_output=True, text=True, timeout=120, check=False, env=_outside_torchrun())
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout)
    assert found["identical"] and found["world"] == 2 and found["elements"] == 5000
    assert 0 < found["relative_error"] < 0.02
    assert found["bytes_exact"] / found["bytes_sent"] > 3.5
    assert found["seconds"] > 0 and found["exact_seconds"] > 0


def test_a_codec_that_is_none_is_refused_before_a_rank_starts(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bench", "allreduce", "--codec", "int5"]) == 3
    assert "int8, int4" in capsys.readouterr().err


def _outside_torchrun() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE")}
