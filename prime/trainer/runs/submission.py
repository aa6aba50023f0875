"""A job as the settings of a swarm's run. Pure.

A swarm's run is a `TrainingConfig`: what of a job decides what is computed there, and the job's [swarm] table. What a
job says of ranks, checkpoints and trackers is of one machine's training, and has no meaning between nodes.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final

import attrs

from prime.config.layers import Loaded
from prime.errors import ConfigError
from prime.trainer.job import Job
from prime.trainer.metadata import TrainingConfig
from prime.trainer.robust.rules import rule_of

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
_KEY: Final = re.compile(r"\btrain\.([a-z_]+)")
_WORD: Final = re.compile(r"[a-z_]+(?:\.[a-z_]+)?")


def settings_of(loaded: Loaded[Job]) -> TrainingConfig:
    """Return what a run of this job is in a swarm.

    It has as many rounds as the job has steps for (with fragments that is several for H steps), unless `swarm.rounds` says how many, or `swarm.local_epochs` how long
    each of them is. Raises `ConfigError`, also for a rule of aggregation that so few nodes cannot carry out.
    """
    job = loaded.config
    known = {field.name for field in attrs.fields(TrainingConfig)}  # type: ignore[arg-type]  # a @record is an attrs class
    swarm = {name: value for name, value in attrs.asdict(job.swarm).items() if name in known}
    taken: dict[str, Any] = {ours: loaded.value(theirs) for theirs, ours in MEANT.items()}
    if loaded.origins[ROUNDS].kind == "default" and not job.swarm.local_epochs:
        swarm["rounds"] = -(-job.steps * job.swarm.fragments // job.swarm.inner_steps)
    options = {"model": dict(job.model_options), "data": dict(job.data_options)}
    text = json.dumps(options, sort_keys=True) if any(options.values()) else ""
    try:
        made = TrainingConfig(**swarm, **taken, options=text)
        rule_of(made)
    except ConfigError as error:
        raise _of_job(error, loaded) from error
    return made


def _of_job(error: ConfigError, loaded: Loaded[Job]) -> ConfigError:
    """Return a complaint about settings as one about the job's keys, with the place that set the first of them."""
    text, hint = str(error), error.hint
    class_, _, rest = text.partition(".")
    if class_ == TrainingConfig.__name__:
        text, hint = f"train.{rest}", "`prime train init` writes a job.toml with every key, its meaning and its range"
    text, hint = job_keys(text), job_keys(hint)
    named = next((name for name in _WORD.findall(text) if name in loaded.origins), "")
    origin = loaded.origins.get(named)
    place = f"{origin}: " if origin is not None and origin.kind != "default" else ""
    return ConfigError(f"{place}{text}", hint=hint)


def job_keys(text: str) -> str:
    """Return a text that names keys of a node's [train] section with what a job calls them."""
    return _KEY.sub(_renamed, text)


def _renamed(found: re.Match[str]) -> str:
    """Return what a job calls a key of a node's [train] section."""
    theirs = {ours: key for key, ours in MEANT.items()}
    return theirs.get(found[1], f"swarm.{found[1]}")


def unmeant(loaded: Loaded[Job]) -> tuple[str, ...]:
    """Return the keys that somebody has set and that mean nothing in a swarm, each with the place that set it."""
    return tuple(
        f"{origin}: {name}"
        for name, origin in loaded.origins.items()
        if origin.kind != "default" and name not in _TAKEN and not name.startswith("swarm.")
    )
