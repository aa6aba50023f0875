"""`prime demo`, as a user runs it: its last line, its end in every way, and nothing left behind."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from prime.cli.demo import NODE_BYTES, _check, _options
from prime.cli.main import run
from prime.errors import UsageError
from prime.testing.nodes import children_of, environment, lives, until, write_text

KEYS: dict[str, tuple[type, ...]] = {
    "schema": (int,),
    "event": (str,),
    "nodes": (int,),
    "transport": (str,),
    "rounds": (int,),
    "loss_first": (float,),
    "loss_last": (float,),
    "unigram": (float,),
    "identical": (bool,),
    "killed": (bool,),
    "rejoined": (bool,),
    "rejoin_s": (float, type(None)),
    "wire_bytes": (int,),
    "float32_bytes": (int,),
    "state_bytes": (int,),
    "elapsed_s": (float,),
}


def command(*words: object) -> list[str]:
    return [sys.executable, "-m", "prime", "demo", "--transport", "tcp", *map(str, words)]


def family(process: int) -> set[int]:
    """Return a process's living descendants."""
    found: set[int] = set()
    for child in children_of(process):
        found |= {child} | family(child)
    return found


def result(output: str) -> dict[str, Any]:
    """Return the last line, checked key by key."""
    events = [json.loads(line) for line in output.splitlines()]
    assert [event["event"] for event in events].count("demo.result") == 1
    told: dict[str, Any] = events[-1]
    assert set(told) == set(KEYS)
    for key, types in KEYS.items():
        assert type(told[key]) in types, key
    assert (told["schema"], told["event"], told["transport"]) == (1, "demo.result", "tcp")
    return told


def test_three_nodes_lose_one_and_get_it_back(tmp_path: Path) -> None:
    plot = tmp_path / "curves.png"
    running = subprocess.Popen(
        command("--rounds", 4, "--json", "--plot", plot),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    seen: set[int] = set()
    assert running.stdout is not None
    lines = []
    with running:
        for line in running.stdout:
            lines.append(line)
            seen |= family(running.pid)
        assert running.stderr is not None
        told_aside = running.stderr.read()
    assert running.returncode == 0, told_aside
    told = result("".join(lines))
    assert told["nodes"] == 3
    assert told["rounds"] >= 4
    assert told["identical"] is told["killed"] is told["rejoined"] is True
    assert 0 < told["rejoin_s"] < told["elapsed_s"]
    assert told["loss_last"] < told["loss_first"]
    assert told["loss_first"] == pytest.approx(4.57, abs=0.4)
    assert 0 < told["wire_bytes"] < told["float32_bytes"] / 3
    assert told["state_bytes"] > 0
    events = [json.loads(line)["event"] for line in lines]
    story = [e for e in events if e in ("demo.start", "demo.killed", "demo.restarted", "demo.rejoined")]
    assert story == ["demo.start", "demo.killed", "demo.restarted", "demo.rejoined"]
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert len(seen) >= 4  # nodes and their workers were there
    assert not [process for process in seen if lives(process)]


def test_one_node_by_itself(tmp_path: Path) -> None:
    data = write_text(tmp_path / "text.txt", 200_000)
    words = command("--nodes", 1, "--no-kill", "--rounds", 2, "--json", "--data", data)
    done = subprocess.run(words, capture_output=True, text=True, env=environment(), timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    told = result(done.stdout)
    assert told["killed"] is told["rejoined"] is False
    assert told["rejoin_s"] is None
    assert told["identical"] is True
    assert told["rounds"] == 2
    assert (told["wire_bytes"], told["float32_bytes"], told["state_bytes"]) == (0, 0, 0)


@pytest.fixture
def midway(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], set[int]]]:
    """Start a demo and wait until its nodes have their workers; give its process and all below it."""
    data = write_text(tmp_path / "text.txt", 200_000)
    with (tmp_path / "errors.txt").open("w") as errors:
        running = subprocess.Popen(
            command("--nodes", 2, "--rounds", 1000, "--json", "--data", data),
            stdout=subprocess.DEVNULL,
            stderr=errors,
            text=True,
            env=environment(),
        )
    below: set[int] = set()
    try:
        until(lambda: len(family(running.pid)) >= 4, 60, "two nodes and two workers")
        below = family(running.pid)
        yield running, below
    finally:
        running.kill()
        running.wait()


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -signal.SIGKILL)]
)
def test_nothing_outlives_a_demo(midway: tuple[subprocess.Popen[str], set[int]], number: int, status: int) -> None:
    running, below = midway
    running.send_signal(number)
    assert running.wait(30) in (status, -number if number == signal.SIGTERM else status)
    until(lambda: not [process for process in below if lives(process)], 10, "the end of every node and worker")


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (("--nodes", "0"), "--nodes"),
        (("--nodes", "many"), "--nodes"),
        (("--rounds", "0"), "--rounds"),
        (("--transport", "pigeon"), "--transport"),
        (("--colour",), "--colour"),
        (("--plot", "/no/such/folder/x.png"), "/no/such/folder"),
    ],
)
def test_options_that_cannot_be(words: tuple[str, ...], part: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["demo", "--transport", "tcp", *words]) == 2
    told = capsys.readouterr()
    assert part in told.err
    assert told.out == ""


@pytest.mark.parametrize("fault", ["missing", "empty", "binary"])
def test_data_that_cannot_be_used(tmp_path: Path, fault: str, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / f"{fault}.txt"
    if fault != "missing":
        file.write_bytes(b"" if fault == "empty" else bytes(range(256)) * 200)
    assert run(["demo", "--transport", "tcp", "--data", str(file), "--json"]) == 2
    told = capsys.readouterr()
    assert f"error: {file}" in told.err
    assert "hint: " in told.err
    assert "text" in told.err
    assert told.out == ""


def test_too_little_memory_says_how_many_nodes_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prime.cli.machine.free_memory_bytes", lambda: 2 * NODE_BYTES + 1)
    options = _options(3, 4, None, None, kill=True)
    with pytest.raises(UsageError, match=r"3 nodes need about 2\.1 GiB of memory, 1\.4 GiB are free") as caught:
        _check(options, None)
    assert "prime demo --nodes 2" in caught.value.hint
    _check(_options(2, 4, None, None, kill=True), None)


def test_unknown_free_memory_stops_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prime.cli.machine.free_memory_bytes", lambda: None)
    _check(_options(32, 4, None, None, kill=True), None)
