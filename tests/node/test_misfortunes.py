"""What befalls one node of a swarm, as processes: a kill while it joins, a long pause, a full disk, a wrong clock."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from prime.config import set_value
from prime.testing.nodes import NodeProcess, agree, environment, start_all, until, write_text

sys.path.insert(0, str(Path(__file__).parents[1] / "trainer" / "kills"))
from disks import fill, needs_mounts, small_disk  # type: ignore[import-not-found]

HERE = Path(__file__).parent
TASK = HERE / "tiny_task.py"
LONG = {"train.model": f"{TASK}:slow", "train.rounds": 1_000_000, "train.inner_steps": 4, "train.nodes_min": 3}
DEADLINE_S = 5
DISK_BYTES = 64 << 20
HOURS = 7
FETCHED_BYTES_S = 700_000
"""What a joiner lets each donor send: the state of 16 MB takes it seconds."""
KILLS = 2

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


def change(node: NodeProcess, key: str, value: object) -> None:
    node.file.write_text(set_value(node.file.read_text(encoding="utf-8"), key, str(value), file=node.folder.name))


@needs_mounts
def test_a_state_folder_that_cannot_be_written_to_ends_the_start(make: Make) -> None:
    node = make("a")
    with small_disk(node.folder / "a", DISK_BYTES, "ro"):
        node.start()
        assert node.ended() == 3
    assert f"{node.folder / 'a'}: cannot be used as the node's state folder (Read-only file system)" in node.log
    assert "node.state_dir" in node.log


@pytest.mark.nightly
@pytest.mark.timeout(600)
def test_one_that_is_killed_while_it_fetches_the_state_leaves_nothing_and_joins(make: Make) -> None:
    settings = {"train.model": f"{TASK}:large", "train.nodes_min": 2, "train.inner_steps": 60}
    nodes = [make(name, settings) for name in "ab"]
    start_all(nodes)
    last = agree(nodes, 1, 180)
    joiner = make("c", {**settings, "admission.bytes_per_s": FETCHED_BYTES_S})

    def served() -> int:
        return sum(run.state_bytes for node in nodes if (run := node.run()) is not None)

    kills = 0
    while kills < KILLS:
        before = served()
        joiner.start(*(node.address for node in nodes))
        joiner.ready()
        until(lambda seen=before: served() > seen, 120, "a part of the state on its way")
        joiner.running.kill()
        assert joiner.ended() == -signal.SIGKILL
        last = agree(nodes, last, 180)
        if states(joiner):  # the whole was there before this test had looked: once more, as another member
            shutil.rmtree(joiner.folder / "c")
        else:
            kills += 1
    change(joiner, "admission.bytes_per_s", 0)
    joiner.start(*(node.address for node in nodes))
    joiner.ready()
    joiner.until_run(lambda run: run.round > 0 and run.state_hash, "the state", 180)
    agree([*nodes, joiner], last, 180)


@pytest.mark.nightly
@pytest.mark.timeout(600)
def test_one_that_stands_still_for_longer_than_any_deadline_goes_on(make: Make) -> None:
    nodes = [make(name, {"train.round_deadline_s": DEADLINE_S}) for name in "abc"]
    start_all(nodes)
    last = agree(nodes, 1, 120)
    os.killpg(nodes[2].running.pid, signal.SIGSTOP)
    stopped_at = time.monotonic()
    last = agree(nodes[:2], last + 1, 120)
    until(lambda: time.monotonic() > stopped_at + 2 * DEADLINE_S, 4 * DEADLINE_S, "the end of the pause")
    last = agree(nodes[:2], last, 120)
    os.killpg(nodes[2].running.pid, signal.SIGCONT)
    agree(nodes, last, 120)
    nodes[0].until_run(lambda run: len(run.members) == 3, "all in the view", 120)


@needs_mounts
@pytest.mark.nightly
@pytest.mark.timeout(600)
def test_a_node_whose_disk_is_full_says_so_and_goes_on_once_there_is_room(make: Make) -> None:
    nodes = [make(name) for name in "abc"]
    with small_disk(nodes[2].folder / "c", DISK_BYTES) as disk:
        start_all(nodes)
        last = agree(nodes, 1, 120)
        filler = fill(disk)
        stalled = nodes[2].until_run(lambda run: "No space left on device" in run.stalled, "a word on the disk", 120)
        assert "free space" in stalled.hint
        last = agree(nodes[:2], max(last, stalled.round) + 2, 120)
        assert nodes[2].running.poll() is None
        filler.unlink()
        nodes[2].until_run(lambda run: not run.stalled, "the end of the stall", 120)
        agree(nodes, last, 120)
        fill(disk)
        nodes[2].until_run(lambda run: run.stalled, "a word on the disk again", 120)
        nodes[2].running.send_signal(signal.SIGTERM)
        assert nodes[2].ended(120) == 128 + signal.SIGTERM, "a node that waits for its disk can be stopped"


@pytest.fixture
def wrong_clock(tmp_path: Path) -> Path:
    """Build what makes the wall clock of a process wrong."""
    compiler = shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("a wrong clock needs Linux and a C compiler")
    library = tmp_path / "wrong_clock.so"
    command = [compiler, "-shared", "-fPIC", "-o", str(library), str(HERE / "wrong_clock.c"), "-ldl"]
    subprocess.run(command, check=True, timeout=60)
    return library


@pytest.mark.nightly
@pytest.mark.timeout(600)
@pytest.mark.parametrize("hours", [HOURS, -HOURS])
def test_a_node_whose_clock_is_wrong_by_hours_trains_as_any(
    make: Make, wrong_clock: Path, monkeypatch: pytest.MonkeyPatch, hours: int
) -> None:
    shifted = {"LD_PRELOAD": str(wrong_clock), "CLOCK_SHIFT_S": str(hours * 3600)}
    told = subprocess.run(
        [sys.executable, "-c", "import time; print(time.time())"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        env={**environment(), **shifted},
    )
    assert abs(float(told.stdout) - time.time() - hours * 3600) < 60
    nodes = [make(name) for name in "abc"]
    for node in nodes:
        with monkeypatch.context() as patch:
            for name, value in shifted.items() if node is nodes[2] else ():
                patch.setenv(name, value)
            node.start(*([nodes[0].address] if node is not nodes[0] else []))
            node.ready()
    last = agree(nodes, 1, 120)
    nodes[2].running.kill()  # and once more, now with what its journal has
    nodes[2].ended()
    with monkeypatch.context() as patch:
        for name, value in shifted.items():
            patch.setenv(name, value)
        nodes[2].start(nodes[0].address)
        nodes[2].ready()
    agree(nodes, last, 120)
