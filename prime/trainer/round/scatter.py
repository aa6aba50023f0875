"""Contributions on their way to the owners, what an owner holds and reduces, and what is reported of it (pure)."""

from __future__ import annotations

from collections.abc import Collection

from prime.trainer.round import commands as cmd
from prime.trainer.round import leader, partition
from prime.trainer.round import messages as msg
from prime.trainer.round.desk import Desk
from prime.trainer.round.seat import Seat
from prime.trainer.round.view import Value, counted, seal_digest

DEMOTED_ROUNDS = 16
"""Rounds in which a member that could not be an owner does not ask to be one again."""


def on_contributing(desk: Desk, event: cmd.Contributing) -> None:
    """Send the parts of the trainer's contribution to their owners while they are being encoded."""
    seat = desk.seat
    if seat is not None and event.round == desk.round and not seat.restarted:
        seat.contributing = True
        activate(desk, seat)
        transfer(desk, seat)


def on_contributed(desk: Desk, event: cmd.Contributed) -> None:
    """Take the trainer's contribution and send its parts to their owners."""
    seat = desk.seat
    if seat is None or event.round != desk.round or seat.offer is not None or desk.over:
        return
    if seat.restarted:
        desk.do(cmd.Warn(f"round {desk.round}: a member that came back in this round does not contribute"))
        return
    seat.offer = event.offer
    activate(desk, seat)
    transfer(desk, seat)


def on_part_held(desk: Desk, event: cmd.PartHeld) -> None:
    """Note a whole contribution to a part that is stored here, and tell its sender."""
    seat = desk.seat
    if seat is None or event.round != desk.round or seat.view.find(event.sender) is None:
        return
    seat.held.setdefault(event.part, {}).setdefault(event.sender, event.hash)
    if event.sender == desk.me.peer:
        seat.stored.add((event.part, desk.me.peer))
    else:
        desk.send(event.sender, msg.Stored(*desk.head(seat), event.part))


def on_gram_ready(desk: Desk, event: cmd.GramReady) -> None:
    """Note the inner products over an own part, for the next report."""
    if desk.seat is not None and event.round == desk.round:
        desk.seat.grams[event.part, event.seal] = event.entries


def on_rate_measured(desk: Desk, event: cmd.RateMeasured) -> None:
    """Note how fast this node can send; a client by choice owns nothing, however fast it is."""
    if desk.me.rate_bytes_s != 0:
        desk.rate_bytes_s = partition.rounded(event.rate_bytes_s)


def on_reduced(desk: Desk, event: cmd.Reduced) -> None:
    """Note an own part as reduced, and send its bytes to everyone."""
    seat = desk.seat
    if seat is None or event.round != desk.round:
        return
    seat.reduced[event.part, event.seal] = event.hash
    seat.results.setdefault(event.part, set()).add(event.hash)
    for peer in desk.others(seat):
        desk.do(cmd.SendResult(desk.round, event.part, event.hash, peer))


def on_result_held(desk: Desk, event: cmd.ResultHeld) -> None:
    """Note that the bytes of a reduced part are here."""
    for seat in (desk.seat, desk.previous):
        if seat is not None and seat.round == event.round:
            seat.keep(event.part, event.hash)


def transfer(desk: Desk, seat: Seat) -> None:
    """Send the parts of our contribution that their present owners have not confirmed."""
    if seat.offer is None and not seat.contributing:
        return
    for part, owner in enumerate(seat.owners):
        last = seat.transferred_at.get((part, owner), float("-inf"))
        if (part, owner) not in seat.stored and desk.now - last >= desk.timing.transfer_s:
            seat.transferred_at[part, owner] = desk.now
            desk.do(cmd.Transfer(desk.round, part, owner))


def activate(desk: Desk, seat: Seat) -> None:
    """Start the round's clocks at its first sign of life; before that a member trains in peace."""
    if seat.active_since is None:
        seat.active_since = seat.leader_heard_at = seat.leading_since = desk.now
        seat.doubt_at = desk.now + desk.timing.deadline_s


def try_reduce(desk: Desk, seat: Seat) -> None:
    """Reduce each part that is ours under the seal, or judge its candidates, once all its contributions are here."""
    seal = seat.seal
    if seal is None:
        return
    digest = seal_digest(desk.round, seal.base, seal.shares)
    shares = counted(seal.shares)
    wanted = {s.peer for s in shares}
    started, order = (seat.reducing, cmd.Reduce) if seal.final else (seat.multiplying, cmd.Multiply)
    for part, owner in enumerate(seal.owners):
        mine = owner == desk.me.peer and (part, digest) not in started
        if mine and wanted <= seat.held.get(part, {}).keys():
            started.add((part, digest))
            desk.do(order(desk.round, part, digest, shares))


def report(desk: Desk, seat: Seat, *, again: bool = False) -> None:
    """Tell the leader how we stand, when that changed or on a tick."""
    if seat.active_since is None:
        return
    report = _standing(desk, seat)
    if seat.leader == desk.me.peer:
        leader.learn(seat.standings, report)
    elif again or (report, seat.leader) != (desk.last_report, desk.reported_to):
        desk.last_report, desk.reported_to = report, seat.leader
        desk.send(seat.leader, report)


def _standing(desk: Desk, seat: Seat) -> msg.Report:
    held = tuple(_holding(part, hashes) for part, hashes in sorted(seat.held.items()))
    reduced = tuple(msg.Reduction(part, seal, hash_) for (part, seal), hash_ in sorted(seat.reduced.items()))
    willing = not (desk.behind or seat.restarted or desk.leaving)
    return msg.Report(
        *desk.head(seat),
        desk.boot,
        seat.restarted,
        willing or seat.offer is not None,
        seat.following,
        seat.offer,
        held,
        _grams(desk, seat),
        reduced,
        _rate(desk, seat),
    )


def _holding(part: int, hashes: dict[str, bytes]) -> msg.Holding:
    senders = tuple(sorted(hashes))
    return msg.Holding(part, senders, tuple(hashes[sender] for sender in senders))


def _grams(desk: Desk, seat: Seat) -> tuple[msg.PartGram, ...]:
    """Return the inner products that the seal followed asks for, if it does."""
    seal = seat.seal
    if seal is None or seal.final:
        return ()
    digest = seal_digest(desk.round, seal.base, seal.shares)
    return tuple(msg.PartGram(*key, entries) for key, entries in sorted(seat.grams.items()) if key[1] == digest)


def _rate(desk: Desk, seat: Seat) -> int | None:
    """Return our bandwidth if it is not what the view says; one that was made a client waits before it says so."""
    member = seat.view.find(desk.me.peer)
    waits = desk.round < desk.demoted_round + DEMOTED_ROUNDS
    if member is None or desk.rate_bytes_s is None or waits:
        return None
    return desk.rate_bytes_s if partition.differs(member.rate_bytes_s, desk.rate_bytes_s) else None


def hear_stored(_desk: Desk, stored: msg.Stored, seat: Seat) -> None:
    """Note that an owner has our part."""
    if 0 <= stored.part < len(seat.owners):
        seat.stored.add((stored.part, stored.sender))


def hear_fetch(desk: Desk, fetch: msg.Fetch, seat: Seat) -> None:
    """Serve the bytes of a reduced part."""
    if fetch.hash in seat.results.get(fetch.part, ()):
        desk.do(cmd.SendResult(fetch.round, fetch.part, fetch.hash, fetch.sender))


def fetch(desk: Desk, seat: Seat, value: Value, holders: Collection[str]) -> None:
    """Ask for each missing part, each time another of those who should hold it."""
    fit = set(desk.others(seat)) - desk.roster.down
    able = [p for p in dict.fromkeys(holders) if p in fit]
    missing = seat.missing(value)
    if not able or not missing:
        return
    for part in missing:
        holder = able[(seat.fetches + part) % len(able)]
        desk.send(holder, msg.Fetch(*desk.head(seat), part, value.parts[part]))
    seat.fetches += 1
