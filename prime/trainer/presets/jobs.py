"""A whole job for each preset, so that one word trains it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import attrs

from prime.config.layers import Loaded, assemble
from prime.config.sources import flag_layer
from prime.config.values import Value
from prime.errors import NotFoundError
from prime.trainer.job import JOB, Job


@attrs.frozen
class Preset:
    """What a preset is, and the keys of its job that are not at their defaults, by dotted name."""

    about: str
    keys: Mapping[str, Value]


PRESETS: Final[Mapping[str, Preset]] = {
    "charlm": Preset(
        "a character language model on the text of Python's standard library",
        {
            "model": "charlm",
            "data": "stdlib",
            "steps": 300,
            "batch_size": 32,
            "optimiser.learning_rate": 1.5e-3,
            "schedule.warmup_steps": 20,
            "evaluation.every_steps": 50,
        },
    ),
    "fashion-mnist": Preset(
        "a perceptron on pictures of clothes, from Debian's package dataset-fashion-mnist",
        {
            "model": "mlp",
            "data": "fashion-mnist",
            "steps": 2345,  # five times its 60 000 pictures
            "batch_size": 128,
            "optimiser.weight_decay": 0.01,
            "schedule.warmup_steps": 50,
            "evaluation.every_steps": 469,
            "evaluation.batches": 40,  # of 250 pictures: all that are held out
            "checkpoint.every_steps": 469,
        },
    ),
    "digits": Preset(
        "a perceptron on handwritten digits, from scikit-learn",
        {
            "model": "mlp",
            "data": "digits",
            "steps": 400,
            "batch_size": 64,
            "optimiser.learning_rate": 3e-3,
            "evaluation.every_steps": 50,
        },
    ),
}
"""Every preset by its name."""


def preset_keys(name: str) -> Mapping[str, Value]:
    """Return the keys of a preset's job; `NotFoundError` if there is none of that name."""
    if name not in PRESETS:
        raise NotFoundError(f"there is no preset {name}", hint=f"presets are {', '.join(PRESETS)}")
    return {"name": name, **PRESETS[name].keys}


def preset_job(name: str, flags: Mapping[str, object] | None = None) -> Job:
    """Return a preset's job; `flags` maps dotted keys to values that overrule it, as `load_job` takes them.

    A run that is made shorter than the preset's warm-up has a warm-up of its whole length.
    Raises `NotFoundError` where there is no such preset, `ConfigError` for a flag that cannot be.
    """
    return loaded_preset(name, flags).config


def loaded_preset(name: str, flags: Mapping[str, object] | None = None) -> Loaded[Job]:
    """As `preset_job`, with where each value came from: what the preset itself says counts as a default."""
    keys, given = dict(preset_keys(name)), {key: value for key, value in (flags or {}).items() if value is not None}
    steps = assemble([flag_layer({"steps": given.get("steps", keys["steps"])}, JOB)], JOB).config.steps
    keys[_WARMUP] = min(int(str(keys.get(_WARMUP, 0))), steps)
    own = attrs.evolve(flag_layer(keys, JOB), kind="default")
    return assemble([own, flag_layer(given, JOB)], JOB)


_WARMUP: Final = "schedule.warmup_steps"
