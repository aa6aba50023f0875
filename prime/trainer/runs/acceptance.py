"""Which runs of others a node takes part in. Pure.

A run names its model and its data, and each node loads what stands behind the names on its own machine. So a run from
elsewhere may name presets, and beyond them only what the node's operator has listed: a stranger's run imports nothing
else here, and reads no file.
"""

from __future__ import annotations

from collections.abc import Collection

import attrs

from prime.errors import ConfigError
from prime.trainer.catalogue import DATASETS, MODELS
from prime.trainer.metadata import OWN_DATA, TrainingConfig

ALL = "*"
"""Listed, it stands for whatever can be imported."""


@attrs.frozen
class Acceptance:
    """What a node lets in: `runs` is off where it takes part in none but its own; `functions` are names beyond presets.

    `own_data` is what it trains on in runs of each node's own data; empty: in none of those.
    """

    runs: bool = True
    functions: tuple[str, ...] = ()
    own_data: str = ""

    def refusal(self, settings: TrainingConfig) -> str:
        """Say why this node takes no part in a run of these settings; an empty text where it does."""
        if not self.runs:
            return "runs.accept is off here"
        if not self._is_known(settings.model, MODELS):
            return f"its model, {settings.model}, is no preset and not in runs.accept_functions here"
        if settings.data == OWN_DATA:
            return self.data_refusal(settings)
        if not self._is_known(settings.data, DATASETS):
            return f"its data, {settings.data}, is no preset and not in runs.accept_functions here"
        return ""

    def data_refusal(self, settings: TrainingConfig) -> str:
        """Say why this node has no data for a run, also for one of its own user; an empty text where it may have."""
        missing = settings.data == OWN_DATA and not self.own_data
        return "its data is each node's own, and runs.data names none here" if missing else ""

    def _is_known(self, name: str, presets: Collection[str]) -> bool:
        return not name or name in presets or name in self.functions or ALL in self.functions


def at_home(settings: TrainingConfig, own_data: str) -> TrainingConfig:
    """Return what a node trains: a run's settings, on the node's own data where they say so.

    Raises `ConfigError` where it has none: a run that it was in before may be gone on with under another configuration.
    """
    if settings.data != OWN_DATA:
        return settings
    if fault := Acceptance(own_data=own_data).data_refusal(settings):
        raise ConfigError(fault, hint="`prime config set runs.data PATH`, then start the node again")
    return attrs.evolve(settings, data=own_data)  # type: ignore[misc]  # a @record is an attrs class
