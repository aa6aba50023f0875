"""The fault-tolerant averaging round: one Paxos decision per round among the members of a view (pure).

What lives here: who contributes, who owns which part, which ballot leads, what is voted and what was decided. What does
not: bytes, numbers, time, sockets; `step(event, now) -> commands` is the only way in, and its shell
(`aggregator.py`) carries the commands out in order (the ordering law stands in `commands.py`).

The way of one round: contribute -> scatter to the owners -> seal -> reduce -> propose -> ready -> commit. Safety rests
on three rules: a member answers `Ready` only after the value and its bytes are on its disk; a ballot has one value; a
later ballot carries on the highest value that a majority reports. The rest is there to be quick.
Source: Lamport, "Paxos Made Simple", 2001; the protocol is written out in `spec/protocols/round.md`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import attrs

from prime.errors import CorruptedError, UsageError
from prime.trainer.round import commands as cmd
from prime.trainer.round import leader as lead_
from prime.trainer.round import messages as msg
from prime.trainer.round.ballot import FIRST, NONE, Ballot
from prime.trainer.round.leader import Lead, Standing
from prime.trainer.round.roster import Roster
from prime.trainer.round.timing import Timing
from prime.trainer.round.validity import (
    COUNTER_LEAP_MAX,
    member_fault,
    owners_fault,
    record_fault,
    shares_fault,
    value_fault,
)
from prime.trainer.round.view import Member, Value, View, owners_of, seal_digest, view_of

HISTORY = 64
"""Decisions remembered, so that a member that far behind still learns each outcome in turn."""


@attrs.define
class Seat:
    """One member's place in one round: what it promised and accepted, holds, follows and leads."""

    round: int
    view: View
    state_round: int
    order: tuple[str, ...]
    owners: tuple[str, ...]
    restarted: bool = False
    promised: Ballot = NONE
    accepted: tuple[Ballot, Value] | None = None
    following: Ballot = FIRST
    highest: int = 1
    active_since: float | None = None
    doubt_at: float = 0.0
    leader_heard_at: float = 0.0
    leader_lost_at: float | None = None
    leading_since: float = 0.0
    offer: msg.Offer | None = None
    stored: set[tuple[int, str]] = attrs.Factory(set)
    transferred_at: dict[tuple[int, str], float] = attrs.Factory(dict)
    held: dict[int, set[str]] = attrs.Factory(dict)
    results: dict[int, set[bytes]] = attrs.Factory(dict)
    reducing: set[tuple[int, bytes]] = attrs.Factory(set)
    reduced: dict[tuple[int, bytes], bytes] = attrs.Factory(dict)
    seal: msg.Seal | None = None
    proposal: msg.Propose | None = None
    proposal_at: float = 0.0
    standings: dict[str, Standing] = attrs.Factory(dict)
    slow: set[str] = attrs.Factory(set)
    refused: set[str] = attrs.Factory(set)
    lead: Lead | None = None
    fetches: int = 0

    @property
    def leader(self) -> str:
        """The peer that leads the ballot followed."""
        return self.order[self.following.rank]

    def starts_from(self, state_round: int) -> bool:
        """Tell whether the state after that round is what this round starts from: all since then was aborted."""
        return self.state_round <= state_round < max(self.round, 1)

    def holds(self, value: Value) -> bool:
        """Tell whether the bytes of all parts of the value are here."""
        return all(hash_ in self.results.get(part, ()) for part, hash_ in enumerate(value.parts))

    def missing(self, value: Value) -> list[int]:
        """Return the parts of the value whose bytes are not here."""
        return [part for part, hash_ in enumerate(value.parts) if hash_ not in self.results.get(part, ())]


@attrs.frozen
class Status:
    """What a person wants to see of the round: `waiting_for` says whom for and why."""

    run: str
    epoch: int
    round: int
    phase: str
    ballot: str
    leader: str
    contributors: tuple[str, ...]
    waiting_for: tuple[tuple[str, str], ...]
    alive: tuple[tuple[str, bool], ...]
    joining: tuple[str, ...]
    stalled: str


def sit(round_: int, view: View, state_round: int) -> Seat:
    """Return a fresh seat: nothing promised, each part owned by its own member."""
    return Seat(round_, view, state_round, view.order(round_), owners_of(view, ()))


class RoundCore:
    """One member of the swarm over all its rounds.

    Made by `found`, `join` or `recover`; `start` gives the first commands, then `step` takes one event at a time.
    """

    def __init__(self, me: Member, run: str, timing: Timing, *, nodes_min: int = 1) -> None:
        self.me = me
        self.run = run
        self.timing = timing
        self.nodes_min = nodes_min
        self.boot = 1
        self.seat: Seat | None = None
        self.previous: Seat | None = None
        self.round = 0
        self.decisions: dict[int, Value] = {}
        self.roster = Roster()
        self.behind = True
        self.own_base: tuple[int, bytes] | None = None
        self.leaving = False
        self.joining = False
        self.contacts: set[str] = set()
        self._applying: Value | None = None
        self._applying_since = 0.0
        self._stalled = False
        self._last_report: msg.Report | None = None
        self._reported_to = ""
        self._ticked_at = float("-inf")
        self._birth: tuple[msg.Record, ...] = ()
        self._now = 0.0
        self._out: list[cmd.Command] = []
        self._handlers: dict[type, Callable[[Any], None]] = {
            cmd.Contributed: self._on_contributed,
            cmd.Received: self._on_received,
            cmd.PartHeld: self._on_part_held,
            cmd.Reduced: self._on_reduced,
            cmd.ResultHeld: self._on_result_held,
            cmd.StateReady: self._on_state_ready,
            cmd.PeerDown: self._on_down,
            cmd.PeerUp: lambda event: self.roster.down.discard(event.peer),
            cmd.JoinRun: self._on_join_run,
            cmd.LeaveRun: self._on_leave_run,
            cmd.Tick: lambda _: None,
        }
        self._hear: dict[type, Callable[[Any, Seat], None]] = {
            msg.Report: self._hear_report,
            msg.Prepare: self._hear_prepare,
            msg.Promise: self._hear_promise,
            msg.Nack: self._hear_nack,
            msg.Seal: self._hear_seal,
            msg.Propose: self._hear_propose,
            msg.Ready: self._hear_ready,
            msg.Query: lambda _m, _s: None,
            msg.Stored: self._hear_stored,
            msg.Fetch: self._hear_fetch,
        }

    # ------------------------------------------------------------------------------------------------ ways to begin

    @classmethod
    def found(cls, me: Member, run: str, timing: Timing, *, nodes_min: int = 1) -> RoundCore:
        """Return the founder of a run: round 0 is its own, decided once `nodes_min` nodes (itself too) are there."""
        core = cls(me, run, timing, nodes_min=nodes_min)
        core.seat = sit(0, view_of(run, 0, [me]), 0)
        core.behind = False
        core._birth = (msg.Born(me), msg.Entered(0, core.seat.view, 0))
        return core

    @classmethod
    def join(cls, me: Member, run: str, timing: Timing) -> RoundCore:
        """Return a node that is in no view yet; `JoinRun` names whom it asks."""
        core = cls(me, run, timing)
        core._birth = (msg.Born(me),)
        return core

    @classmethod
    def recover(
        cls,
        me: Member,
        run: str,
        timing: Timing,
        records: Sequence[msg.Record],
        *,
        nodes_min: int = 1,
        founder: bool = False,
    ) -> RoundCore:
        """Return the member that wrote `records`, as acceptor only for the round it was in.

        Raises `CorruptedError` if they are not a journal of this peer, `UsageError` if they are of another run.
        The identity of its disk (`incarnation`) is the journal's, whatever `me` says.
        """
        if not records or not isinstance(records[0], msg.Born) or records[0].member.peer != me.peer:
            raise CorruptedError(
                f"the journal does not begin with the birth of {me.peer}",
                hint="use this node's own state directory, or start with an empty one (it then joins as new)",
            )
        born = Member(me.peer, me.addresses, me.weight, records[0].member.incarnation)
        core = cls(born, run, timing, nodes_min=nodes_min)
        for record in records:
            core._replay(record)
        if core.seat is not None:
            core.seat.restarted = True
        elif founder and not core.decisions:  # it died before its run began: nobody has heard of it
            core.seat = sit(0, view_of(run, 0, [core.me]), 0)
            core.behind = False
            core._birth = (msg.Entered(0, core.seat.view, 0),)
        return core

    def _replay(self, record: msg.Record) -> None:
        match record:
            case msg.Booted(boot):
                self.boot = boot + 1
            case msg.Entered(round_, view, state_round):
                self._check_run(view.run)
                self.round, self.seat, self.previous = round_, sit(round_, view, state_round), None
            case msg.Promised(round_, ballot) if self.seat is not None and round_ == self.round:
                self._replay_ballot(self.seat, ballot)
            case msg.Accepted(round_, ballot, value) if self.seat is not None and round_ == self.round:
                self._replay_ballot(self.seat, ballot)
                self.seat.accepted = (ballot, value)
                self.seat.results = {part: {hash_} for part, hash_ in enumerate(value.parts)}
            case msg.Decided(value):
                self._check_run(value.next_view.run)
                self._replay_decision(value)
            case _:
                pass

    def _check_run(self, run: str) -> None:
        if run != self.run:
            raise UsageError(
                f"the journal belongs to run {run!r}, not to {self.run!r}",
                hint="name that run, or give this one its own state directory",
            )

    def _replay_ballot(self, seat: Seat, ballot: Ballot) -> None:
        seat.promised = max(seat.promised, ballot, key=Ballot.key)
        seat.following = max(seat.following, ballot, key=Ballot.key)
        seat.highest = max(seat.highest, ballot.counter)

    def _replay_decision(self, value: Value) -> None:
        if value.round != self.round:
            self.decisions.clear()  # it jumped
        self._remember(value)
        self.contacts = set(value.next_view.peers()) - {self.me.peer}
        self.previous = self.seat if self.seat is not None and self.seat.round == value.round else None
        self.round = value.round + 1
        self.seat = None
        if value.next_view.has(self.me):
            self.seat = sit(self.round, value.next_view, value.state_round)

    def start(self, now: float) -> list[cmd.Command]:
        """Return the first commands: what must be on the disk before anything is said, and where this member stands."""
        self._now, self._out = now, []
        for record in (*self._birth, msg.Booted(self.boot)):
            self._out.append(cmd.Persist(record))
        if self.seat is None:
            self._out.append(cmd.Outside(self.round, "not in a view yet", rejoining=False))
        else:
            self._out.append(cmd.EnterView(self.round, self.seat.view, self.seat.state_round))
            if self.seat.restarted:
                self._activate(self.seat)
                self._ask_all(self.seat)
                if self.round > 0:
                    self._out.append(self._restart_catch_up(self.seat))
        self._advance()
        return self._out

    def _restart_catch_up(self, seat: Seat) -> cmd.CatchUp:
        return cmd.CatchUp(seat.state_round, seat.view, None, included=False, reason="restarted")

    # -------------------------------------------------------------------------------------------------- the way in

    def step(self, event: cmd.Event, now: float) -> list[cmd.Command]:
        """Take one event at the clock reading `now` (monotonic seconds); return what to do, in order."""
        self._now, self._out = now, []
        self._handlers[type(event)](event)
        self._advance()
        return self._out

    def next_wakeup(self, now: float) -> float | None:
        """Return when `step(Tick())` is due, or `None` if nothing is awaited."""
        if not self._busy():
            return None
        return max(now, self._ticked_at + self.timing.resend_s)

    def _busy(self) -> bool:
        active = self.seat is not None and self.seat.active_since is not None
        return active or self._applying is not None or self.joining or self.leaving or bool(self.roster.joining)

    def _advance(self) -> None:
        if self._now - self._ticked_at >= self.timing.resend_s:
            self._ticked_at = self._now
            self._tick()
        while self._drive():
            pass
        self._try_apply()
        if self.seat is not None:
            self._check_majority(self.seat)

    def _drive(self) -> bool:
        """Push the current round on; `True` if it was decided, so that the next one can be looked at too."""
        seat = self.seat
        if seat is None:
            return False
        self._form(seat)
        self._ask_if_over(seat)
        self._take_over_if_due(seat)
        self._try_reduce(seat)
        self._try_ready(seat)
        self._report(seat)
        self._lead(seat)
        return self.seat is not seat

    # ----------------------------------------------------------------------------------------- events of this node

    def _on_contributed(self, event: cmd.Contributed) -> None:
        seat = self.seat
        if seat is None or event.round != self.round or seat.offer is not None:
            return
        if seat.restarted:
            self._out.append(cmd.Warn(f"round {self.round}: a member that came back in this round does not contribute"))
            return
        seat.offer = event.offer
        self._activate(seat)
        self._transfer(seat)

    def _on_part_held(self, event: cmd.PartHeld) -> None:
        seat = self.seat
        if seat is None or event.round != self.round or seat.view.find(event.sender) is None:
            return
        seat.held.setdefault(event.part, set()).add(event.sender)
        if event.sender == self.me.peer:
            seat.stored.add((event.part, self.me.peer))
        else:
            self._send(event.sender, msg.Stored(*self._head(seat), event.part))

    def _on_reduced(self, event: cmd.Reduced) -> None:
        seat = self.seat
        if seat is None or event.round != self.round:
            return
        seat.reduced[event.part, event.seal] = event.hash
        seat.results.setdefault(event.part, set()).add(event.hash)
        for peer in self._others(seat):
            self._out.append(cmd.SendResult(self.round, event.part, event.hash, peer))

    def _on_result_held(self, event: cmd.ResultHeld) -> None:
        for seat in (self.seat, self.previous):
            if seat is not None and seat.round == event.round:
                seat.results.setdefault(event.part, set()).add(event.hash)

    def _on_state_ready(self, event: cmd.StateReady) -> None:
        self.own_base = (event.round, event.state_hash)
        if self._applying is not None and event.round >= self._applying.round:
            value, self._applying = self._applying, None  # the state came by another way
            self._out.append(cmd.Settle(value, included=self.me.peer in value.contributors()))
        if self.seat is not None and self.seat.starts_from(event.round):
            self.behind = False
        else:
            self._resume_applying(event.round)

    def _resume_applying(self, state_round: int) -> None:
        """Go on from a state that is one known commit behind: the bytes of that commit are enough."""
        value = self.decisions.get(self.previous.round) if self.previous is not None else None
        if value is None or value.aborted or not self.behind or self.previous is None:
            return
        if self.previous.starts_from(state_round):
            self.behind = False
            self._applying, self._applying_since = value, self._now

    def _on_down(self, event: cmd.PeerDown) -> None:
        self.roster.joining.pop(event.peer, None)  # one that still lives asks again on its next tick
        if self.seat is not None and event.peer in self.seat.order and event.peer != self.me.peer:
            self.roster.down.add(event.peer)

    def _on_join_run(self, event: cmd.JoinRun) -> None:
        self.contacts |= set(event.contacts) - {self.me.peer}
        self.joining = self.seat is None
        self._ticked_at = float("-inf")

    def _on_leave_run(self, _event: cmd.LeaveRun) -> None:
        if self.seat is None or len(self.seat.view.members) == 1:
            self._out.append(cmd.Outside(self.round, "left", rejoining=False))
            self.joining = False
            return
        self.leaving = True
        self.roster.leaving.add(self.me.peer)
        self._ticked_at = float("-inf")

    # --------------------------------------------------------------------------------------------------- messages

    def _on_received(self, event: cmd.Received) -> None:
        match event.message:
            case msg.Commit() as commit:
                self._hear_commit(commit)
            case msg.Join() as join:
                self._hear_join(join)
            case msg.Leave() as leave:
                self._hear_leave(leave)
            case msg.Refuse() as refuse:
                self._hear_refuse(refuse)
            case message:
                self._hear_round(message)

    def _hear_round(self, message: msg.RoundMessage) -> None:
        if message.run != self.run:
            self._refuse_run(message.sender, message.run, message.round)
            return
        seat = self.seat
        if seat is None and message.round > self.round:
            # let in without having heard so? the round before fixed the view
            self._send(message.sender, msg.Query(self.run, message.epoch, message.round - 1, self.me.peer))
        elif message.round < self.round or seat is None:
            self._answer_late(message)
        elif message.round > self.round:
            self._send(message.sender, msg.Query(*self._head(seat)))
        elif seat.view.find(message.sender) is None:
            self._send_commit(message.sender, self.round - 1)
        elif message.epoch == seat.view.epoch:
            self.roster.hear(message.sender, self._now)
            self._activate(seat)
            self._hear[type(message)](message, seat)

    def _answer_late(self, message: msg.RoundMessage) -> None:
        """Answer a message of a round that is over: with the commit record only (bytes are no vote, so they go too)."""
        if isinstance(message, msg.Fetch) and self.previous is not None and message.round == self.previous.round:
            self._hear_fetch(message, self.previous)
        elif isinstance(message, msg.Stored | msg.Nack):
            pass  # nothing waits on the answer to an answer
        else:
            self._send_commit(message.sender, message.round)

    def _send_commit(self, to: str, round_: int) -> None:
        if not self.decisions or to == self.me.peer:
            return
        value = self.decisions.get(round_) or self.decisions[max(self.decisions)]
        self._send(to, msg.Commit(self.run, self.me.peer, value, min(self.decisions)))

    def _refuse_run(self, to: str, run: str, round_: int) -> None:
        reason = f"this node trains run {self.run!r}, not {run!r}: join that one as a new member"
        self._send(to, msg.Refuse(run, round_, self.me.peer, reason, b""))

    def _hear_commit(self, commit: msg.Commit) -> None:
        value = commit.value
        if commit.run != self.run or value.next_view.run != self.run:
            return
        seat = self.seat
        if not self._may_tell(commit.sender):
            return
        fault = value_fault(value, seat.view) if seat is not None and value.round == self.round else record_fault(value)
        if fault:
            self._out.append(cmd.Warn(f"{commit.sender} sent a decision that cannot be: {fault}"))
        elif seat is None:
            self._hear_commit_outside(value)
        elif value.round == self.round:
            self._decided(seat, value)
        elif value.round > self.round and self.round < commit.oldest:
            self._jump(value)
        elif value.round > self.round:
            self._send(commit.sender, msg.Query(*self._head(seat)))

    def _may_tell(self, sender: str) -> bool:
        """Tell whose word on a decision counts: members of our view, those we asked, and whom they named."""
        return sender in self.contacts or (self.seat is not None and self.seat.view.find(sender) is not None)

    def _hear_commit_outside(self, value: Value) -> None:
        if value.round < self.round:
            return
        self.contacts |= set(value.next_view.peers()) - {self.me.peer}
        if value.next_view.has(self.me):
            self.leaving = not self.joining  # let in after it changed its mind: it votes until it is let out again
            self._jump(value)

    def _jump(self, value: Value) -> None:
        """Take a decision whose round this member did not take part in, or has not seen the end of."""
        self._out.append(cmd.Persist(msg.Decided(value)))
        seat, self.seat, self.previous, self._applying = self.seat, None, None, None
        self.behind = True
        if seat is not None or value.next_view.has(self.me):
            reason = "joined" if seat is None else f"missed the outcome of round {seat.round}"
            self._out.append(cmd.CatchUp(value.state_round, value.next_view, None, included=False, reason=reason))
        self.decisions.clear()  # what is remembered has no gaps
        self._move_on(value)

    def _hear_join(self, join: msg.Join) -> None:
        peer = join.member.peer
        if join.run != self.run:
            self._refuse_run(peer, join.run, self.round)
            return
        if peer == self.me.peer:
            return
        if self.seat is None:
            self._send_commit(peer, self.round - 1)  # perhaps it was let in and did not hear of it
            return
        fault = member_fault(join.member)
        if fault:
            self._send(peer, msg.Refuse(self.run, self.round, self.me.peer, fault, b""))
            return
        if not self.seat.view.has(join.member) and not self.roster.want_in(join.member, self._now):
            reason = "too many nodes are waiting to join: try again later"
            self._send(peer, msg.Refuse(self.run, self.round, self.me.peer, reason, b""))
            return
        self._send_commit(peer, self.round - 1)

    def _hear_leave(self, leave: msg.Leave) -> None:
        if leave.run != self.run or self.seat is None:
            return
        if self.seat.view.has(leave.member):
            self.roster.leaving.add(leave.member.peer)
        else:
            self._send_commit(leave.member.peer, self.round - 1)

    def _hear_refuse(self, refuse: msg.Refuse) -> None:
        self._out.append(cmd.Warn(f"{refuse.sender} refused: {refuse.reason}"))
        seat = self.seat
        stale = seat is not None and refuse.run == self.run and refuse.round == self.round and refuse.base
        if seat is None or not stale or seat.view.find(refuse.sender) is None or self.behind:
            return
        self.behind = True
        self._out.append(cmd.CatchUp(seat.state_round, seat.view, None, included=False, reason=refuse.reason))

    def _hear_report(self, report: msg.Report, seat: Seat) -> None:
        lead_.learn(seat.standings, report)
        self._follow(seat, report.ballot, None)

    def _hear_prepare(self, prepare: msg.Prepare, seat: Seat) -> None:
        if self._stale(seat, prepare):
            return
        self._follow(seat, prepare.ballot, prepare.owners)
        if prepare.ballot == FIRST:
            return  # the leader's heartbeat: the first ballot has no phase 1
        self._promise(seat, prepare.ballot)
        ballot, value = seat.accepted or (None, None)
        self._send(prepare.sender, msg.Promise(*self._head(seat), prepare.ballot, ballot, value))

    def _promise(self, seat: Seat, ballot: Ballot) -> None:
        if seat.promised < ballot:
            seat.promised = ballot
            self._out.append(cmd.Persist(msg.Promised(self.round, ballot)))

    def _stale(self, seat: Seat, message: msg.Prepare | msg.Seal | msg.Propose) -> bool:
        """Refuse a ballot below the one promised, or one that its sender cannot lead; note a leader's sign of life."""
        ballot = message.ballot
        if not self._is_ballot(seat, ballot) or seat.order[ballot.rank] != message.sender:
            return True
        if owners_fault(message.owners, seat.view):
            return True
        if ballot < seat.promised or ballot < seat.following:
            known = max(seat.promised, seat.following, key=Ballot.key)
            self._send(message.sender, msg.Nack(*self._head(seat), known))
            return True
        return False

    @staticmethod
    def _is_ballot(seat: Seat, ballot: Ballot) -> bool:
        """Tell whether a ballot can be: a leader of this view, and a counter that counting can have reached."""
        return 0 <= ballot.rank < len(seat.order) and 0 <= ballot.counter <= seat.highest + COUNTER_LEAP_MAX

    def _hear_promise(self, promise: msg.Promise, seat: Seat) -> None:
        if seat.lead is not None and promise.ballot == seat.lead.ballot:
            seat.lead.promises[promise.sender] = promise

    def _hear_nack(self, nack: msg.Nack, seat: Seat) -> None:
        self._follow(seat, nack.promised, None)

    def _hear_seal(self, seal: msg.Seal, seat: Seat) -> None:
        fault = shares_fault(seal.shares, seat.view.peers()) or ("" if seal.shares else "a seal names contributors")
        if not fault and not self._stale(seat, seal):
            self._follow(seat, seal.ballot, seal.owners)
            seat.seal = seal

    def _hear_propose(self, propose: msg.Propose, seat: Seat) -> None:
        if self._stale(seat, propose) or propose.value.round != self.round or value_fault(propose.value, seat.view):
            return
        self._follow(seat, propose.ballot, propose.owners)
        if seat.proposal is None or seat.proposal.ballot < propose.ballot:
            seat.proposal, seat.proposal_at = propose, self._now
        elif seat.accepted is not None and seat.accepted[0] == propose.ballot:
            self._send_ready(seat)  # the leader asks again: the vote was lost

    def _hear_ready(self, ready: msg.Ready, seat: Seat) -> None:
        lead = seat.lead
        if lead is not None and lead.ballot == ready.ballot and lead.digest == ready.digest:
            lead.readys.add(ready.sender)

    def _hear_stored(self, stored: msg.Stored, seat: Seat) -> None:
        seat.stored.add((stored.part, stored.sender))

    def _hear_fetch(self, fetch: msg.Fetch, seat: Seat) -> None:
        if fetch.hash in seat.results.get(fetch.part, ()):
            self._out.append(cmd.SendResult(fetch.round, fetch.part, fetch.hash, fetch.sender))

    # ------------------------------------------------------------------------------------------- following a ballot

    def _follow(self, seat: Seat, ballot: Ballot, owners: tuple[str, ...] | None) -> None:
        """Follow the highest ballot seen; `owners` is known once its leader itself has spoken."""
        if ballot < seat.following or not self._is_ballot(seat, ballot):
            return
        if seat.following < ballot:
            seat.following, seat.highest = ballot, max(seat.highest, ballot.counter)
            seat.seal = seat.proposal = None
            seat.leader_heard_at, seat.leader_lost_at = self._now, None
            if seat.lead is not None and seat.lead.ballot < ballot:
                seat.lead = None
        if owners is None:
            return
        seat.leader_heard_at = self._now
        if len(owners) == len(seat.owners) and owners != seat.owners:
            seat.owners = owners
            self._transfer(seat)

    def _transfer(self, seat: Seat) -> None:
        """Send the parts of our contribution that their present owners have not confirmed."""
        if seat.offer is None:
            return
        for part, owner in enumerate(seat.owners):
            last = seat.transferred_at.get((part, owner), float("-inf"))
            if (part, owner) not in seat.stored and self._now - last >= self.timing.transfer_s:
                seat.transferred_at[part, owner] = self._now
                self._out.append(cmd.Transfer(self.round, part, owner))

    def _activate(self, seat: Seat) -> None:
        """Start the round's clocks at its first sign of life; before that a member trains in peace."""
        if seat.active_since is None:
            seat.active_since = seat.leader_heard_at = seat.leading_since = self._now
            seat.doubt_at = self._now + self.timing.deadline_s

    def _try_reduce(self, seat: Seat) -> None:
        seal = seat.seal
        if seal is None:
            return
        digest = seal_digest(self.round, seal.base, seal.shares)
        wanted = {s.peer for s in seal.shares}
        for part, owner in enumerate(seal.owners):
            mine = owner == self.me.peer and (part, digest) not in seat.reducing
            if mine and wanted <= seat.held.get(part, set()):
                seat.reducing.add((part, digest))
                self._out.append(cmd.Reduce(self.round, part, digest, seal.shares))

    def _try_ready(self, seat: Seat) -> None:
        """Vote for the proposal followed: only with its bytes here, and only after they and it are on the disk."""
        proposal = seat.proposal
        if proposal is None or proposal.ballot < seat.promised or not seat.holds(proposal.value):
            return
        if seat.accepted is not None and seat.accepted[0] == proposal.ballot:
            return
        seat.promised = proposal.ballot
        seat.accepted = (proposal.ballot, proposal.value)
        self._out.append(cmd.Persist(msg.Accepted(self.round, proposal.ballot, proposal.value)))
        self._send_ready(seat)

    def _send_ready(self, seat: Seat) -> None:
        if seat.accepted is None:
            return
        ballot, value = seat.accepted
        ready = msg.Ready(*self._head(seat), ballot, value.digest())
        if seat.order[ballot.rank] == self.me.peer:
            self._hear_ready(ready, seat)
        else:
            self._send(seat.order[ballot.rank], ready)

    def _report(self, seat: Seat, *, again: bool = False) -> None:
        """Tell the leader how we stand, when that changed or on a tick."""
        if seat.active_since is None:
            return
        report = self._standing(seat)
        if seat.leader == self.me.peer:
            lead_.learn(seat.standings, report)
        elif again or (report, seat.leader) != (self._last_report, self._reported_to):
            self._last_report, self._reported_to = report, seat.leader
            self._send(seat.leader, report)

    def _standing(self, seat: Seat) -> msg.Report:
        held = tuple(msg.Holding(part, tuple(sorted(senders))) for part, senders in sorted(seat.held.items()))
        reduced = tuple(msg.Reduction(part, seal, hash_) for (part, seal), hash_ in sorted(seat.reduced.items()))
        willing = not (self.behind or seat.restarted or self.leaving)
        return msg.Report(
            *self._head(seat),
            self.boot,
            seat.restarted,
            willing or seat.offer is not None,
            seat.following,
            seat.offer,
            held,
            reduced,
        )

    # -------------------------------------------------------------------------------------------- leading a ballot

    def _form(self, seat: Seat) -> None:
        """Round 0 is the founder's own: it begins once enough nodes wait to join, and decides who they are."""
        self.roster.lapse(seat.view, self._now, self.timing.join_ttl_s)
        if self.round == 0 and 1 + len(self.roster.joining) >= self.nodes_min:
            self._activate(seat)

    def _ask_if_over(self, seat: Seat) -> None:
        """Ask for the outcome of a round that must be over: the state that was fetched is of it, or of a later one."""
        ahead = self.own_base is not None and self.own_base[0] >= max(self.round, 1)
        if ahead and seat.active_since is None:
            self._activate(seat)
            self._ask_all(seat)

    def _take_over_if_due(self, seat: Seat) -> None:
        if seat.active_since is None or seat.lead is not None:
            return
        if seat.leader == self.me.peer and not seat.restarted and seat.promised == NONE and seat.following == FIRST:
            seat.lead = Lead(seat.view, FIRST, seat.owners, self._now, free=True)
            seat.leading_since = self._now
            self._beat(seat, seat.lead)
        elif self._leader_is_lost(seat) or self._now >= seat.doubt_at + self._rank(seat) * self.timing.stagger_s:
            self._open(seat)

    def _leader_is_lost(self, seat: Seat) -> bool:
        """Tell whether it is our turn to lead: at once after a broken link, later after silence, staggered by rank."""
        down = self.roster.down | {seat.leader}
        queue = [p for p in seat.order if p not in down]
        place = queue.index(self.me.peer) if self.me.peer in queue else len(queue)
        wait_s = place * self.timing.stagger_s
        if self._dead(seat, seat.leader):
            seat.leader_lost_at = self._now if seat.leader_lost_at is None else seat.leader_lost_at
            return self._now >= seat.leader_lost_at + wait_s
        return self._now >= seat.leader_heard_at + self.timing.suspect_s + wait_s

    def _rank(self, seat: Seat) -> int:
        return seat.order.index(self.me.peer)

    def _open(self, seat: Seat) -> None:
        """Open a higher ballot with phase 1. Its number is on the disk before anybody hears of it."""
        if seat.lead is None:
            seat.leading_since = self._now
        seat.highest += 1
        ballot = Ballot(seat.highest, self._rank(seat))
        owners = owners_of(seat.view, self._unfit(seat))
        self._promise(seat, ballot)
        self._follow(seat, ballot, owners)
        accepted = seat.accepted or (None, None)
        seat.lead = Lead(seat.view, ballot, owners, self._now, free=False)
        seat.lead.promises[self.me.peer] = msg.Promise(*self._head(seat), ballot, *accepted)
        seat.doubt_at = self._now + self.timing.deadline_s
        self._beat(seat, seat.lead)

    def _beat(self, seat: Seat, lead: Lead) -> None:
        for peer in self._others(seat):
            self._send(peer, msg.Prepare(*self._head(seat), lead.ballot, lead.owners))

    def _dead(self, seat: Seat, peer: str) -> bool:
        return peer in self.roster.down or self.roster.gone(peer, seat.view)

    def _suspected(self, seat: Seat) -> set[str]:
        """Return the members that seem gone: link down, a successor asks to join, or (to a leader) silent too long."""
        found = {p for p in self._others(seat) if self._dead(seat, p)}
        if seat.lead is not None:
            oldest = self._now - self.timing.suspect_s
            heard = self.roster.heard_at
            found |= {p for p in self._others(seat) if max(heard.get(p, 0.0), seat.leading_since) < oldest}
        return found

    def _unfit(self, seat: Seat) -> set[str]:
        """Return who cannot own a part: suspects, members that came back in this round, owners that were too slow."""
        back = {peer for peer, s in seat.standings.items() if s.restarted}
        own = {self.me.peer} if seat.restarted else set()
        return self._suspected(seat) | back | own | seat.slow

    def _lead(self, seat: Seat) -> None:
        lead = seat.lead
        if lead is None:
            return
        if lead.value is not None:
            self._count_votes(seat, lead, lead.value)
        elif not lead.free and not self._end_phase_one(seat, lead):
            return
        elif self.round == 0:
            if 1 + len(self.roster.joining) >= self.nodes_min:
                self._propose(seat, lead, self._abort_value(seat), ())
        elif lead.seal is None:
            self._try_seal(seat, lead)
        else:
            self._try_propose(seat, lead, lead.seal)

    def _end_phase_one(self, seat: Seat, lead: Lead) -> bool:
        """Return `True` if a majority left the choice to us; carry the highest accepted value on otherwise."""
        if not lead.promised():
            return False
        carried = lead.carried()
        if carried is not None:
            self._propose(seat, lead, *carried)
            return False
        lead.free = True
        return True

    def _try_seal(self, seat: Seat, lead: Lead) -> None:
        suspected = self._suspected(seat)
        if owners_of(seat.view, self._unfit(seat)) != lead.owners:
            self._reopen(seat, lead)
            return
        offers = self._admit(seat, lead_.complete(seat.standings, lead.owners))
        base = lead_.choose_base(offers, self._base())
        shares = lead_.shares_of(offers, base)
        self._refuse_stale(seat, offers, base)
        waiting = [p for p in seat.view.peers() if p not in suspected and p not in offers and self._expects(seat, p)]
        over = self._now >= self._seal_deadline(seat, lead)
        enough = seat.view.weight([s.peer for s in shares]) >= self.timing.quorum * seat.view.weight(seat.order)
        if shares and enough and (over or not waiting):
            self._seal(seat, lead, msg.Seal(*self._head(seat), lead.ballot, lead.owners, base, shares))
        elif over:
            self._propose(seat, lead, self._abort_value(seat), ())

    def _seal_deadline(self, seat: Seat, lead: Lead) -> float:
        since = self._now if seat.active_since is None else seat.active_since
        moved = lead.opened_at + (self.timing.reduce_s if lead.ballot > FIRST else 0.0)
        return max(since + self.timing.seal_s, moved)

    def _base(self) -> bytes | None:
        seat, base = self.seat, self.own_base
        return base[1] if seat is not None and base is not None and seat.starts_from(base[0]) else None

    def _admit(self, seat: Seat, offers: dict[str, msg.Offer]) -> dict[str, msg.Offer]:
        """Drop offers that cannot be weighed; their senders are told."""
        bad = {p for p, o in offers.items() if not 0 < o.weight < float("inf") or len(o.parts) != len(seat.owners)}
        for peer in bad - seat.refused:
            seat.refused.add(peer)
            reason = f"the contribution of {peer} has no usable weight, or the wrong number of parts"
            self._send(peer, msg.Refuse(self.run, self.round, self.me.peer, reason, b""))
        return {peer: offer for peer, offer in offers.items() if peer not in bad}

    def _refuse_stale(self, seat: Seat, offers: dict[str, msg.Offer], base: bytes) -> None:
        for peer, offer in offers.items():
            if offer.base == base or peer in seat.refused:
                continue
            seat.refused.add(peer)
            reason = (
                f"the contribution of {peer} to round {self.round} starts from state {offer.base.hex()[:12]}, "
                f"the round from {base.hex()[:12]}: it must catch up first"
            )
            refuse = msg.Refuse(self.run, self.round, self.me.peer, reason, base)
            if peer == self.me.peer:
                self._hear_refuse(refuse)
            else:
                self._send(peer, refuse)

    def _expects(self, seat: Seat, peer: str) -> bool:
        """Tell whether a living member may still contribute: it said so, or has said nothing yet."""
        standing = seat.standings.get(peer)
        return standing is None or standing.intends

    def _seal(self, seat: Seat, lead: Lead, seal: msg.Seal) -> None:
        lead.seal, lead.sealed_at = seal, self._now
        for peer in self._others(seat):
            self._send(peer, seal)
        seat.seal = seal
        self._try_reduce(seat)

    def _try_propose(self, seat: Seat, lead: Lead, seal: msg.Seal) -> None:
        digest = seal_digest(self.round, seal.base, seal.shares)
        hashes = lead_.reductions(seat.standings, seal.owners, digest)
        if len(hashes) == len(seal.owners):
            parts = tuple(hashes[part] for part in range(len(seal.owners)))
            kept = [s.peer for s in seal.shares]
            follow = self.roster.next_view(seat.view, kept, self._suspected(seat))
            value = Value(self.round, seat.view.epoch, seal.base, seal.shares, parts, follow, self.round)
            self._propose(seat, lead, value, ())
            return
        late = {owner for part, owner in enumerate(seal.owners) if part not in hashes}
        if late & self._unfit(seat):
            self._reopen(seat, lead)
        elif self._now >= lead.sealed_at + self.timing.reduce_s:
            seat.slow |= late
            self._open(seat)

    def _abort_value(self, seat: Seat) -> Value:
        contributing = [p for p, s in seat.standings.items() if s.offer is not None]
        follow = self.roster.next_view(seat.view, contributing, self._suspected(seat))
        return Value(self.round, seat.view.epoch, b"", (), (), follow, seat.state_round)

    def _propose(self, seat: Seat, lead: Lead, value: Value, holders: tuple[str, ...]) -> None:
        lead.value, lead.digest, lead.holders = value, value.digest(), holders
        propose = msg.Propose(*self._head(seat), lead.ballot, lead.owners, holders, value)
        for peer in self._others(seat):
            self._send(peer, propose)
        self._hear_propose(propose, seat)
        self._try_ready(seat)
        self._count_votes(seat, lead, value)

    def _count_votes(self, seat: Seat, lead: Lead, value: Value) -> None:
        if lead.decided():
            self._decided(seat, value)
        elif self._bytes_lost(seat, lead, value) or self._now >= lead.opened_at + self.timing.deadline_s:
            self._reopen(seat, lead)

    def _bytes_lost(self, seat: Seat, lead: Lead, value: Value) -> bool:
        """Tell whether no reachable member can serve some part of the value: then a fresh majority must be asked."""
        suspected = self._suspected(seat)
        everywhere = (set(lead.holders) | lead.readys) - suspected
        if everywhere:
            return False
        makers = () if lead.holders else lead.owners
        return any(part >= len(makers) or makers[part] in suspected for part in seat.missing(value))

    def _reopen(self, seat: Seat, lead: Lead) -> None:
        """Open a higher ballot of our own, but not more often than we resend."""
        if lead.ballot == FIRST or self._now - lead.opened_at >= self.timing.resend_s:
            self._open(seat)

    # ------------------------------------------------------------------------------------------------- the outcome

    def _decided(self, seat: Seat, value: Value) -> None:
        """Take the decision of the current round: onto the disk, to everyone, then on to the next round."""
        self._out.append(cmd.Persist(msg.Decided(value)))
        self._remember(value)
        if seat.lead is not None:
            commit = msg.Commit(self.run, self.me.peer, value, min(self.decisions))
            for peer in sorted({*seat.view.peers(), *value.next_view.peers()} - {self.me.peer}):
                self._send(peer, commit)
        self._give_up_applying()
        self.previous, self.seat = seat, None
        if value.aborted:
            self._out.append(cmd.Keep(value))
        elif self.own_base is not None and self.own_base[0] >= value.round:
            self.behind = False
            self._out.append(cmd.Settle(value, included=self.me.peer in value.contributors()))
        elif self.behind:
            self._out.append(self._catch_up(value, "the state before it is not here"))
        else:
            self._applying, self._applying_since = value, self._now
            self._try_apply()
        self._move_on(value)

    def _remember(self, value: Value) -> None:
        self.decisions[value.round] = value
        for old in [r for r in self.decisions if r <= value.round - HISTORY]:
            del self.decisions[old]

    def _catch_up(self, value: Value, reason: str) -> cmd.CatchUp:
        included = self.me.peer in value.contributors()
        return cmd.CatchUp(value.round, value.next_view, value, included=included, reason=reason)

    def _move_on(self, value: Value) -> None:
        self._remember(value)
        self.round = value.round + 1
        self._end_stall()
        if not value.next_view.has(self.me):
            self._leave_view(value)
            return
        self.joining = False
        self.seat = sit(self.round, value.next_view, value.state_round)
        self.behind = self.behind and self._base() is None
        self.roster.lapse(value.next_view, self._now, self.timing.join_ttl_s)
        self._last_report = None
        self._out.append(cmd.EnterView(self.round, value.next_view, value.state_round))
        if len(value.next_view.members) == 2 and self.previous and len(self.previous.view.members) != 2:
            self._out.append(cmd.Warn("a view of two: if one of them dies, nothing commits until it is back"))

    def _leave_view(self, value: Value) -> None:
        """Stand outside: after leaving for good, otherwise asking to be let in again."""
        self.contacts |= set(value.next_view.peers())
        self.joining, left = not self.leaving, self.leaving
        self.leaving = False
        self.roster.leaving.discard(self.me.peer)
        self.behind = True
        self._give_up_applying()
        reason = "left" if left else "left out of the view: not heard from in time"
        self._out.append(cmd.Outside(self.round, reason, rejoining=not left))

    def _try_apply(self) -> None:
        value, seat = self._applying, self.previous
        if value is not None and seat is not None and seat.holds(value):
            self._applying = None
            self._out.append(cmd.Apply(value, included=self.me.peer in value.contributors()))

    def _give_up_applying(self) -> None:
        if self._applying is not None:
            self.behind = True
            value, self._applying = self._applying, None
            self._out.append(self._catch_up(value, "its bytes were not to be had in time"))

    # ----------------------------------------------------------------------------------------------------- by time

    def _tick(self) -> None:
        self._tick_outside()
        seat = self.seat
        if self._applying is not None and self.previous is not None:
            self._fetch(self.previous, self._applying, self.previous.order)
            if self._now >= self._applying_since + self.timing.deadline_s:
                self._give_up_applying()
        if seat is None or seat.active_since is None:
            return
        self._transfer(seat)
        self._report(seat, again=True)
        self._fetch_proposal(seat)
        if seat.accepted is not None and seat.accepted[0] == seat.following:
            self._send_ready(seat)
        if seat.lead is not None:
            self._resend_as_leader(seat, seat.lead)
        if self._now >= seat.doubt_at:
            self._ask_all(seat)

    def _tick_outside(self) -> None:
        if self.joining:
            for peer in sorted(self.contacts - {self.me.peer}):
                self._send(peer, msg.Join(self.run, self.me))
        if self.leaving and self.seat is not None:
            for peer in self._others(self.seat):
                self._send(peer, msg.Leave(self.run, self.me))

    def _fetch_proposal(self, seat: Seat) -> None:
        """Ask for bytes of the proposal that nobody pushed: at once for a value carried on, else after a while."""
        proposal = seat.proposal
        if proposal is None:
            return
        carried = bool(proposal.holders)
        if carried or self._now - seat.proposal_at >= self.timing.transfer_s:
            self._fetch(seat, proposal.value, (*proposal.holders, *proposal.owners, proposal.sender))

    def _fetch(self, seat: Seat, value: Value, holders: Collection[str]) -> None:
        """Ask for each missing part, each time another of those who should hold it."""
        able = [p for p in dict.fromkeys(holders) if p != self.me.peer and p not in self.roster.down]
        missing = seat.missing(value)
        if not able or not missing:
            return
        for part in missing:
            holder = able[(seat.fetches + part) % len(able)]
            self._send(holder, msg.Fetch(*self._head(seat), part, value.parts[part]))
        seat.fetches += 1

    def _resend_as_leader(self, seat: Seat, lead: Lead) -> None:
        self._beat(seat, lead)
        if lead.value is not None:
            propose = msg.Propose(*self._head(seat), lead.ballot, lead.owners, lead.holders, lead.value)
            for peer in self._others(seat):
                if peer not in lead.readys:
                    self._send(peer, propose)
        elif lead.seal is not None:
            for peer in self._others(seat):
                self._send(peer, lead.seal)

    def _ask_all(self, seat: Seat) -> None:
        for peer in self._others(seat):
            self._send(peer, msg.Query(*self._head(seat)))

    # ---------------------------------------------------------------------------------------------------- the stall

    def _check_majority(self, seat: Seat) -> None:
        missing = self._suspected(seat)
        if seat.active_since is not None and seat.lead is None:
            silent = self._now - seat.leader_heard_at > self.timing.deadline_s
            missing |= {seat.leader} - {self.me.peer} if silent else set()
        alive = len(seat.view.members) - len(missing)
        if alive >= seat.view.majority():
            self._end_stall()
        elif not self._stalled:
            self._stalled = True
            self._out.append(self._stall(seat, alive, missing))

    def _stall(self, seat: Seat, alive: int, missing: set[str]) -> cmd.Stalled:
        total, need = len(seat.view.members), seat.view.majority()
        reason = (
            f"round {self.round} cannot commit: {alive} of {total} members are reachable, {need} are needed "
            f"(not reachable: {', '.join(sorted(missing))})"
        )
        hint = (
            "training goes on locally and commits again once enough of them are back: start them with the state "
            "folders they had. If they are gone for good, end this node and found a new run (another train.run): "
            "nobody may decide alone, because a partition looks the same as a death"
        )
        return cmd.Stalled(self.round, reason, hint)

    def _end_stall(self) -> None:
        if self._stalled:
            self._stalled = False
            self._out.append(cmd.Resumed(self.round))

    # ------------------------------------------------------------------------------------------------------- status

    def status(self) -> Status:
        """Return how the round stands, for people."""
        seat = self.seat
        joining = tuple(sorted(self.roster.joining))
        if seat is None:
            return Status(self.run, 0, self.round, "outside", "", "", (), (), (), joining, "")
        suspected = self._suspected(seat)
        alive = tuple((p, p not in suspected) for p in seat.view.peers())
        shares = seat.seal.shares if seat.seal is not None else ()
        return Status(
            self.run,
            seat.view.epoch,
            self.round,
            self._phase(seat),
            str(seat.following),
            seat.leader,
            tuple(s.peer for s in shares),
            self._waiting(seat, suspected),
            alive,
            joining,
            "below a majority" if self._stalled else "",
        )

    def _phase(self, seat: Seat) -> str:
        if self._stalled:
            return "stalled"
        if seat.active_since is None:
            return "training"
        if seat.proposal is not None:
            return "voting"
        return "reducing" if seat.seal is not None else "gathering"

    def _waiting(self, seat: Seat, suspected: set[str]) -> tuple[tuple[str, str], ...]:
        if seat.active_since is None:
            return ()
        if seat.lead is None:
            return ((seat.leader, "leads the round"),)
        if seat.lead.value is not None:
            return tuple((p, "its vote") for p in seat.order if p not in seat.lead.readys and p not in suspected)
        if seat.lead.seal is not None:
            owners = sorted(set(seat.lead.owners) - suspected)
            return tuple((p, "its reduced part") for p in owners if not self._has_reduced(seat, p))
        offers = lead_.complete(seat.standings, seat.lead.owners)
        late = [p for p in seat.order if p not in offers and p not in suspected and self._expects(seat, p)]
        return tuple((p, "its contribution") for p in late)

    def _has_reduced(self, seat: Seat, peer: str) -> bool:
        standing = seat.standings.get(peer)
        return standing is not None and bool(standing.reduced)

    # -------------------------------------------------------------------------------------------------------- small

    def _head(self, seat: Seat) -> tuple[str, int, int, str]:
        return (self.run, seat.view.epoch, seat.round, self.me.peer)

    def _others(self, seat: Seat) -> list[str]:
        return [p for p in seat.order if p != self.me.peer]

    def _send(self, to: str, message: msg.PeerMessage) -> None:
        if to != self.me.peer:
            self._out.append(cmd.Send(to, message))


def compact(records: Sequence[msg.Record]) -> list[msg.Record]:
    """Return the records that `recover` still needs, in their order.

    Kept are the birth, the last boot, the newest decisions, the votes of the round under way, and those of the last
    decided round with their bytes, so that they can be served after a restart.
    """
    decided = [r for r in records if isinstance(r, msg.Decided)]
    last = decided[-1].value.round if decided else -1
    boots = [r for r in records if isinstance(r, msg.Booted)]
    kept = {id(r) for r in decided[-8:] + boots[-1:]}
    return [r for r in records if id(r) in kept or _still_needed(r, last)]


def _still_needed(record: msg.Record, last: int) -> bool:
    match record:
        case msg.Born():
            return True
        case msg.Entered(round_, _, _):
            return round_ >= last
        case msg.Promised(round_, _) | msg.Accepted(round_, _, _):
            return round_ >= last
        case _:
            return False
