"""Saving and loading by all ranks together, with torch.distributed.checkpoint.

What is planned and agreed is torch's: which rank writes which box of which tensor, and which boxes make up a tensor on
another world size. What lies on the disk is ours (`storage.py`). Ranks meet over a gloo group of their own, so that a
save beside the training disturbs no collective of it, on CUDA too.
"""

from __future__ import annotations

import contextlib
import platform
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import attrs
import torch
import torch.distributed as dist
from torch.distributed import checkpoint as dcp
from torch.distributed.checkpoint import DefaultLoadPlanner, DefaultSavePlanner
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import MetadataIndex
from torch.distributed.tensor import DTensor

from prime.errors import ActorUsageError, ConfigError, CorruptedError, PrimeError, PrimeInternalError, WorldError
from prime.store.files import finish
from prime.trainer.checkpoint import folders
from prime.trainer.checkpoint.faults import damaged, refused
from prime.trainer.checkpoint.folders import Checkpoint
from prime.trainer.checkpoint.manifest import About, Manifest, Shard, StoredTensor
from prime.trainer.checkpoint.names import FolderName
from prime.trainer.checkpoint.state import (
    OPTIMISER,
    PER_PARAMETER,
    RANK,
    is_own,
    less,
    own_state,
    put_back,
    restored,
    shared,
    taken_apart,
    unescaped,
    without_state,
)
from prime.trainer.checkpoint.storage import ShardReader, ShardWriter, dtype_name, dtype_of
from prime.version import __version__

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

    from prime.trainer.checkpoint.checkpoints import Checkpoints

T = TypeVar("T")

MEETING_TIMEOUT: Final = timedelta(hours=2)
"""How long ranks wait for each other's disks; a rank that is gone is noticed by the supervisor, long before."""
_NAMES_SHOWN = 3


@attrs.frozen
class Loaded:
    """What was loaded. `dropped` names what ranks had as their own, and another world size has no place for."""

    checkpoint: Checkpoint
    manifest: Manifest
    dropped: tuple[str, ...]

    @property
    def step(self) -> int:
        """Return the step after which it was saved."""
        return self.manifest.step


class Saving:
    """One save, in flight or over. Read the figures once `is_over`."""

    def __init__(self, step: int, path: Path) -> None:
        self.step = step
        self.path = path
        self.size_bytes = 0
        """What all files take; known to rank 0 alone."""
        self.deleted: Sequence[int] = []
        """Which steps the rules let go of, after this one counted; known to rank 0 alone."""
        self.blocked_s = 0.0
        """How long the caller was held up: for the copy to the host, and for all of it if it waits."""
        self.seconds = 0.0
        """From the call until the checkpoint counted."""
        self._over = threading.Event()
        self._error: PrimeError | None = None

    @property
    def is_over(self) -> bool:
        """Tell whether it counts or has failed."""
        return self._over.is_set()

    def result(self, timeout_s: float | None = None) -> Saving:
        """Wait until it counts, and return this; raises what it failed with, and `TimeoutError` after `timeout_s`."""
        if not self._over.wait(timeout_s):
            raise TimeoutError(f"the checkpoint of step {self.step} is not written after {timeout_s} s")
        if self._error is not None:
            raise self._error
        return self

    def run(self, work: Callable[[Saving], None], began_s: float) -> None:
        """Do the work, and keep what it fails with for `result`."""
        try:
            work(self)
        except PrimeError as error:
            self._error = error
        except BaseException as error:  # noqa: BLE001 - it is told to who waits, in another thread
            self._error = PrimeInternalError(f"saving step {self.step}: {type(error).__name__}: {error}")
            self._error.__cause__ = error
        finally:
            self.seconds = time.monotonic() - began_s
            self._over.set()


class _StagedPlanner(DefaultSavePlanner):
    """Plans by the live tensors' shapes and places, and writes the copies that were made of them."""

    def __init__(self, copies: Mapping[str, torch.Tensor] | None) -> None:
        super().__init__(flatten_state_dict=False, flatten_sharded_tensors=False)
        self._copies = copies

    def lookup_object(self, index: MetadataIndex) -> Any:
        """Return what is to be written: a rank has one box of a tensor."""
        return super().lookup_object(index) if self._copies is None else self._copies[index.fqn]


def begin(checkpoints: Checkpoints, step: int, state: dict[str, Any], about: About, *, in_background: bool) -> Saving:
    """Save by all ranks: at once, or from a copy in a thread. See `Checkpoints.save`."""
    began_s = time.monotonic()
    group = _group(checkpoints)
    rank = dist.get_rank() if group is not None else 0
    tensors, values = taken_apart(state, torch.is_tensor, rank)
    copies = _copied(tensors, checkpoints) if in_background else None
    saving = Saving(step, checkpoints.folder / str(FolderName(step)))

    def work(saving: Saving) -> None:
        writer = _writer(checkpoints, saving, about, values)
        with _told(f"saving step {step}", checkpoints.folder), writer.discarding():
            _save(tensors, writer, _StagedPlanner(copies), group)

    if in_background:
        threading.Thread(target=saving.run, args=(work, began_s), name=f"checkpoint-{step}", daemon=True).start()
    else:
        saving.run(work, began_s)
    saving.blocked_s = time.monotonic() - began_s
    return saving


def load(checkpoints: Checkpoints, step: int, state: dict[str, Any], *, verify: bool) -> Loaded:
    """Load by all ranks. See `Checkpoints.load`."""
    group = _group(checkpoints)
    rank, world = (dist.get_rank(), dist.get_world_size()) if group is not None else (0, 1)
    with _told(f"loading step {step}", checkpoints.folder):
        plan = _together(group, lambda: _planned(checkpoints, step, state, rank, world, verify=verify))
        _load(plan.tensors, ShardReader(plan.checkpoint.path, plan.manifest), group)
    for name in plan.bare:
        del state[OPTIMISER][PER_PARAMETER][name]
    put_back(state, {name: value for name, value in plan.manifest.values.items() if not is_own(name)})
    if world == plan.manifest.world:
        state[RANK] = own_state({**plan.tensors, **_own_values(plan.manifest)}, rank)
    return Loaded(plan.checkpoint, plan.manifest, plan.dropped)


@attrs.frozen
class _LoadPlan:
    """What a rank loads: the tensors of its state that the checkpoint has, by path."""

    checkpoint: Checkpoint
    manifest: Manifest
    tensors: dict[str, Any]
    dropped: tuple[str, ...]
    bare: Sequence[str]
    """Parameters of which the optimiser had no state."""


def _planned(
    checkpoints: Checkpoints, step: int, state: dict[str, Any], rank: int, world: int, *, verify: bool
) -> _LoadPlan:
    """Compare a state with a checkpoint, and check this rank's part of the files, before anything is changed."""
    found = checkpoints.at(step)
    manifest = found.manifest
    if manifest is None:
        raise CorruptedError(
            f"{found.path}: {found.complaint}", hint="`prime model list` shows which are whole: load one of those"
        )
    if verify:
        _verified(checkpoints, found, [file.name for file in manifest.files][rank::world])
    bare = without_state(state, (*manifest.tensors, *manifest.values))
    tensors = taken_apart(less(shared(state), bare), torch.is_tensor, rank)[0]
    _check_fits(manifest, tensors, str(found.path))
    if world != manifest.world:
        dropped = sorted(unescaped(name) for name in manifest.tensors if is_own(name))
        return _LoadPlan(found, manifest, tensors, tuple(dropped), bare)
    own = {
        name: torch.empty(stored.shape, dtype=dtype_of(stored.dtype, name))
        for name, stored in manifest.tensors.items()
        if name.startswith(f"{RANK}.{rank}.")
    }
    return _LoadPlan(found, manifest, {**tensors, **own}, (), bare)


def _own_values(manifest: Manifest) -> dict[str, Any]:
    return {name: restored(value) for name, value in manifest.values.items() if is_own(name)}


def _verified(checkpoints: Checkpoints, found: Checkpoint, names: list[str]) -> None:
    damages = finish(lambda: folders.verify(checkpoints.files, found.path, names))
    if damages:
        raise damaged(found.path, damages)


def _check_fits(manifest: Manifest, tensors: Mapping[str, Any], where: str) -> None:
    stored = {name for name in manifest.tensors if not is_own(name)}
    complaints = [
        (sorted(tensors.keys() - stored), "it lacks"),
        (sorted(stored - tensors.keys()), "this run has no place for"),
        (
            sorted(name for name in stored & tensors.keys() if not _fits(manifest.tensors[name], tensors[name])),
            "of another shape or type are",
        ),
    ]
    for names, what in complaints:
        if names:
            raise ConfigError(
                f"{where} is of another model or optimiser: {what} {_shown(names)}",
                hint="resume with the job that saved it, or start a new run from its exported model",
            )


def _fits(stored: StoredTensor, tensor: Any) -> bool:
    return (stored.shape, stored.dtype) == (tuple(tensor.shape), dtype_name(tensor.dtype))


def _shown(names: list[str]) -> str:
    more = len(names) - _NAMES_SHOWN
    return ", ".join(names[:_NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _writer(checkpoints: Checkpoints, saving: Saving, about: About, values: dict[str, Any]) -> ShardWriter:
    """Return what writes the files; `begun` and `publish` are called on the coordinator alone."""
    draft = FolderName(saving.step, "draft", secrets.token_hex(4))
    said: list[tuple[int, dict[str, Any]]] = []

    def begun(of_ranks: list[tuple[int, dict[str, Any]]]) -> Path:
        if any(step != saving.step for step, _ in of_ranks):
            raise ActorUsageError(
                f"ranks save different steps: {[step for step, _ in of_ranks]}", hint="every rank calls `save` alike"
            )
        said.extend(of_ranks)
        checkpoints.hold()
        return finish(lambda: folders.begin(checkpoints.files, checkpoints.folder, draft))

    def publish(files: tuple[Shard, ...], tensors: Mapping[str, StoredTensor]) -> None:
        manifest = Manifest(
            step=saving.step,
            world=len(said),
            saved_at_s=float(checkpoints.clock()),
            about=about,
            versions=_versions(),
            files=files,
            tensors=tensors,
            values=_merged(said),
        )
        finish(lambda: folders.publish(checkpoints.files, checkpoints.folder / str(draft), manifest))
        saving.size_bytes = manifest.size_bytes
        saving.deleted = _cleared(checkpoints)

    return ShardWriter(checkpoints.files, (saving.step, values), begun, publish)


def _cleared(checkpoints: Checkpoints) -> Sequence[int]:
    """Apply the rules; a disk that refuses that is tried again after the next save, for this one counts."""
    try:
        return checkpoints.apply_retention()
    except WorldError:
        return []


def _merged(said: list[tuple[int, dict[str, Any]]]) -> dict[str, Any]:
    """Return the values that all ranks have in common, as rank 0 has them, and each rank's own."""
    merged = dict(said[0][1])
    for _, values in said[1:]:
        merged.update({name: value for name, value in values.items() if is_own(name)})
    return merged


def _versions() -> dict[str, str]:
    return {"prime": __version__, "torch": str(torch.__version__), "python": platform.python_version()}


def _copied(tensors: Mapping[str, Any], checkpoints: Checkpoints) -> dict[str, torch.Tensor]:
    """Return copies on the host of what this rank has of each tensor, in the memory of those before where it fits."""
    old = checkpoints.copies
    new = {name: _copy(_local(tensor), old.get(name)) for name, tensor in tensors.items()}
    checkpoints.copies = new
    return new


def _local(tensor: torch.Tensor) -> torch.Tensor:
    return (tensor.to_local() if isinstance(tensor, DTensor) else tensor).detach()


def _copy(tensor: torch.Tensor, room: torch.Tensor | None) -> torch.Tensor:
    if room is None or (room.shape, room.dtype) != (tensor.shape, tensor.dtype):
        room = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
    return room.copy_(tensor)


def _group(checkpoints: Checkpoints) -> ProcessGroup | None:
    if not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1:
        return None
    return checkpoints.group(lambda: dist.new_group(backend="gloo", timeout=MEETING_TIMEOUT))


def _save(
    tensors: dict[str, Any], writer: ShardWriter, planner: DefaultSavePlanner, group: ProcessGroup | None
) -> None:
    if group is not None:
        dcp.save(tensors, storage_writer=writer, planner=planner, process_group=group)
        return
    writer.set_up_storage_writer(True)
    planner.set_up_planner(tensors, writer.storage_meta(), is_coordinator=True)
    plans, metadata = planner.create_global_plan([writer.prepare_local_plan(planner.create_local_plan())])
    plan = planner.finish_plan(writer.prepare_global_plan(plans)[0])
    writer.finish(metadata, [writer.write_data(plan, planner).wait()])


def _load(tensors: dict[str, Any], reader: ShardReader, group: ProcessGroup | None) -> None:
    planner = DefaultLoadPlanner(flatten_state_dict=False, flatten_sharded_tensors=False)
    if group is not None:
        dcp.load(tensors, storage_reader=reader, planner=planner, process_group=group)
        return
    metadata = reader.read_metadata()
    planner.set_up_planner(tensors, metadata, is_coordinator=True)
    reader.set_up_storage_reader(metadata, True)
    reader.read_data(planner.finish_plan(planner.create_local_plan()), planner).wait()


def _together(group: ProcessGroup | None, work: Callable[[], T]) -> T:
    """Do work on every rank, and raise on all of them what it failed with on one, so that none waits for the others."""
    failure: Exception | None = None
    result: list[T] = []
    try:
        result.append(work())
    except Exception as error:  # noqa: BLE001 - it is raised on every rank
        failure = error
    failures: list[Any] = [failure]
    if group is not None:
        failures = [None] * dist.get_world_size(group)
        dist.all_gather_object(failures, failure, group=group)
    for one in failures:
        if one is not None:
            raise one
    return result[0]


@contextlib.contextmanager
def _told(what: str, folder: Path) -> Iterator[None]:
    """Turn what torch and the system raise into an error that names the rank, the cause and the next step."""
    try:
        yield
    except CheckpointException as error:
        rank, (cause, _) = min(error.failures.items(), key=lambda failure: failure[0])
        raise _named(f"{what}, rank {rank}", cause, folder) from cause
    except OSError as error:
        raise _named(what, error, folder) from error


def _named(what: str, cause: BaseException, folder: Path) -> PrimeError:
    if isinstance(cause, OSError):
        cause = refused(folder, cause)
    if isinstance(cause, PrimeError):
        return type(cause)(f"{what}: {cause}", hint=cause.hint)
    return PrimeInternalError(f"{what}: {type(cause).__name__}: {cause}")
