"""Which state a joiner takes: the one that a majority of those who hold one names. Pure.

A donor's word alone chooses nothing: a lying one, or a lying minority, finds a majority against it, and while honest
members have not answered, their silence counts against everybody. What is taken is checked once more against the
`base` of the next decision, which a majority of the view has accepted (`round/outcome.py`).
"""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from prime.trainer.round.messages import StateManifest


@attrs.frozen
class Agreed:
    """The state to fetch, and who holds it."""

    manifest: StateManifest
    donors: tuple[str, ...]


@attrs.frozen
class Answers:
    """What the members asked have said so far: `held` by peer, and how many have `not_said` anything yet.

    A member that holds no state at all (it joins too) has no voice. One whose states are all of earlier rounds counts
    as not having said anything: it is about to apply the round, or behind.
    """

    held: Mapping[str, tuple[StateManifest, ...]]
    not_said: int

    def agreed(self, round_min: int, *, patient: bool) -> Agreed | None:
        """Return the state of `round_min` or later on which a majority agrees, the newest if there are two; or `None`.

        `patient`: those who have not said anything may still do so, so they count against everyone.
        """
        fresh = {peer: [m for m in states if m.round >= round_min] for peer, states in self.held.items() if states}
        named: dict[bytes, list[tuple[str, StateManifest]]] = {}
        for peer, states in fresh.items():
            for manifest in {m.state_hash: m for m in states}.values():
                named.setdefault(manifest.state_hash, []).append((peer, manifest))
        voices = sum(map(bool, fresh.values())) + (self._undecided(fresh) if patient else 0)
        found = [holders for holders in named.values() if 2 * len(holders) > voices]
        return max(map(_agreed, found), key=lambda agreed: agreed.manifest.round, default=None)

    def _undecided(self, fresh: Mapping[str, list[StateManifest]]) -> int:
        return self.not_said + sum(not states for states in fresh.values())

    def disagree(self, round_min: int) -> bool:
        """Tell whether members name different states after the same round."""
        seen: dict[int, bytes] = {}
        manifests = [m for states in self.held.values() for m in states if m.round >= round_min]
        return any(seen.setdefault(m.round, m.state_hash) != m.state_hash for m in manifests)


def _agreed(holders: list[tuple[str, StateManifest]]) -> Agreed:
    """Return the state with its holders, and the middle one of the rounds that they give it.

    They may differ: after an abort the state is known by a later round, and the round is not in the hash.
    """
    by_round = sorted((manifest for _, manifest in holders), key=lambda m: m.round)
    return Agreed(by_round[(len(by_round) - 1) // 2], tuple(sorted(peer for peer, _ in holders)))
