"""A member as acceptor: which ballot it follows, what it promises and what it votes for (pure)."""

from __future__ import annotations

from prime.trainer.round import commands as cmd
from prime.trainer.round import messages as msg
from prime.trainer.round import scatter
from prime.trainer.round.ballot import FIRST, Ballot
from prime.trainer.round.desk import Desk
from prime.trainer.round.seat import Seat
from prime.trainer.round.validity import COUNTER_LEAP_MAX, owners_fault, shares_fault, value_fault


def hear_prepare(desk: Desk, prepare: msg.Prepare, seat: Seat) -> None:
    """Answer phase 1 of a ballot that is not below our promise."""
    if _stale(desk, seat, prepare):
        return
    follow(desk, seat, prepare.ballot, prepare.owners)
    if prepare.ballot == FIRST:
        return  # the leader's heartbeat: the first ballot has no phase 1
    promise(desk, seat, prepare.ballot)
    ballot, value = seat.accepted or (None, None)
    desk.send(prepare.sender, msg.Promise(*desk.head(seat), prepare.ballot, ballot, value))


def promise(desk: Desk, seat: Seat, ballot: Ballot) -> None:
    """Write down that no lower ballot is answered any more."""
    if seat.promised < ballot:
        seat.promised = ballot
        desk.do(cmd.Persist(msg.Promised(desk.round, ballot)))


def _stale(desk: Desk, seat: Seat, message: msg.Prepare | msg.Seal | msg.Propose) -> bool:
    """Refuse a ballot below the one promised, or one that its sender cannot lead; note a leader's sign of life."""
    ballot = message.ballot
    if not _is_ballot(seat, ballot) or seat.order[ballot.rank] != message.sender:
        return True
    if owners_fault(message.owners, seat.view):
        return True
    if ballot < seat.promised or ballot < seat.following:
        known = max(seat.promised, seat.following, key=Ballot.key)
        desk.send(message.sender, msg.Nack(*desk.head(seat), known))
        return True
    return False


def _is_ballot(seat: Seat, ballot: Ballot) -> bool:
    """Tell whether a ballot can be: a leader of this view, and a counter that counting can have reached."""
    return 0 <= ballot.rank < len(seat.order) and 0 <= ballot.counter <= seat.highest + COUNTER_LEAP_MAX


def hear_beat(desk: Desk, beat: msg.Beat, seat: Seat) -> None:
    """Note a heartbeat, of the leader too."""
    desk.roster.beat(beat.sender, desk.round, desk.now)
    follow(desk, seat, beat.ballot, None)
    if beat.ballot == seat.following and beat.sender == seat.leader:
        seat.leader_heard_at = desk.now


def hear_nack(desk: Desk, nack: msg.Nack, seat: Seat) -> None:
    """Follow the higher ballot that made ours stale."""
    follow(desk, seat, nack.promised, None)


def hear_seal(desk: Desk, seal: msg.Seal, seat: Seat) -> None:
    """Take the contributors and owners of the ballot followed."""
    fault = shares_fault(seal.shares, seat.view.peers()) or ("" if seal.shares else "a seal names contributors")
    if not fault and not _stale(desk, seat, seal):
        follow(desk, seat, seal.ballot, seal.owners)
        if seat.seal is None or seal.final:  # a first seal that comes again late does not undo the final one
            seat.seal = seal


def hear_propose(desk: Desk, propose: msg.Propose, seat: Seat) -> None:
    """Take the value of the ballot followed."""
    value = propose.value
    if _stale(desk, seat, propose) or value.round != desk.round or value_fault(value, seat.view, seat.state_round):
        return
    follow(desk, seat, propose.ballot, propose.owners)
    if seat.proposal is None or seat.proposal.ballot < propose.ballot:
        seat.proposal, seat.proposal_at = propose, desk.now
    elif seat.accepted is not None and seat.accepted[0] == propose.ballot:
        send_ready(desk, seat)  # the leader asks again: the vote was lost


def follow(desk: Desk, seat: Seat, ballot: Ballot, owners: tuple[str, ...] | None) -> None:
    """Follow the highest ballot seen; `owners` is known once its leader itself has spoken."""
    if ballot < seat.following or not _is_ballot(seat, ballot):
        return
    if seat.following < ballot:
        seat.following, seat.highest = ballot, max(seat.highest, ballot.counter)
        seat.seal = seat.proposal = None
        seat.leader_heard_at, seat.leader_lost_at = desk.now, None
        if seat.lead is not None and seat.lead.ballot < ballot:
            seat.lead = None
    if owners is None:
        return
    seat.leader_heard_at = desk.now
    if len(owners) == len(seat.owners) and owners != seat.owners:
        seat.owners = owners
        scatter.transfer(desk, seat)


def try_ready(desk: Desk, seat: Seat) -> None:
    """Vote for the proposal followed: only with its bytes here, and only after they and it are on the disk."""
    proposal = seat.proposal
    if proposal is None or proposal.ballot < seat.promised or not seat.holds(proposal.value):
        return
    if seat.accepted is not None and seat.accepted[0] == proposal.ballot:
        return
    seat.promised = proposal.ballot
    seat.accepted = (proposal.ballot, proposal.value)
    desk.do(cmd.Persist(msg.Accepted(desk.round, proposal.ballot, proposal.value)))
    send_ready(desk, seat)


def hear_ready(_desk: Desk, ready: msg.Ready, seat: Seat) -> None:
    """Count a vote for the value that we lead to a decision."""
    lead = seat.lead
    if lead is not None and lead.ballot == ready.ballot and lead.digest == ready.digest:
        lead.readys.add(ready.sender)


def send_ready(desk: Desk, seat: Seat) -> None:
    """Tell the leader of the ballot that we voted under that we did."""
    if seat.accepted is None:
        return
    ballot, value = seat.accepted
    ready = msg.Ready(*desk.head(seat), ballot, value.digest())
    if seat.order[ballot.rank] == desk.me.peer:
        hear_ready(desk, ready, seat)
    else:
        desk.send(seat.order[ballot.rank], ready)


def fetch_proposal(desk: Desk, seat: Seat) -> None:
    """Ask for bytes of the proposal that nobody pushed: at once for a value carried on, else after a while."""
    proposal = seat.proposal
    if proposal is None:
        return
    carried = bool(proposal.holders)
    if carried or desk.now - seat.proposal_at >= desk.timing.transfer_s:
        scatter.fetch(desk, seat, proposal.value, (*proposal.holders, *proposal.owners, proposal.sender))
