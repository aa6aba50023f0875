"""A contribution: in which order it is made, what is signed of it, and what each outcome does to it."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest

from prime.errors import LocalProtocolError
from prime.sim.exact import Exact, Halved, Sum
from prime.trainer.round import commands as cmd
from prime.trainer.round.view import Member, Share, Value, View
from prime.trainer.swarm import plans
from prime.trainer.swarm.carry import Ledgers
from prime.trainer.swarm.contribution import Contributions, in_turns
from prime.trainer.swarm.outcomes import Outcomes
from prime.trainer.swarm.parts import digest_of
from prime.trainer.swarm.stock import Stock

VIEW = View("run", 1, tuple(Member(peer, (), 1.0, 1) for peer in "abc"))
HALVED = Halved()
DELTA = Sum.of("x")


def stock(numbers: Exact = HALVED, round_: int = 1) -> Stock:
    return Stock.of(round_, VIEW, round_ - 1, 90, numbers)


def value(round_: int = 1, *, aborted: bool = False) -> Value:
    shares = () if aborted else (Share("a", 2.0),)
    return Value(round_, 1, b"base", shares, (), VIEW, round_)


async def made(ledgers: Ledgers[Sum], numbers: Exact = HALVED) -> tuple[Contributions[Sum], Stock, Any]:
    """Return a contribution to round 1 that is encoded, and its offer."""
    contributions, of = Contributions("a", numbers, ledgers), stock(numbers)
    frozen = contributions.freeze(of, plans.Contribute(1, DELTA, 2.0))
    for batch in contributions.batches(of):
        await contributions.encode(of, frozen, batch)
    return contributions, of, contributions.offer(of, frozen, b"base")


def test_every_way_out_is_busy_from_the_first_chunks_on_and_the_own_part_comes_last() -> None:
    of = stock()
    places = list(in_turns(of, 1))
    assert sorted((part, index) for part, index, _ in places) == [
        (part, index) for part, cuts in enumerate(of.chunks) for index in range(len(cuts))
    ]
    assert [part for part, _, _ in places[:4]] == [0, 2, 0, 2]
    assert {part for part, _, _ in places[-len(of.chunks[1]) :]} == {1}
    assert all(cut == of.chunks[part][index] for part, index, cut in places)


async def test_what_is_offered_is_what_was_encoded() -> None:
    _, of, offer = await made(Ledgers())
    assert all(one.is_whole for one in of.own.values())
    assert offer.parts == tuple(digest_of(one.encoded()) for one in of.own.values())
    assert (offer.run, offer.epoch, offer.round, offer.weight, offer.base) == ("run", 1, 1, 2.0, b"base")


async def test_values_that_have_no_bytes_are_named_by_where_they_are() -> None:
    contributions, of = Contributions("a", Exact(chunk_bytes=8), Ledgers()), stock()
    frozen = contributions.freeze(of, plans.Contribute(1, Sum.of("a long name"), 1.0))
    with pytest.raises(LocalProtocolError, match="from element"):
        await contributions.encode(of, frozen, next(contributions.batches(of)))


async def test_what_the_bytes_of_a_contribution_left_out_stays_when_its_round_takes_it() -> None:
    ledgers: Ledgers[Sum] = Ledgers()
    contributions, _, _ = await made(ledgers)
    await contributions.settle(cmd.Apply(value(), included=True))
    ledger = ledgers.of(1)
    assert ledger.residual == DELTA * Fraction(1, 2)
    assert ledger.carry is None and ledgers.in_flight() is None


async def test_a_contribution_that_its_round_left_out_is_carried_whole() -> None:
    ledgers: Ledgers[Sum] = Ledgers()
    contributions, _, _ = await made(ledgers)
    await contributions.settle(cmd.Settle(value(), included=False))
    assert (ledgers.of(1).carry, ledgers.of(1).residual) == (DELTA, None)


async def test_an_abort_keeps_nothing_as_the_trainer_has_it_still() -> None:
    ledgers: Ledgers[Sum] = Ledgers()
    contributions, _, _ = await made(ledgers)
    await contributions.settle(cmd.Keep(value(aborted=True)))
    assert ledgers.in_flight() is None
    assert (ledgers.of(1).carry, ledgers.of(1).dropped) == (None, 0)


@pytest.mark.parametrize("outcome", [None, value(2)], ids=["unknown", "of another round"])
async def test_a_contribution_whose_outcome_nobody_can_tell_is_dropped_and_counted(outcome: Value | None) -> None:
    ledgers: Ledgers[Sum] = Ledgers()
    contributions, _, _ = await made(ledgers)
    await contributions.settle(cmd.CatchUp(2 if outcome else 1, VIEW, outcome, included=False, reason=""))
    assert ledgers.in_flight() is None
    assert (ledgers.of(1).dropped, ledgers.of(1).dropped_weight) == (1, 2.0)


async def test_what_came_too_late_is_carried() -> None:
    ledgers: Ledgers[Sum] = Ledgers()
    Contributions("a", HALVED, ledgers).miss(plans.Contribute(1, DELTA, 3.0))
    assert (ledgers.of(1).carry, ledgers.of(1).carry_weight) == (DELTA, 3.0)


async def test_the_trainer_hears_of_a_commit_before_the_contribution_is_settled() -> None:
    ledgers: Ledgers[Sum] = Ledgers()
    numbers = Exact()
    contributions, of, _ = await made(ledgers, numbers)
    for part, one in of.own.items():
        of.learn(part, b"s" * 16, one.encoded(), one.digest())
    decided = Value(1, 1, b"base", (Share("a", 2.0),), tuple(one.digest() for one in of.own.values()), VIEW, 1)
    heard: list[tuple[plans.Outcome, bool]] = []
    outcomes = Outcomes(lambda one: heard.append((one, ledgers.in_flight() is None)), numbers, contributions)
    await outcomes.settle(cmd.Apply(decided, included=True), {1: of})
    assert heard == [(plans.RoundCommitted(decided, DELTA, included=True), False)]
    assert ledgers.in_flight() is None


async def test_bytes_of_a_decision_are_handed_on_where_the_state_before_it_is_missed() -> None:
    ledgers: Ledgers[Sum] = Ledgers()
    numbers = Exact()
    contributions, of, _ = await made(ledgers, numbers)
    for part, one in of.own.items():
        of.learn(part, b"s" * 16, one.encoded(), one.digest())
    decided = Value(1, 1, b"base", (Share("a", 2.0),), tuple(one.digest() for one in of.own.values()), VIEW, 1)
    heard: list[Any] = []
    outcomes = Outcomes(heard.append, numbers, contributions)
    await outcomes.settle(cmd.CatchUp(1, VIEW, decided, included=True, reason="late"), {1: of})
    kept, missed = heard
    assert kept.value == decided and kept.join() == DELTA
    assert missed == plans.StateMissed(1, VIEW, "late", b"")
    await outcomes.settle(cmd.CatchUp(2, VIEW, value(2), included=False, reason="gone"), {})
    assert heard[2:] == [plans.StateMissed(2, VIEW, "gone", b"")]
