"""The fault-tolerant averaging round: one Paxos decision per round among the members of a view (pure).

What lives here: who contributes, who owns which part, which ballot leads, what is voted and what was decided. What does
not: bytes, numbers, time, sockets; `step(event, now) -> commands` is the only way in, and its shell
(`aggregator.py`) carries the commands out in order (the ordering law stands in `commands.py`). This file is the way in;
the acts themselves have files of their own, whose floors `desk.py` draws.

The way of one round: contribute -> scatter to the owners -> seal -> reduce -> propose -> ready -> commit. Safety rests
on three rules: a member answers `Ready` only after the value and its bytes are on its disk; a ballot has one value; a
later ballot carries on the highest value that a majority reports. The rest is there to be quick.
Source: Lamport, "Paxos Made Simple", 2001; the protocol is written out in `spec/protocols/round.md`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from prime.errors import CorruptedError
from prime.trainer.round import commands as cmd
from prime.trainer.round import joining, journal, leading, liveness, outcome, scatter, voting
from prime.trainer.round import messages as msg
from prime.trainer.round.desk import Desk
from prime.trainer.round.seat import Seat, sit
from prime.trainer.round.status import Status, status_of
from prime.trainer.round.terms import DEFAULT_TERMS, Terms
from prime.trainer.round.timing import Timing
from prime.trainer.round.view import Member, view_of


class RoundCore(Desk):
    """One member of the swarm over all its rounds.

    Made by `found`, `join` or `recover`; `start` gives the first commands, then `step` takes one event at a time.
    """

    @classmethod
    def found(
        cls, me: Member, run: str, timing: Timing, *, nodes_min: int = 1, terms: Terms = DEFAULT_TERMS
    ) -> RoundCore:
        """Return the founder of a run: round 0 is its own, decided once `nodes_min` nodes (itself too) are there."""
        core = cls(me, run, timing, nodes_min=nodes_min, terms=terms)
        core.seat = sit(0, view_of(run, 0, [me]), 0)
        core.behind = False
        core.birth = (msg.Born(me), msg.Entered(0, core.seat.view, 0))
        return core

    @classmethod
    def join(cls, me: Member, run: str, timing: Timing, *, terms: Terms = DEFAULT_TERMS) -> RoundCore:
        """Return a node that is in no view yet; `JoinRun` names whom it asks."""
        core = cls(me, run, timing, terms=terms)
        core.birth = (msg.Born(me),)
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
        terms: Terms = DEFAULT_TERMS,
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
        born = Member(me.peer, me.addresses, me.weight, records[0].member.incarnation, me.rate_bytes_s)
        core = cls(born, run, timing, nodes_min=nodes_min, terms=terms)
        for record in records:
            journal.replay(core, record)
        if core.seat is not None:
            core.seat.restarted = True
        elif founder and not core.decisions:  # it died before its run began: nobody has heard of it
            core.seat = sit(0, view_of(run, 0, [core.me]), 0)
            core.behind = False
            core.birth = (msg.Entered(0, core.seat.view, 0),)
        return core

    def start(self, now: float) -> list[cmd.Command]:
        """Return the first commands: what must be on the disk before anything is said, and where this member stands."""
        self.now, self.out = now, []
        for record in (*self.birth, msg.Booted(self.boot)):
            self.do(cmd.Persist(record))
        if self.seat is None:
            self.do(cmd.Outside(self.round, "not in a view yet", rejoining=False))
        else:
            self.do(liveness.entering(self, self.seat))
            if self.seat.restarted and not self.over:
                scatter.activate(self, self.seat)
                outcome.ask_all(self, self.seat)
                if self.round > 0:
                    self.do(outcome.restart_catch_up(self.seat))
        if self.over:
            self.do(cmd.Ended(self.round - 1))
            self.do(outcome.final_catch_up(self))
        self._advance()
        return self.out

    def step(self, event: cmd.Event, now: float) -> list[cmd.Command]:
        """Take one event at the clock reading `now` (monotonic seconds); return what to do, in order."""
        self.now, self.out = now, []
        liveness.notice_pause(self)
        _HANDLERS[type(event)](self, event)
        self._advance()
        return self.out

    def beats(self) -> list[cmd.Send]:
        """Return the heartbeats to send now: every `Timing.beat_s`, also while a step's commands are carried out."""
        return liveness.beats(self)

    def next_wakeup(self, now: float) -> float | None:
        """Return when `step(Tick())` is due, or `None` if nothing is awaited."""
        if not self._busy():
            return None
        return max(now, self.ticked_at + self.timing.resend_s)

    def _busy(self) -> bool:
        active = self.seat is not None and self.seat.active_since is not None
        return (
            active
            or self.applying is not None
            or self.joining
            or self.leaving
            or self.ending
            or bool(self.roster.joining)
        )

    def _advance(self) -> None:
        if self.now - self.ticked_at >= self.timing.resend_s:
            self.ticked_at = self.now
            self._tick()
        while self._drive():
            pass
        outcome.try_apply(self)
        if self.seat is not None:
            liveness.check_majority(self, self.seat)

    def _drive(self) -> bool:
        """Push the current round on; `True` if it was decided, so that the next one can be looked at too."""
        seat = self.seat
        if seat is None:
            return False
        joining.form(self, seat)
        outcome.ask_if_over(self, seat)
        leading.take_over_if_due(self, seat)
        scatter.try_reduce(self, seat)
        voting.try_ready(self, seat)
        scatter.report(self, seat)
        leading.drive(self, seat)
        return self.seat is not seat

    def hear(self, event: cmd.Received) -> None:
        """Take what another member, or one who would be, says."""
        match event.message:
            case msg.Commit() as commit:
                outcome.hear_commit(self, commit)
            case msg.Join() as join:
                joining.hear_join(self, join)
            case msg.Leave() as leave:
                joining.hear_leave(self, leave)
            case msg.End() as end:
                joining.hear_end(self, end)
            case msg.Refuse() as refuse:
                outcome.hear_refuse(self, refuse)
            case message:
                self._hear_round(message)

    def _hear_round(self, message: msg.RoundMessage) -> None:
        if message.run != self.run:
            joining.refuse_run(self, message.sender, message.run, message.round)
            return
        seat = self.seat
        if seat is None and message.round > self.round:
            # let in without having heard so? the round before fixed the view
            self.send(message.sender, msg.Query(self.run, message.epoch, message.round - 1, self.me.peer))
        elif message.round < self.round or seat is None:
            outcome.answer_late(self, message)
        elif message.round > self.round:
            self.send(message.sender, msg.Query(*self.head(seat)))
        elif seat.view.find(message.sender) is None or self.over:
            outcome.send_commit(self, message.sender, self.round - 1)
        elif message.epoch == seat.view.epoch:
            self.roster.hear(message.sender, self.now)
            scatter.activate(self, seat)
            _HEAR[type(message)](self, message, seat)

    def _tick(self) -> None:
        joining.tick_outside(self)
        seat = self.seat
        if self.applying is not None and self.previous is not None:
            scatter.fetch(self, self.previous, self.applying, self.previous.order)
            if self.now >= self.applying_since + self.timing.deadline_s:
                outcome.give_up_applying(self)
        if seat is None or seat.active_since is None:
            return
        scatter.transfer(self, seat)
        scatter.report(self, seat, again=True)
        voting.fetch_proposal(self, seat)
        if seat.accepted is not None and seat.accepted[0] == seat.following:
            voting.send_ready(self, seat)
        if seat.lead is not None:
            leading.resend_as_leader(self, seat, seat.lead)
        if self.now >= seat.doubt_at:
            outcome.ask_all(self, seat)

    def status(self) -> Status:
        """Return how the round stands, for people."""
        return status_of(self)


_HANDLERS: Mapping[type, Callable[[RoundCore, Any], None]] = MappingProxyType(
    {
        cmd.Contributing: scatter.on_contributing,
        cmd.Contributed: scatter.on_contributed,
        cmd.Received: RoundCore.hear,
        cmd.PartHeld: scatter.on_part_held,
        cmd.GramReady: scatter.on_gram_ready,
        cmd.RateMeasured: scatter.on_rate_measured,
        cmd.Reduced: scatter.on_reduced,
        cmd.ResultHeld: scatter.on_result_held,
        cmd.StateReady: outcome.on_state_ready,
        cmd.PeerDown: liveness.on_down,
        cmd.PeerUp: liveness.on_up,
        cmd.JoinRun: joining.on_join_run,
        cmd.LeaveRun: joining.on_leave_run,
        cmd.EndRun: joining.on_end_run,
        cmd.Tick: lambda _core, _event: None,
    }
)

_HEAR: Mapping[type, Callable[[Desk, Any, Seat], None]] = MappingProxyType(
    {
        msg.Report: leading.hear_report,
        msg.Prepare: voting.hear_prepare,
        msg.Promise: leading.hear_promise,
        msg.Nack: voting.hear_nack,
        msg.Seal: voting.hear_seal,
        msg.Propose: voting.hear_propose,
        msg.Ready: voting.hear_ready,
        msg.Query: lambda _desk, _message, _seat: None,
        msg.Stored: scatter.hear_stored,
        msg.Fetch: scatter.hear_fetch,
        msg.Beat: voting.hear_beat,
    }
)
