"""What a node knows of its training run, for people: filled by the trainer, read by whoever shows it (pure)."""

from __future__ import annotations

from typing import Literal

import attrs

Phase = Literal["starting", "joining", "fetching", "training", "waiting", "done", "leaving", "left"]


@attrs.frozen
class DecidedRound:
    """One decided round as this node saw it; losses in nats a character, None where this node did not measure."""

    round: int
    epoch: int
    committed: bool
    contributors: tuple[str, ...]
    loss: float | None
    held_out: float | None
    at_s: float


@attrs.define
class Progress:
    """The run so far. `round_step` counts the steps since the state in hand, `inner_steps` the H to reach."""

    rounds: int
    inner_steps: int
    phase: Phase = "starting"
    round: int = 0
    epoch: int = 0
    step: int = 0
    round_step: int = 0
    tokens_per_s: float = 0.0
    members: tuple[str, ...] = ()
    stalled: str = ""
    hint: str = ""
    state_hash: str = ""
    loss_first: float | None = None
    loss_last: float | None = None
    unigram: float | None = None
    text_first: str = ""
    text_last: str = ""
    history: list[DecidedRound] = attrs.Factory(list)
