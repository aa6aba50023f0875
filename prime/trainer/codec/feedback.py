"""Error feedback: what the codec leaves out of one exchange is added to the next.

The residuals of one sender, transactional: an exchange works on a draft of its residual, which takes the residual's place
when the exchange is committed. After one that was refused, or that a peer's death ended, the residual is as it was, because
what the draft holds then belongs to bytes that never counted. It costs a second float32 for each element.

A residual is a sender's own: a checkpoint stores it under a name with the rank and the world in it, and in a group of
another size it starts from zero again.
"""

from __future__ import annotations

import torch


class Feedback:
    """By key: the residual (float32[D], D of that key) of whatever is sent under it. `rank` is of `world` senders."""

    def __init__(self, rank: int = 0, world: int = 1) -> None:
        self._place = f"rank{rank}of{world}"
        self._kept: dict[str, torch.Tensor] = {}
        self._spare: dict[str, torch.Tensor] = {}
        self._drafts: dict[str, torch.Tensor] = {}
        self._used: set[str] = set()
        self._stale: set[str] = set()

    def draft(self, key: str, elements: int, device: torch.device) -> torch.Tensor:
        """Return a copy of the residual to encode with, in place; zeros at first, or where the length has changed."""
        kept = self._kept.get(key)
        draft = self._drafts.pop(key, None)  # one that nobody settled is begun anew
        draft = self._spare.pop(key, None) if draft is None else draft
        if draft is None or draft.numel() != elements or draft.device != device:
            draft = torch.empty(elements, device=device)
        if kept is None or kept.numel() != elements:
            draft.zero_()
        else:
            draft.copy_(kept)
        self._drafts[key] = draft
        return draft

    def commit(self) -> None:
        """Let the drafts be the residuals: their exchanges ended well."""
        for key, draft in self._drafts.items():
            if key in self._kept:
                self._spare[key] = self._kept[key]
            self._kept[key] = draft
        self._used |= self._drafts.keys()
        self._drafts = {}

    def abandon(self) -> None:
        """Drop the drafts: one exchange of them failed, so what the others brought is thrown away, too."""
        self._spare |= self._drafts
        self._drafts = {}

    def end_step(self) -> None:
        """Forget what was committed in an earlier step and not in this: DDP arranges its buckets anew after its first."""
        if not self._used:
            return
        for key in self._stale - self._used:
            del self._kept[key]
            self._spare.pop(key, None)
        self._stale, self._used = self._used, set()

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Return the residuals by names that differ from rank to rank."""
        return {f"{self._place}/{key}": kept for key, kept in self._kept.items()}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Take back this rank's own; those of another world are left out."""
        prefix = f"{self._place}/"
        self._kept = {
            name.removeprefix(prefix): kept.clone() for name, kept in state.items() if name.startswith(prefix)
        }
        self._spare, self._drafts = {}, {}
        self._used, self._stale = set(), set()
