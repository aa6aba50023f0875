"""The decision of a round: who is believed about it, what becomes of it here, and what comes after (pure)."""

from __future__ import annotations

from prime.trainer.round import commands as cmd
from prime.trainer.round import liveness, scatter
from prime.trainer.round import messages as msg
from prime.trainer.round.desk import Desk
from prime.trainer.round.seat import Seat, sit
from prime.trainer.round.validity import record_fault, value_fault
from prime.trainer.round.view import Value, View

JUMP_WORDS = 2
"""Members that must tell the same decision before one that is in a round far behind it leaves that round."""


def decide(desk: Desk, seat: Seat, value: Value) -> None:
    """Take the decision of the current round: onto the disk, to everyone, then on to the next round."""
    desk.do(cmd.Persist(msg.Decided(value)))
    desk.remember(value)
    if seat.lead is not None:
        commit = msg.Commit(desk.run, desk.me.peer, value, min(desk.decisions))
        for peer in sorted({*seat.view.peers(), *value.next_view.peers()} - {desk.me.peer}):
            desk.send(peer, commit)
    give_up_applying(desk)
    desk.previous, desk.seat = seat, None
    if value.aborted:
        desk.do(cmd.Keep(value))
    elif desk.own_base is not None and desk.own_base[0] >= value.round:
        desk.behind = False
        desk.do(cmd.Settle(value, included=desk.me.peer in value.contributors()))
    elif desk.behind:
        desk.do(_catch_up(desk, value, "the state before it is not here"))
    elif (fault := _base_fault(desk, seat, value)) != "":
        desk.behind = True
        desk.do(_catch_up(desk, value, fault))
    else:
        desk.applying, desk.applying_since = value, desk.now
        try_apply(desk)
    _move_on(desk, value)


def _base_fault(desk: Desk, seat: Seat, value: Value) -> str:
    """Say why nothing may be applied to the state held here: the round started from another one."""
    own = desk.own_base
    if own is None or not seat.starts_from(own[0]) or own[1] == value.base:
        return ""
    return (
        f"the state held here is {own[1].hex()[:12]}, the members' is {value.base.hex()[:12]}: it is repaired from "
        "theirs, and nothing of it was averaged in"
    )


def hear_commit(desk: Desk, commit: msg.Commit) -> None:
    """Take another's word on what was decided."""
    value = commit.value
    if commit.run != desk.run or value.next_view.run != desk.run:
        return
    seat = desk.seat
    if not _may_tell(desk, commit.sender):
        return
    is_ours = seat is not None and value.round == desk.round
    fault = value_fault(value, seat.view, seat.state_round) if seat is not None and is_ours else record_fault(value)
    if fault:
        desk.warn(commit.sender, f"{commit.sender} sent a decision that cannot be: {fault}")
    elif seat is None:
        _hear_commit_outside(desk, value)
    elif value.round == desk.round:
        decide(desk, seat, value)
    elif value.round > desk.round and desk.round < commit.oldest:
        _hear_of_a_jump(desk, seat, commit)
    elif value.round > desk.round:
        desk.send(commit.sender, msg.Query(*desk.head(seat)))


def _hear_of_a_jump(desk: Desk, seat: Seat, commit: msg.Commit) -> None:
    """Take a decision far ahead once two members tell it: nobody else knows the rounds between any more.

    One member's word could otherwise take this one out of a round that goes on. In a view of two there is no second.
    """
    is_first = not desk.words
    digest = desk.words[commit.sender] = commit.value.digest()
    others = set(desk.others(seat))
    agreeing = {peer for peer in others & set(desk.words) if desk.words[peer] == digest}
    if len(agreeing) >= min(JUMP_WORDS, len(others)):
        _jump(desk, commit.value)
    elif is_first:
        ask_all(desk, seat)


def _may_tell(desk: Desk, sender: str) -> bool:
    """Tell whose word on a decision counts: that of our view's members; outside, of those we asked, and whom they named."""
    return sender in desk.contacts if desk.seat is None else desk.seat.view.find(sender) is not None


def _hear_commit_outside(desk: Desk, value: Value) -> None:
    if value.round < desk.round:
        return
    desk.know(value.next_view.peers())
    if value.next_view.has(desk.me):
        desk.leaving = not desk.joining  # let in after it changed its mind: it votes until it is let out again
        _jump(desk, value)
    elif value.last:
        _jump(desk, value)  # nobody will be let in any more: all that is left to have is the final state


def _jump(desk: Desk, value: Value) -> None:
    """Take a decision whose round this member did not take part in, or has not seen the end of."""
    desk.do(cmd.Persist(msg.Decided(value)))
    seat, desk.seat, desk.previous, desk.applying = desk.seat, None, None, None
    desk.behind = True
    if seat is not None or value.last or value.next_view.has(desk.me):
        reason = "joined" if seat is None else f"missed the outcome of round {seat.round}"
        desk.do(cmd.CatchUp(value.state_round, value.next_view, None, included=False, reason=reason))
    desk.decisions.clear()  # what is remembered has no gaps
    _move_on(desk, value)


def _catch_up(desk: Desk, value: Value, reason: str) -> cmd.CatchUp:
    included = desk.me.peer in value.contributors()
    return cmd.CatchUp(value.round, value.next_view, value, included=included, reason=reason)


def _move_on(desk: Desk, value: Value) -> None:
    desk.remember(value)
    desk.round, desk.decided_at = value.round + 1, desk.now
    liveness.end_stall(desk)
    if value.last:
        desk.ending = False
        desk.roster.ending.clear()
        desk.do(cmd.Ended(value.round))
    if not value.next_view.has(desk.me):
        _leave_view(desk, value)
        return
    desk.joining = False
    desk.seat = sit(desk.round, value.next_view, value.state_round)
    desk.behind = desk.behind and desk.base is None
    desk.roster.lapse(value.next_view, desk.now, desk.timing.join_ttl_s)
    desk.patience.keep(value.next_view.peers())
    desk.last_report = None
    desk.warnings.clear()
    desk.words.clear()
    _note_demotion(desk, value.next_view)
    desk.do(liveness.entering(desk, desk.seat))
    if len(value.next_view.members) == 2 and desk.previous and len(desk.previous.view.members) != 2:
        desk.do(cmd.Warn("a view of two: if one of them dies, nothing commits until it is back"))


def _note_demotion(desk: Desk, view: View) -> None:
    """Remember when the others found that this member cannot own a part."""
    before = desk.previous.view.find(desk.me.peer) if desk.previous is not None else None
    after = view.find(desk.me.peer)
    owned = before is not None and before.rate_bytes_s != 0
    if owned and after is not None and after.rate_bytes_s == 0 and desk.me.rate_bytes_s != 0:
        desk.demoted_round = desk.round
        desk.do(cmd.Warn("this node could not hold the part of the vector that it owned: it owns none for a while"))


def _leave_view(desk: Desk, value: Value) -> None:
    """Stand outside: after leaving for good, or the end of the run; otherwise asking to be let in again."""
    desk.know(value.next_view.peers())
    desk.joining, left = not (desk.leaving or value.last), desk.leaving
    desk.leaving = False
    desk.roster.leaving.discard(desk.me.peer)
    desk.behind = True
    give_up_applying(desk)
    reason = "left" if left or value.last else "left out of the view: not heard from in time"
    desk.do(cmd.Outside(desk.round, reason, rejoining=desk.joining))


def try_apply(desk: Desk) -> None:
    """Apply the last decision once the bytes of all its parts are here."""
    value, seat = desk.applying, desk.previous
    if value is not None and seat is not None and seat.holds(value):
        desk.applying = None
        desk.do(cmd.Apply(value, included=desk.me.peer in value.contributors()))


def give_up_applying(desk: Desk) -> None:
    """Fetch the state instead of bytes that nobody serves any more."""
    if desk.applying is not None:
        desk.behind = True
        value, desk.applying = desk.applying, None
        desk.do(_catch_up(desk, value, "its bytes were not to be had in time"))


def on_state_ready(desk: Desk, event: cmd.StateReady) -> None:
    """Note which committed state this node holds."""
    desk.own_base = (event.round, event.state_hash)
    if desk.applying is not None and event.round >= desk.applying.round:
        value, desk.applying = desk.applying, None  # the state came by another way
        desk.do(cmd.Settle(value, included=desk.me.peer in value.contributors()))
    if desk.seat is not None and desk.seat.starts_from(event.round):
        desk.behind = False
    else:
        _resume_applying(desk, event.round)


def _resume_applying(desk: Desk, state_round: int) -> None:
    """Go on from a state that is one known commit behind: the bytes of that commit are enough."""
    value = desk.decisions.get(desk.previous.round) if desk.previous is not None else None
    if value is None or value.aborted or not desk.behind or desk.previous is None:
        return
    if not desk.previous.starts_from(state_round):
        return
    if fault := _base_fault(desk, desk.previous, value):
        desk.do(_catch_up(desk, value, fault))
        return
    desk.behind = False
    desk.applying, desk.applying_since = value, desk.now


def hear_refuse(desk: Desk, refuse: msg.Refuse) -> None:
    """Learn why something of ours was not taken: if our state is another than the round starts from, fetch that one."""
    desk.warn(refuse.sender, f"{refuse.sender} refused: {refuse.reason}")
    seat = desk.seat
    if desk.joining and refuse.sender in desk.contacts and not desk.stalled:
        desk.stalled = True
        reason = f"{refuse.sender} does not let this node in: {refuse.reason}"
        desk.do(cmd.Stalled(desk.round, reason, "change what it says, or ask another member; it is asked again"))
    stale = seat is not None and refuse.run == desk.run and refuse.round == desk.round and refuse.base
    if seat is None or not stale or seat.view.find(refuse.sender) is None or desk.behind:
        return
    desk.behind = True
    reason = refuse.reason
    desk.do(cmd.CatchUp(seat.state_round, seat.view, None, included=False, reason=reason, base=refuse.base))


def ask_all(desk: Desk, seat: Seat) -> None:
    """Ask everyone for the outcome."""
    for peer in desk.others(seat):
        desk.send(peer, msg.Query(*desk.head(seat)))


def ask_if_over(desk: Desk, seat: Seat) -> None:
    """Ask for the outcome of a round that must be over: the state that was fetched is of it, or of a later one."""
    ahead = desk.own_base is not None and desk.own_base[0] >= max(desk.round, 1)
    if ahead and seat.active_since is None:
        scatter.activate(desk, seat)
        ask_all(desk, seat)


def answer_late(desk: Desk, message: msg.RoundMessage) -> None:
    """Answer a message of a round that is over: with the commit record only (bytes are no vote, so they go too)."""
    if isinstance(message, msg.Fetch) and desk.previous is not None and message.round == desk.previous.round:
        scatter.hear_fetch(desk, message, desk.previous)
    elif isinstance(message, msg.Stored | msg.Nack):
        pass  # nothing waits on the answer to an answer
    else:
        send_commit(desk, message.sender, message.round)


def send_commit(desk: Desk, to: str, round_: int) -> None:
    """Tell what was decided in that round, or else the newest decision."""
    if not desk.decisions or to == desk.me.peer:
        return
    value = desk.decisions.get(round_) or desk.decisions[max(desk.decisions)]
    desk.send(to, msg.Commit(desk.run, desk.me.peer, value, min(desk.decisions)))


def restart_catch_up(seat: Seat) -> cmd.CatchUp:
    """Return the wish for the state that a member which came back starts from."""
    return cmd.CatchUp(seat.state_round, seat.view, None, included=False, reason="restarted")


def final_catch_up(desk: Desk) -> cmd.CatchUp:
    """Return the wish for the state that a run which is over ended with."""
    last = desk.decisions[max(desk.decisions)]
    return cmd.CatchUp(last.state_round, last.next_view, None, included=False, reason="restarted")
