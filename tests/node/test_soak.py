"""Real nodes that come and go, as `soak.py` has them: nightly."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from prime.testing.nodes import NodeProcess, lives, until, write_text

pytestmark = pytest.mark.nightly
HERE = Path(__file__).parent
KILLS = 3
"""As often as a supervisor starts it again within two minutes."""


@pytest.mark.timeout(900)
def test_nodes_that_come_and_go_grow_nothing_and_learn() -> None:
    command = [sys.executable, str(HERE / "soak.py"), "--minutes", "2", "--json"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=800, check=False)
    assert ended.returncode == 0, ended.stdout[-4000:] + ended.stderr[-4000:]
    assert json.loads(ended.stdout.splitlines()[-1])["rounds"] > 10


@pytest.fixture
def three(tmp_path: Path) -> Iterator[list[NodeProcess]]:
    settings = {
        "train.data": write_text(tmp_path / "text.txt"),
        "train.model": f"{HERE / 'tiny_task.py'}:slow",
        "train.rounds": 1_000_000,
        "train.nodes_min": 3,
    }
    nodes = [NodeProcess(tmp_path, name, settings) for name in "abc"]
    try:
        nodes[0].start()
        nodes[0].ready()
        for node in nodes[1:]:
            node.start(nodes[0].address)
        for node in nodes[1:]:
            node.ready()
        yield nodes
    finally:
        for node in nodes:
            node.close()


def test_a_worker_that_is_killed_in_a_round_costs_the_others_nothing(three: list[NodeProcess]) -> None:
    for _ in range(KILLS):
        run = three[2].until_run(lambda r: r.waiting_for and len(r.members) == 3, "a round that is under way")
        (worker,) = three[2].workers
        os.kill(worker, signal.SIGKILL)
        for node in three[:2]:
            node.until_run(lambda r, seen=run.round: r.round >= seen + 2, "two rounds more")
        last = three[0].until_run(lambda r: r.state_hash, "a state").round
        three[2].until_run(lambda r, last=last: r.round >= last and r.phase == "training", "its return")
    held = {node.until_run(lambda r: r.state_hash, "a state").round for node in three}
    assert max(held) - min(held) <= 1


def test_a_node_that_is_killed_while_its_worker_computes_leaves_no_process(three: list[NodeProcess]) -> None:
    three[1].until_run(lambda r: r.phase == "training" and r.round_step > 0, "a step")
    workers = three[1].workers
    os.kill(workers[0], signal.SIGSTOP)  # it cannot hear that its parent is gone
    three[1].running.kill()
    three[1].ended()
    until(lambda: not any(lives(worker) for worker in workers), 3, "the end of its worker")
