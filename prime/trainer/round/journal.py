"""What a member reads back from its journal, and what of it may be thrown away (pure)."""

from __future__ import annotations

from collections.abc import Sequence

from prime.errors import UsageError
from prime.trainer.round import messages as msg
from prime.trainer.round.ballot import Ballot
from prime.trainer.round.desk import Desk
from prime.trainer.round.seat import Seat, sit
from prime.trainer.round.view import Member, Value, recovered


def replay(desk: Desk, record: msg.Record) -> None:
    """Take one record, in the order of the journal. Raises `UsageError` if it is of another run."""
    match record:
        case msg.Booted(boot):
            desk.boot = boot + 1
        case msg.Entered(round_, view, state_round):
            _check_run(desk, view.run)
            desk.round, desk.seat, desk.previous = round_, sit(round_, view, state_round), None
        case msg.Promised(round_, ballot) if desk.seat is not None and round_ == desk.round:
            _replay_ballot(desk.seat, ballot)
        case msg.Accepted(round_, ballot, value) if desk.seat is not None and round_ == desk.round:
            _replay_ballot(desk.seat, ballot)
            desk.seat.accepted = (ballot, value)
            desk.seat.results = {part: {hash_} for part, hash_ in enumerate(value.parts)}
        case msg.Decided(value):
            _check_run(desk, value.next_view.run)
            _replay_decision(desk, value)
        case _:
            pass


def _check_run(desk: Desk, run: str) -> None:
    if run != desk.run:
        raise UsageError(
            f"the journal belongs to run {run!r}, not to {desk.run!r}",
            hint="name that run, or give this one its own state directory",
        )


def _replay_ballot(seat: Seat, ballot: Ballot) -> None:
    seat.promised = max(seat.promised, ballot, key=Ballot.key)
    seat.following = max(seat.following, ballot, key=Ballot.key)
    seat.highest = max(seat.highest, ballot.counter)


def _replay_decision(desk: Desk, value: Value) -> None:
    if value.round != desk.round:
        desk.decisions.clear()  # it jumped
    desk.remember(value)
    desk.know(value.next_view.peers())
    desk.previous = desk.seat if desk.seat is not None and desk.seat.round == value.round else None
    desk.round = value.round + 1
    desk.seat = None
    if value.next_view.has(desk.me):
        desk.seat = sit(desk.round, value.next_view, value.state_round)


def refounded(records: Sequence[msg.Record], me: Member, held: int) -> tuple[str, list[msg.Record]]:
    """Return the new run of an operator who gave up the majority of the old one, and its first journal.

    `me` alone is the view that it begins with; all others, survivors of the old run too, join it as new. It goes on from
    the last state that the journal knows to be committed, or, where that was lost, from the one that is held here, the
    state after the round `held`. Members of the old run refuse the new one by its name. Raises `UsageError` if the journal knows of no round.
    """
    decided = [record.value for record in records if isinstance(record, msg.Decided)]
    entered = [record for record in records if isinstance(record, msg.Entered)]
    if decided:
        last = max(decided, key=lambda value: value.round)
        round_, view, state_round = last.round + 1, last.next_view, last.state_round
    elif entered:
        round_, view, state_round = entered[-1].round, entered[-1].view, entered[-1].state_round
    else:
        raise UsageError("this node was in no view yet", hint="start it as the founder of a run, or let it join one")
    new = recovered(view, [me])
    return new.run, [msg.Born(me), msg.Entered(max(round_, held + 1), new, min(state_round, held))]


def compacted(
    birth: Sequence[msg.Record], entered: msg.Entered, vote: msg.Accepted | None, decided: msg.Decided
) -> list[msg.Record]:
    """Return all of a journal that `recover` still needs once a round is decided: who we are, and the decision.

    With them stays the vote for that round, if there was one, as its bytes may still have to be applied or served; and
    `entered`, that is in which view it was, and from which state.
    """
    if vote is None or not vote.round == entered.round == decided.value.round:
        return [*birth, decided]
    return [*birth, entered, vote, decided]
