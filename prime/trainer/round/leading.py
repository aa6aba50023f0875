"""Leading a ballot: taking over, sealing, proposing a value, counting the votes (pure)."""

from __future__ import annotations

from collections.abc import Collection

from prime.trainer.robust.rules import coefficients
from prime.trainer.round import commands as cmd
from prime.trainer.round import leader, liveness, outcome, scatter, voting
from prime.trainer.round import messages as msg
from prime.trainer.round.ballot import FIRST, NONE, Ballot
from prime.trainer.round.desk import Desk
from prime.trainer.round.leader import Lead
from prime.trainer.round.partition import owners_of
from prime.trainer.round.patience import worth_s
from prime.trainer.round.seat import Seat
from prime.trainer.round.validity import report_fault, shares_fault
from prime.trainer.round.view import Share, Value, View, seal_digest


def hear_report(desk: Desk, report: msg.Report, seat: Seat) -> None:
    """Take a member's standing."""
    fault = report_fault(report, seat.view)
    if fault:
        desk.warn(report.sender, f"the standing that {report.sender} reports cannot be: {fault}")
        return
    leader.learn(seat.standings, report)
    voting.follow(desk, seat, report.ballot, None)


def hear_promise(_desk: Desk, promise: msg.Promise, seat: Seat) -> None:
    """Count an answer to phase 1."""
    if seat.lead is not None and promise.ballot == seat.lead.ballot:
        seat.lead.promises[promise.sender] = promise


def take_over_if_due(desk: Desk, seat: Seat) -> None:
    """Lead the first ballot if it is ours, or a higher one if the leader seems lost or the round is late."""
    if seat.active_since is None or seat.lead is not None:
        return
    if seat.leader == desk.me.peer and not seat.restarted and seat.promised == NONE and seat.following == FIRST:
        seat.lead = Lead(seat.view, FIRST, seat.owners, desk.now, free=True)
        seat.leading_since = desk.now
        _beat(desk, seat, seat.lead)
    elif (
        liveness.leader_is_lost(desk, seat)
        or desk.now >= seat.doubt_at + liveness.rank(desk, seat) * desk.timing.stagger_s
    ):
        _open_ballot(desk, seat)


def _open_ballot(desk: Desk, seat: Seat) -> None:
    """Open a higher ballot with phase 1. Its number is on the disk before anybody hears of it."""
    if seat.lead is None:
        seat.leading_since = desk.now
    seat.highest += 1
    ballot = Ballot(seat.highest, liveness.rank(desk, seat))
    owners = owners_of(seat.view, liveness.unfit(desk, seat))
    voting.promise(desk, seat, ballot)
    voting.follow(desk, seat, ballot, owners)
    accepted = seat.accepted or (None, None)
    seat.lead = Lead(seat.view, ballot, owners, desk.now, free=False)
    seat.lead.promises[desk.me.peer] = msg.Promise(*desk.head(seat), ballot, *accepted)
    seat.doubt_at = desk.now + desk.timing.deadline_s
    _beat(desk, seat, seat.lead)


def _beat(desk: Desk, seat: Seat, lead: Lead) -> None:
    for peer in desk.others(seat):
        desk.send(peer, msg.Prepare(*desk.head(seat), lead.ballot, lead.owners))


def drive(desk: Desk, seat: Seat) -> None:
    """Push the ballot that we lead on as far as it goes."""
    lead = seat.lead
    if lead is None:
        return
    if lead.value is not None:
        _count_votes(desk, seat, lead, lead.value)
    elif not lead.free and not _end_phase_one(desk, seat, lead):
        return
    elif desk.round == 0:
        if 1 + len(desk.roster.joining) >= desk.nodes_min:
            _propose(desk, seat, lead, _abort_value(desk, seat), ())
    elif lead.seal is None:
        _try_seal(desk, seat, lead)
    elif not lead.seal.final:
        _try_judge(desk, seat, lead, lead.seal)
    else:
        _try_propose(desk, seat, lead, lead.seal)


def _end_phase_one(desk: Desk, seat: Seat, lead: Lead) -> bool:
    """Return `True` if a majority left the choice to us; carry the highest accepted value on otherwise."""
    if not lead.promised():
        return False
    carried = lead.carried()
    if carried is not None:
        _propose(desk, seat, lead, *carried)
        return False
    lead.free = True
    return True


def _try_seal(desk: Desk, seat: Seat, lead: Lead) -> None:
    if set(lead.owners) & liveness.unfit(desk, seat) and _move_parts(desk, seat, lead):
        return
    chosen = seat.view.chosen(desk.round, desk.terms.participation)
    complete = leader.complete(seat.standings, lead.owners)
    offers = _admit(desk, seat, {p: offer for p, offer in complete.items() if p in chosen})
    base = leader.choose_base(offers, desk.base)
    shares = leader.shares_of(offers, base)
    _refuse_stale(desk, seat, offers, base)
    over = desk.now >= _seal_deadline(desk, seat, lead)
    needed = desk.timing.quorum * seat.view.weight(chosen)
    fault = desk.terms.rule.fault(len(shares), len(chosen))
    enough = seat.view.weight([s.peer for s in shares]) >= needed and not fault
    if shares and enough and (over or not _is_patient(desk, seat, lead, set(offers), chosen)):
        _learn_lateness(desk, seat, lead, set(offers), chosen)
        final = not desk.terms.rule.measured
        _seal(desk, seat, lead, msg.Seal(*desk.head(seat), lead.ballot, lead.owners, base, shares, final))
    elif over or _all_came_back(desk, seat):
        _give_up_sealing(desk, seat, lead, needed, fault if shares else "")


def _is_patient(desk: Desk, seat: Seat, lead: Lead, here: set[str], chosen: Collection[str]) -> bool:
    """Tell whether to wait on for those who were asked to contribute and have not yet; stragglers only as long as it pays."""
    lead.enough_at = desk.now if lead.enough_at is None else lead.enough_at
    for peer in here:
        lead.arrived_at.setdefault(peer, desk.now)
    awaited = _awaited(desk, seat, set(chosen) - here)
    if not awaited or not desk.patience.are_stragglers(awaited):
        return bool(awaited)
    return desk.now < lead.enough_at + _worth_s(desk, seat, lead.enough_at, here, awaited)


def _awaited(desk: Desk, seat: Seat, late: Collection[str]) -> set[str]:
    """Return who may still contribute of those who have not yet."""
    return {peer for peer in set(late) - liveness.suspected(desk, seat) if expects(seat, peer)}


def _worth_s(desk: Desk, seat: Seat, enough_at: float, here: Collection[str], late: Collection[str]) -> float:
    """Return how long after there was enough to seal it pays to wait for the members that are late."""
    weights = seat.view.weight(here), seat.view.weight(late)
    return worth_s(enough_at - desk.decided_at, *weights, least_s=desk.timing.seal_min_s)


def _learn_lateness(desk: Desk, seat: Seat, lead: Lead, here: set[str], chosen: Collection[str]) -> None:
    """Remember who came later than it was worth waiting for, or has not come at all."""
    enough_at = lead.enough_at
    if enough_at is not None:
        for peer in here if len(here) > 1 else ():
            late_s = lead.arrived_at.get(peer, desk.now) - enough_at
            late = late_s > _worth_s(desk, seat, enough_at, here - {peer}, {peer})
            desk.patience.learn(peer, desk.round, late=late)
    for peer in _awaited(desk, seat, set(chosen) - here):
        desk.patience.learn(peer, desk.round, late=True)


def _all_came_back(desk: Desk, seat: Seat) -> bool:
    """Tell whether every living member came back during this round: none of them will contribute to it."""
    living = set(seat.order) - liveness.suspected(desk, seat)
    return all((known := seat.standings.get(peer)) is not None and known.restarted for peer in living)


def _give_up_sealing(desk: Desk, seat: Seat, lead: Lead, needed: float, fault: str) -> None:
    """Abort, for the rule's `fault` if it has one; or go on without an owner that keeps contributions from being whole."""
    blocking = leader.blocking(seat.standings, lead.owners, seat.view, needed)
    if blocking - seat.blocking:
        seat.blocking |= blocking
        seat.slow |= blocking
        if _move_parts(desk, seat, lead):
            return
    if fault:
        desk.do(cmd.Warn(f"round {desk.round} is aborted: {fault}"))
    _propose(desk, seat, lead, _abort_value(desk, seat), ())


def _move_parts(desk: Desk, seat: Seat, lead: Lead) -> bool:
    """Go on under a ballot in which unfit owners own nothing; `False` if nobody else could own their parts.

    They stay unfit for this round, or one that is silent now and then would move its part each time.
    """
    if owners_of(seat.view, liveness.unfit(desk, seat)) == lead.owners:
        return False
    seat.slow |= liveness.suspected(desk, seat) & set(lead.owners)
    _reopen(desk, seat, lead)
    return True


def _seal_deadline(desk: Desk, seat: Seat, lead: Lead) -> float:
    since = desk.now if seat.active_since is None else seat.active_since
    moved = lead.opened_at + (desk.timing.reduce_s if lead.ballot > FIRST else 0.0)
    return max(since + desk.timing.seal_s, moved)


def _admit(desk: Desk, seat: Seat, offers: dict[str, msg.Offer]) -> dict[str, msg.Offer]:
    """Drop offers that cannot be weighed; their senders are told."""
    bad = {p for p, o in offers.items() if not 0 < o.weight < float("inf") or len(o.parts) != len(seat.owners)}
    for peer in bad - seat.refused:
        seat.refused.add(peer)
        reason = f"the contribution of {peer} has no usable weight, or the wrong number of parts"
        desk.send(peer, msg.Refuse(desk.run, desk.round, desk.me.peer, reason, b""))
    return {peer: offer for peer, offer in offers.items() if peer not in bad}


def _refuse_stale(desk: Desk, seat: Seat, offers: dict[str, msg.Offer], base: bytes) -> None:
    for peer, offer in offers.items():
        if offer.base == base or peer in seat.refused:
            continue
        seat.refused.add(peer)
        reason = (
            f"the contribution of {peer} to round {desk.round} starts from state {offer.base.hex()[:12]}, "
            f"the round from {base.hex()[:12]}: it must catch up first"
        )
        refuse = msg.Refuse(desk.run, desk.round, desk.me.peer, reason, base)
        if peer == desk.me.peer:
            outcome.hear_refuse(desk, refuse)
        else:
            desk.send(peer, refuse)


def expects(seat: Seat, peer: str) -> bool:
    """Tell whether a living member may still contribute: it said so, or has said nothing yet."""
    standing = seat.standings.get(peer)
    return standing is None or standing.intends


def _seal(desk: Desk, seat: Seat, lead: Lead, seal: msg.Seal) -> None:
    lead.seal, lead.sealed_at = seal, desk.now
    for peer in desk.others(seat):
        desk.send(peer, seal)
    seat.seal = seal
    scatter.try_reduce(desk, seat)


def _try_judge(desk: Desk, seat: Seat, lead: Lead, seal: msg.Seal) -> None:
    """Make a final seal of the candidates' Gram matrix, once all its parts are reported."""
    digest = seal_digest(desk.round, seal.base, seal.shares)
    gram, missing = leader.gram_of(seat.standings, seal.owners, digest, len(seal.shares))
    if missing:
        _hurry(desk, seat, lead, {seal.owners[part] for part in missing})
        return
    verdicts = coefficients(desk.terms.rule, gram, [share.weight for share in seal.shares])
    shares = tuple(
        Share(share.peer, share.weight, v.coefficient, v.score, v.reason)
        for share, v in zip(seal.shares, verdicts, strict=True)
    )
    fault = shares_fault(shares, seat.view.peers())
    if fault:
        desk.do(cmd.Warn(f"round {desk.round} is aborted: {desk.terms.rule.name} lets no contribution count ({fault})"))
        _propose(desk, seat, lead, _abort_value(desk, seat), ())
    else:
        _seal(desk, seat, lead, msg.Seal(*desk.head(seat), lead.ballot, lead.owners, seal.base, shares, final=True))


def _hurry(desk: Desk, seat: Seat, lead: Lead, late: set[str]) -> None:
    """Give the parts of owners that are unfit, or late after the seal, to others; abort where there are no others."""
    over = desk.now >= lead.sealed_at + desk.timing.reduce_s
    if over:
        seat.slow |= late
    moves = over or late & liveness.unfit(desk, seat)
    if not (moves and _move_parts(desk, seat, lead)) and over:
        _propose(desk, seat, lead, _abort_value(desk, seat), ())


def _try_propose(desk: Desk, seat: Seat, lead: Lead, seal: msg.Seal) -> None:
    digest = seal_digest(desk.round, seal.base, seal.shares)
    hashes = leader.reductions(seat.standings, seal.owners, digest)
    if len(hashes) < len(seal.owners):
        _hurry(desk, seat, lead, {owner for part, owner in enumerate(seal.owners) if part not in hashes})
        return
    parts = tuple(hashes[part] for part in range(len(seal.owners)))
    follow = _next_view(desk, seat, [s.peer for s in seal.shares])
    last = bool(desk.roster.ending) or desk.terms.is_last(desk.round, len(seal.shares))
    value = Value(desk.round, seat.view.epoch, seal.base, seal.shares, parts, follow, desk.round, last)
    _propose(desk, seat, lead, value, ())


def _next_view(desk: Desk, seat: Seat, kept: Collection[str]) -> View:
    """Return who decides the next round, with the bandwidths reported now; an owner that blocked the seal has none."""
    told = {peer: s.rate_bytes_s for peer, s in seat.standings.items() if s.rate_bytes_s is not None}
    rates = {**told, **dict.fromkeys(seat.blocking, 0)}
    return desk.roster.next_view(seat.view, kept, liveness.gone(desk, seat), rates)


def _abort_value(desk: Desk, seat: Seat) -> Value:
    contributing = [p for p, s in seat.standings.items() if s.offer is not None]
    follow = _next_view(desk, seat, contributing)
    return Value(desk.round, seat.view.epoch, b"", (), (), follow, seat.state_round)


def _propose(desk: Desk, seat: Seat, lead: Lead, value: Value, holders: tuple[str, ...]) -> None:
    lead.value, lead.digest, lead.holders = value, value.digest(), holders
    propose = msg.Propose(*desk.head(seat), lead.ballot, lead.owners, holders, value)
    for peer in desk.others(seat):
        desk.send(peer, propose)
    voting.hear_propose(desk, propose, seat)
    voting.try_ready(desk, seat)
    _count_votes(desk, seat, lead, value)


def _count_votes(desk: Desk, seat: Seat, lead: Lead, value: Value) -> None:
    if lead.decided():
        outcome.decide(desk, seat, value)
    elif _bytes_lost(desk, seat, lead, value) or desk.now >= lead.opened_at + desk.timing.deadline_s:
        _reopen(desk, seat, lead)


def _bytes_lost(desk: Desk, seat: Seat, lead: Lead, value: Value) -> bool:
    """Tell whether no reachable member can serve some part of the value: then a fresh majority must be asked."""
    suspected = liveness.suspected(desk, seat)
    everywhere = (set(lead.holders) | lead.readys) - suspected
    if everywhere:
        return False
    makers = () if lead.holders else lead.owners
    return any(part >= len(makers) or makers[part] in suspected for part in seat.missing(value))


def _reopen(desk: Desk, seat: Seat, lead: Lead) -> None:
    """Open a higher ballot of our own, but not more often than we resend."""
    if lead.ballot == FIRST or desk.now - lead.opened_at >= desk.timing.resend_s:
        _open_ballot(desk, seat)


def resend_as_leader(desk: Desk, seat: Seat, lead: Lead) -> None:
    """Say again what was not answered."""
    _beat(desk, seat, lead)
    if lead.value is not None:
        propose = msg.Propose(*desk.head(seat), lead.ballot, lead.owners, lead.holders, lead.value)
        for peer in desk.others(seat):
            if peer not in lead.readys:
                desk.send(peer, propose)
    elif lead.seal is not None:
        for peer in desk.others(seat):
            desk.send(peer, lead.seal)
