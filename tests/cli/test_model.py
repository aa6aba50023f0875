"""`prime model`: what a person and a program are told of a run's checkpoints, and what is done to them."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from prime.cli.main import run
from prime.cli.model import size
from prime.cli.publish import push_order
from prime.errors import NotFoundError
from prime.store.files import SystemFiles, Work, finish
from prime.trainer.checkpoint import About, Manifest, folders
from prime.trainer.checkpoint.manifest import Chunk, StoredTensor, shard_name
from prime.trainer.checkpoint.names import FolderName
from prime.trainer.checkpoint.shard import Entry, header, write_shard
from prime.trainer.publish.header import read_layout

SHARD = shard_name(0)
ELEMENTS = 300


def save(folder: Path, step: int) -> Work[Path]:
    """Save a model of one tensor, without torch."""
    files = SystemFiles()
    draft = yield from folders.begin(files, folder, FolderName(step, "draft", "0"))
    head = header([Entry("model.w", "float32", (ELEMENTS,), 4 * ELEMENTS)], {})
    shard = yield from write_shard(files, draft / SHARD, head, [memoryview(bytes(4 * ELEMENTS))])
    manifest = Manifest(
        step=step,
        world=1,
        saved_at_s=1.8e9 + step,
        about=About(job={"name": "tiny"}, loss=3 / step),
        versions={"prime": "1"},
        files=(shard,),
        tensors={"model.w": StoredTensor("float32", (ELEMENTS,), (Chunk((0,), (ELEMENTS,), SHARD, "model.w"),))},
        values={"step": step},
    )
    return (yield from folders.publish(files, draft, manifest))


@pytest.fixture
def checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The checkpoints 100, 200 and 300 of the run `tiny`; the tests are where `runs` is."""
    monkeypatch.chdir(tmp_path)
    folder = Path("runs", "tiny", "checkpoints")
    for step in (100, 200, 300):
        finish(partial(save, folder, step))
    return folder


def damage(checkpoints: Path, step: int) -> None:
    shard = checkpoints / str(FolderName(step)) / SHARD
    data = bytearray(shard.read_bytes())
    data[-7] ^= 1
    shard.write_bytes(data)


def told(capsys: pytest.CaptureFixture[str], *words: object, status: int = 0) -> Any:
    """Run a command with --json and return what it prints."""
    assert run([*map(str, words), "--json"]) == status
    (line,) = capsys.readouterr().out.splitlines()
    found = json.loads(line)
    assert found["schema"] == 1
    return found


@pytest.mark.parametrize("name", ["tiny", "runs/tiny", "runs/tiny/checkpoints"])
def test_a_run_is_known_by_its_name_and_by_its_folders(
    checkpoints: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    found = told(capsys, "model", "list", name)
    assert found["folder"] == str(checkpoints)
    assert [one["step"] for one in found["checkpoints"]] == [100, 200, 300]
    newest = found["checkpoints"][-1]
    assert (newest["is_whole"], newest["loss"], newest["parameters"], newest["world"]) == (True, 0.01, ELEMENTS, 1)
    assert newest["job"] == {"name": "tiny"}


def test_the_list_for_a_person(checkpoints: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (checkpoints / str(FolderName(200)) / SHARD).unlink()
    assert run(["model", "roll-back", "tiny", "--step", "100"]) == 0
    assert run(["model", "roll-back", "tiny", "--undo"]) == 0
    assert run(["model", "roll-back", "tiny", "--step", "100"]) == 0
    capsys.readouterr()
    assert run(["model", "list", "tiny"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["step", "saved", "loss", "ranks", "size", "state"]
    assert lines[1].split()[0] == "100"
    assert lines[1].rstrip().endswith("0.0300      1  1.3 KiB  whole, the newest")
    assert lines[2:] == ["aside: 200, 300 (`prime model roll-back tiny --undo` puts them back)"]
    assert run(["model", "roll-back", "tiny", "--undo"]) == 0
    capsys.readouterr()
    assert run(["model", "list", "tiny"]) == 0
    text = capsys.readouterr().out
    assert f"step 200: {SHARD}: it is missing\na run goes on from the newest whole one" in text


def test_a_run_without_checkpoints_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "checkpoints").mkdir()
    assert run(["model", "list", str(tmp_path)]) == 0
    assert capsys.readouterr().out == "no checkpoint is there yet\n"
    assert run(["model", "verify", str(tmp_path)]) == 6
    assert "no checkpoint is there yet" in capsys.readouterr().err


def test_verify_reads_every_byte(checkpoints: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["model", "verify", "tiny"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == "step 100: as written (1 file, 1.3 KiB)"
    damage(checkpoints, 200)
    found = told(capsys, "model", "verify", "tiny", status=8)
    assert [(one["step"], one["ok"]) for one in found["checkpoints"]] == [(100, True), (200, False), (300, True)]
    assert found["checkpoints"][1]["damage"][0]["file"] == SHARD
    assert run(["model", "verify", "tiny"]) == 8
    shown = capsys.readouterr()
    assert f"step 200: {SHARD}: its SHA-256 is" in shown.out
    assert "not as written: step 200\nhint: " in shown.err
    assert run(["model", "verify", "tiny", "--step", "300"]) == 0
    assert run(["model", "verify", "tiny", "--step", "7"]) == 6


def test_a_roll_back_and_its_undo(checkpoints: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rolled = told(capsys, "model", "roll-back", "tiny", "--step", 100)
    assert (rolled["moved"], rolled["newest"]) == ([200, 300], 100)
    assert told(capsys, "model", "list", "tiny")["aside"] == [200, 300]
    assert run(["model", "roll-back", "tiny", "--undo"]) == 0
    assert capsys.readouterr().out == "put back: 200, 300; the newest is step 300\n"
    assert run(["model", "roll-back", "tiny", "--undo"]) == 6
    damage(checkpoints, 200)
    assert run(["model", "roll-back", "tiny", "--step", "200"]) == 8
    assert "its SHA-256" in capsys.readouterr().err
    assert len(told(capsys, "model", "list", "tiny")["checkpoints"]) == 3, "nothing was moved"


@pytest.mark.parametrize(
    ("words", "status", "text"),
    [
        (["list", "other"], 6, "these runs are in ./runs: tiny"),
        (["list", "runs"], 6, "no checkpoints of 'runs' here"),
        (["list", "a" * 300], 6, "no checkpoints of 'aaa"),
        (["roll-back", "tiny"], 2, "either --step N or --undo"),
        (["roll-back", "tiny", "--step", "1", "--undo"], 2, "either --step N or --undo"),
        (["roll-back", "tiny", "--step", "1"], 6, "these are there: 100, 200, 300"),
        (["export", "tiny", "--to", "model.pt"], 2, "--to model.safetensors"),
        (["export", "tiny", "--step", "5", "--to", "model.safetensors"], 6, "these are there: 100, 200, 300"),
    ],
)
def test_what_cannot_be_done_has_a_status_and_a_next_step(
    checkpoints: Path, capsys: pytest.CaptureFixture[str], words: list[str], status: int, text: str
) -> None:
    assert run(["model", *words]) == status
    shown = capsys.readouterr()
    assert text in shown.err
    assert shown.out == ""


def test_an_export_without_torch_names_the_extra(
    checkpoints: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    assert run(["model", "export", "tiny", "--to", "model.safetensors"]) == 2
    assert "pip install 'prime-actors[train]'" in capsys.readouterr().err


def test_a_checkpoint_is_pushed_as_a_file_of_its_own_with_what_it_is_of(checkpoints: Path) -> None:
    pytest.importorskip("torch")
    order = push_order("tiny", None, 200, "MIT")
    file = checkpoints.parent / "exports" / "step-200.safetensors"
    assert (order.file, order.name) == (str(file.absolute()), "tiny")
    assert (order.run, order.step, order.round, order.loss, order.licence) == ("tiny", 200, -1, 0.015, "MIT")
    assert read_layout(file, "tiny").parameters == ELEMENTS
    assert push_order("tiny", "mine", None, "").name == "mine"
    with pytest.raises(NotFoundError, match="no step 5"):
        push_order("tiny", None, 5, "")


def test_an_export(checkpoints: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file

    found = told(capsys, "model", "export", "tiny", "--to", "model.safetensors")
    assert (found["step"], found["tensors"], found["file"]) == (300, 1, "model.safetensors")
    assert torch.equal(load_file("model.safetensors")["w"], torch.zeros(ELEMENTS))
    assert json.loads(Path(found["about"]).read_text())["layout"] == [
        {"name": "w", "shape": [ELEMENTS], "dtype": "float32"}
    ]
    damage(checkpoints, 200)
    assert run(["model", "export", "tiny", "--step", "200", "--to", "other.safetensors"]) == 8
    assert run(["model", "export", "tiny", "--to", "missing/other.safetensors"]) == 8
    assert "hint: make that folder first" in capsys.readouterr().err
    assert not list(Path().glob("other.*"))


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (5 * 2**30, "5.0 GiB"), (2**52, "4096.0 TiB")],
)
def test_sizes(size_bytes: int, text: str) -> None:
    assert size(size_bytes) == text
