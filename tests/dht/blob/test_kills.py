"""Thirty real nodes, of which a third are killed while models are fetched: each fetch ends with the right bytes."""

from __future__ import annotations

import json
import random
import selectors
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from prime.testing.nodes import environment

NODES, PROVIDERS, PULLERS, KILLED = 30, 12, 8, 10
SIZE_BYTES = 48 << 20
WITHIN_S = 240


@attrs.define
class Child:
    """One node, and what it was told to fetch."""

    folder: Path
    seed: int
    process: Any = None
    address: str = ""
    wish: str = ""

    def start(self, *known: str) -> None:
        script = Path(__file__).with_name("fetcher.py")
        self.process = subprocess.Popen(
            [sys.executable, str(script), str(self.folder), str(self.seed), *known],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment(),
        )

    def say(self, line: str) -> None:
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def hear(self, within_s: float = WITHIN_S) -> Any:
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            line = self.process.stdout.readline() if selector.select(within_s) else ""
        assert line, f"node {self.seed} said nothing within {within_s:g} s, or has ended"
        return json.loads(line)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()


@pytest.fixture
def children(tmp_path: Path) -> Iterator[list[Child]]:
    found = [Child(tmp_path / f"node{seed}", seed) for seed in range(1, NODES + 1)]
    try:
        found[0].start()
        found[0].address = found[0].hear()["address"]
        for child in found[1:]:
            child.start(found[0].address)
        for child in found[1:]:
            child.hear()
        yield found
    finally:
        for child in found:
            if child.process is not None and child.process.poll() is None:
                child.kill()


@pytest.mark.nightly
def test_a_third_of_thirty_nodes_is_killed_and_every_fetch_ends_verified(children: list[Child], tmp_path: Path) -> None:
    source = tmp_path / "model"
    source.write_bytes(random.Random(30).randbytes(SIZE_BYTES))
    first, *others = children
    holders, pullers = others[:PROVIDERS], others[PROVIDERS : PROVIDERS + PULLERS]
    for child in holders:
        child.say(f"push {source}")
    (content,) = {child.hear()["content"] for child in holders}
    for child in pullers:
        child.wish = f"pull {content} {tmp_path / f'out{child.seed}'}"
        child.say(child.wish)
    until_some_came(tmp_path, pullers)
    chance = random.Random(8)
    doomed = [*chance.sample(holders, KILLED - 5), *chance.sample(pullers, 3), *others[-2:]]
    for child in doomed:
        child.kill()
    assert any((tmp_path / f"out{child.seed}.part").exists() for child in doomed), (
        "they were done before they were killed"
    )
    for child in doomed:
        if child in pullers:  # a node that fetched comes back, and goes on
            child.start(first.address)
            child.hear()
            child.say(child.wish)
    for child in pullers:
        answer = child.hear()
        assert "pulled" in answer, answer
        assert Path(answer["pulled"]).read_bytes() == source.read_bytes()


def until_some_came(folder: Path, pullers: list[Child]) -> None:
    deadline = time.monotonic() + 60
    while not all(any(folder.glob(f"out{child.seed}*")) for child in pullers):
        assert time.monotonic() < deadline
        time.sleep(0.02)
