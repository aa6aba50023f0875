"""Which runs of others a node takes part in. Pure.

A run names its model and its data, and each node loads what stands behind the names on its own machine. So a run from
elsewhere may name presets, and beyond them only what the node's operator has listed: a stranger's run imports nothing
else here, and reads no file.
"""

from __future__ import annotations

from collections.abc import Collection

import attrs

from prime.trainer.catalogue import DATASETS, MODELS
from prime.trainer.metadata import TrainingConfig

ALL = "*"
"""Listed, it stands for whatever can be imported."""


@attrs.frozen
class Acceptance:
    """What a node lets in: `runs` is off where it takes part in none but its own; `functions` are names beyond presets."""

    runs: bool = True
    functions: tuple[str, ...] = ()

    def refusal(self, settings: TrainingConfig) -> str:
        """Say why this node takes no part in a run of these settings; an empty text where it does."""
        if not self.runs:
            return "runs.accept is off here"
        for what, name, known in (("model", settings.model, MODELS), ("data", settings.data, DATASETS)):
            if not self._is_known(name, known):
                return f"its {what}, {name}, is no preset and not in runs.accept_functions here"
        return ""

    def _is_known(self, name: str, presets: Collection[str]) -> bool:
        return not name or name in presets or name in self.functions or ALL in self.functions
