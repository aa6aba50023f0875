"""A run's checkpoints in one process: what is saved is loaded, kept, exported, moved aside, and survives `kill -9`."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from safetensors.torch import load_file, save_file  # noqa: E402 - what follows needs torch
from torch import nn  # noqa: E402

from prime.errors import ActorUsageError, ConfigError, ConflictError, CorruptedError, NotFoundError, WorldError  # noqa: E402
from prime.store.files import SystemFiles  # noqa: E402
from prime.trainer.checkpoint import About, Checkpoints, Retention  # noqa: E402
from prime.trainer.checkpoint.exchange import start_from  # noqa: E402

SAVER = Path(__file__).with_name("saver.py")


@pytest.fixture
def checkpoints(tmp_path: Path) -> Iterator[Checkpoints]:
    one = Checkpoints(tmp_path / "checkpoints")
    yield one
    one.close()


class Net(nn.Module):
    """Every kind of tensor that a model brings: tied, of half precision, a buffer, a scalar."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.symbols = nn.Embedding(5, 4)
        self.out = nn.Linear(4, 5, bias=False)
        self.thin = nn.Parameter(torch.zeros(3, dtype=torch.bfloat16))
        self.scale = nn.Parameter(torch.zeros(()))
        self.register_buffer("seen", torch.zeros(2, dtype=torch.int64))
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
        self.out.weight = self.symbols.weight


def equal(left: nn.Module, right: nn.Module) -> bool:
    ours, others = left.state_dict(), right.state_dict()
    return ours.keys() == others.keys() and all(torch.equal(ours[name], others[name]) for name in ours)


def saved(checkpoints: Checkpoints, step: int, seed: int = 0) -> Net:
    net = Net(seed)
    checkpoints.save(step, {"model": net.state_dict(), "step": step}, About(job={"name": "a"}, loss=step / 10))
    return net


def test_what_is_saved_is_loaded(checkpoints: Checkpoints) -> None:
    tensors = {
        "strided": torch.arange(12.0).reshape(3, 4).t(),
        "empty": torch.zeros(0, 3),
        "scalar": torch.tensor(2.5, dtype=torch.float64),
        "flags": torch.tensor([True, False]),
        "bytes": torch.arange(7, dtype=torch.uint8),
        "half": torch.arange(5.0).to(torch.bfloat16),
        "tiny": torch.arange(4.0).to(torch.float8_e4m3fn),
    }
    state = {"tensors": tensors, "rate": 0.1, "names": ["a", {"b": None}], "betas": (0.9, float("inf"))}
    checkpoints.save(7, state, About())
    other: dict[str, Any] = {
        "tensors": {name: torch.zeros_like(tensor) for name, tensor in tensors.items()},
        "rate": 0.0,
        "names": ["", {"b": 1}],
        "betas": (0.0, 0.0),
    }
    loaded = checkpoints.load(7, other)
    assert (loaded.step, loaded.dropped) == (7, ())
    assert all(torch.equal(other["tensors"][name].double(), tensors[name].double()) for name in tensors)
    assert {key: other[key] for key in ("rate", "names", "betas")} == {
        key: state[key] for key in ("rate", "names", "betas")
    }


def test_a_tensor_that_no_file_can_hold_is_named(checkpoints: Checkpoints) -> None:
    with pytest.raises(ActorUsageError, match=r"state z: complex64 cannot be saved"):
        checkpoints.save(1, {"z": torch.zeros(1, dtype=torch.complex64)}, About())
    assert checkpoints.list() == []


@pytest.mark.parametrize(
    ("state", "what"),
    [
        ({"w": torch.zeros(2), "v": torch.zeros(1)}, "it lacks v"),
        ({}, "this run has no place for w"),
        ({"w": torch.zeros(3)}, "of another shape or type are w"),
        ({"w": torch.zeros(2, dtype=torch.float64)}, "of another shape or type are w"),
    ],
)
def test_another_models_state_is_refused_and_left_alone(
    checkpoints: Checkpoints, state: dict[str, Any], what: str
) -> None:
    checkpoints.save(1, {"w": torch.ones(2)}, About())
    with pytest.raises(ConfigError, match=what):
        checkpoints.load(1, state)
    assert all(not tensor.any() for tensor in state.values())


def test_the_rules_let_old_ones_go_after_a_new_one_counts(tmp_path: Path) -> None:
    hours = iter(range(100))
    rules = Retention(keep_last=2, keep_hours=1.5, milestone_steps=4)
    checkpoints = Checkpoints(tmp_path, rules, clock=lambda: 3600.0 * next(hours) / 2)
    deleted = [checkpoints.save(step, {"w": torch.zeros(1)}, About()).deleted for step in range(1, 8)]
    # Half an hour goes by at a save and another half at the look at what is old: each stays for 1.5 h of those.
    assert [one.step for one in checkpoints.list()] == [4, 6, 7]
    assert sorted(step for steps in deleted for step in steps) == [1, 2, 3, 5]
    checkpoints.close()


def test_a_rule_that_the_disk_does_not_carry_out_stops_no_run(tmp_path: Path) -> None:
    class Clinging(SystemFiles):
        def remove(self, path: Path) -> None:
            raise PermissionError(1, "Operation not permitted", str(path))

    checkpoints = Checkpoints(tmp_path, Retention(keep_last=1), files=Clinging())
    for step in (1, 2, 3):
        assert checkpoints.save(step, {"w": torch.zeros(1)}, About()).deleted == []
    newest = checkpoints.newest_whole(verify=True)
    assert newest is not None
    assert newest.step == 3
    checkpoints.close()


def test_damage_is_found_and_an_older_one_taken(checkpoints: Checkpoints) -> None:
    for step in (1, 2, 3):
        saved(checkpoints, step)
    shard = checkpoints.at(3).path / "rank-00000.safetensors"
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 8
    shard.write_bytes(data)
    (checkpoints.at(2).path / "about.json").write_text("{}")
    newest, sound = checkpoints.newest_whole(), checkpoints.newest_whole(verify=True)
    assert (newest and newest.step, sound and sound.step) == (3, 1)
    assert [damage.file for damage in checkpoints.verify(3)] == ["rank-00000.safetensors"]
    assert [damage.file for damage in checkpoints.verify(2)] == ["about.json"]
    assert [one.is_whole for one in checkpoints.list()] == [True, False, True]
    with pytest.raises(CorruptedError, match=r"rank-00000\.safetensors: its SHA-256"):
        checkpoints.load(3, {"model": Net(1).state_dict(), "step": 0})
    with pytest.raises(CorruptedError, match=r"step-00000002.*about\.json"):
        checkpoints.load(2, {})
    with pytest.raises(NotFoundError, match="no step 9") as missing:
        checkpoints.load(9, {})
    assert missing.value.hint == "these are there: 1, 2, 3"


class BadSector(SystemFiles):
    """A disk that cannot read one file."""

    bad = ""

    def read(self, path: Path) -> bytes:
        return super().read(self._checked(path))

    def read_part(self, path: Path, start: int, size_bytes: int) -> bytes:
        return super().read_part(self._checked(path), start, size_bytes)

    def _checked(self, path: Path) -> Path:
        if self.bad and str(path).endswith(self.bad):
            raise OSError(errno.EIO, "Input/output error")
        return path


@pytest.mark.parametrize("bad", ["step-00000002/about.json", "step-00000002/rank-00000.safetensors"])
def test_one_file_that_the_disk_cannot_read_costs_its_checkpoint_alone(tmp_path: Path, bad: str) -> None:
    checkpoints = Checkpoints(tmp_path, files=(disk := BadSector()))
    for step in (1, 2):
        saved(checkpoints, step)
    (tmp_path / "step-00000003").write_text("no folder")
    disk.bad = bad
    newest = checkpoints.newest_whole(verify=True)
    assert newest is not None and newest.step == 1
    assert [damage.complaint for damage in checkpoints.verify(2)] == ["it cannot be read (Input/output error)"]
    with pytest.raises(CorruptedError, match="cannot be read"):
        checkpoints.load(2, {"model": Net(1).state_dict(), "step": 0})
    checkpoints.close()


def test_a_roll_back_moves_aside_and_is_undone(checkpoints: Checkpoints) -> None:
    for step in (1, 2, 3):
        saved(checkpoints, step)
    assert checkpoints.roll_back(1) == [2, 3]
    assert [one.step for one in checkpoints.list()] == [1]
    assert checkpoints.undo_roll_back() == [2, 3]
    assert [one.step for one in checkpoints.list()] == [1, 2, 3]


def test_an_exported_model_loads_into_the_users_module(checkpoints: Checkpoints, tmp_path: Path) -> None:
    net = saved(checkpoints, 3)
    saved(checkpoints, 4, seed=1)
    path = tmp_path / "net.safetensors"
    checkpoints.export(3, path)
    other = Net(2)
    other.load_state_dict(load_file(path))
    assert equal(net, other)
    about = json.loads((tmp_path / "net.json").read_text())
    assert (about["step"], about["loss"], about["job"]) == (3, 0.3, {"name": "a"})
    assert {"name": "thin", "shape": [3], "dtype": "bfloat16"} in about["layout"]
    checkpoints.export(None, path)
    start_from(path, other)
    assert equal(Net(1), other), "the newest took the older one's place"
    assert sorted(one.name for one in tmp_path.glob("net.*")) == ["net.json", "net.safetensors"]


def test_reading_a_checkpoint_unpickles_nothing(
    checkpoints: Checkpoints, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved(checkpoints, 1)

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a pickle was read")

    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(sys.modules["pickle"], name, refuse)
    monkeypatch.setattr(torch, "load", refuse)
    state = {"model": Net(2).state_dict(), "step": 0}
    checkpoints.load(1, state)
    checkpoints.export(1, tmp_path / "a.safetensors")
    start_from(tmp_path / "a.safetensors", Net(3))
    assert state["step"] == 1


def test_what_cannot_be_exported_is_said(checkpoints: Checkpoints, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no checkpoint is whole"):
        checkpoints.export(None, tmp_path / "a.safetensors")
    checkpoints.save(1, {"weights": torch.zeros(1)}, About())
    with pytest.raises(NotFoundError, match="has no model in it"):
        checkpoints.export(1, tmp_path / "a.safetensors")
    saved(checkpoints, 2)
    with pytest.raises(WorldError, match="No such file or directory"):
        checkpoints.export(2, tmp_path / "missing" / "a.safetensors")
    (tmp_path / "b.json").mkdir()
    with pytest.raises(WorldError, match="Is a directory"):
        checkpoints.export(2, tmp_path / "b.safetensors")
    (checkpoints.at(2).path / "rank-00000.safetensors").write_bytes(b"")
    with pytest.raises(CorruptedError, match=r"rank-00000\.safetensors"):
        checkpoints.export(2, tmp_path / "a.safetensors")
    assert [path.name for path in tmp_path.glob("[ab].*")] == ["b.json"]


def test_a_start_from_another_models_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    with pytest.raises(NotFoundError, match="there is no file"):
        start_from(path, Net(0))
    path.write_bytes(b"pickle")
    with pytest.raises(CorruptedError, match=r"a\.safetensors"):
        start_from(path, Net(0))
    tensors = {name: tensor.clone() for name, tensor in Net(0).state_dict().items() if name != "out.weight"}
    save_file(tensors, path)
    start_from(path, net := Net(1))
    assert equal(net, Net(0)), "of tied tensors one is enough"
    save_file({**tensors, "more": torch.zeros(1)}, path)
    with pytest.raises(ConfigError, match="the model has no more"):
        start_from(path, Net(0))
    save_file({**tensors, "thin": torch.zeros(4)}, path)
    with pytest.raises(ConfigError, match=r"thin has the shape \(4,\), the model's \(3,\)"):
        start_from(path, Net(0))
    del tensors["thin"]
    save_file(tensors, path)
    with pytest.raises(ConfigError, match="it lacks thin"):
        start_from(path, Net(0))


class Saver:
    """A process that has torch and forks one after the other that saves, to be killed."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, SAVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )

    def said(self) -> list[str]:
        assert self.process.stdout is not None
        return self.process.stdout.readline().split()

    def begin(self, folder: Path) -> int:
        """Let a process save in a folder, and return its id."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{folder}\n")
        word, pid = self.said()
        assert word == "begun"
        return int(pid)

    def kill_after(self, folder: Path, seconds: float) -> int:
        """Kill a saving process, and return the last step whose save had returned."""
        pid = self.begin(folder)
        last = int(self.said()[1])
        time.sleep(seconds)
        os.kill(pid, signal.SIGKILL)
        while (said := self.said())[0] != "gone":
            last = int(said[1])
        return last

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture(scope="module")
def saver() -> Iterator[Saver]:
    one = Saver()
    yield one
    one.close()


def test_the_folder_of_a_run_that_writes_is_not_rolled_back(saver: Saver, tmp_path: Path) -> None:
    pid = saver.begin(tmp_path)
    saver.said()
    with pytest.raises(ConflictError, match="a run writes its checkpoints here"):
        Checkpoints(tmp_path).roll_back(0)
    os.kill(pid, signal.SIGKILL)
    while saver.said()[0] != "gone":
        pass
    assert Checkpoints(tmp_path).roll_back(0) is not None, "the lock goes with the process"


@pytest.mark.parametrize(
    "kills",
    [pytest.param(12, id="some"), pytest.param(400, id="many", marks=[pytest.mark.nightly, pytest.mark.timeout(900)])],
)
def test_kill_9_of_a_saving_process_leaves_the_last_good_one(saver: Saver, tmp_path: Path, kills: int) -> None:
    random = Random(kills)
    left = set()
    for _ in range(kills):
        last = saver.kill_after(tmp_path, random.uniform(0.0, 0.02))
        left |= {name.partition(".")[2].partition("-")[0] for name in SystemFiles().names(tmp_path)}
        newest = Checkpoints(tmp_path).newest_whole(verify=True)
        assert newest is not None
        assert newest.step >= last
        state = {"model": {"w": torch.zeros(200_000)}, "step": 0}
        Checkpoints(tmp_path).load(newest.step, state)
        assert torch.equal(state["model"]["w"], torch.full((200_000,), float(newest.step)))
    assert "draft" in left, "some were killed while they wrote"
