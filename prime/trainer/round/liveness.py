"""Who of the members lives, whose turn it is to lead, and whether a majority is left (pure)."""

from __future__ import annotations

import math

from prime.trainer.round import commands as cmd
from prime.trainer.round import messages as msg
from prime.trainer.round.desk import Desk
from prime.trainer.round.seat import Seat


def dead(desk: Desk, seat: Seat, peer: str) -> bool:
    """Tell whether the link to a member broke, or its successor asks to join."""
    return peer in desk.roster.down or desk.roster.gone(peer, seat.view)


def suspected(desk: Desk, seat: Seat) -> set[str]:
    """Return the members that seem gone: link down, a successor asks to join, or (to a leader) strangely silent.

    To be wrong costs a ballot, so it is said early. `gone` is for what costs more.
    """
    found = {p for p in desk.others(seat) if dead(desk, seat, p) or p in desk.roster.silent}
    if seat.lead is not None:
        found |= {p for p in desk.others(seat) if _is_silent(desk, p, seat.leading_since)}
    return found


def gone(desk: Desk, seat: Seat) -> set[str]:
    """Return the members that are left out of the next view unless they contribute: dead, or silent for `suspect_s`."""
    found = {p for p in desk.others(seat) if dead(desk, seat, p)}
    if seat.lead is not None:
        found |= {p for p in desk.others(seat) if _silence_s(desk, p, seat.leading_since) > desk.timing.suspect_s}
    return found


def _is_silent(desk: Desk, peer: str, since: float) -> bool:
    silence_s, timing = _silence_s(desk, peer, since), desk.timing
    if silence_s > timing.suspect_s:
        return True
    return desk.roster.phi(peer, silence_s - timing.pause_s, timing.beat_s) > timing.phi


def _silence_s(desk: Desk, peer: str, since: float) -> float:
    return desk.roster.silence_s(peer, since, desk.now)


def entering(desk: Desk, seat: Seat) -> cmd.EnterView:
    """Return what tells the shell about a fresh seat."""
    chosen = seat.view.chosen(seat.round, desk.terms.participation)
    return cmd.EnterView(seat.round, seat.view, seat.state_round, desk.me.peer in chosen)


def beats(desk: Desk) -> list[cmd.Send]:
    """Return the heartbeats that are due every `beat_s`, whatever else goes on: to the leader, or from it to all.

    Nothing changes here, so a shell sends them also while it carries out the commands of a step.
    """
    seat = desk.seat
    if seat is None or seat.active_since is None:
        return []
    to = desk.others(seat) if seat.lead is not None else [seat.leader]
    beat = msg.Beat(*desk.head(seat), seat.following)
    return [cmd.Send(peer, beat) for peer in to if peer != desk.me.peer]


def notice_pause(desk: Desk) -> None:
    """Count no silence for a time in which this member itself stood still: it would suspect all others at once."""
    seat = desk.seat
    if seat is not None and seat.active_since is not None:
        away_s = desk.now - desk.stepped_at - 2 * max(desk.timing.resend_s, desk.timing.beat_s)
        if 0 < away_s < math.inf:
            desk.roster.forgive(away_s)
            seat.leader_heard_at += away_s
            seat.leading_since += away_s
            if seat.lead is not None and seat.lead.enough_at is not None:
                seat.lead.enough_at += away_s
    desk.stepped_at = desk.now


def unfit(desk: Desk, seat: Seat) -> set[str]:
    """Return who cannot own a part: suspects, members that came back in this round, owners that were too slow.

    Where nobody else is left, those that were too slow, or suspected for a while, own parts again.
    """
    back = {peer for peer, s in seat.standings.items() if s.restarted}
    own = {desk.me.peer} if seat.restarted else set()
    unable = suspected(desk, seat) | back | own
    return unable if unable | seat.slow >= set(seat.order) else unable | seat.slow


def leader_is_lost(desk: Desk, seat: Seat) -> bool:
    """Tell whether it is our turn to lead because the leader is lost: the next in order at once, then one by one."""
    if not (dead(desk, seat, seat.leader) or _is_silent(desk, seat.leader, seat.leader_heard_at)):
        seat.leader_lost_at = None
        return False
    seat.leader_lost_at = desk.now if seat.leader_lost_at is None else seat.leader_lost_at
    down = desk.roster.down | {seat.leader}
    queue = [p for p in seat.order if p not in down]
    place = queue.index(desk.me.peer) if desk.me.peer in queue else len(queue)
    if desk.now < seat.leader_lost_at + place * desk.timing.stagger_s:
        return False
    desk.roster.silent.add(seat.leader)  # whoever leads now need not find out again
    return True


def rank(desk: Desk, seat: Seat) -> int:
    """Return our place in the order of leaders."""
    return seat.order.index(desk.me.peer)


def check_majority(desk: Desk, seat: Seat) -> None:
    """Say when too few members are left to commit, and when that is over."""
    missing = gone(desk, seat)
    if seat.active_since is not None and seat.lead is None:
        silent = desk.now - seat.leader_heard_at > desk.timing.deadline_s
        missing |= {seat.leader} - {desk.me.peer} if silent else set()
    alive = len(seat.view.members) - len(missing)
    if alive >= seat.view.majority():
        end_stall(desk)
    elif not desk.stalled:
        desk.stalled = True
        desk.do(_stall(desk, seat, alive, missing))


def _stall(desk: Desk, seat: Seat, alive: int, missing: set[str]) -> cmd.Stalled:
    total, need = len(seat.view.members), seat.view.majority()
    reason = (
        f"round {desk.round} cannot commit: {alive} of {total} members are reachable, {need} are needed "
        f"(not reachable: {', '.join(sorted(missing))})"
    )
    hint = (
        "training goes on locally and commits again once enough of them are back: start them with the state "
        "folders they had. If they are gone for good, `prime train recover --new-view` goes on without them: only "
        "you can know, because a partition looks the same as a death"
    )
    return cmd.Stalled(desk.round, reason, hint)


def end_stall(desk: Desk) -> None:
    """Say that a stall is over, if there was one."""
    if desk.stalled:
        desk.stalled = False
        desk.do(cmd.Resumed(desk.round))


def on_down(desk: Desk, event: cmd.PeerDown) -> None:
    """Note that the link to a peer broke."""
    desk.roster.joining.pop(event.peer, None)  # one that still lives asks again on its next tick
    if desk.seat is not None and event.peer in desk.seat.order and event.peer != desk.me.peer:
        desk.roster.down.add(event.peer)


def on_up(desk: Desk, event: cmd.PeerUp) -> None:
    """Note that a peer is reachable again."""
    desk.roster.down.discard(event.peer)
