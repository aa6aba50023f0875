"""The rules of a round's decision, checked along a trace (pure).

`spec/model/round.pml` explores these rules for small swarms, every schedule of them; here they are followed through what
a simulated swarm really did. The names are the same in both, and `RULES` says each in a sentence.

A scenario makes one `Decisions` for the run that it watches and tells it, in the order of happening, what each member
did. The first thing that breaks a rule raises `RuleBrokenError`, an `AssertionError` that names the rule:

==================================================  ===================================================================
call                                                when
==================================================  ===================================================================
`wrote(peer, record, bytes_held=True)`              a record is on the peer's disk (carrying out `Persist`, after fsync).
                                                    `bytes_held`: an `Accepted` has the bytes of all parts beside it
`said(peer, message)`                               the peer sends a message of the round (carrying out `Send`), whether
                                                    or not it arrives
`crashed(peer)`                                     the process died; its disk stays
`lost_disk(peer)`                                   the disk was emptied: what comes back is another life
==================================================  ===================================================================

Below these two, `seated`, `opened`, `promised`, `promise`, `proposed`, `accepted`, `ready`, `committed` and `commit` take
the same facts one by one, a value as its digest, for traces that are not made of the round's messages. What a member
takes from the network needs no telling: a message that nobody sent is the network's fault, not the protocol's.
"""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from prime.trainer.round import messages as msg
from prime.trainer.round.ballot import FIRST, NONE, Ballot
from prime.trainer.round.view import Value, View

ROUNDS_MAX = 256
"""Rounds remembered; what happens in an older one is no longer checked."""

RULES: Mapping[str, str] = {
    "one_decision": "two decisions of one round are the same value",
    "majority_ready": "a value is decided only once a majority of the view is ready for it under one ballot",
    "value_proposed": "a member accepts only what the leader of that ballot proposed",
    "one_value": "a ballot has one value",
    "one_ready": "a member is ready for one value under a ballot, at most",
    "promise_kept": "after a promise a member answers no lower ballot, across restarts too",
    "promise_on_disk": "a promise is on the disk before it is given",
    "ready_on_disk": "a vote is on the disk before it is given",
    "bytes_on_disk": "a vote is written only beside the bytes of its value",
    "carried_on": "a ballot above the first proposes the highest value that its majority of promises reports, if any",
    "ballot_once": "a ballot is led in one life of its leader only",
    "ballot_leader": "a ballot is led by the member whose rank it carries",
    "commit_on_disk": "a decision is on the disk before it is told",
    "decided_is_final": "a member that wrote the decision of a round takes no part in that round any more",
    "lost_disk_is_silent": "a member that lost its disk takes no part until a view holds its new life",
    "one_view": "a round is decided by one view",
}
"""What each rule says. The order is that of `spec/model/README.md`."""


class RuleBrokenError(AssertionError):
    """A rule of the decision does not hold: a bug in the protocol or in its code. `rule` is a key of `RULES`."""

    def __init__(self, rule: str, detail: str) -> None:
        super().__init__(f"{rule}: {RULES[rule]}, but {detail}")
        self.rule = rule
        self.detail = detail


Vote = tuple[Ballot, bytes]
"""A value (its digest) accepted under a ballot."""


@attrs.define
class _Disk:
    """What one member's disk says about one round."""

    promised: Ballot = NONE
    accepted: dict[Ballot, bytes] = attrs.Factory(dict)
    decided: bytes | None = None

    def highest(self) -> Vote | None:
        """Return the vote under the highest ballot."""
        return max(self.accepted.items(), key=lambda vote: vote[0].key(), default=None)


@attrs.define
class _Round:
    """What all members did in one round, and what their disks say about it."""

    lives: dict[str, int] = attrs.Factory(dict)
    order: tuple[str, ...] = ()
    leads: dict[Ballot, tuple[str, int]] = attrs.Factory(dict)
    promises: dict[Ballot, dict[str, Vote | None]] = attrs.Factory(dict)
    values: dict[Ballot, bytes] = attrs.Factory(dict)
    votes: dict[Ballot, dict[str, bytes]] = attrs.Factory(dict)
    decided: bytes | None = None
    disks: dict[str, _Disk] = attrs.Factory(dict)

    def majority(self) -> int:
        return len(self.order) // 2 + 1

    def disk(self, peer: str) -> _Disk:
        return self.disks.setdefault(peer, _Disk())

    def chosen(self, value: bytes) -> bool:
        """Tell whether a majority has voted for the value under one ballot."""
        tallies = (sum(vote == value for vote in votes.values()) for votes in self.votes.values())
        return any(tally >= self.majority() for tally in tallies)


class Decisions:
    """Follows one run's rounds and raises `RuleBrokenError` at the first act that no rule allows."""

    def __init__(self, run: str) -> None:
        self.run = run
        self.acts = 0
        self._rounds: dict[int, _Round] = {}
        self._lives: dict[str, int] = {}
        self._boots: dict[str, int] = {}

    def decided(self, round_: int) -> bytes | None:
        """Return the digest of what that round decided, if somebody has written it down."""
        found = self._rounds.get(round_)
        return None if found is None else found.decided

    # ------------------------------------------------------------------------------- what the round's commands mean

    def wrote(self, peer: str, record: msg.Record, *, bytes_held: bool = True) -> None:
        """Take a record that is on the peer's disk now."""
        match record:
            case msg.Born(member):
                self._lives[peer] = member.incarnation
            case msg.Entered(round_, view, _):
                self._seat(round_, view)
            case msg.Promised(round_, ballot):
                self.promised(peer, round_, ballot)
            case msg.Accepted(round_, ballot, value):
                self.accepted(peer, round_, ballot, value.digest(), bytes_held=bytes_held)
            case msg.Decided(value):
                self._decide(peer, value)
            case _:
                pass

    def said(self, peer: str, message: msg.PeerMessage) -> None:
        """Take a message that the peer sends; those that decide nothing are passed over."""
        if message.run != self.run:
            return
        match message:
            case msg.Prepare(round=round_, ballot=ballot):
                self.opened(peer, round_, ballot)
            case msg.Promise(round=round_, ballot=ballot, accepted_ballot=under, accepted=value):
                vote = None if under is None or value is None else (under, value.digest())
                self.promise(peer, round_, ballot, vote)
            case msg.Propose(round=round_, ballot=ballot, value=value):
                self.proposed(peer, round_, ballot, value.digest())
            case msg.Ready(round=round_, ballot=ballot, digest=digest):
                self.ready(peer, round_, ballot, digest)
            case msg.Commit(value=value):
                self.commit(peer, value.round, value.digest())
            case _:
                pass

    def _seat(self, round_: int, view: View) -> None:
        if view.run == self.run:
            self.seated(round_, {m.peer: m.incarnation for m in view.members}, view.order(round_))

    def _decide(self, peer: str, value: Value) -> None:
        if value.next_view.run == self.run:
            self.committed(peer, value.round, value.digest())
            self._seat(value.round + 1, value.next_view)

    # --------------------------------------------------------------------------------------------- faults and views

    def crashed(self, peer: str) -> None:
        """Note that the peer's process died: it leads nothing that it led before."""
        self._boots[peer] = self._boots.get(peer, 0) + 1

    def lost_disk(self, peer: str) -> None:
        """Note that the peer's disk is empty: its promises and votes were given, and are forgotten."""
        self.crashed(peer)
        self._lives.pop(peer, None)
        for round_ in self._rounds.values():
            round_.disks.pop(peer, None)

    def seated(self, round_: int, lives: Mapping[str, int], order: tuple[str, ...]) -> None:
        """Note who decides the round: `lives` (peer: incarnation), who lead it in this `order`."""
        found = self._rounds.setdefault(round_, _Round())
        if found.lives and found.votes:
            self._hold("one_view", found.lives == dict(lives), f"round {round_} has members {found.lives} and {lives}")
        found.lives, found.order = dict(lives), order
        while len(self._rounds) > ROUNDS_MAX:
            del self._rounds[min(self._rounds)]

    # ----------------------------------------------------------------------------------------------- what is written

    def promised(self, peer: str, round_: int, ballot: Ballot) -> None:
        """Check a promise on the peer's disk: nothing below `ballot`. A leader's own is how it opens a ballot."""
        found = self._part(peer, round_)
        if found is None:
            return
        disk = found.disk(peer)
        self._hold("promise_kept", disk.promised < ballot, f"{peer} writes {ballot} after {disk.promised}")
        if self._leader(found, ballot) == peer:
            self._take_lead(found, peer, ballot)
            found.promises.setdefault(ballot, {})[peer] = disk.highest()
        disk.promised = ballot

    def accepted(self, peer: str, round_: int, ballot: Ballot, digest: bytes, *, bytes_held: bool = True) -> None:
        """Check a vote on the peer's disk, for the value under `ballot`."""
        found = self._part(peer, round_)
        if found is None:
            return
        disk = found.disk(peer)
        self._hold("promise_kept", disk.promised <= ballot, f"{peer} votes under {ballot} after {disk.promised}")
        self._hold("bytes_on_disk", bytes_held, f"{peer} has not got those of {_short(digest)}")
        votes = found.votes.setdefault(ballot, {})
        same = votes.setdefault(peer, digest) == digest
        self._hold("one_ready", same, f"{peer} votes for {_short(digest)} and another under {ballot}")
        if self._leader(found, ballot) == peer:
            self._propose(found, peer, ballot, digest)  # alone in its view it proposes to nobody else
        proposed = found.values.get(ballot)
        self._hold("value_proposed", proposed == digest, f"{peer} accepts {_short(digest)} under {ballot}")
        disk.promised = ballot
        disk.accepted[ballot] = digest

    def committed(self, peer: str, round_: int, digest: bytes) -> None:
        """Check a decision on the peer's disk; the peer need not have been a member of that round."""
        found = self._known(round_)
        if found is None:
            return
        if found.decided is None:
            self._hold("majority_ready", found.chosen(digest), f"{peer} decides {_short(digest)} in round {round_}")
            found.decided = digest
        told = f"round {round_} decided {_short(found.decided)} and, at {peer}, {_short(digest)}"
        self._hold("one_decision", found.decided == digest, told)
        found.disk(peer).decided = digest

    # -------------------------------------------------------------------------------------------------- what is said

    def opened(self, peer: str, round_: int, ballot: Ballot) -> None:
        """Check the peer's word that it leads `ballot`."""
        found = self._part(peer, round_)
        if found is None:
            return
        self._take_lead(found, peer, ballot)
        if ballot != FIRST:
            on_disk = peer in found.promises.get(ballot, {})
            self._hold("promise_on_disk", on_disk, f"{peer} opens {ballot} and has not written it down")

    def promise(self, peer: str, round_: int, ballot: Ballot, vote: Vote | None) -> None:
        """Check the peer's answer to phase 1 of `ballot`: its promise, with its highest vote."""
        found = self._part(peer, round_)
        if found is None:
            return
        disk = found.disk(peer)
        self._hold("promise_kept", disk.promised <= ballot, f"{peer} promises {ballot} after {disk.promised}")
        self._hold("promise_on_disk", disk.promised == ballot, f"{peer} promises {ballot}, on disk is {disk.promised}")
        self._hold("ready_on_disk", vote == disk.highest(), f"{peer} reports another vote than its disk holds")
        if vote is None or vote[0] < ballot:  # later ones answer a leader that has proposed already
            found.promises.setdefault(ballot, {})[peer] = vote

    def proposed(self, peer: str, round_: int, ballot: Ballot, digest: bytes) -> None:
        """Check the value that the leader of `ballot` sends."""
        found = self._part(peer, round_)
        if found is not None:
            self._propose(found, peer, ballot, digest)

    def ready(self, peer: str, round_: int, ballot: Ballot, digest: bytes) -> None:
        """Check the peer's word to the leader of `ballot` that it voted."""
        found = self._part(peer, round_)
        if found is None:
            return
        on_disk = found.disk(peer).accepted.get(ballot) == digest
        self._hold("ready_on_disk", on_disk, f"{peer} is ready for {_short(digest)} under {ballot}, its disk is not")

    def commit(self, peer: str, round_: int, digest: bytes) -> None:
        """Check the peer's word to somebody on what the round decided."""
        found = self._known(round_)
        if found is not None:
            on_disk = found.disk(peer).decided == digest
            self._hold("commit_on_disk", on_disk, f"{peer} tells {_short(digest)} of round {round_}")

    # ----------------------------------------------------------------------------------------------------- the rules

    def _propose(self, found: _Round, peer: str, ballot: Ballot, digest: bytes) -> None:
        self._take_lead(found, peer, ballot)
        known = found.values.get(ballot)
        told = f"{peer} proposes {_short(digest)} under {ballot}"
        if known is None and ballot != FIRST:
            self._hold("carried_on", _may_propose(found, peer, ballot, digest), told)
        self._hold("one_value", known in (None, digest), f"{told} after {_short(known or b'')}")
        found.values[ballot] = digest

    def _take_lead(self, found: _Round, peer: str, ballot: Ballot) -> None:
        self._hold("ballot_leader", self._leader(found, ballot) == peer, f"{peer} leads {ballot} of {found.order}")
        mine = (peer, self._boots.get(peer, 0))
        self._hold("ballot_once", found.leads.setdefault(ballot, mine) == mine, f"{peer} leads {ballot} again")

    @staticmethod
    def _leader(found: _Round, ballot: Ballot) -> str:
        return found.order[ballot.rank] if 0 <= ballot.rank < len(found.order) else ""

    def _known(self, round_: int) -> _Round | None:
        """Return what is known of a round, if its view is."""
        self.acts += 1
        found = self._rounds.get(round_)
        return found if found is not None and found.lives else None

    def _part(self, peer: str, round_: int) -> _Round | None:
        """Return the round if the peer may take part in it."""
        found = self._known(round_)
        if found is None:
            return None
        life, now = found.lives.get(peer), self._lives.get(peer)
        told = f"{peer} is life {now}, the view of round {round_} holds {life}"
        self._hold("lost_disk_is_silent", life is not None and life == now, told)
        self._hold("decided_is_final", found.disk(peer).decided is None, f"{peer} acts in round {round_}")
        return found

    @staticmethod
    def _hold(rule: str, holds: bool, detail: str) -> None:  # noqa: FBT001 - reads as a sentence: hold the rule that ...
        if not holds:
            raise RuleBrokenError(rule, detail)


def _may_propose(found: _Round, leader: str, ballot: Ballot, digest: bytes) -> bool:
    """Tell whether some majority of the promises, the leader's own among them, allows this value.

    Which promises had arrived when the leader chose is not in the trace, so each majority of those given is tried: what
    counts is its highest vote, and all promises below that one may belong to it.
    """
    promises = found.promises.get(ballot, {})
    if leader not in promises:
        return False
    tops = dict.fromkeys(vote for vote in promises.values() if vote is None or vote[1] == digest)
    return any(
        _not_above(promises[leader], top) and sum(_not_above(v, top) for v in promises.values()) >= found.majority()
        for top in tops
    )


def _not_above(vote: Vote | None, top: Vote | None) -> bool:
    return vote is None or (top is not None and vote[0] <= top[0])


def _short(digest: bytes) -> str:
    return digest.hex()[:12]
