"""`prime train submit|status|watch|stop|logs` against real nodes, from a run's founding to its end, and what goes wrong."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from prime.cli.main import run
from prime.config import set_value
from prime.testing.nodes import NodeProcess, environment, until, write_text

TASK = Path(__file__).parents[1] / "node" / "tiny_task.py"
SLOW, QUICK = f"{TASK}:slow", f"{TASK}:quick"
CLOCKS = {"transport.kind": "tcp", "transport.ping_interval_s": 0.2, "transport.dead_after_s": 1.5}

pytest.importorskip("torch")


class Free(NodeProcess):
    """A node without a run of its own."""

    def __init__(self, folder: Path, name: str, functions: tuple[str, ...]) -> None:
        super().__init__(folder, name, {})
        text = ""
        for key, value in {
            **CLOCKS,
            "node.name": name,
            "node.state_dir": str(self.folder),
            "node.control_socket": str(self.socket),
            "node.memory_free_bytes_min": 0,
            "runs.accept_functions": ",".join(functions),
        }.items():
            text = set_value(text, key, str(value), file=name)
        self.file.write_text(text, encoding="utf-8")

    @property
    def runs(self) -> Path:
        """Where it keeps what its runs leave behind."""
        return next(self.folder.glob("**/runs"), self.folder / "runs")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a text to train on."""
    return write_text(tmp_path_factory.mktemp("data") / "text.txt")


@pytest.fixture(scope="module")
def swarm(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Iterator[tuple[Free, Free]]:
    """Start two nodes with a link between them; the second one loads the slow model alone."""
    folder = tmp_path_factory.mktemp("swarm")
    nodes = Free(folder, "anna", (SLOW, QUICK, str(data))), Free(folder, "bert", (SLOW, str(data)))
    try:
        nodes[0].start()
        nodes[0].ready()
        nodes[1].start(nodes[0].address)
        nodes[1].ready()
        yield nodes
    finally:
        for node in nodes:
            node.close()


Told = tuple[int, str, str]


@pytest.fixture
def prime(capsys: pytest.CaptureFixture[str]) -> Any:
    """Run a command in this process; return its status, output and errors."""

    def call(*words: object) -> Told:
        status = run([str(word) for word in words])
        out, err = capsys.readouterr()
        return status, out, err

    return call


def job(folder: Path, data: Path, model: str, **swarm: int) -> Path:
    """Write a job."""
    file = folder / "job.toml"
    lines = "".join(f"{key} = {value}\n" for key, value in {"inner_steps": 2, "context": 16, **swarm}.items())
    file.write_text(f'model = "{model}"\ndata = "{data}"\nbatch_size = 2\n[swarm]\nround_deadline_s = 20\n{lines}')
    return file


def status(prime: Any, node: Free) -> dict[str, Any]:
    code, out, err = prime("train", "status", "--config", node.file, "--json")
    assert code == 0, err
    found: dict[str, Any] = json.loads(out)
    assert found["schema"] == 1
    return found


def standings(prime: Any, node: Free, name: str) -> dict[str, str]:
    runs = [one for one in status(prime, node)["runs"] if one["run"].startswith(f"{name}@")]
    return {member["name"]: member["standing"] for one in runs for member in one["members"]}


def until_round(prime: Any, node: Free, round_: int) -> dict[str, Any]:
    def there() -> dict[str, Any] | None:
        found: dict[str, Any] = status(prime, node)
        return found if found["run"] is not None and found["run"]["round"] >= round_ else None

    found: dict[str, Any] = until(there, 60, f"round {round_}")
    return found


def until_all_contributed(prime: Any, node: Free) -> dict[str, Any]:
    """Wait for it: whose worker starts more slowly than the other's is left out of the first rounds."""

    def there() -> dict[str, Any] | None:
        found: dict[str, Any] = status(prime, node)
        run_ = found["run"]
        is_so = run_ is not None and run_["round"] > 2 and all(member["contributed"] for member in run_["members"])
        return found if is_so else None

    found: dict[str, Any] = until(there, 60, "a contribution from everyone")
    return found


# ------------------------------------------------------------------------------------------- a run from end to end


@pytest.fixture(scope="module")
def first(swarm: tuple[Free, Free], data: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Submit a run that goes on until it is stopped, and return its full name."""
    file = job(tmp_path_factory.mktemp("job"), data, SLOW, rounds=1_000_000, nodes_min=2)
    command = [sys.executable, "-m", "prime", "train", "submit", str(file), "--name", "first", "--json"]
    done = subprocess.run(
        [*command, "--config", str(swarm[0].file)],
        capture_output=True, text=True, timeout=120, env=environment(), check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    assert told["event"] == "run.submitted"
    name: str = told["run"]
    return name


def test_a_run_that_is_submitted_to_one_node_is_trained_by_both(
    prime: Any, swarm: tuple[Free, Free], first: str
) -> None:
    found = until_all_contributed(prime, swarm[1])
    assert found["taking"] == first
    assert standings(prime, swarm[1], "first") == {"anna": "member", "bert": "member"}
    run_ = found["run"]
    assert run_["run"] == first
    assert {member["peer"] for member in run_["members"]} == {node.peer for node in swarm}
    assert run_["committed"] >= 2
    assert run_["wire_bytes"] > 0
    assert run_["parameters"] > 1000
    assert run_["spent_s"]["compute"] > 0
    code, out, _ = prime("train", "status", "first", "--config", swarm[0].file)
    assert code == 0
    assert first in out
    assert "bert" in out


def test_a_node_takes_part_in_one_run_at_a_time(prime: Any, swarm: tuple[Free, Free], first: str) -> None:
    for node in swarm:
        code, _, err = prime("train", "submit", "charlm", "--name", "other", "--config", node.file)
        assert code == 5
        assert f"takes part in the run {first}" in err
        assert "hint: submit to another node" in err


def test_names_that_mean_no_run_are_not_found(prime: Any, swarm: tuple[Free, Free], first: str) -> None:
    for words in (("status", "nothing"), ("watch", "nothing"), ("stop", "nothing"), ("logs", "nothing")):
        code, out, err = prime("train", *words, "--config", swarm[0].file)
        assert (code, out) == (6, "")
        assert "nothing" in err
        assert first in err


def test_ctrl_c_ends_the_watching_alone(prime: Any, swarm: tuple[Free, Free], first: str) -> None:
    command = [sys.executable, "-m", "prime", "train", "watch", "first", "--config", str(swarm[0].file), "--json"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()
    ) as seen:
        assert seen.stdout is not None
        told = json.loads(seen.stdout.readline())
        assert told["run"] == first
        seen.send_signal(signal.SIGINT)
        _, err = seen.communicate(timeout=30)
    assert seen.returncode == 130
    assert "Traceback" not in err
    assert status(prime, swarm[0])["taking"] == first


def test_what_happened_is_in_the_log(prime: Any, swarm: tuple[Free, Free], first: str) -> None:
    until_round(prime, swarm[0], 1)
    code, out, _ = prime("train", "logs", "first", "--last", "5", "--config", swarm[0].file)
    assert code == 0
    assert 0 < len(out.splitlines()) <= 5
    assert " decided, loss " in out
    code, out, _ = prime("train", "logs", first, "--config", swarm[0].file, "--json")
    assert {json.loads(line)["schema"] for line in out.splitlines()} == {1}


def test_the_last_round_is_audited(prime: Any, swarm: tuple[Free, Free], first: str) -> None:
    until_round(prime, swarm[1], 1)

    def audited() -> dict[str, Any] | None:  # while the next round is not decided, else nothing is shown any more
        code, out, err = prime("train", "audit", "first", "--config", swarm[1].file, "--json")
        assert code == 0, err
        found: dict[str, Any] = json.loads(out)
        return found if all(each["judgement"] == "right" for each in found["findings"]) else None

    found = until(audited, 60, "an audit between two rounds")
    assert (found["event"], found["run"], found["rule"]) == ("run.audited", first, "mean")
    assert sorted(each["peer"] for each in found["findings"]) == sorted(node.peer for node in swarm)
    assert prime("train", "audit", "nothing", "--config", swarm[1].file)[0] == 6


def test_stop_ends_the_run_for_all_with_one_model(prime: Any, swarm: tuple[Free, Free], first: str) -> None:
    until_round(prime, swarm[1], 2)
    code, out, _ = prime("train", "stop", "first", "--config", swarm[1].file, "--json")
    assert code == 0
    assert json.loads(out)["event"] == "run.ending"
    code, out, err = prime("train", "watch", "first", "--config", swarm[0].file)
    assert code == 0, err
    assert "done at round" in out
    until(lambda: set(standings(prime, swarm[0], "first").values()) == {"done"}, 40, "the end at both")
    reports = [json.loads((node.runs / first / "report.json").read_text()) for node in swarm]
    assert len({(report["state_hash"], report["round"]) for report in reports}) == 1
    assert {one["name"] for one in reports[0]["contributors"]} == {"anna", "bert"}
    assert reports[0]["bytes"]["ratio_float32"] > 0
    models = [(node.runs / first / "first.safetensors").read_bytes() for node in swarm]
    assert models[0] == models[1]
    until(lambda: not status(prime, swarm[0])["taking"], 40, "a free node")
    assert {file.name for file in (swarm[0].runs / first).iterdir()} == {
        *("events.jsonl", "run.json", "report.json", "curves.png", "first.safetensors", "first.json")
    }
    code, _, err = prime("train", "stop", "first", "--config", swarm[0].file)
    assert code == 6
    assert "does not take part" in err


# ----------------------------------------------------------------------------------------------------- what goes wrong


def test_a_run_without_a_round_is_called_off_for_all(
    prime: Any, swarm: tuple[Free, Free], data: Path, tmp_path: Path, first: str
) -> None:
    until(lambda: not any(status(prime, node)["taking"] for node in swarm), 40, "free nodes")
    file = job(tmp_path, data, SLOW, rounds=2, nodes_min=3)
    code, _, err = prime("train", "submit", file, "--name", "early", "--config", swarm[0].file, "--no-wait")
    assert code == 0, err
    code, out, _ = prime("train", "stop", "early", "--config", swarm[0].file)
    assert code == 0
    assert "is called off: it had no round yet" in out
    until(lambda: not any(status(prime, node)["taking"] for node in swarm), 40, "free nodes")


def test_too_few_nodes_for_a_rule_are_refused_before_anybody_hears_of_the_run(
    prime: Any, nowhere: Path, tmp_path: Path, data: Path
) -> None:
    file = job(tmp_path, data, SLOW, nodes_min=4, byzantine_max=1)
    file.write_text(file.read_text() + 'aggregation = "krum"\n')
    code, out, err = prime("train", "submit", file, "--config", nowhere)
    assert (code, out) == (3, "")
    assert "swarm.nodes_min is 4, and krum with byzantine_max 1 needs 5 members to contribute" in err


def test_a_node_that_cannot_load_the_model_says_why_and_the_others_go_on(
    prime: Any, swarm: tuple[Free, Free], data: Path, tmp_path: Path, first: str
) -> None:
    until(lambda: not status(prime, swarm[0])["taking"], 40, "a free node")
    file = job(tmp_path, data, QUICK, rounds=2, nodes_min=1)
    code, _, err = prime("train", "submit", file, "--name", "second", "--config", swarm[0].file, "--no-wait")
    assert code == 0, err
    until(lambda: standings(prime, swarm[0], "second") == {"anna": "done", "bert": "cannot"}, 60, "the end of the run")
    code, out, _ = prime("train", "status", "second", "--config", swarm[0].file)
    assert "is no preset and not in runs.accept_functions here" in " ".join(out.split())


def test_a_model_that_is_none_is_refused_with_its_reason(
    prime: Any, swarm: tuple[Free, Free], data: Path, tmp_path: Path, first: str
) -> None:
    until(lambda: not status(prime, swarm[0])["taking"], 40, "a free node")
    file = job(tmp_path, data, "no_such_module:build", rounds=2, nodes_min=1)
    code, out, err = prime("train", "submit", file, "--name", "bad", "--config", swarm[0].file)
    assert (code, out) == (5, "")
    assert "no_such_module cannot be imported" in err
    assert swarm[0].running.poll() is None
    until(lambda: not status(prime, swarm[0])["taking"], 20, "a free node")


@pytest.mark.nightly
def test_below_a_majority_a_stop_is_noted_and_leaving_helps(
    prime: Any, swarm: tuple[Free, Free], data: Path, tmp_path: Path, first: str
) -> None:
    until(lambda: not any(status(prime, node)["taking"] for node in swarm), 40, "free nodes")
    file = job(tmp_path, data, SLOW, rounds=1_000_000, nodes_min=2)
    code, _, err = prime("train", "submit", file, "--name", "third", "--config", swarm[0].file)
    assert code == 0, err
    until_round(prime, swarm[0], 1)
    swarm[1].running.kill()
    until(lambda: status(prime, swarm[0])["run"]["stalled"], 40, "a word on the stall")
    code, out, _ = prime("train", "stop", "--config", swarm[0].file)
    assert code == 0
    assert "nothing is decided now: " in out
    assert "the wish is kept" in out
    code, out, _ = prime("train", "stop", "third", "--leave", "--config", swarm[0].file)
    assert code == 0
    until(lambda: standings(prime, swarm[0], "third")["anna"] == "left", 60, "its leaving")
    assert swarm[0].running.poll() is None


@pytest.fixture
def nowhere(tmp_path: Path) -> Path:
    """Write the configuration of a node that does not run."""
    file = tmp_path / "prime.toml"
    file.write_text(f'[node]\nstate_dir = "{tmp_path}"\ncontrol_socket = "{tmp_path}/none.sock"\n')
    return file


@pytest.mark.parametrize(
    "words", [("submit", "charlm"), ("status",), ("watch",), ("stop",), ("stop", "--leave"), ("logs",)]
)
def test_without_a_node_each_says_so(prime: Any, nowhere: Path, words: tuple[str, ...]) -> None:
    code, out, err = prime("train", *words, "--config", nowhere)
    assert (code, out) == (6, "")
    assert "hint: " in err


def test_a_socket_that_a_node_left_behind_is_no_node(prime: Any, nowhere: Path, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(tmp_path / "none.sock"))
    code, _, err = prime("train", "watch", "--config", nowhere)
    assert code == 6
    assert "none.sock" in err


def test_a_job_that_cannot_be_is_told_with_its_line(prime: Any, nowhere: Path, tmp_path: Path) -> None:
    file = tmp_path / "job.toml"
    file.write_text("[swarm]\nnodes_mim = 2\n")
    code, _, err = prime("train", "submit", file, "--config", nowhere)
    assert code == 3
    assert f"{file}:2: there is no key swarm.nodes_mim" in err
    assert "did you mean swarm.nodes_min?" in err


def test_what_a_swarm_has_no_use_for_is_named(prime: Any, nowhere: Path) -> None:
    code, _, err = prime("train", "submit", "charlm", "--set", "parallel.ranks=2", "--config", nowhere)
    assert code == 6
    assert "parallel.ranks means nothing to a swarm" in err


def test_one_job_has_to_be_named(prime: Any, nowhere: Path) -> None:
    assert prime("train", "submit", "--config", nowhere)[0] == 2
    assert prime("train", "submit", "charlm", "--preset", "digits", "--config", nowhere)[0] == 2


def test_a_link_is_measured_by_a_node_and_by_a_command_of_its_own(prime: Any, swarm: tuple[Free, Free]) -> None:
    until(lambda: swarm[0].status() is not None, 20, "an answer")
    own = ("--seconds", "0.3", "--mib", "1", "--json")
    code, out, err = prime("bench", "link", *own, "--config", swarm[0].file)
    assert code in (0, 6), err  # its only link may have ended with the other node
    code, out, err = prime("bench", "link", swarm[0].address, "--transport", "tcp", "--members", "3", *own)
    assert code == 0, err
    found = json.loads(out)
    assert found["links"][0]["peer"] == swarm[0].peer
    assert found["links"][0]["up_bytes"] == found["links"][0]["down_bytes"] == 2**20
    assert found["round"]["members"] == 3
    assert found["round"]["seconds"] < found["round"]["float32_seconds"]


def test_a_link_to_nowhere_cannot_be_measured(prime: Any, nowhere: Path) -> None:
    peer = "12D3KooWDt5bjMbRwWMGuiL51WRwQXfhWxZxfn6B2CavFo5af8t7"
    code, _, err = prime("bench", "link", f"/ip4/127.0.0.1/tcp/1/p2p/{peer}", "--transport", "tcp")
    assert code == 4
    assert "hint: " in err
    assert prime("bench", "link", "--config", nowhere)[0] == 6
    assert prime("bench", "link", "--codec", "int9", "--config", nowhere)[0] == 3


@pytest.mark.nightly
def test_a_node_that_stands_still_for_seconds_is_waited_for(
    prime: Any, swarm: tuple[Free, Free], data: Path, tmp_path: Path
) -> None:
    until(lambda: swarm[0].running.poll() is None and not status(prime, swarm[0])["taking"], 40, "a free node")
    file = job(tmp_path, data, SLOW, rounds=2, nodes_min=1)
    command = [sys.executable, "-m", "prime", "train", "submit", str(file), "--name", "still", "--json"]
    with subprocess.Popen(
        [*command, "--config", str(swarm[0].file)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(),
    ) as submitting:  # fmt: skip
        until(lambda: status(prime, swarm[0])["taking"], 40, "the run's founding")
        swarm[0].running.send_signal(signal.SIGSTOP)
        try:
            time.sleep(12)  # twice what a silent far peer is given, and more than an ask
        finally:
            swarm[0].running.send_signal(signal.SIGCONT)
        out, err = submitting.communicate(timeout=120)
    assert submitting.returncode == 0, err
    assert json.loads(out)["run"].startswith("still@")
