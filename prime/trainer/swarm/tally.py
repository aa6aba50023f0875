"""How far a round is at one member: which chunks are here, and how long each phase has taken. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import attrs


@attrs.frozen
class Tally:
    """Chunks of one round at one member.

    `held` counts, for each contributor, the chunks of its contribution to the parts that are stored here, and `expected`
    how many a whole one has; `results_held` and `results_expected` count the chunks of the reduced parts.
    """

    held: Mapping[str, int]
    expected: int
    results_held: int
    results_expected: int


NOTHING = Tally({}, 0, 0, 0)


def tally_of(
    sizes: Iterable[int],
    own: int,
    whole: Iterable[tuple[int, str]],
    partial: Iterable[tuple[int, str, int]],
    results: Iterable[int],
) -> Tally:
    """Count what is here of one round.

    `sizes` are the chunks of each part; `own` is this member's part, and it stores those of others too once it stands
    in for them. `whole` are the contributions stored (part, contributor), `partial` those on the way (part, contributor
    or empty for a result, chunks here), and `results` the parts whose reduced bytes are here.
    """
    counts, stored, under_way = tuple(sizes), tuple(whole), tuple(partial)
    parts = {own, *(part for part, _ in stored)}
    held: dict[str, int] = {}
    for part, peer in stored:
        held[peer] = held.get(peer, 0) + counts[part]
    for part, peer, here in under_way:
        if peer and part in parts and (part, peer) not in stored:
            held[peer] = held.get(peer, 0) + here
    done = set(results)
    best = dict.fromkeys(range(len(counts)), 0)
    for part, peer, here in under_way:
        if not peer and part not in done:
            best[part] = max(best[part], here)
    return Tally(
        held, sum(counts[part] for part in parts), sum(counts[part] for part in done) + sum(best.values()), sum(counts)
    )


@attrs.define
class Spent:
    """Seconds by what they went into: the phases of a round as they follow each other, and what was timed by itself."""

    seconds: dict[str, float] = attrs.Factory(dict)
    phase: str = ""
    since: float = 0.0

    def enter(self, phase: str, now: float) -> None:
        """Note the phase that a round is in now (monotonic seconds)."""
        if phase != self.phase:
            self.add(self.phase, now - self.since)
            self.phase, self.since = phase, now

    def add(self, what: str, seconds: float) -> None:
        """Count a time."""
        if what:
            self.seconds[what] = self.seconds.get(what, 0.0) + seconds
