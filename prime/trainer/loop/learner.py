"""A job in one rank: the model, its data and its optimiser; steps, evaluation, and the state that a checkpoint holds.

Everything here runs in the rank's torch thread, and all ranks of a group make the same calls in the same order. The same
(job, world, state) gives the same bits: the samples of a step are a function of (seed, step), what a rank takes of them
is one of (rank, world), and what a model draws is one of (seed, step, rank).
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import torch
import torch.distributed as dist
from attrs import frozen
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)

from prime.errors import ActorUsageError, ConfigError, CorruptedError, DataError, NotFoundError
from prime.trainer.checkpoint.exchange import start_from
from prime.trainer.checkpoint.shard import DTYPES
from prime.trainer.checkpoint.state import taken_apart
from prime.trainer.checkpoint.storage import dtype_name
from prime.trainer.codec.cpu import cpu_choice
from prime.trainer.codec.tensors import cuda_choice, warm
from prime.trainer.data.contract import Dataset
from prime.trainer.data.fingerprint import require_same
from prime.trainer.data.names import open_dataset
from prime.trainer.data.order import share, step_indices
from prime.trainer.data.tensors import on_device
from prime.trainer.job import Job
from prime.trainer.loop.building import model_of
from prime.trainer.loop.inner import InnerStep, Microbatch, sow
from prime.trainer.loop.optimisers import TorchUpdates, arguments_of, optimiser_of
from prime.trainer.loop.place import Place, StepReport
from prime.trainer.loop.scale import LossScale
from prime.trainer.loop.schedule import rate
from prime.trainer.loop.sharding import ToMeasure, reduced_in, sharded, strategy_of
from prime.trainer.task import Model

LOSS: Final = "loss"


@frozen
class Prepared:
    """What a rank needs of its job before it knows its place: the model with its first parameters, and the data."""

    model: Model
    data: Dataset


def prepare(job: Job, world: int = 1) -> Prepared:
    """Build the model, open the data, and compile what a group of `world` reduces with: a step would be late for it.

    Raises `ConfigError` or `DataError` where model or data cannot be had.
    """
    torch.set_num_threads(job.parallel.threads)
    sow(job.seed)  # the first parameters are a function of the seed
    ready = Prepared(model_of(job.model, job, "model"), open_dataset(job))
    if _is_cpu(job.parallel.device):
        warm(reduced_in(ready.model.module, job, world))
    return ready


class Learner:
    """Trains a job as one rank of its group. `prepared` saves the time of `prepare`; a learner uses it up.

    Raises `ConfigError` or `DataError` where the model or the data cannot be had, or do not fit the group.
    """

    def __init__(self, job: Job, place: Place, prepared: Prepared | None = None) -> None:
        torch.set_num_threads(job.parallel.threads)
        self.device = device_of(job, place)
        self._refuse(job, place)
        self.job, self.place = job, place
        ready = prepare(job) if prepared is None else prepared
        self.model, self._data = ready.model, ready.data
        _refuse_module(self.model.module)
        if not self.model.module.training:  # as libraries give out trained ones
            self.model.module.train()
        self.strategy = strategy_of(job.parallel, place.world)
        """How the model lies on the ranks: single, ddp or fsdp."""
        self._sharded = sharded(self.model, job, self.strategy, self.device)
        self._named = _trainable(self.model.module)
        self._optimiser = optimiser_of(job.optimiser, [parameter for _, parameter in self._named])
        self._scale = LossScale() if job.parallel.precision == "float16" else None
        self._inner = InnerStep(
            self._sharded.loss,
            self._named,
            TorchUpdates(self._optimiser),
            rate=lambda step: rate(job.schedule, job.optimiser.learning_rate, step, job.steps),
            clip_norm=job.gradients.clip_norm,
            seed=job.seed,
            rank=place.rank,
            sharing=self._sharded,
            scale=self._scale,
        )
        _require_same_data(self.fingerprint, place, self.device)
        self._held_out: dict[int, Sequence[Any]] = {}
        self.measures: Mapping[str, float] = {}
        """What the model measured beside its loss, such as its accuracy, in the last evaluation."""
        self.step = 0
        """Steps made since the start of the run; other threads may read it."""

    @property
    def baseline(self) -> float | None:
        """The loss of a guess without a model, where the data knows one."""
        return self._data.baseline

    @property
    def tokens_per_sample(self) -> int:
        """How many predictions one sample holds, where it is a sequence; else 0."""
        return self._data.tokens_per_sample

    @property
    def fingerprint(self) -> str:
        """What is equal for equal data; empty where nobody knows."""
        return self._data.fingerprint

    @property
    def codec_engine(self) -> str:
        """What runs the codec: numba, numpy, triton or torch; empty where nothing is compressed."""
        if self._sharded.reduce is not None:
            return cpu_choice().engine if self.device.type == "cpu" else cuda_choice().engine
        return "torch" if self.strategy == "ddp" and self.job.compression.codec == "powersgd" else ""

    @property
    def parameters(self) -> int:
        """How many trainable elements the whole model has."""
        return sum(parameter.numel() for _, parameter in self._named)

    def train_step(self) -> StepReport:
        """Make the next step. Raises `NonFiniteError` where the gradient is not finite, on every rank alike."""
        started, sent, exact = time.perf_counter(), self._sharded.bytes_sent, self._sharded.bytes_exact
        made = self._inner.make(self.step, self._microbatches(), self.job.gradients.accumulate)
        self.step += 1
        return StepReport(
            step=self.step,
            loss=made.loss,
            samples=self.job.batch_size,
            grad_norm=made.grad_norm,
            learning_rate=made.learning_rate,
            step_s=time.perf_counter() - started,
            data_s=made.data_s,
            compute_s=made.compute_s,
            reduce_s=made.reduce_s,
            optimiser_s=made.optimiser_s,
            bytes_sent=self._sharded.bytes_sent - sent,
            bytes_exact=self._sharded.bytes_exact - exact,
            skipped=made.skipped,
        )

    def _microbatches(self) -> Iterator[Microbatch]:
        job, place, count = self.job, self.place, self.job.gradients.accumulate
        indices = step_indices(job.seed, self.step, job.batch_size, len(self._data))
        for number in range(count):
            mine = share(indices, place.rank, place.world, number, count)
            yield on_device(self._data.batch(mine), self.device), mine.size / indices.size

    def evaluate(self, batches: int) -> float:
        """Return the mean loss over that many held-out batches, which the ranks share among them.

        `measures` then holds the means of what the model measures beside its loss.
        """
        found = self._held_out_batches(batches)
        self._sharded.make_buffers_equal()
        with _as_in_use(self.model.module), torch.no_grad():
            sums = self._share_of_sums(found)
        means = {name: self._sharded.total(sums[name]) / len(found) for name in sorted(sums)}
        loss = means.pop(LOSS)
        self.measures = means
        return loss

    def _share_of_sums(self, batches: Sequence[Any]) -> dict[str, float]:
        """Return the sums over this rank's batches; one without a batch left goes along, for gathers are calls of all."""
        rank, world = self.place.rank, self.place.world
        sums: dict[str, float] = {}
        for first in range(0, len(batches), world):
            mine = first + rank
            for name, value in self._seen(on_device(batches[min(mine, len(batches) - 1)], self.device)).items():
                sums[name] = sums.get(name, 0.0) + (float(value) if mine < len(batches) else 0.0)
        return sums

    def _seen(self, batch: Any) -> dict[str, Any]:
        found: dict[str, Any] = {LOSS: self._sharded.quiet_loss(batch)}
        if hasattr(self.model, "measures"):
            found |= self._sharded.quiet_loss(ToMeasure(batch))
        return found

    def _held_out_batches(self, count: int) -> Sequence[Any]:
        if count not in self._held_out:
            self._held_out[count] = self._data.held_out(count)
        if not len(self._held_out[count]):
            raise ConfigError("data: `held_out` gave no batches", hint="see prime.trainer.data.contract.Dataset")
        return self._held_out[count]

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint holds, for `torch.distributed.checkpoint`: sharded tensors stay sharded.

        The tensors are the live ones: save them before the next step. Call it on all ranks: they get the first one's
        buffers, such as the running means of a BatchNorm, so that it does not matter which of them saves these.
        """
        self._sharded.make_buffers_equal()
        model, optimiser = get_state_dict(self.model.module, self._optimiser)
        state: dict[str, Any] = {
            "model": model,
            "optimiser": optimiser,
            "step": self.step,
            "dataset": self.fingerprint,
        }
        if self._scale is not None:
            state["loss_scale"] = {"value": self._scale.value, "held": self._scale.held}
        if self._sharded.reduce is not None:
            state["rank"] = {"residuals": self._sharded.reduce.state_dict()}
        return state

    def load(self, state: Mapping[str, Any]) -> None:
        """Take the state that `state` gave, on a group of this or another size; call it on all ranks.

        What a codec left out goes on only in a group of the same size; in another one it starts from zero. What the
        job says of the optimiser holds, whatever it said when the state was made. Raises `DataError` where the state was
        made on other data.
        """
        require_same(self.fingerprint, state.get("dataset", ""), f"the checkpoint of step {state['step']}")
        set_model_state_dict(self.model.module, dict(state["model"]))
        self._load_optimiser(state["optimiser"])
        self.step = int(state["step"])
        if self._scale is not None and "loss_scale" in state:
            self._scale.value, self._scale.held = state["loss_scale"]["value"], state["loss_scale"]["held"]
        if self._sharded.reduce is not None:
            self._sharded.reduce.load_state_dict(state.get("rank", {}).get("residuals", {}))

    def _load_optimiser(self, stored: Mapping[str, Any]) -> None:
        """Take the state of the parameters that had one, and what groups hold beside the arguments of their class."""
        _, live = get_state_dict(self.model.module, self._optimiser)
        jobs = {"params", *arguments_of(type(self._optimiser))}
        for mine, theirs in zip(live["param_groups"], stored["param_groups"], strict=False):
            mine.update({key: value for key, value in theirs.items() if key not in jobs})
        whole = {"state": stored["state"], "param_groups": live["param_groups"]}
        # A parameter that never got a gradient has no state, which torch calls an error unless it is told not to.
        options = StateDictOptions(strict=False)
        set_optimizer_state_dict(self.model.module, self._optimiser, whole, options=options)

    def start(self) -> None:
        """Take the parameters that the job says to begin with, if it does; call it on all ranks of a new run.

        Raises `ConfigError` where the file is not there, is damaged, or is another model's.
        """
        if not self.job.checkpoint.start:
            return
        try:
            start_from(Path(self.job.checkpoint.start), self.model.module)
        except (NotFoundError, CorruptedError, ConfigError) as error:
            raise ConfigError(f"checkpoint.start: {error}", hint=error.hint) from error

    @staticmethod
    def _refuse(job: Job, place: Place) -> None:
        if place.world > 1 and not dist.is_initialized():
            raise ConfigError(f"a world of {place.world} without a process group", hint="dist.init_process_group first")
        if job.batch_size < place.world * job.gradients.accumulate:
            raise ConfigError(
                f"batch_size ({job.batch_size}) is under {place.world} ranks x {job.gradients.accumulate} microbatches",
                hint="each microbatch needs a sample: raise batch_size, or train on fewer ranks",
            )


def _require_same_data(fingerprint: str, place: Place, device: torch.device) -> None:
    """Compare the ranks' data. Raises `DataError` on every rank alike."""
    if place.world == 1:
        return
    word = int.from_bytes(hashlib.blake2b(fingerprint.encode(), digest_size=7).digest())
    ends = torch.tensor([word, -word], device=device)
    dist.all_reduce(ends, op=dist.ReduceOp.MAX)
    if ends[0] != -ends[1]:
        raise DataError(
            f"the ranks have different data; that of rank {place.rank} has the fingerprint {fingerprint[:40] or 'none'}",
            hint="give each rank the same files: compare them, or put them where all hosts see them",
        )


def device_of(job: Job, place: Place) -> torch.device:
    """Return the rank's device. Raises `ConfigError` where the job asks for a GPU and there is none."""
    wanted = job.parallel.device if place.device == "auto" else place.device
    if _is_cpu(wanted):
        _refuse_half(job)
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise ConfigError(
            f"parallel.device: {wanted} is asked for, and torch sees no GPU",
            hint="`prime doctor` says why; or set parallel.device to cpu",
        )
    device = torch.device(wanted if ":" in wanted else f"cuda:{place.local_rank % torch.cuda.device_count()}")
    torch.cuda.set_device(device)
    _keep_bits()
    return device


def _is_cpu(device: str) -> bool:
    return device == "cpu" or (device == "auto" and not torch.cuda.is_available())


def _keep_bits() -> None:
    """Have kernels add floats in one order, so that a step that is made again has the same bits; torch warns where one cannot."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what cuBLAS needs for that; read at its first use
    torch.use_deterministic_algorithms(True, warn_only=True)


def _refuse_half(job: Job) -> None:
    if job.parallel.precision == "float16":
        raise ConfigError(
            "parallel.precision: float16 needs a GPU, and this rank computes on the CPU",
            hint="set parallel.precision to bfloat16 or float32",
        )


def _refuse_module(module: nn.Module) -> None:
    """Refuse what would fail later: gradients that cannot be reduced, and state that no checkpoint can hold."""
    for name, part in module.named_modules():
        if getattr(part, "sparse", False) and isinstance(part, nn.Embedding | nn.EmbeddingBag):
            raise ConfigError(
                f"the model's {name or 'module'} has sparse gradients, which are neither clipped nor reduced",
                hint="build it with sparse=False",
            )
    try:
        tensors, _ = taken_apart({"model": module.state_dict()}, torch.is_tensor, 0)
    except ActorUsageError as error:
        raise ConfigError(f"the model cannot be saved: {error}", hint=error.hint) from error
    for name, tensor in tensors.items():
        if dtype_name(tensor.dtype) not in DTYPES:
            raise ConfigError(
                f"the model cannot be saved: {name} is {dtype_name(tensor.dtype)}",
                hint="keep it as torch.view_as_real, or register a buffer that is only computed with persistent=False",
            )


@contextlib.contextmanager
def _as_in_use(module: nn.Module) -> Iterator[None]:
    """Have a module in evaluation mode, and afterwards each part of it as it was: a frozen one stays frozen."""
    training = [part for part in module.modules() if part.training]
    module.eval()
    try:
        yield
    finally:
        for part in training:
            part.training = True


def _trainable(module: nn.Module) -> list[tuple[str, nn.Parameter]]:
    named = [(name, parameter) for name, parameter in module.named_parameters() if parameter.requires_grad]
    if not named:
        raise ConfigError("the model has no trainable parameters", hint="`model` must build a torch module")
    return named
