"""`prime node`, `prime status`: a node asked and stopped from another process, and what they say without one."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from prime.cli.main import run
from prime.node.client import no_node
from prime.testing.nodes import NodeProcess, environment, lives, write_text
from prime.version import __version__

TASK = Path(__file__).parents[1] / "node" / "tiny_task.py"


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    """Start a node that trains by itself."""
    folder = tmp_path_factory.mktemp("node")
    settings = {"train.data": write_text(folder / "text.txt"), "train.model": f"{TASK}:slow", "train.nodes_min": 1}
    found = NodeProcess(folder, "solo", {**settings, "train.rounds": 1_000_000})
    found.start()
    try:
        found.ready()
        found.until_run(lambda run: run.round >= 1 and run.step > 0, "its first round")
        yield found
    finally:
        found.close()


def prime(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "prime", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment(), check=False)


def answer(*words: object) -> dict[str, Any]:
    done = prime(*words)
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    found: dict[str, Any] = json.loads(line)
    assert found["schema"] == 1
    return found


def test_status_as_json(node: NodeProcess) -> None:
    told = answer("status", "--config", node.file, "--json")
    assert told["peer"] == node.peer
    assert told["name"] == "solo"
    assert told["version"] == __version__
    assert told["process"] == node.running.pid
    assert told["transport"] == "tcp"
    assert told["addresses"] == [node.address]
    assert told["links"] == []
    assert told["uptime_s"] > 0
    assert told["memory_bytes"] > 10 * 2**20
    run = told["run"]
    assert run["rounds"] == 1_000_000
    assert run["round"] >= 1
    assert run["inner_steps"] == 2
    assert [member["peer"] for member in run["members"]] == [node.peer]
    assert len(bytes.fromhex(run["state_hash"])) == 32
    assert run["loss_first"] == pytest.approx(4.6, abs=0.6)
    assert run["stalled"] == run["hint"] == ""
    paths = [child["path"] for supervisor in told["supervisors"] for child in supervisor["children"]]
    assert {"/dht/routing", "/dht/records", "/dht/providers"} <= set(paths)
    assert sorted(path for path in paths if not path.startswith("/dht/")) == [
        "/blobs/keeper",
        "/net/reachability",
        "/node/dht",
        "/node/link",
        "/node/models",
        "/node/runs",
        "/node/status",
        "/state/donor",
        "/train/aggregator",
        "/train/trainer",
        "/worker/rank",
    ]
    assert told["reachability"] == "unknown"


def test_status_for_people(node: NodeProcess) -> None:
    done = prime("status", "--config", node.file)
    assert done.returncode == 0
    for words in (node.peer, node.address, "round ", "of 1000000", "/train", "one_for_all", "trainer", "restarts 0"):
        assert words in done.stdout
    actors = [line for line in done.stdout.splitlines() if line.startswith(("├", "└"))]
    assert all("restarts" in line for line in actors), "a line was broken, though this is no terminal"


def test_peers_of_a_node_alone(node: NodeProcess) -> None:
    assert answer("node", "peers", "--config", node.file, "--json")["peers"] == []
    assert prime("node", "peers", "--config", node.file).stdout == "no links\n"


@pytest.mark.parametrize("words", [("status",), ("node", "stop"), ("node", "peers")])
def test_without_a_node_each_says_where_it_asked(tmp_path: Path, words: tuple[str, ...]) -> None:
    file = tmp_path / "prime.toml"
    file.write_text(f'[node]\nstate_dir = "{tmp_path}"\ncontrol_socket = "{tmp_path}/none.sock"\n')
    done = prime(*words, "--config", file, "--json")
    assert done.returncode == 6
    assert done.stdout == ""
    assert f"{tmp_path}/none.sock" in done.stderr
    assert "hint: start one with `prime node start`" in done.stderr


def test_a_socket_that_its_node_left_behind_is_no_node(tmp_path: Path) -> None:
    import socket

    path = tmp_path / "left.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    file = tmp_path / "prime.toml"
    file.write_text(f'[node]\nstate_dir = "{tmp_path}"\ncontrol_socket = "{path}"\n')
    done = prime("status", "--config", file)
    assert done.returncode == 6
    assert str(path) in done.stderr


@pytest.mark.parametrize(("asked", "runs"), [("node.sock", "a.sock"), ("node/control.sock", "a/control.sock")])
def test_who_asks_a_node_of_another_name_hears_which_ones_run(tmp_path: Path, asked: str, runs: str) -> None:
    import socket

    folder = tmp_path / "prime"
    left, one = folder / runs.replace("a", "left", 1), folder / runs
    with socket.socket(socket.AF_UNIX) as gone, socket.socket(socket.AF_UNIX) as answers:
        for path, listener in ((left, gone), (one, answers)):
            path.parent.mkdir(parents=True, exist_ok=True)
            listener.bind(str(path))
        answers.listen()
        assert no_node(folder / asked).hint == "these run here: a; say which with --node"


def test_stop_ends_the_node_in_order(node: NodeProcess) -> None:
    (worker,) = node.workers
    told = answer("node", "stop", "--config", node.file, "--json")
    assert told["event"] == "node.stopping"
    assert told["socket"] == str(node.socket)
    assert node.ended(20) == 0
    assert not lives(worker)
    assert prime("status", "--config", node.file).returncode == 6


def test_a_transport_that_is_not_installed_is_told_what_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("torch")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PRIME_NODE__MEMORY_FREE_BYTES_MIN", "0")
    assert run(["node", "start", "--transport", "carrier-pigeon"]) == 3
    said = capsys.readouterr().err
    assert "no transport 'carrier-pigeon'; installed are memory, unix, tcp, libp2p" in said
    assert "hint: Correct the name, or install the package" in said
