"""Two `prime train run` as two hosts of one run, on this machine's loopback, whatever is done to them."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

pytest.importorskip("torch")

ROOT = Path(__file__).parents[3]
TASK = Path(__file__).with_name("gang_task.py")
STEPS = 400
WAIT_S = 120
"""For a busy machine; what is meant is a few seconds."""


@attrs.define
class Cluster:
    """The hosts of one run: each is a process with the variables that torchrun sets."""

    folder: Path
    hosts: dict[int, subprocess.Popen[str]] = attrs.field(factory=dict)
    ended: list[subprocess.Popen[str]] = attrs.field(factory=list)

    @property
    def job(self) -> Path:
        return self.folder / "job.toml"

    def write_job(self, **supervision: Any) -> None:
        keys = {"host_s": 60.0, "silent_s": 5.0, **supervision}
        self.job.write_text(
            f"""
name = "hosts"
folder = "{self.folder / "run"}"
model = "{TASK}:model"
data = "{TASK}:data"
steps = {STEPS}
batch_size = 16
[parallel]
device = "cpu"
[checkpoint]
every_steps = 50
[evaluation]
every_steps = 0
batches = 2
[supervision]
{chr(10).join(f"{name} = {value}" for name, value in keys.items())}
""",
            encoding="utf-8",
        )

    def start(self, host: int, *options: str, launched: dict[str, str] | None = None) -> subprocess.Popen[str]:
        """Start a host: as torchrun does, or with other variables."""
        if launched is None:
            launched = {"RANK": str(host), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
        if host in self.hosts:
            self.ended.append(self.hosts[host])
        self.hosts[host] = subprocess.Popen(
            [sys.executable, "-m", "prime", "train", "run", str(self.job), *options],
            env=outside_launchers() | launched,
            cwd=self.folder,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        return self.hosts[host]

    def events(self, kind: str = "") -> list[dict[str, Any]]:
        """Return what the first host has written of the run so far."""
        with contextlib.suppress(FileNotFoundError):
            lines = (self.folder / "run" / "events.jsonl").read_text(encoding="utf-8").splitlines()
            read = [json.loads(line) for line in lines if line.endswith("}")]
            return [event for event in read if not kind or event["event"] == f"train.{kind}"]
        return []

    def wait_for(self, what: Callable[[], Any]) -> Any:
        """Wait until `what` is something; every host that ends before fails it, with what it said."""
        deadline = time.monotonic() + WAIT_S
        while not (found := what()):
            assert time.monotonic() < deadline, self.events()[-5:]
            time.sleep(0.02)
        return found

    def step(self, generation: int, least: int) -> bool:
        """Tell whether a generation has come so far."""
        return any(e["generation"] == generation and e["step"] >= least for e in self.events("step_made")[-1:])

    def rank(self, rank: int) -> dict[str, Any]:
        """Return the newest process of a rank."""
        found: dict[str, Any] = [e for e in self.events("rank_started") if e["rank"] == rank][-1]
        return found

    def processes(self) -> set[int]:
        return {event["process"] for event in self.events("rank_started")}

    def outcome(self, host: int) -> tuple[int, str]:
        """Wait for a host to end, and return its exit status and what it said."""
        said, _ = self.hosts[host].communicate(timeout=WAIT_S)
        return self.hosts[host].returncode, said

    def close(self) -> None:
        for process in (*self.hosts.values(), *self.ended):
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            process.communicate()


def outside_launchers() -> dict[str, str]:
    names = ("RANK", "WORLD_SIZE", "LOCAL_", "MASTER_", "TORCHELASTIC_", "SLURM_")
    return {name: value for name, value in os.environ.items() if not name.startswith(names)}


def is_gone(process: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] == "Z"
    return True


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    made = Cluster(tmp_path)
    made.write_job()
    try:
        yield made
    finally:
        made.close()


def check_course(cluster: Cluster) -> None:
    """All steps were made, and those that were made again have the same loss."""
    losses: dict[int, float] = {}
    for event in cluster.events("step_made"):
        assert losses.setdefault(event["step"], event["loss"]) == event["loss"], event
    assert sorted(losses) == list(range(1, STEPS + 1))


def test_a_rank_that_is_killed_on_one_host_ends_the_generation_on_all(cluster: Cluster) -> None:
    for host in (0, 1):
        cluster.start(host)
    cluster.wait_for(lambda: cluster.step(0, 60))
    os.kill(cluster.rank(1)["process"], signal.SIGKILL)
    assert cluster.outcome(0)[0] == 0, cluster.events()[-5:]
    status, said = cluster.outcome(1)
    assert status == 0
    assert f"done at step {STEPS}" in said
    (lost,) = cluster.events("rank_lost")
    assert (lost["rank"], lost["cause"]) == (1, "died")
    began = cluster.events("generation_began")
    assert [each["generation"] for each in began] == [0, 1]
    assert (began[0]["world"], began[0]["backend"]) == (2, "gloo")
    assert began[1]["step"] >= 50
    check_course(cluster)
    assert cluster.rank(1)["host"] == socket.gethostname()
    assert not (cluster.folder / "run" / "hosts.json").exists()
    assert all(map(is_gone, cluster.processes()))


@pytest.mark.nightly
def test_a_lost_host_is_awaited_and_taken_in_again(cluster: Cluster) -> None:
    cluster.start(0)
    cluster.start(1)
    cluster.wait_for(lambda: cluster.step(0, 60))
    lost = cluster.rank(1)["process"]
    cluster.hosts[1].kill()
    cluster.wait_for(lambda: len(cluster.events("host_awaited")) == 2)
    cluster.wait_for(lambda: is_gone(lost))
    cluster.start(1)
    assert cluster.outcome(0)[0] == 0, cluster.events()[-5:]
    assert cluster.outcome(1)[0] == 0
    assert [each["host"] for each in cluster.events("host_joined")] == [1, 1]
    check_course(cluster)


@pytest.mark.nightly
def test_a_host_that_does_not_come_back_fails_the_run_by_name(cluster: Cluster) -> None:
    cluster.write_job(host_s=8.0)
    cluster.start(0)
    cluster.start(1)
    cluster.wait_for(lambda: cluster.step(0, 1))
    cluster.hosts[1].kill()
    status, said = cluster.outcome(0)
    assert status == 8, said
    assert "waits for host 1" in said
    assert "host 1 did not come within 8 s" in said
    cluster.wait_for(lambda: all(map(is_gone, cluster.processes())))


@pytest.mark.nightly
def test_a_lost_first_host_ends_the_others_without_orphans(cluster: Cluster) -> None:
    cluster.start(0)
    cluster.start(1)
    cluster.wait_for(lambda: cluster.step(0, 1))
    cluster.hosts[0].kill()
    status, said = cluster.outcome(1)
    assert status == 4, said
    assert "the first host's trainer, on 127.0.0.1, is gone" in said
    cluster.wait_for(lambda: all(map(is_gone, cluster.processes())))
    # what the first host left behind, a secret and a port that nobody has, leads nobody astray
    for host in (1, 0):
        cluster.start(host)
    assert cluster.outcome(0)[0] == 0
    assert cluster.outcome(1)[0] == 0


@pytest.mark.nightly
def test_a_stop_asked_for_on_any_host_is_one_of_all(cluster: Cluster) -> None:
    cluster.start(0)
    cluster.start(1)
    cluster.wait_for(lambda: cluster.step(0, 20))
    cluster.hosts[1].send_signal(signal.SIGTERM)
    assert cluster.outcome(0)[0] == 0
    status, said = cluster.outcome(1)
    assert status == 128 + signal.SIGTERM
    (ended,) = cluster.events("run_ended")
    assert ended["outcome"] == "stopped"
    assert ended["checkpoint_step"] == ended["step"] > 0
    assert f"stopped at step {ended['step']}" in said


@pytest.mark.nightly
def test_a_host_with_another_job_is_told_what_differs(cluster: Cluster) -> None:
    cluster.start(0)
    cluster.start(1, "--set", "optimiser.learning_rate=0.5")
    status, said = cluster.outcome(1)
    assert status == 3, said
    assert "optimiser differs" in said
    cluster.hosts[0].send_signal(signal.SIGTERM)
    assert cluster.outcome(0)[0] == 128 + signal.SIGTERM


@pytest.mark.nightly
def test_who_does_not_find_the_first_host_says_what_to_look_at(cluster: Cluster) -> None:
    cluster.write_job(host_s=1.0)
    cluster.start(1)
    status, said = cluster.outcome(1)
    assert status == 7, said
    assert "the folder is not shared" in said


@pytest.mark.nightly
@pytest.mark.parametrize("each", [1, 2])
def test_torchrun_starts_one_process_a_host_or_one_a_rank(cluster: Cluster, each: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    started = [
        subprocess.Popen(
            [
                *(sys.executable, "-m", "torch.distributed.run", "--nnodes", str(3 - each), "--node-rank", str(node)),
                *("--nproc-per-node", str(each), "--master-addr", "127.0.0.1", "--master-port", str(port)),
                *("-m", "prime", "train", "run", str(cluster.job), "--steps", "30"),
            ],
            env=outside_launchers(),
            cwd=cluster.folder,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        for node in range(3 - each)
    ]
    cluster.ended.extend(started)
    for process in started:
        said, _ = process.communicate(timeout=WAIT_S)
        assert process.returncode == 0, said
    (began,) = cluster.events("generation_began")
    assert began["world"] == 2
    assert len(cluster.processes()) == 2
    assert cluster.events("run_ended")[-1]["outcome"] == "done"


@pytest.mark.nightly
@pytest.mark.network
@pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0 or not shutil.which("tc"),
    reason="network namespaces need Linux, root and tc",
)
def test_hosts_with_networks_of_their_own_find_the_interface_between_them(cluster: Cluster) -> None:
    netsim = ROOT / "tests" / "netsim" / "netsim.sh"
    program = [sys.executable, "-m", "prime", "train", "run", str(cluster.job), "--steps", "30"]
    ended = subprocess.run(
        [str(netsim), "2", "0", "0", "--", "env", "-u", "GLOO_SOCKET_IFNAME", *program],
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
        cwd=cluster.folder,
        env=outside_launchers() | {"PYTHONPATH": str(ROOT), "NETSIM_PYTHON": sys.executable},
    )
    assert ended.returncode == 0, ended.stderr
    (began,) = cluster.events("generation_began")
    assert (began["world"], began["backend"]) == (2, "gloo")
    assert cluster.events("run_ended")[-1]["outcome"] == "done"


@pytest.mark.nightly
def test_two_ranks_on_each_host_share_shards_within_it_and_a_codec_between(cluster: Cluster) -> None:
    options = ("parallel.ranks=4", "parallel.strategy=fsdp", "parallel.replicas=2", "compression.codec=int8")
    for host in (0, 1):
        cluster.start(host, *(word for option in options for word in ("--set", option)))
    cluster.wait_for(lambda: cluster.step(0, 60))
    os.kill(cluster.rank(0)["process"], signal.SIGKILL)
    assert cluster.outcome(0)[0] == 0, cluster.events()[-5:]
    assert cluster.outcome(1)[0] == 0
    assert {cluster.rank(rank)["host"] for rank in (0, 1)} == {""}
    assert {cluster.rank(rank)["host"] for rank in (2, 3)} == {socket.gethostname()}
    began = cluster.events("generation_began")
    assert [(each["generation"], each["world"], each["strategy"]) for each in began] == [(0, 4, "fsdp"), (1, 4, "fsdp")]
    assert cluster.events("step_made")[-1]["bytes_sent"] > 0
    check_course(cluster)


@pytest.mark.nightly
def test_a_host_that_stands_still_is_lost_and_ends_when_it_wakes(cluster: Cluster) -> None:
    cluster.start(0)
    stopped = cluster.start(1)
    cluster.wait_for(lambda: cluster.step(0, 60))
    stopped.send_signal(signal.SIGSTOP)
    cluster.wait_for(lambda: len(cluster.events("host_awaited")) == 2)
    stopped.send_signal(signal.SIGCONT)
    assert cluster.outcome(1)[0] == 4
    cluster.start(1)
    assert cluster.outcome(0)[0] == 0, cluster.events()[-5:]
    assert cluster.outcome(1)[0] == 0
    check_course(cluster)


@pytest.mark.nightly
def test_slurms_variables_make_hosts_too(cluster: Cluster) -> None:
    step = {"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURM_NTASKS": "2", "SLURM_NNODES": "2", "SLURM_LOCALID": "0"}
    for host in (0, 1):
        task = {"SLURM_PROCID": str(host), "SLURM_NODEID": str(host), "SLURM_JOB_NODELIST": "n[1-2]"}
        cluster.start(host, "--steps", "30", launched=step | task | {"MASTER_ADDR": "127.0.0.1"})
    assert cluster.outcome(0)[0] == 0, cluster.events()[-5:]
    assert cluster.outcome(1)[0] == 0
    assert [each["name"] for each in cluster.events("host_joined")] == ["n2"]
