"""Asking to be let in or out, or for the run's end, and hearing others ask (pure)."""

from __future__ import annotations

from prime.trainer.round import commands as cmd
from prime.trainer.round import messages as msg
from prime.trainer.round import outcome, scatter
from prime.trainer.round.desk import Desk
from prime.trainer.round.names import lineage
from prime.trainer.round.seat import Seat
from prime.trainer.round.settings import settings_fault
from prime.trainer.round.validity import member_fault


def on_join_run(desk: Desk, event: cmd.JoinRun) -> None:
    """Ask these peers too to be let in."""
    desk.know(event.contacts)
    desk.joining = desk.seat is None and not desk.over
    desk.ticked_at = float("-inf")


def on_leave_run(desk: Desk, _event: cmd.LeaveRun) -> None:
    """Ask to be let out; one that is alone simply goes."""
    if desk.seat is None or len(desk.seat.view.members) == 1:
        desk.do(cmd.Outside(desk.round, "left", rejoining=False))
        desk.joining = False
        return
    desk.leaving = True
    desk.roster.leaving.add(desk.me.peer)
    desk.ticked_at = float("-inf")


def on_end_run(desk: Desk, _event: cmd.EndRun) -> None:
    """Ask for the end of the run: the leader of a round decides it with the round, so that all end with one state."""
    if desk.seat is not None and not desk.over:
        desk.ending = True
        desk.roster.ending.add(desk.me.peer)
        desk.ticked_at = float("-inf")


def hear_join(desk: Desk, join: msg.Join) -> None:
    """Remember a wish to be let in, or say why not."""
    peer = join.member.peer
    if join.run != desk.run:
        refuse_run(desk, peer, join.run, desk.round)
        return
    if peer == desk.me.peer:
        return
    if desk.seat is None:
        outcome.send_commit(desk, peer, desk.round - 1)  # perhaps it was let in and did not hear of it
        return
    fault = member_fault(join.member) or settings_fault(desk.settings, join.settings)
    if fault:
        desk.send(peer, msg.Refuse(desk.run, desk.round, desk.me.peer, fault, b""))
        return
    barred = not (desk.over or desk.seat.view.has(join.member))
    if barred and not desk.roster.want_in(join.member, desk.now):
        reason = "too many nodes are waiting to join: try again later"
        desk.send(peer, msg.Refuse(desk.run, desk.round, desk.me.peer, reason, b""))
        return
    outcome.send_commit(desk, peer, desk.round - 1)


def hear_leave(desk: Desk, leave: msg.Leave) -> None:
    """Remember a wish to be let out."""
    if leave.run != desk.run or desk.seat is None:
        return
    if desk.seat.view.has(leave.member):
        desk.roster.leaving.add(leave.member.peer)
    else:
        outcome.send_commit(desk, leave.member.peer, desk.round - 1)


def hear_end(desk: Desk, end: msg.End) -> None:
    """Remember a wish for the end of the run; only a member of the view has one."""
    if end.run != desk.run or desk.seat is None:
        return
    if desk.seat.view.has(end.member) and not desk.over:
        desk.roster.ending.add(end.member.peer)
    else:
        outcome.send_commit(desk, end.member.peer, desk.round - 1)


def refuse_run(desk: Desk, to: str, run: str, round_: int) -> None:
    """Tell a member of another run that this is not it."""
    reason = f"this node trains run {desk.run!r}, not {run!r}: join that one as a new member"
    if lineage(run)[0] == lineage(desk.run)[0]:
        reason += f" (`prime train recover --as-new {max(run, desk.run, key=lineage)}` on the other side of the two)"
    desk.send(to, msg.Refuse(run, round_, desk.me.peer, reason, b""))


def form(desk: Desk, seat: Seat) -> None:
    """Round 0 is the founder's own: it begins once enough nodes wait to join, and decides who they are."""
    desk.roster.lapse(seat.view, desk.now, desk.timing.join_ttl_s)
    if desk.round == 0 and 1 + len(desk.roster.joining) >= desk.nodes_min:
        scatter.activate(desk, seat)


def tick_outside(desk: Desk) -> None:
    """Repeat our own wish."""
    if desk.joining:
        for peer in sorted(desk.contacts):
            desk.send(peer, msg.Join(desk.run, desk.me, desk.settings))
    if desk.leaving and desk.seat is not None:
        for peer in desk.others(desk.seat):
            desk.send(peer, msg.Leave(desk.run, desk.me))
    if desk.ending and desk.seat is not None:
        for peer in desk.others(desk.seat):
            desk.send(peer, msg.End(desk.run, desk.me))
