"""`prime model push` and `pull` through real nodes: a real safetensors file, published, found by name, fetched and checked."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from prime.cli.main import run
from prime.dht.blob.content import text_of
from prime.store.manifest import CHUNK_BYTES, ContentId
from prime.testing.nodes import NodeProcess, until

SLOW = 8 * CHUNK_BYTES
"""Bytes a second of a provider whose transfer is to be interrupted."""


@attrs.define
class Told:
    """What a command did."""

    status: int
    out: str
    err: str

    @property
    def events(self) -> list[Any]:
        found = [json.loads(line) for line in self.out.splitlines()]
        assert all(event["schema"] == 1 for event in found)
        return found

    @property
    def last(self) -> Any:
        assert self.status == 0, self.err
        return self.events[-1]


def joined(node: NodeProcess, others: int) -> bool:
    status = node.status()
    return status is not None and status.dht is not None and status.dht.joined and status.dht.contacts >= others


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[NodeProcess]]:
    """Start a slow provider, another one, and one that fetches; they know each other through the first."""
    folder = tmp_path_factory.mktemp("models")
    found = [
        NodeProcess(folder, name, {"dht.blob_bytes_per_s": rate})
        for name, rate in (("slow", SLOW), ("quick", 0), ("puller", 0))
    ]
    try:
        for node in found:
            node.start(*[first.address for first in found[:1] if first.address], flags=("--role", "dht"))
            node.ready()
        for node in found:
            until(lambda node=node: joined(node, 2), 20, "all know each other")
        yield found
    finally:
        for node in found:
            node.close()


@pytest.fixture
def prime(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run a command within this process, through a node."""
    monkeypatch.setenv("NO_COLOR", "1")

    def command(*words: object, node: NodeProcess) -> Told:
        status = run(["model", *map(str, words), "--config", str(node.file)])
        out, err = capsys.readouterr()
        return Told(status, out, err)

    return command


def model(path: Path, mebibytes: int = 6, seed: int = 0) -> Path:
    random = np.random.default_rng(seed)
    tensors = {f"layers.{i}.weight": random.normal(size=(256, 1024)).astype(np.float32) for i in range(mebibytes)}
    save_file({**tensors, "norm.bias": np.zeros(3, np.float16)}, path)
    about = {"file": path.name, "run": "charlm-1a2b", "round": 7, "loss": 1.25, "job": {}}
    path.with_suffix(".json").write_text(json.dumps(about), encoding="utf-8")
    return path


def test_a_model_is_pushed_found_by_its_name_and_pulled(nodes: list[NodeProcess], prime: Any, tmp_path: Path) -> None:
    _, quick, puller = nodes
    source, to = model(tmp_path / "source.safetensors"), tmp_path / "out.safetensors"
    pushed = prime("push", source, "--name", "tiny", "--licence", "Apache-2.0", "--json", node=quick).last
    assert pushed["event"] == "model.pushed"
    assert (pushed["run"], pushed["round"], pushed["loss"], pushed["step"]) == ("charlm-1a2b", 7, 1.25, None)
    assert (pushed["licence"], pushed["dtype"], pushed["tensors"]) == ("Apache-2.0", "float32, float16", 7)
    assert pushed["holders"] >= 2
    pulled = prime("pull", f"{quick.peer}/tiny", "--to", to, "--json", node=puller)
    assert pulled.last["event"] == "model.pulled"
    assert pulled.last["content"] == pushed["content"]
    assert pulled.last["fetched_bytes"] == source.stat().st_size
    assert to.read_bytes() == source.read_bytes()
    assert load_file(to).keys() == load_file(source).keys()
    again = prime("pull", f"{quick.peer}/tiny", "--to", to, node=puller)
    assert again.status == 0
    assert "were here, every byte checked" in again.out
    own = prime("pull", "tiny", "--to", tmp_path / "own.safetensors", node=quick)  # a copy, of what is here
    assert own.status == 0
    by_content = prime("pull", pushed["content"], "--to", tmp_path / "by-content", node=puller)
    assert by_content.status == 0, by_content.err


def test_a_file_that_is_there_is_replaced_only_when_told_to(
    nodes: list[NodeProcess], prime: Any, tmp_path: Path
) -> None:
    _, quick, puller = nodes
    source, to = model(tmp_path / "other.safetensors", 1, seed=1), tmp_path / "mine"
    assert prime("push", source, node=quick).status == 0
    to.write_text("dear to me", encoding="utf-8")
    refused = prime("pull", f"{quick.peer}/other", "--to", to, node=puller)
    assert refused.status == 5
    assert f"{to} is there already" in refused.err
    assert to.read_text(encoding="utf-8") == "dear to me"
    assert prime("pull", f"{quick.peer}/other", "--to", to, "--overwrite", node=puller).status == 0
    assert to.read_bytes() == source.read_bytes()


def test_a_disk_that_refuses_is_an_answer_and_no_failure_of_the_node(
    nodes: list[NodeProcess], prime: Any, tmp_path: Path
) -> None:
    _, quick, puller = nodes
    assert prime("push", model(tmp_path / "refused.safetensors", 1, seed=5), node=quick).status == 0
    (tmp_path / "out.part").mkdir()
    pulled = prime("pull", f"{quick.peer}/refused", "--to", tmp_path / "out", node=puller)
    assert (pulled.status, pulled.err.splitlines()[0]) == (8, f"error: {tmp_path / 'out.part'}: Is a directory")
    assert "failed while handling" not in puller.log


def test_what_is_shared_is_listed_and_can_be_withdrawn(nodes: list[NodeProcess], prime: Any, tmp_path: Path) -> None:
    _, quick, puller = nodes
    source = model(tmp_path / "gone.safetensors", 1, seed=4)
    content = prime("push", source, "--json", node=quick).last["content"]
    (found,) = [one for one in prime("shared", "--json", node=quick).last["models"] if one["content"] == content]
    assert (found["name"], found["file"], found["is_whole"]) == ("gone", str(source), True)
    withdrawn = prime("withdraw", "gone", node=quick)
    assert withdrawn.status == 0, withdrawn.err
    assert f"gone is shared no more; {source} stays" in withdrawn.out
    assert source.exists()
    assert content not in prime("shared", node=quick).out
    told = prime("pull", f"{quick.peer}/gone", "--to", tmp_path / "x", node=puller)
    assert (told.status, "removed" in told.err or "nothing" in told.err) == (6, True)
    assert prime("pull", content, "--to", tmp_path / "x", node=puller).status == 6
    again = prime("withdraw", "gone", node=quick)
    assert again.status == 6
    assert "prime model shared" in again.err


def test_a_puller_that_is_killed_goes_on_where_it_was(nodes: list[NodeProcess], prime: Any, tmp_path: Path) -> None:
    slow, _, puller = nodes
    source, to = model(tmp_path / "big.safetensors", 12, seed=2), tmp_path / "big-out"
    name = f"{slow.peer}/big"
    assert prime("push", source, node=slow).status == 0
    part = to.with_name("big-out.part")

    def kill() -> None:
        until(lambda: part.exists() and part.stat().st_blocks * 512 >= 4 * CHUNK_BYTES, 20, "some of it is there")
        puller.running.send_signal(signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    broken = prime("pull", name, "--to", to, node=puller)
    killer.join()
    assert broken.status == 4
    assert not to.exists()
    puller.start(slow.address, flags=("--role", "dht"))
    puller.ready()
    until(lambda: joined(puller, 1), 20, "it is back")
    resumed = prime("pull", name, "--to", to, "--json", node=puller).last
    assert to.read_bytes() == source.read_bytes()
    assert 0 < resumed["fetched_bytes"] <= source.stat().st_size - 3 * CHUNK_BYTES
    assert not part.exists()


def test_a_model_that_was_changed_since_is_not_served(nodes: list[NodeProcess], prime: Any, tmp_path: Path) -> None:
    _, quick, puller = nodes
    source = model(tmp_path / "changed.safetensors", 1, seed=3)
    content = prime("push", source, "--json", node=quick).last["content"]
    source.write_bytes(source.read_bytes()[:-1] + b"?")
    pulled = prime("pull", f"{quick.peer}/changed", "--to", tmp_path / "out", node=puller)
    assert pulled.status == 6
    assert "that blob is damaged here" in pulled.err
    assert not (tmp_path / "out").exists()
    assert f"{source} was changed since it was pushed" in quick.log
    assert prime("push", source, "--name", "changed", "--json", node=quick).last["content"] != content
    assert prime("pull", f"{quick.peer}/changed", "--to", tmp_path / "out", node=puller).status == 0


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["pull", text_of(ContentId(bytes(32))), "--to", "x"], 6, "nobody provides bafyrei"),
        (["pull", "{peer}/nothing", "--to", "x"], 6, "answered but held nothing"),
        (["pull", "a:b", "--to", "x"], 2, "is no name"),
        (["pull", "nobody/x", "--to", "x"], 2, "is no peer id"),
        (["pull", "tiny", "--to", "no/such/folder/x"], 2, "no place for a file"),
        (["pull", "tiny", "--to", "x" * 300], 2, "no place for a file"),
        (["pull", "tiny", "--to", "/dev/null", "--overwrite"], 2, "no place for a file"),
        (["push", "no.safetensors"], 6, "no such file"),
        (["push", f"{'x' * 300}.safetensors"], 6, "no such file"),
        (["push", "no-such-run"], 6, "no checkpoints of"),
        (["push", "text.safetensors"], 2, "no whole safetensors file"),
        (["push", "text.safetensors", "--step", "3"], 2, "--step is of a run's checkpoints"),
        (["push", "text.safetensors", "--name", "a/b"], 2, "is no name"),
        (["push", "text.safetensors", "--licence", "x" * 3000], 2, "name it, as SPDX does"),
    ],
)
def test_what_cannot_be_is_said_with_the_next_step(
    nodes: list[NodeProcess],
    prime: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    status: int,
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("text.safetensors").write_text("no model", encoding="utf-8")
    told = prime(*[word.format(peer=nodes[1].peer) for word in words], node=nodes[2])
    assert told.status == status, told.err
    assert said in " ".join(told.err.split())
    assert "→" in told.err or "hint" in told.err.lower() or len(told.err.splitlines()) > 1


def test_without_a_node_it_is_said_how_to_start_one(prime: Any, tmp_path: Path) -> None:
    node = NodeProcess(tmp_path, "none", {})
    told = prime("pull", "tiny", "--to", tmp_path / "x", node=node)
    assert told.status == 6
    assert "prime node start" in told.err
