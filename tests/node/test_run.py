"""Nodes as processes: they found, join, train and end; and every fault says what it is and leaves nothing behind."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from prime.observe.messages import RunStatus
from prime.testing.nodes import NodeProcess, lives, until, write_text
from prime.transport.identity import KeyPair

TASK = Path(__file__).with_name("tiny_task.py")
LONG = {"train.model": f"{TASK}:slow", "train.rounds": 1_000_000, "train.inner_steps": 4}
"""A run that is still going when the test ends it."""

Make = Callable[..., NodeProcess]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Make nodes that are gone when the test is over."""
    made: list[NodeProcess] = []
    text = write_text(tmp_path / "text.txt")

    def new(name: str, settings: dict[str, Any] | None = None) -> NodeProcess:
        shared = {"train.data": text, "train.model": f"{TASK}:quick"}
        made.append(NodeProcess(tmp_path, name, {**shared, **(settings or {})}))
        return made[-1]

    yield new
    for node in made:
        node.close()


def pair(make: Make, settings: dict[str, Any]) -> tuple[NodeProcess, NodeProcess]:
    """Start a founder and one that joins it."""
    founder, joiner = make("a", settings), make("b", settings)
    founder.start()
    founder.ready()
    joiner.start(founder.address)
    joiner.ready()
    return founder, joiner


def hashes(node: NodeProcess, seen: dict[int, str]) -> RunStatus | None:
    """Note the hash that a node holds after the round that it is in now."""
    run = node.run()
    if run is not None and run.state_hash:
        seen[run.round] = run.state_hash
    return run


def same_parameters(first: NodeProcess, second: NodeProcess, after: int, rounds: int = 2) -> None:
    """Wait for rounds later than `after` whose hashes both nodes told: each must be the same."""
    ours: dict[int, str] = {}
    theirs: dict[int, str] = {}

    def common() -> list[int]:
        hashes(first, ours)
        hashes(second, theirs)
        return sorted(round_ for round_ in ours.keys() & theirs.keys() if round_ > after)

    until(lambda: len(common()) >= rounds, 40, f"{rounds} rounds after {after} that both nodes hold")
    held = common()  # asked once: a round may end between two askings
    assert {r: ours[r] for r in held} == {r: theirs[r] for r in held}


# -------------------------------------------------------------------------------------------------- runs that go well


def test_three_nodes_train_to_the_end_with_the_same_parameters(make: Make) -> None:
    settings = {"train.nodes_min": 3, "train.contributors_final_min": 3}
    nodes = [make(name, settings) for name in "abc"]
    nodes[0].start()
    nodes[0].ready()
    for node in nodes[1:]:
        node.start(nodes[0].address)
    for node in nodes[1:]:
        node.ready()
    runs = [node.until_run(lambda run: run.phase == "done", "its last round") for node in nodes]
    assert len({run.round for run in runs}) == 1
    assert runs[0].round >= 2
    assert len({run.state_hash for run in runs}) == 1
    assert len(runs[0].state_hash) == 64
    assert sorted(runs[0].history[-1].contributors) == sorted(node.peer for node in nodes)
    assert runs[0].loss_first is not None
    assert all(run.loss_last == runs[0].loss_last for run in runs)
    assert all(run.wire_bytes > 0 for run in runs)
    workers = [worker for node in nodes for worker in node.workers]
    assert len(workers) == 3
    for node in nodes:
        node.running.send_signal(signal.SIGTERM)
    assert [node.ended(15) for node in nodes] == [143, 143, 143]
    assert not [worker for worker in workers if lives(worker)]


def test_a_worker_killed_in_a_step_comes_back_and_the_run_goes_on(make: Make) -> None:
    founder, joiner = pair(make, LONG)
    before = joiner.until_run(lambda run: run.round >= 2 and run.step > 0, "a round or two")
    (worker,) = joiner.workers
    os.kill(worker, signal.SIGKILL)
    until(lambda: joiner.workers and worker not in joiner.workers, 30, "a new worker")
    same_parameters(founder, joiner, before.round + 3)
    status = joiner.status()
    assert status is not None
    (train,) = [supervisor for supervisor in status.supervisors if supervisor.path == "/train"]
    assert {child.restarts for child in train.children} == {1}
    assert f"process {worker} ended with signal SIGKILL" in joiner.log
    assert founder.running.poll() is None


def test_the_survivor_of_two_trains_on_commits_nothing_and_says_what_to_do(make: Make) -> None:
    founder, joiner = pair(make, LONG)
    joiner.until_run(lambda run: run.round >= 2, "a round or two")
    (orphan,) = joiner.workers
    joiner.running.kill()
    assert joiner.ended() == -signal.SIGKILL
    until(lambda: not lives(orphan), 2, "the end of the killed node's worker")

    stalled = founder.until_run(lambda run: run.stalled, "a word on the stall")
    assert "1 of 2" in stalled.stalled
    assert joiner.peer in stalled.stalled or joiner.peer in stalled.hint
    assert stalled.hint
    capped = founder.until_run(lambda run: run.round_step == 2 * run.inner_steps, "2H local steps")
    assert capped.round == stalled.round

    # It comes back as the same node, and both go on from the same parameters.
    joiner.start(founder.address)
    joiner.ready()
    same_parameters(founder, joiner, stalled.round)
    resumed = founder.run()
    assert resumed is not None
    assert (resumed.stalled, resumed.hint) == ("", "")


# ------------------------------------------------------------------------------------------------------ how it ends


@pytest.fixture
def alone(make: Make) -> NodeProcess:
    """Start a node that trains by itself, in the middle of its run."""
    node = make("solo", {**LONG, "train.nodes_min": 1})
    node.start()
    node.ready()
    node.until_run(lambda run: run.round >= 1 and run.phase == "training", "its first round")
    return node


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_drains(alone: NodeProcess, number: int, status: int) -> None:
    (worker,) = alone.workers
    alone.running.send_signal(number)
    assert alone.ended(15) == status
    assert "the round in hand is finished first" in alone.log
    assert "Traceback" not in alone.log
    assert not lives(worker)
    assert not alone.socket.exists()


def test_a_node_whose_parent_is_gone_ends(alone: NodeProcess) -> None:
    (worker,) = alone.workers
    assert alone.running.stdin is not None
    alone.running.stdin.close()
    assert alone.ended(10) == 130
    assert "the program that started this node is gone" in alone.log
    until(lambda: not lives(worker), 2, "the end of its worker")


def test_a_second_signal_ends_a_drain_at_once(make: Make) -> None:
    founder, joiner = pair(make, LONG)
    joiner.until_run(lambda run: run.round >= 1, "the first round")
    founder.running.kill()  # a view of two: now no round can let the other one go
    founder.ended()
    (worker,) = joiner.workers
    joiner.running.send_signal(signal.SIGINT)
    until(lambda: "the round in hand is finished first" in joiner.log, 5, "the drain")
    joiner.until_run(lambda run: run.phase == "leaving", "the drain in the trainer", 5)
    joiner.running.send_signal(signal.SIGINT)
    assert joiner.ended(5) == 130
    until(lambda: not lives(worker), 2, "the end of its worker")


# ------------------------------------------------------------------------------- what cannot be, said with a next step


def refused(node: NodeProcess, status: int, *words: str, join: tuple[str, ...] = (), within_s: float = 40) -> None:
    """Start a node that must end by itself with that status, an error with those words, and a hint."""
    node.start(*join)
    assert node.ended(within_s) == status, node.log
    told = node.log
    (error,) = [line for line in told.splitlines() if line.startswith("error: ")] or [told]
    assert [line for line in told.splitlines() if line.startswith("hint: ")], told
    for word in words:
        assert word in told, f"{word!r} is not in {error}"
    assert "Traceback" not in told
    assert not node.workers


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def test_an_address_that_nobody_listens_on(make: Make) -> None:
    address = f"/ip4/127.0.0.1/tcp/{free_port()}"
    refused(make("a", {"transport.deadline_s": 2}), 4, address, join=(address,), within_s=10)


def test_an_address_with_another_nodes_id(make: Make) -> None:
    founder = make("a")
    founder.start()
    founder.ready()
    other = KeyPair.generate().peer
    address = founder.address.replace(founder.peer, other)
    assert other in address
    refused(make("b"), 5, other, join=(address,), within_s=10)


def test_a_node_that_allows_others_alone_dials_nobody_else(make: Make) -> None:
    founder = make("a", {"admission.deny": ["192.0.2.0/24", KeyPair.generate().peer]})
    founder.start()
    founder.ready()
    refused(make("b", {"admission.allow": [KeyPair.generate().peer]}), 5, "allow list", join=(founder.address,))


def test_a_port_that_is_taken(make: Make) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"/ip4/127.0.0.1/tcp/{taken.getsockname()[1]}"
        refused(make("a", {"transport.listen": address}), 4, str(taken.getsockname()[1]))


def test_a_key_file_that_others_can_read(make: Make) -> None:
    node = make("a")
    key = node.folder / "a" / "node.key"
    key.parent.mkdir(mode=0o700)
    KeyPair.load_or_create(key)
    key.chmod(0o644)
    refused(node, 3, str(key), "chmod")


def test_a_key_file_that_holds_no_key(make: Make) -> None:
    node = make("a")
    key = node.folder / "a" / "node.key"
    key.parent.mkdir(mode=0o700)
    key.write_bytes(b"\x00garbage\xff" * 9)
    key.chmod(0o600)
    refused(node, 3, str(key))


def test_a_key_file_that_cannot_be_read(make: Make) -> None:
    node = make("a")
    key = node.folder / "a" / "node.key"
    key.mkdir(parents=True, mode=0o700)
    refused(node, 3, str(key))


def test_a_mistyped_configuration_key(make: Make) -> None:
    node = make("a")
    node.file.write_text(node.file.read_text().replace("inner_steps", "inner_step"))
    refused(node, 3, "inner_step", "did you mean", "inner_steps", f"{node.file}:")


def test_a_second_process_of_one_node(make: Make, tmp_path: Path) -> None:
    node = make("a")
    node.start()
    node.ready()
    twin = make("twin")
    twin.file.write_text(node.file.read_text())
    refused(twin, 3, f"another process ({node.running.pid}) runs the node", "holds its lock", "prime node stop")
    assert node.status() is not None


@pytest.mark.parametrize("fault", ["missing", "empty", "binary"])
def test_data_that_cannot_be_used_ends_the_node(make: Make, tmp_path: Path, fault: str) -> None:
    file = tmp_path / f"{fault}.txt"
    if fault != "missing":
        file.write_bytes(b"" if fault == "empty" else bytes(range(256)) * 200)
    refused(make("a", {"train.data": file}), 2, str(file))


def test_a_model_that_is_not_there_ends_the_node(make: Make) -> None:
    refused(make("a", {"train.model": f"{TASK}:huge"}), 3, "huge", "train.model")


@pytest.mark.nightly
@pytest.mark.parametrize("kind", ["unix", "websocket"])
def test_nodes_train_over_any_transport_by_its_name(
    kind: str, make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind == "websocket":
        pytest.importorskip("wsproto")
        example = Path(__file__).parents[2] / "examples" / "07_websocket"
        info = tmp_path / "prime_websocket-0.1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: prime-websocket\nVersion: 0.1.0\n")
        (info / "entry_points.txt").write_text("[prime.transports]\nwebsocket = prime_websocket:make_transport\n")
        monkeypatch.setenv(
            "PYTHONPATH", f"{example}{os.pathsep}{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
        )
    founder, joiner = pair(make, {"transport.kind": kind})
    runs = [node.until_run(lambda run: run.phase == "done", "its last round") for node in (founder, joiner)]
    assert runs[0].state_hash == runs[1].state_hash != ""
    assert ("/ws/p2p/" if kind == "websocket" else "/peers.sock/p2p/") in founder.address
