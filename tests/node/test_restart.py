"""A run outlives all its processes: what was decided is on the members' disks, and they go on from there."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from prime.config import set_value
from prime.testing.nodes import NodeProcess, agree, environment, start_all, until, write_text
from prime.trainer.round.names import lineage

TASK = Path(__file__).with_name("tiny_task.py")
LONG = {"train.model": f"{TASK}:slow", "train.rounds": 1_000_000, "train.inner_steps": 4, "train.nodes_min": 3}

Make = Callable[..., NodeProcess]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Make nodes that are gone when the test is over."""
    made: list[NodeProcess] = []
    text = write_text(tmp_path / "text.txt")

    def new(name: str, settings: dict[str, Any] | None = None) -> NodeProcess:
        made.append(NodeProcess(tmp_path, name, {"train.data": text, **LONG, **(settings or {})}))
        return made[-1]

    yield new
    for node in made:
        node.close()


def states(node: NodeProcess) -> list[Path]:
    return sorted(node.folder.rglob("states/*.state"))


@pytest.mark.nightly
@pytest.mark.timeout(600)
def test_a_swarm_that_loses_its_power_goes_on_from_the_last_state(make: Make) -> None:
    nodes = [make(name) for name in "abc"]
    start_all(nodes)
    last = agree(nodes, 2)
    for node in nodes:
        node.running.kill()
    assert [node.ended() for node in nodes] == [-signal.SIGKILL] * 3
    saved = [int(states(node)[-1].stem.rpartition("-")[2]) for node in nodes]
    assert min(saved) >= last - 1
    start_all(nodes)
    run = nodes[0].until_run(lambda run: any(each.committed for each in run.history), "a commit")
    assert min(each.round for each in run.history if each.committed) >= last, "no round is done again"
    assert agree(nodes, run.round - 1) >= last


def recover(node: NodeProcess, *flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "prime", "train", "recover", "--config", str(node.file), "--json", *flags]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environment())


@pytest.mark.nightly
@pytest.mark.timeout(600)
def test_the_survivor_of_three_goes_on_in_a_successor_which_the_others_join_as_new(make: Make) -> None:
    nodes = [make(name) for name in "abc"]
    start_all(nodes)
    agree(nodes, 2)
    (one, two, survivor) = nodes
    refused = recover(survivor, "--new-view")
    assert refused.returncode != 0
    assert "not below a majority" in refused.stderr
    for node in (one, two):
        node.running.kill()
        node.ended()
    stalled = survivor.until_run(lambda run: run.stalled, "a word on the stall")
    assert "prime train recover --new-view" in stalled.hint

    done = recover(survivor, "--new-view")
    assert done.returncode == 0, done.stderr
    successor = json.loads(done.stdout)["run"]
    assert lineage(successor) == ("main", 1)
    alone = survivor.until_run(lambda run: any(each.committed for each in run.history), "a commit by itself")
    assert [member.peer for member in alone.members] == [survivor.peer]
    first = next(each for each in alone.history if each.committed)
    assert first.round > stalled.round

    one.start(survivor.address)
    one.ready()
    until(lambda: f"prime train recover --as-new {successor}" in one.log, 40, "the refusal by name")
    assert recover(one, "--as-new", successor).returncode == 0
    changed = set_value(two.file.read_text(encoding="utf-8"), "train.run", successor, file="b")
    two.file.write_text(changed, encoding="utf-8")
    two.start(survivor.address)
    two.ready()
    survivor.until_run(lambda run: len(run.members) == 3, "both others in the view")
    last = agree(nodes, first.round)
    for node in nodes:
        node.running.kill()
        node.ended()
    start_all([survivor, one, two])  # two configurations still say main
    assert agree(nodes, last) > last
