"""What a node knows of its training run, for people: filled by the trainer, read by whoever shows it (pure)."""

from __future__ import annotations

from collections import deque
from typing import Final, Literal

import attrs

from prime.trainer.metadata import ModelMetadata
from prime.trainer.track.curve import Curve

HISTORY_MAX: Final = 256
"""Decided rounds that are kept one by one; of earlier ones, the curves and the sums."""
CONTRIBUTORS_MAX: Final = 1024
"""Contributors whose rounds are counted."""

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
    history: deque[DecidedRound] = attrs.Factory(lambda: deque(maxlen=HISTORY_MAX))
    elements: int = 0
    metadata: ModelMetadata | None = None
    steps: int = 0
    """Steps that this node has made in the run, by all its workers."""
    tokens: int = 0
    start_s: float = 0.0
    """What it took to start the workers: torch imported, the model built, the data read."""
    compute_s: float = 0.0
    committed: int = 0
    aborted: int = 0
    contributed: dict[str, int] = attrs.Factory(dict)
    """By peer, the rounds to which it contributed."""
    loss: Curve = attrs.Factory(Curve)
    """By round, the mean training loss of this node's steps for it."""
    held_out: Curve = attrs.Factory(Curve)
    contributors: Curve = attrs.Factory(Curve)
    """By round, how many contributed."""
    every_step_bytes: float = 0.0
    """What this node would have sent by now, had it exchanged float32 gradients in each step, as an all-reduce does."""
    _steps_seen: int = 0

    def trained(self, steps: int, tokens: int, seconds: float) -> None:
        """Note steps that were made."""
        self.steps += steps
        self.tokens += tokens
        self.compute_s += seconds
        self.tokens_per_s = tokens / seconds if seconds > 0 else 0.0

    def decided(self, round_: DecidedRound) -> None:
        """Note a decided round: the latest ones whole, all of them in curves and sums."""
        self.history.append(round_)
        self.committed += round_.committed
        self.aborted += not round_.committed
        for peer in round_.contributors:
            if peer in self.contributed or len(self.contributed) < CONTRIBUTORS_MAX:
                self.contributed[peer] = self.contributed.get(peer, 0) + 1
        self.loss.add(round_.round, round_.loss)
        self.held_out.add(round_.round, round_.held_out)
        self.contributors.add(round_.round, float(len(round_.contributors)))
        members = max(len(self.members), 1)
        steps, self._steps_seen = self.steps - self._steps_seen, self.steps
        self.every_step_bytes += steps * 4 * self.elements * 2 * (members - 1) / members
