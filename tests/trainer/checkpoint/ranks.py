"""What each rank of `test_worlds.py` does: `ranks.py FOLDER RANK` plays the scenes one after the other.

Three processes stay for all scenes; each scene has its own group, of as many of them as it is about. A scene returns
what the test holds it to, and rank 0's answers of all scenes are written to FOLDER/answers.json.
"""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from prime.errors import PrimeError
from prime.store.files import SystemFiles
from prime.trainer.checkpoint import About, Checkpoints
from prime.trainer.checkpoint.exchange import start_from

PROCESSES = 3
ROWS = 7  # no world size divides it, and on three ranks the narrow layer leaves one without a row


class Run:
    """A small model on all ranks of the group, and its optimiser."""

    def __init__(self, seed: int, *, shard: bool = True) -> None:
        torch.manual_seed(seed)
        self.module = nn.Sequential(nn.Linear(ROWS, ROWS), nn.Tanh(), nn.Linear(ROWS, 2))
        if shard and dist.is_initialized():
            fully_shard(self.module, mesh=init_device_mesh("cpu", (dist.get_world_size(),)))
        self.optimiser = torch.optim.AdamW(self.module.parameters(), lr=0.1)
        self.steps = 0
        self.residual = torch.full((4,), float(rank_now()))

    def train(self, steps: int) -> Run:
        """Make steps on the same samples on any number of ranks."""
        for _ in range(steps):
            self.steps += 1
            torch.manual_seed(self.steps)
            self.module(torch.randn(6, ROWS)).square().mean().backward()
            self.optimiser.step()
            self.optimiser.zero_grad()
        return self

    def state(self) -> dict[str, Any]:
        return {
            "model": self.module.state_dict(),
            "optimiser": get_optimizer_state_dict(self.module, self.optimiser),
            "step": self.steps,
            "rank": {"residuals": {"0.weight/left": self.residual}, "number": rank_now()},
        }

    def load(self, checkpoints: Checkpoints, step: int) -> list[str]:
        """Load in place and return what was dropped."""
        state = self.state()
        dropped = checkpoints.load(step, state).dropped
        self.module.load_state_dict(state["model"])
        set_optimizer_state_dict(self.module, self.optimiser, state["optimiser"])
        self.steps = state["step"]
        self.residual = state["rank"]["residuals"]["0.weight/left"]
        assert state["rank"]["number"] == rank_now()
        return list(dropped)

    def numbers(self) -> list[Any]:
        """Return everything that training goes on from, whole."""
        state = self.state()
        return [_whole(state["model"]), _whole(state["optimiser"]["state"]), self.steps]


def _whole(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _whole(inside) for name, inside in value.items()}
    return (value.full_tensor() if isinstance(value, DTensor) else value).tolist()


def rank_now() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


class FullDisk(SystemFiles):
    """A disk that is full from the second write on."""

    def __init__(self) -> None:
        self.writes = 0

    def write(self, handle: int, data: bytes | memoryview, at: int) -> int:
        self.writes += 1
        if self.writes > 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().write(handle, data, at)


class OtherHost(SystemFiles):
    """The disk of another machine: what has a path there is not seen here."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        if not callable(found):
            return found
        return lambda *given: found(
            *(self.root / one.relative_to("/") if isinstance(one, Path) else one for one in given)
        )


def resharded(folder: Path, stage: Callable[[int], Any]) -> Iterator[Any]:
    """Save on one world and load on another; training goes on from the same numbers."""
    for worlds in ([2, 1], [1, 2], [2, 3], [3, 2]):
        name = f"{worlds[0]}-{worlds[1]}"
        with stage(worlds[0]) as here:
            if here:
                run, checkpoints = Run(1).train(3), Checkpoints(folder / name)
                checkpoints.save(3, run.state(), About(loss=0.5))
                saved, later = run.numbers(), run.train(2).numbers()
        with stage(worlds[1]) as here:
            if here:
                other = Run(2).train(1)
                dropped = other.load(Checkpoints(folder / name), 3)
                loaded = other.numbers()
                yield [name, [loaded, other.train(2).numbers(), dropped, other.residual.tolist()]]
        yield [f"{name} before", [saved, later] if rank_of_process() == 0 else None]


def same_world(folder: Path, stage: Callable[[int], Any]) -> Iterator[Any]:
    """A resume on the same world is bit-equal, what is each rank's own too; a replicated model is written once."""
    with stage(2) as here:
        if here:
            run, checkpoints = Run(1).train(3), Checkpoints(folder / "same")
            run.residual += 10
            checkpoints.save(3, run.state(), About())
            later = run.train(2).numbers()
            other = Run(2).train(1)
            other.residual = torch.zeros(0)  # a fresh codec has kept nothing yet
            dropped = other.load(checkpoints, 3)
            own = [None, None]
            dist.all_gather_object(own, other.residual.tolist())
            yield ["same", [later, other.train(2).numbers(), dropped, own]]
            copies = Run(1, shard=False).train(1)
            checkpoints.save(4, copies.state(), About())
            again = Run(2, shard=False).train(1)
            again.load(checkpoints, 4)
            yield ["copies", [copies.numbers(), again.numbers()]]


def exported(folder: Path, stage: Callable[[int], Any]) -> Iterator[Any]:
    """A model that two ranks shard is one file, and that file is the start of another sharded run."""
    with stage(2) as here:
        if here:
            run, checkpoints = Run(1).train(3), Checkpoints(folder / "exported")
            checkpoints.save(3, run.state(), About())
            path = folder / "model.safetensors"
            if rank_now() == 0:
                checkpoints.export(3, path)
            dist.barrier()
            other = Run(2)
            start_from(path, other.module)
            yield ["exported", [run.numbers()[0], other.numbers()[0]]]


def background(folder: Path, stage: Callable[[int], Any]) -> Iterator[Any]:
    """Training goes on while a save is in flight, and what is saved is the state of the call."""
    with stage(2) as here:
        if here:
            run, checkpoints = Run(1).train(3), Checkpoints(folder / "background")
            before = run.numbers()
            for step in (3, 4):  # the second waits for the first
                saving = checkpoints.save(step, run.state(), About(), wait=False)
                run.train(20)
                run.steps = 3
            checkpoints.settle()
            other = Run(2).train(1)
            other.load(checkpoints, 3)
            yield ["background", [before, other.numbers(), saving.is_over, len(checkpoints.list())]]


def refused(folder: Path, stage: Callable[[int], Any]) -> Iterator[Any]:
    """What one rank cannot do, all ranks hear of, and the checkpoint before stays."""
    with stage(2) as here:
        if not here:
            return
        run, sound = Run(1).train(1), Checkpoints(folder / "refused")
        sound.save(1, run.state(), About())
        sound.close()
        for full in (0, 1):
            broken = Checkpoints(sound.folder, files=FullDisk() if rank_now() == full else None)
            for wait in (True, False):
                yield [f"full {full} {wait}", said_by_all(lambda: broken.save(2, run.state(), About(), wait=wait))]  # noqa: B023
                broken.close() if wait else None
                yield [f"full {full} {wait} later", said_by_all(broken.close)]
        (folder / "host").mkdir(exist_ok=True)
        strange = Checkpoints(sound.folder, files=OtherHost(folder / "host") if rank_now() == 1 else None)
        yield ["hosts", said_by_all(lambda: strange.save(2, run.state(), About()))]
        strange.close()
        yield ["hosts left", [path.name for path in (folder / "host").rglob("step-*")]]
        yield ["left", sorted(path.name for path in sound.folder.iterdir())]
        dist.barrier()
        if rank_now() == 1:
            shard = sound.at(1).path / "rank-00001.safetensors"
            data = bytearray(shard.read_bytes())
            data[-1] ^= 1
            shard.write_bytes(data)
        dist.barrier()
        yield ["damaged", said_by_all(lambda: sound.load(1, run.state()))]
        other = Run(1)
        other.module[0] = nn.Linear(3, 3)
        yield ["other", said_by_all(lambda: sound.load(1, {"model": other.module.state_dict()}, verify=False))]
        yield ["steps", said_by_all(lambda: sound.save(rank_now(), run.state(), About()))]


def said_by_all(call: Callable[[], Any]) -> list[str]:
    """Return what each rank heard of a call: the error and its hint, or nothing."""
    try:
        call()
        mine = ""
    except PrimeError as error:
        mine = f"{type(error).__name__}: {error} | {error.hint}"
    heard = [""] * dist.get_world_size()
    dist.all_gather_object(heard, mine)
    return heard


def rank_of_process() -> int:
    return int(sys.argv[2])


def main(folder: Path, rank: int) -> None:
    torch.set_num_threads(1)
    everyone = dist.FileStore(str(folder / "meeting"), PROCESSES)
    everyone.set_timeout(timedelta(seconds=60))
    groups = iter(range(1000))

    @contextmanager
    def stage(world: int) -> Iterator[bool]:
        number = next(groups)
        if rank < world and world > 1:
            store = dist.PrefixStore(str(number), dist.FileStore(str(folder / f"group-{number}"), world))
            dist.init_process_group("gloo", store=store, rank=rank, world_size=world, timeout=timedelta(seconds=60))
        try:
            yield rank < world
        finally:
            if dist.is_initialized():
                dist.destroy_process_group()
            everyone.set(f"{number} {rank}", "over")
            everyone.wait([f"{number} {one}" for one in range(PROCESSES)])

    answers = dict(
        answer for scene in (resharded, same_world, exported, background, refused) for answer in scene(folder, stage)
    )
    if rank == 0:
        (folder / "answers.json").write_text(json.dumps(answers))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
