"""How the round stands, for people (pure)."""

from __future__ import annotations

import attrs

from prime.trainer.round import leader, leading, liveness
from prime.trainer.round.desk import Desk
from prime.trainer.round.seat import Seat
from prime.trainer.round.view import Share


@attrs.frozen
class Status:
    """What a person wants to see of the round: `waiting_for` says whom for and why.

    `judged` is what the last committed round made of each contribution: its weight, its score, why it does not count.
    """

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
    judged: tuple[Share, ...] = ()


def status_of(desk: Desk) -> Status:
    """Return how the round stands, for people."""
    seat = desk.seat
    joining = tuple(sorted(desk.roster.joining))
    if seat is None:
        return Status(desk.run, 0, desk.round, "outside", "", "", (), (), (), joining, "", _judged(desk))
    suspected = liveness.suspected(desk, seat)
    alive = tuple((p, p not in suspected) for p in seat.view.peers())
    shares = seat.seal.shares if seat.seal is not None else ()
    return Status(
        desk.run,
        seat.view.epoch,
        desk.round,
        _phase(desk, seat),
        str(seat.following),
        seat.leader,
        tuple(s.peer for s in shares),
        _waiting(desk, seat, suspected),
        alive,
        joining,
        "below a majority" if desk.stalled else "",
        _judged(desk),
    )


def _judged(desk: Desk) -> tuple[Share, ...]:
    return next((value.shares for _, value in sorted(desk.decisions.items(), reverse=True) if value.shares), ())


def phase_of(desk: Desk) -> str:
    """Return the phase of the round in a word: training, gathering, reducing, voting, stalled or outside."""
    return "outside" if desk.seat is None else _phase(desk, desk.seat)


def _phase(desk: Desk, seat: Seat) -> str:
    if desk.stalled:
        return "stalled"
    if seat.active_since is None:
        return "training"
    if seat.proposal is not None:
        return "voting"
    return "reducing" if seat.seal is not None else "gathering"


def _waiting(desk: Desk, seat: Seat, suspected: set[str]) -> tuple[tuple[str, str], ...]:
    if seat.active_since is None:
        return ()
    if seat.lead is None:
        return ((seat.leader, "leads the round"),)
    if seat.lead.value is not None:
        return tuple((p, "its vote") for p in seat.order if p not in seat.lead.readys and p not in suspected)
    if seat.lead.seal is not None:
        owners = sorted(set(seat.lead.owners) - suspected)
        what = "its reduced part" if seat.lead.seal.final else "the inner products of its part"
        return tuple((p, what) for p in owners if not _has_answered(seat, p, seat.lead.seal.final))
    offers = leader.complete(seat.standings, seat.lead.owners)
    chosen = seat.view.chosen(desk.round, desk.terms.participation) - suspected - set(offers)
    late = [p for p in seat.order if p in chosen and leading.expects(seat, p)]
    return tuple((p, "its contribution") for p in late)


def _has_answered(seat: Seat, peer: str, final: bool) -> bool:  # noqa: FBT001 - as the seal has it
    standing = seat.standings.get(peer)
    return standing is not None and bool(standing.reduced if final else standing.grams)
