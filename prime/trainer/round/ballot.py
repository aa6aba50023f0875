"""Ballots: the numbered attempts to decide one round (pure).

A ballot is `(counter, rank)`, ordered by counter and then by the leader's rank, so that no two leaders ever share one.
`rank` is the leader's place in the round's rendezvous order (`View.order`). Source: Lamport, "Paxos Made Simple", 2001.
"""

from __future__ import annotations

from prime.wire import record


@record
class Ballot:
    """One attempt: at most one leader, one owner map and one proposed value, ever.

    `counter` grows from 1; `rank` is the leader's place in the round's order (0 leads first).
    """

    counter: int
    rank: int

    def key(self) -> tuple[int, int]:
        """Return what ballots are ordered by."""
        return (self.counter, self.rank)

    def __lt__(self, other: Ballot) -> bool:
        return self.key() < other.key()

    def __le__(self, other: Ballot) -> bool:
        return self.key() <= other.key()

    def __str__(self) -> str:
        return f"{self.counter}.{self.rank}"


NONE = Ballot(0, 0)
"""Below every real ballot: what a member has promised before it promised anything."""

FIRST = Ballot(1, 0)
"""The only ballot that may skip phase 1: nobody can have accepted anything before it."""
