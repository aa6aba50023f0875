"""The residuals of one rank: what the codec left out of each gradient, kept from one step to the next.

One float32 vector for each vector that is reduced. They are a rank's own: a checkpoint stores them under names with the
rank and the world in them, and in a group of another size they start from zero again.
"""

from __future__ import annotations

import torch


class Residuals:
    """By the key of a flat gradient: a residual for each vector that it travels as, or None where none is kept."""

    def __init__(self, rank: int, world: int) -> None:
        self._place = f"rank{rank}of{world}"
        self._kept: dict[str, torch.Tensor] = {}
        self._used: set[str] = set()
        self._stale: set[str] = set()

    def take(self, key: str, elements: int, device: torch.device) -> torch.Tensor:
        """Return the residual of a vector, zeros at first or where its length has changed."""
        kept = self._kept.get(key)
        if kept is None or kept.numel() != elements:
            kept = torch.zeros(elements, device=device)
        self._kept[key] = kept = kept.to(device)
        self._used.add(key)
        return kept

    def end_step(self) -> None:
        """Forget what was used in an earlier step and not in this: DDP arranges its buckets anew after its first step."""
        if not self._used:
            return
        for key in self._stale - self._used:
            del self._kept[key]
        self._stale, self._used = self._used, set()

    def forget(self, key: str) -> None:
        """Start from zero again: the exchange was refused, and what the residual holds means nothing."""
        if key in self._kept:
            self._kept[key].zero_()

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Return the residuals by names that differ from rank to rank."""
        return {f"{self._place}/{key}": kept for key, kept in self._kept.items()}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Take back this rank's own; those of another world are left out."""
        prefix = f"{self._place}/"
        self._kept = {
            name.removeprefix(prefix): kept.clone() for name, kept in state.items() if name.startswith(prefix)
        }
        self._used, self._stale = set(), set()
