"""A job as the settings of a swarm's run. Pure.

A swarm's run is a `TrainingConfig`: what of a job decides what is computed there, and the job's [swarm] table. What a
job says of ranks, checkpoints and trackers is of one machine's training, and has no meaning between nodes.
"""

from __future__ import annotations

import json
from typing import Any, Final

import attrs

from prime.config.layers import Loaded
from prime.errors import ConfigError
from prime.trainer.job import Job
from prime.trainer.metadata import TrainingConfig

MEANT: Final = {
    "model": "model",
    "data": "data",
    "batch_size": "batch_size",
    "seed": "seed",
    "optimiser.learning_rate": "learning_rate",
    "optimiser.weight_decay": "weight_decay",
    "gradients.clip_norm": "clip_norm",
    "schedule.warmup_steps": "warmup_steps",
    "parallel.threads": "threads",
}
"""Keys of a job outside of [swarm] that a swarm's run takes as they are, and what they are called there."""
_TAKEN: Final = frozenset((*MEANT, "name", "steps", "model_options", "data_options"))
ROUNDS: Final = "swarm.rounds"


def settings_of(loaded: Loaded[Job]) -> TrainingConfig:
    """Return what a run of this job is in a swarm.

    It has as many rounds as the job has steps for, unless `swarm.rounds` says how many, or `swarm.local_epochs` how long
    each of them is. Raises `ConfigError`.
    """
    job = loaded.config
    known = {field.name for field in attrs.fields(TrainingConfig)}  # type: ignore[arg-type]  # a @record is an attrs class
    swarm = {name: value for name, value in attrs.asdict(job.swarm).items() if name in known}
    taken: dict[str, Any] = {ours: loaded.value(theirs) for theirs, ours in MEANT.items()}
    if loaded.origins[ROUNDS].kind == "default" and not job.swarm.local_epochs:
        swarm["rounds"] = -(-job.steps // job.swarm.inner_steps)
    options = {"model": dict(job.model_options), "data": dict(job.data_options)}
    text = json.dumps(options, sort_keys=True) if any(options.values()) else ""
    try:
        return TrainingConfig(**swarm, **taken, options=text)
    except ConfigError as error:
        hint = "`prime train init` writes a job.toml with every key, its meaning and its range"
        raise ConfigError(_of_job(str(error), loaded), hint=hint) from error


def _of_job(text: str, loaded: Loaded[Job]) -> str:
    """Return a complaint about settings as one about the job's key, with the place that set it."""
    class_, _, rest = text.partition(".")
    name, _, fault = rest.partition(" ")
    if class_ != TrainingConfig.__name__:
        return text
    theirs = {ours: key for key, ours in MEANT.items()}
    key = theirs.get(name, f"swarm.{name}")
    origin = loaded.origins.get(key)
    place = f"{origin}: " if origin is not None and origin.kind != "default" else ""
    return f"{place}{key} {fault}"


def unmeant(loaded: Loaded[Job]) -> tuple[str, ...]:
    """Return the keys that somebody has set and that mean nothing in a swarm, each with the place that set it."""
    return tuple(
        f"{origin}: {name}"
        for name, origin in loaded.origins.items()
        if origin.kind != "default" and name not in _TAKEN and not name.startswith("swarm.")
    )
