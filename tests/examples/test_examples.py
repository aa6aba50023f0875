"""Each example, run as its first lines say: what it prints, and that it leaves no process behind."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
LEFT_S = 10.0
"""How long an ended example's children may take to be gone."""


def run(name: str, *arguments: str, within_s: float) -> str:
    """Run an example in a session of its own, kill that session should it hang, and return what it printed."""
    process = start(name, *arguments)
    try:
        out, err = process.communicate(timeout=within_s)
        assert process.returncode == 0, f"{name} ended with {process.returncode}:\n{out}\n{err}"
        assert not left_of(process.pid), f"{name} left processes behind: {left_of(process.pid)}"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return out


def start(name: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(EXAMPLES / name), *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},  # torch's threads wait for each other
        start_new_session=True,
    )


def left_of(session: int) -> list[int]:
    """Return the living processes of a session, once it had a little time to end."""
    deadline = time.monotonic() + LEFT_S
    while (found := members_of(session)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return found


def members_of(session: int) -> list[int]:
    """Return the processes of a session that are no zombies: from /proc, or from `ps` on a system without it."""
    if Path("/proc/self/stat").exists():
        rows = [row for path in Path("/proc").glob("[0-9]*/stat") if (row := _stat(path))]
    else:
        asked = subprocess.run(["ps", "-A", "-o", "pid=,sess=,stat="], capture_output=True, text=True, check=True)
        rows = [line.split() for line in asked.stdout.splitlines()]
    return [int(pid) for pid, owner, state in rows if owner == str(session) and not state.startswith("Z")]


def _stat(path: Path) -> list[str]:
    """Return process, session and state; empty for a process that is gone by now."""
    try:
        head, _, tail = path.read_text(encoding="utf-8", errors="replace").rpartition(")")
    except OSError:
        return []
    state, _, _, session = tail.split()[:4]
    return [head.split()[0], session, state]


def test_every_example_has_its_run_line_on_top_and_a_test_here() -> None:
    tests = Path(__file__).read_text(encoding="utf-8")
    names = sorted(str(path.relative_to(EXAMPLES)) for path in EXAMPLES.rglob("*.py"))
    assert len(names) >= 3
    for name in names:
        head = (EXAMPLES / name).read_text(encoding="utf-8").splitlines()[:4]
        assert any(line.startswith(f"Run: python examples/{name}") for line in head), name
        assert f'run("{name}"' in tests, f"{name} has no test"


def test_hello() -> None:
    lines = run("01_hello.py", within_s=60).splitlines()
    assert lines == [
        "Hello, world!",
        "Hello, Trio!",
        "greeted: 2",
        "greeted, after a crash: 0",
        "/hall/greeter was restarted 1 time: ValueError: nobody to greet",
    ]


@pytest.mark.parametrize("transport", ["libp2p", "tcp"])
def test_two_processes(transport: str) -> None:
    lines = run("02_two_processes.py", "--transport", transport, within_s=120).splitlines()
    if transport == "libp2p" and importlib.util.find_spec("libp2p") is None:
        assert "libp2p is not installed" in lines.pop(0)
        transport = "tcp"
    here, there, end = lines
    pids = [int(re.search(r"process (\d+)", line)[1]) for line in (here, there)]  # type: ignore[index]
    assert pids[0] != pids[1]
    assert here.endswith("my own store: b'42'")
    assert there.endswith(f"over {transport}: b'42'")
    assert end == "the child has ended"


def test_two_processes_leaves_no_child_when_it_is_killed() -> None:
    process = start("02_two_processes.py", "--transport", "tcp")
    try:
        deadline = time.monotonic() + 60
        while len(members_of(process.pid)) < 2:
            assert process.poll() is None
            assert time.monotonic() < deadline
        process.kill()
        process.wait()
        assert not left_of(process.pid)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


@pytest.mark.nightly
@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="NOT RUN: the trainer's example needs torch")
def test_train(tmp_path: Path) -> None:
    lines = run("08_train.py", str(tmp_path / "run"), within_s=150).splitlines()
    assert lines[0] == "generation 0: 2 ranks, from step 0"
    assert re.fullmatch(r"stopped at step \d+; the report is in .*/run", lines[-1])
    assert any(line.endswith("is saved") for line in lines)
    losses = [float(line.rpartition(" ")[2]) for line in lines if "held-out loss" in line]
    assert losses[-1] < losses[0]
    assert losses[-1] < 3.0 + 0.1  # that of the step after, at which it stopped


@pytest.mark.skipif(importlib.util.find_spec("wsproto") is None, reason="NOT RUN: the WebSocket example needs wsproto")
def test_websocket() -> None:
    (line,) = run("07_websocket/prime_websocket.py", within_s=60).splitlines()
    assert re.fullmatch(r"over /ip4/127\.0\.0\.1/tcp/\d+/ws: hello, web", line)


@pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("starlette", "hypercorn", "httpx")),
    reason="NOT RUN: the web example needs starlette, hypercorn and httpx",
)
def test_web() -> None:
    assert run("06_web.py", within_s=60).splitlines() == [
        "twenty at once, then: {'page': 'home', 'visits': 21}",
        "503 /app/visits failed while handling Visit: ValueError: a page that crashes its actor",
        "and it is back: {'page': 'home', 'visits': 1}",
        "closed",
    ]


@pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="NOT RUN: training needs torch, prime-actors[train]"
)
def test_train_three_nodes() -> None:
    out = run("03_train_three_nodes.py", within_s=170)
    rounds = re.findall(r"^round (\d+): (\d) nodes, training loss", out, re.MULTILINE)
    assert [int(number) for number, _ in rounds][-1] >= 8
    assert rounds[-1][1] == "3"
    first, last, guess = map(float, re.search(r"loss ([\d.]+) -> ([\d.]+) \(guessing: ([\d.]+)\)", out).groups())  # type: ignore[union-attr]
    assert first > 2
    assert last < guess / 2
    assert "4810 parameters, identical on all 3 nodes: True" in out


def test_persistence() -> None:
    assert run("04_persistence.py", within_s=120).splitlines() == ["every answered deposit is there: True"] * 2


def test_processes() -> None:
    lines = run("05_processes.py", within_s=120).splitlines()
    assert re.fullmatch(r"\d workers in processes of their own", lines[0])
    assert lines[-1] == "17984 primes"
    for again in lines[1:-1]:  # none, where the worker was killed between two questions
        assert re.fullmatch(
            r"asked once more: .* ended while it had CountPrimes: process \d+ ended with signal SIGKILL", again
        )


@pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="NOT RUN: training needs torch, prime-actors[train]"
)
def test_plain_loop() -> None:
    lines = run("09_plain_loop.py", within_s=150).splitlines()
    assert [line.partition(":")[0] for line in lines] == ["epoch 4", "epoch 8", "epoch 12"]
    right = float(re.fullmatch(r"epoch 12: loss [\d.]+, ([\d.]+)% right", lines[-1]).group(1))  # type: ignore[union-attr]
    assert right > 95


def test_dht_backend() -> None:
    assert run("10_dht_backend.py", within_s=60).splitlines() == ["held: True", "there again: ['record']"]
