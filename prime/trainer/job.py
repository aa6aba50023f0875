"""What is trained and how: a job, as `job.toml` holds it and as a program builds it. Pure.

`Job(model="module:function", steps=300, optimiser=Optimiser(learning_rate=3e-4))` in a program is the same as a
`job.toml` with these keys; `load_job` reads one, with the errors of every configuration file: file and line, a
suggestion for a key that is not there, the range of a value that is outside of it. A job goes to other processes as JSON.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import attrs
from attrs import frozen

from prime.config.keys import Order, Schema, key, refuse_orders
from prime.config.layers import Layer, Loaded, assemble
from prime.config.schema import TrainConfig
from prime.config.sources import file_layer, flag_layer, table_layer
from prime.config.values import shown
from prime.errors import ConfigError

CODECS: Final = ("none", "int8", "int4", "fp8", "fp16", "powersgd")
"""How gradients go over the wire; `none` is float32 as it is."""
STRATEGIES: Final = ("auto", "single", "ddp", "fsdp")
PRECISIONS: Final = ("float32", "bfloat16", "float16")
SCHEDULES: Final = ("constant", "linear", "cosine", "exponential")


def _name_fault(name: str) -> str:
    if name and name.replace("-", "").replace("_", "").replace(".", "").isalnum() and name.isascii() and name[0] != ".":
        return ""
    return f"{shown(name)} is no name: letters, digits, - _ and . only (it names a folder)"


def _folder_fault(folder: str) -> str:
    return f"{shown(folder)} is no path" if "\0" in folder else ""


def _named(value: object) -> object:
    """Return the name of a function that a program gives as it is: `module:function`, or `file.py:function`."""
    if not callable(value):
        return value
    module, name = getattr(value, "__module__", ""), getattr(value, "__qualname__", "")
    if not name.isidentifier():
        raise ConfigError(
            f"{name or value!r} is no function at the top of a module",
            hint="each rank imports the function by its name: define it at the top level of a file",
        )
    if module == "__main__" and (file := getattr(sys.modules["__main__"], "__file__", None)):
        return f"{Path(file).resolve()}:{name}"
    return f"{module}:{name}"


def _plain_options(value: object) -> object:
    """Take lists where a program gives tuples: a table that went to another process and back compares equal."""
    try:
        return json.loads(json.dumps(value)) if isinstance(value, Mapping) else value
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"a table of options goes to other processes, and holds what is no text, number, list or table ({error})",
            hint="give names and numbers; the function that gets the table makes objects of them",
        ) from None


@frozen
class Optimiser:
    """How parameters follow their gradients."""

    name: str = key(
        "adamw", "sgd, adam, adamw, or the name of any class of `torch.optim`, such as RAdam, or `module:Class`."
    )
    learning_rate: float = key(1e-3, "The learning rate that the schedule starts from.", low=0.0, high=1e3)
    weight_decay: float = key(
        0.1,
        "Weight decay; norms and biases (fewer than two dimensions) do not decay. Adam and sgd add it to the gradient.",
        low=0.0,
        high=10.0,
    )
    options: Mapping[str, Any] = key(
        attrs.Factory(dict), "Further arguments of the class, such as `{ betas = [0.9, 0.99] }`.",
        converter=_plain_options,
    )  # fmt: skip


@frozen
class Schedule:
    """How the learning rate moves over the run."""

    name: str = key("cosine", "The curve from the learning rate to its final fraction.", choices=SCHEDULES)
    warmup_steps: int = key(0, "Steps over which the learning rate first rises from 0.", low=0, high=10**9)
    final: float = key(
        0.1, "The fraction of the learning rate at the last step; `constant` has none.", low=0.0, high=1.0
    )


@frozen
class Gradients:
    """What happens between the backward pass and the optimiser."""

    accumulate: int = key(1, "Microbatches that one step is cut into, to use less memory.", low=1, high=65_536)
    clip_norm: float = key(
        1.0, "The reduced gradient is clipped to this norm, over all its shards; 0: not at all.", low=0.0, high=1e9
    )


@frozen
class Parallel:
    """How the ranks share the work."""

    ranks: int | str = key(
        "auto",
        "Processes that train, on all hosts; auto: one for each GPU, or one without.",
        low=1,
        high=4096,
        choices=("auto",),
        flag="--ranks",
    )
    strategy: str = key(
        "auto",
        "single: one rank; ddp: each rank holds the model; fsdp: each holds a shard of it; auto: ddp, or single for one "
        "rank.",
        choices=STRATEGIES,
    )
    shard: str = key(
        "layers",
        "fsdp: each repeated block is gathered by itself, or the full model at once.",
        choices=("layers", "full"),
    )
    blocks: str = key(
        "", "fsdp and activation checkpointing: the modules that are blocks, by a pattern such as `layers.*`; empty: the "
        "items of each torch.nn.ModuleList and Sequential of several.",
    )  # fmt: skip
    replicas: int = key(
        1, "fsdp: copies of the sharded model (hybrid: ranks = replicas x shards); compression is between copies.",
        low=1, high=4096,
    )  # fmt: skip
    precision: str = key(
        "float32", "The type that the forward and backward passes compute in; parameters stay float32.",
        choices=PRECISIONS,
    )  # fmt: skip
    checkpoint_activations: bool = key(
        False, "Compute each block's activations again in the backward pass, to use less memory."
    )
    device: str = key("auto", "auto: a GPU where there is one, else cpu.", choices=("auto", "cpu", "cuda"))
    threads: int = key(1, "Threads of each rank on the CPU.", low=1, high=1024)


@frozen
class PolicyRule:
    """Parameters whose gradients go by another codec."""

    match: str = key("", "The parameters, by a pattern over their names, such as `*.norm.*`.")
    codec: str = key("fp16", "Their codec.", choices=tuple(name for name in CODECS if name != "powersgd"))


def _rules(value: Any) -> Any:
    """Take the rules that a program gives as tables."""
    return tuple(PolicyRule(**item) if isinstance(item, Mapping) else item for item in value)


@frozen
class Compression:
    """How gradients go between ranks (ddp) or copies of the model (fsdp)."""

    codec: str = key("none", "The codec of gradients on the wire; powersgd needs ddp.", choices=CODECS, flag="--codec")
    error_feedback: bool | str = key(
        "auto", "Add what the codec left out to the next step's gradient; auto: on at int4 and powersgd.",
        choices=("auto",),
    )  # fmt: skip
    exact_below: int = key(
        4096, "Parameters smaller than this go as fp16, whatever the codec.", unit="elements", low=0, high=2**40
    )
    policy: tuple[PolicyRule, ...] = key(
        (), "Rules for parameters by name: the first that matches.", row=PolicyRule, converter=_rules
    )


@frozen
class Checkpoint:
    """When the run is saved, and what is kept."""

    every_steps: int = key(100, "Steps between two checkpoints; 0: only at the end.", unit="steps", low=0, high=10**9)
    keep_last: int = key(3, "The newest so many are kept.", low=1, high=10_000)
    keep_hours: float = key(0.0, "Those younger than this are kept, too.", unit="h", low=0.0, high=10_000.0)
    milestone_steps: int = key(
        0, "Those at multiples of this step are kept for good; 0: none.", unit="steps", low=0, high=10**9
    )
    start: str = key(
        "", "A safetensors file, such as `prime model export` writes, with the parameters that a new run begins with; "
        "a run that goes on from a checkpoint does not read it.",
    )  # fmt: skip


@frozen
class Evaluation:
    """When the loss on held-out data is measured."""

    every_steps: int = key(100, "Steps between two evaluations; 0: only at the end.", unit="steps", low=0, high=10**9)
    batches: int = key(8, "Held-out batches of one evaluation.", low=1, high=100_000)


@frozen
class Supervision:
    """When ranks count as lost, and what is done about it."""

    spares: int = key(0, "Warm processes that wait to take a lost rank's place.", low=0, high=64)
    silent_s: float = key(10.0, "A rank this long without a sign of life is lost.", unit="s", low=0.5, high=3600.0)
    step_s: float = key(
        300.0, "A rank this long without progress is stuck, and counts as lost.", unit="s", low=1.0, high=86_400.0
    )
    start_s: float = key(
        600.0,
        "A process this long on its way (torch is imported, the model built, the data read) is stuck, and started anew.",
        unit="s",
        low=1.0,
        high=86_400.0,
    )
    restarts_max: int = key(
        10, "Restarts in a row, without a new checkpoint between, before the run is given up.", low=0, high=10_000
    )
    host_s: float = key(
        300.0, "Over several hosts: how long one is awaited, at the start or lost.", unit="s", low=1.0, high=86_400.0
    )


def _swarm() -> type:
    """Return the section of what a swarm alone needs: the keys of a node's [train] that a job has at no other place."""
    kept = {field.name: field for field in attrs.fields(TrainConfig) if field.name not in _JOB_HAS}
    space: dict[str, Any] = {
        "__doc__": "How nodes train it together (`prime train submit`); `prime train run` has no use for it.",
        "__module__": __name__,
        "__annotations__": {name: field.type for name, field in kept.items()},
    }
    for name, field in kept.items():
        space[name] = attrs.field(
            default=field.default, validator=field.validator, kw_only=True, metadata=field.metadata
        )
    made: type = frozen(type("Swarm", (), space))
    return made


_JOB_HAS: Final = frozenset(
    (
        "run",
        "model",
        "data",
        "batch_size",
        "learning_rate",
        "weight_decay",
        "clip_norm",
        "warmup_steps",
        "seed",
        "threads",
    )
)
"""Keys of [train] that a job has elsewhere."""

if TYPE_CHECKING:
    from typing import Any as Swarm  # its keys are known when the program runs
else:
    Swarm = _swarm()


@frozen
class Tracking:
    """Who hears how the run goes; `runs/NAME/events.jsonl` is always written."""

    tensorboard: bool = key(False, "Write TensorBoard's event files, too.")
    trackers: tuple[str, ...] = key((), "Further trackers, each `module:function` or `file.py:function`.")


@frozen
class Job:
    """What is trained and how. `model` and `data` may be functions at the top level of a module, too.

    Raises `ConfigError` for a value that cannot be, and for values that cannot be together.
    """

    name: str = key("run", "Names the run and its folder.", check=_name_fault, flag="--name")
    model: str = key("charlm", "A name (charlm, mlp, cnn), `module:function` or `file.py:function`.", converter=_named)
    data: str = key(
        "", "A name (stdlib, digits, fashion-mnist), a path (a text, a folder, .jsonl, .parquet), `hf:NAME[:SPLIT]`, or "
        "`module:function`; empty: the model's own (mlp and cnn: fashion-mnist; all others: stdlib).", converter=_named,
    )  # fmt: skip
    steps: int = key(300, "Optimiser steps until the run is done.", unit="steps", low=1, high=10**9, flag="--steps")
    batch_size: int = key(
        32, "Samples of one step, over all ranks and microbatches: a run means the same on any number of ranks.",
        unit="samples", low=1, high=10**9,
    )  # fmt: skip
    seed: int = key(
        0, "Decides the first parameters, the order of the data and what a model draws.", low=0, high=2**63 - 1
    )
    folder: str = key("", "The run's folder; empty: runs/NAME.", check=_folder_fault)
    model_options: Mapping[str, Any] = key(
        attrs.Factory(dict), "A table for the model's function.", converter=_plain_options
    )
    data_options: Mapping[str, Any] = key(
        attrs.Factory(dict), "A table for the data's function.", converter=_plain_options
    )
    optimiser: Optimiser = attrs.field(factory=Optimiser, kw_only=True)
    schedule: Schedule = attrs.field(factory=Schedule, kw_only=True)
    gradients: Gradients = attrs.field(factory=Gradients, kw_only=True)
    parallel: Parallel = attrs.field(factory=Parallel, kw_only=True)
    compression: Compression = attrs.field(factory=Compression, kw_only=True)
    checkpoint: Checkpoint = attrs.field(factory=Checkpoint, kw_only=True)
    evaluation: Evaluation = attrs.field(factory=Evaluation, kw_only=True)
    supervision: Supervision = attrs.field(factory=Supervision, kw_only=True)
    tracking: Tracking = attrs.field(factory=Tracking, kw_only=True)
    swarm: Swarm = attrs.field(factory=Swarm, kw_only=True)

    def __attrs_post_init__(self) -> None:
        """Refuse values that cannot be together."""
        refuse_orders(_faults(self))

    @property
    def run_folder(self) -> Path:
        """The folder of the run."""
        return Path(self.folder or f"runs/{self.name}").expanduser()

    def tables(self) -> dict[str, Any]:
        """Return every key as TOML and JSON nest them."""
        return dict(attrs.asdict(self))

    def to_json(self) -> str:
        """Return the job as a text for another process."""
        return json.dumps(self.tables())

    @staticmethod
    def from_json(text: str) -> Job:
        """Return the job of `to_json`; `ConfigError` if it is none."""
        try:
            tables = json.loads(text)
        except ValueError as error:
            raise ConfigError(f"a job's text is no JSON ({error})", hint="`Job.to_json` writes it") from None
        return job_of(tables)


JOB: Final = Schema(
    Job,
    "docs/reference/job.md lists every key",
    "`prime train init` writes one; a preset needs none: `prime train presets` lists them",
    setter="--set",
)
"""What a job.toml can hold."""


def load_job(path: Path | str, flags: Mapping[str, object] | None = None) -> Job:
    """Read a job.toml; `flags` maps dotted keys to values that overrule it, as text or in the key's own type.

    A file that the job.toml names is looked for beside it first (`FILE_KEYS`). Raises `ConfigError`, whose text names
    the file and line, or the flag.
    """
    return loaded_job(path, flags).config


def loaded_job(path: Path | str, flags: Mapping[str, object] | None = None) -> Loaded[Job]:
    """As `load_job`, with where each value came from."""
    file = Path(path)
    layers = [_beside(file_layer(file, JOB), file.parent), flag_layer(flags or {}, JOB)]
    return assemble(layers, JOB, files=(str(file),))


def job_of(tables: Mapping[str, Any], where: str = "the job") -> Job:
    """Return the job of tables as TOML and JSON nest them; `ConfigError` names `where` they came from."""
    if not isinstance(tables, Mapping):
        raise ConfigError(f"{where}: not a table", hint="`Job.tables` makes it")
    return assemble([table_layer(tables, where, JOB)], JOB).config


FILE_KEYS: Final = ("model", "data", "optimiser.name", "checkpoint.start", "tracking.trackers")
"""Keys that may name files."""


def _beside(layer: Layer, folder: Path) -> Layer:
    """Return what a file sets, with the paths of those that it names and that stand beside it."""
    named = {name: layer.settings[name] for name in FILE_KEYS if name in layer.settings}
    placed = {name: attrs.evolve(setting, raw=_placed(setting.raw, folder)) for name, setting in named.items()}
    return attrs.evolve(layer, settings={**layer.settings, **placed})


def _placed(raw: object, folder: Path) -> object:
    if isinstance(raw, list):
        return [_placed(item, folder) for item in raw]
    path, colon, function = _split(raw) if isinstance(raw, str) else ("", "", "")
    if not path or Path(path).is_absolute() or not (folder / path).exists():
        return raw
    return f"{(folder / path).resolve()}{colon}{function}"


def _split(name: str) -> tuple[str, str, str]:
    """Return the path in `path` or `file.py:function`; an empty one for a module."""
    path, colon, function = name.rpartition(":")
    if not colon:
        return (name, "", "") if "." in name or "/" in name else ("", "", "")
    return (path, colon, function) if path.endswith(".py") else ("", "", "")


def _faults(job: Job) -> Iterator[Order]:
    yield from _ranks_faults(job)
    if job.schedule.warmup_steps > job.steps:
        yield (
            ("schedule.warmup_steps", "steps"),
            f"schedule.warmup_steps ({job.schedule.warmup_steps}) is over steps ({job.steps})",
            "lower schedule.warmup_steps, or raise steps",
        )
    if job.compression.codec == "powersgd" and (job.parallel.strategy == "fsdp" or job.parallel.replicas > 1):
        yield (
            ("compression.codec", "parallel.strategy"),
            "compression.codec powersgd works on whole gradients, and under fsdp a rank has shards",
            "set parallel.strategy to ddp, or compression.codec to int8 or int4",
        )
    if job.compression.codec != "none" and job.parallel.strategy == "fsdp" and job.parallel.replicas == 1:
        yield (
            ("compression.codec", "parallel.replicas"),
            f"compression.codec {job.compression.codec} is for what goes between copies of a sharded model: there is one",
            "set parallel.replicas to 2 or more, parallel.strategy to ddp, or compression.codec to none",
        )
    if job.parallel.precision == "float16" and job.parallel.device == "cpu":
        yield (
            ("parallel.precision", "parallel.device"),
            "parallel.precision float16 needs a GPU: on the CPU its range is lost without being faster",
            "set parallel.precision to bfloat16 or float32",
        )


def _ranks_faults(job: Job) -> Iterator[Order]:
    parallel = job.parallel
    ranks = parallel.ranks if isinstance(parallel.ranks, int) else 1
    if parallel.strategy == "single" and ranks > 1:
        yield (
            ("parallel.strategy", "parallel.ranks"),
            f"parallel.strategy single has one rank, and parallel.ranks is {ranks}",
            "set parallel.strategy to ddp or fsdp",
        )
    if parallel.replicas > 1 and parallel.strategy in ("single", "ddp"):
        yield (
            ("parallel.replicas", "parallel.strategy"),
            f"parallel.replicas ({parallel.replicas}) are copies of a sharded model: {parallel.strategy} has none",
            "set parallel.strategy to fsdp, or parallel.replicas to 1",
        )
    if isinstance(parallel.ranks, int) and parallel.ranks % parallel.replicas:
        yield (
            ("parallel.replicas", "parallel.ranks"),
            f"parallel.ranks ({parallel.ranks}) is no multiple of parallel.replicas ({parallel.replicas})",
            "ranks = replicas x shards",
        )
    if job.batch_size < ranks * job.gradients.accumulate:
        yield (
            ("batch_size", "parallel.ranks", "gradients.accumulate"),
            f"batch_size ({job.batch_size}) is under {ranks} ranks x {job.gradients.accumulate} microbatches",
            "each microbatch needs a sample: raise batch_size, or lower gradients.accumulate",
        )
