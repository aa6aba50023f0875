"""Who of the members lives, whose turn it is to lead, and whether a majority is left (pure)."""

from __future__ import annotations

from prime.trainer.round import commands as cmd
from prime.trainer.round.desk import Desk
from prime.trainer.round.seat import Seat


def _dead(desk: Desk, seat: Seat, peer: str) -> bool:
    return peer in desk.roster.down or desk.roster.gone(peer, seat.view)


def suspected(desk: Desk, seat: Seat) -> set[str]:
    """Return the members that seem gone: link down, a successor asks to join, or (to a leader) silent too long."""
    found = {p for p in desk.others(seat) if _dead(desk, seat, p)}
    if seat.lead is not None:
        oldest = desk.now - desk.timing.suspect_s
        heard = desk.roster.heard_at
        found |= {p for p in desk.others(seat) if max(heard.get(p, 0.0), seat.leading_since) < oldest}
    return found


def unfit(desk: Desk, seat: Seat) -> set[str]:
    """Return who cannot own a part: suspects, members that came back in this round, owners that were too slow."""
    back = {peer for peer, s in seat.standings.items() if s.restarted}
    own = {desk.me.peer} if seat.restarted else set()
    return suspected(desk, seat) | back | own | seat.slow


def leader_is_lost(desk: Desk, seat: Seat) -> bool:
    """Tell whether it is our turn to lead: at once after a broken link, later after silence, staggered by rank."""
    down = desk.roster.down | {seat.leader}
    queue = [p for p in seat.order if p not in down]
    place = queue.index(desk.me.peer) if desk.me.peer in queue else len(queue)
    wait_s = place * desk.timing.stagger_s
    if _dead(desk, seat, seat.leader):
        seat.leader_lost_at = desk.now if seat.leader_lost_at is None else seat.leader_lost_at
        return desk.now >= seat.leader_lost_at + wait_s
    return desk.now >= seat.leader_heard_at + desk.timing.suspect_s + wait_s


def rank(desk: Desk, seat: Seat) -> int:
    """Return our place in the order of leaders."""
    return seat.order.index(desk.me.peer)


def check_majority(desk: Desk, seat: Seat) -> None:
    """Say when too few members are left to commit, and when that is over."""
    missing = suspected(desk, seat)
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
        "folders they had. If they are gone for good, end this node and found a new run (another train.run): "
        "nobody may decide alone, because a partition looks the same as a death"
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
