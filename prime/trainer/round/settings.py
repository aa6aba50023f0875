"""What all members of a run have to have set alike, and saying where a joiner has it otherwise (pure)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Final

import attrs

from prime.trainer.metadata import TrainingConfig
from prime.wire import record

LOCAL: Final = frozenset({"data", "model", "nodes_min", "options", "threads"})
"""Keys that may differ between nodes: where a node has its data and its model's code, and what it spends. That the
models fit each other, their layouts say."""
LAYOUT: Final = "model layout"
SETTINGS_MAX: Final = 128
CHARACTERS_MAX: Final = 128


@record
class Setting:
    """One key of the run's settings, and its value as text."""

    key: str
    value: str


def settings_of(config: TrainingConfig, layout_hash: str = "") -> tuple[Setting, ...]:
    """Return the settings that all members share; `layout_hash` says how the model's vector is cut into tensors."""
    fields = [field.name for field in attrs.fields(TrainingConfig) if field.name not in LOCAL]  # type: ignore[arg-type]
    found = [Setting(f"train.{name}", _short(str(getattr(config, name)))) for name in sorted(fields)]
    return (*found, Setting(LAYOUT, layout_hash)) if layout_hash else tuple(found)


def settings_fault(own: Sequence[Setting], theirs: Sequence[Setting]) -> str:
    """Say which key a joiner has otherwise; nothing where one of the two says nothing about its settings."""
    if not own or not theirs:
        return ""
    if len(theirs) > SETTINGS_MAX or any(len(s.key) > CHARACTERS_MAX or len(s.value) > CHARACTERS_MAX for s in theirs):
        return "its settings are too many, or too long"
    mine, other = ({setting.key: setting.value for setting in each} for each in (own, theirs))
    key = next((key for key in sorted(mine.keys() | other.keys()) if mine.get(key) != other.get(key)), "")
    if not key:
        return ""
    if key == LAYOUT:
        return "its model has other tensors than that of the run: give it the same train.model and options"
    return (
        f"it has {key} = {other.get(key, 'not at all')}, the run {mine.get(key, 'not at all')}: set that key as the "
        "members have it, and start the node again"
    )


def _short(value: str) -> str:
    return value if len(value) <= CHARACTERS_MAX else hashlib.sha256(value.encode()).hexdigest()
