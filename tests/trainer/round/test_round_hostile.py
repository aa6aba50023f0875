"""What others say is checked before it changes anything: forged decisions, impossible seals, runaway ballots."""

from __future__ import annotations

import math
from typing import Any

import attrs
import pytest

from prime.errors import UsageError
from prime.trainer.round import commands as cmd
from prime.trainer.round import messages as msg
from prime.trainer.round.ballot import Ballot
from prime.trainer.round.desk import WARNING_CHARACTERS_MAX, WARNINGS_MAX
from prime.trainer.round.journal import refounded
from prime.trainer.round.leader import KEPT_MAX
from prime.trainer.round.names import lineage
from prime.trainer.round.round import RoundCore
from prime.trainer.round.seat import RESULTS_MAX
from prime.trainer.round.timing import Timing
from prime.trainer.round.validity import ADDRESS_CHARACTERS_MAX, ADDRESSES_MAX, COUNTER_LEAP_MAX
from prime.trainer.round.view import Member, Share, Value, View

ME, OTHER, STRANGER = "a", "b", "z"
HASH = bytes(32)


def member(peer: str) -> Member:
    return Member(peer, (), 1.0, 1)


VIEW = View("run", 3, (member(ME), member(OTHER)))
ABORT = Value(1, 3, b"", (), (), VIEW, 0)
SUM = Value(1, 3, HASH, (Share(ME, 1.0),), (HASH, HASH), VIEW, 1)


def seated() -> RoundCore:
    """Return a member of `VIEW` in round 1."""
    records = [msg.Born(member(ME)), msg.Booted(1), msg.Entered(1, VIEW, 0)]
    core = RoundCore.recover(member(ME), "run", Timing(), records)
    core.start(0.0)
    return core


def hear(core: RoundCore, message: Any) -> list[cmd.Command]:
    return core.step(cmd.Received(message), 1.0)


def persisted(commands: list[cmd.Command]) -> list[Any]:
    return [command.record for command in commands if isinstance(command, cmd.Persist)]


def test_a_members_decision_is_taken() -> None:
    for value in (ABORT, SUM):
        core = seated()
        assert persisted(hear(core, msg.Commit("run", OTHER, value, 0))) == [msg.Decided(value)]
        assert core.round == 2


@pytest.mark.parametrize("round_", [1, 2, 2**62])
def test_a_strangers_decision_is_not(round_: int) -> None:
    core = seated()
    forged = attrs.evolve(ABORT, round=round_, next_view=View("run", 4, (member(STRANGER),)))  # type: ignore[misc]
    assert not persisted(hear(core, msg.Commit("run", STRANGER, forged, round_)))
    assert core.round == 1
    assert core.seat is not None


def test_an_outsider_believes_only_those_it_asked_and_whom_they_named() -> None:
    core = RoundCore.join(member("c"), "run", Timing())
    core.start(0.0)
    core.step(cmd.JoinRun((ME,)), 0.0)
    let_in = attrs.evolve(ABORT, next_view=View("run", 4, (*VIEW.members, member("c"))))  # type: ignore[misc]
    assert not persisted(hear(core, msg.Commit("run", OTHER, let_in, 1)))
    hear(core, msg.Commit("run", ME, ABORT, 1))  # the contact names its view, and with it the other member
    assert persisted(hear(core, msg.Commit("run", OTHER, let_in, 1))) == [msg.Decided(let_in)]


def test_a_member_is_told_its_rounds_by_members_only() -> None:
    """Two sides of a partition can each found the same successor; a node that was told of both is in one of them."""
    core = RoundCore.join(member("c"), "run", Timing())
    core.start(0.0)
    core.step(cmd.JoinRun((ME, OTHER)), 0.0)
    mine, theirs = (View("run", 4, (member(founder), member("c"))) for founder in (ME, OTHER))
    hear(core, msg.Commit("run", ME, attrs.evolve(ABORT, next_view=mine), 1))  # type: ignore[misc]
    assert core.round == 2
    other = attrs.evolve(ABORT, round=2, epoch=4, next_view=View("run", 5, theirs.members))  # type: ignore[misc]
    assert not persisted(hear(core, msg.Commit("run", OTHER, other, 1)))
    assert persisted(hear(core, msg.Commit("run", ME, other, 1)))


WRONG_VALUES = [
    ("epoch", attrs.evolve(SUM, epoch=4)),  # type: ignore[misc]
    ("a part too few", attrs.evolve(SUM, parts=(HASH,))),  # type: ignore[misc]
    ("no hash", attrs.evolve(SUM, parts=(HASH, b"short"))),  # type: ignore[misc]
    ("parts of an abort", attrs.evolve(ABORT, parts=(HASH, HASH))),  # type: ignore[misc]
    ("a stranger's share", attrs.evolve(SUM, shares=(Share(STRANGER, 1.0),))),  # type: ignore[misc]
    ("twin shares", attrs.evolve(SUM, shares=(Share(ME, 1.0), Share(ME, 1.0)))),  # type: ignore[misc]
    ("weightless", attrs.evolve(SUM, shares=(Share(ME, 0.0),))),  # type: ignore[misc]
    ("not a number", attrs.evolve(SUM, shares=(Share(ME, math.nan),))),  # type: ignore[misc]
    ("nobody left", attrs.evolve(SUM, next_view=View("run", 4, ()))),  # type: ignore[misc]
    ("twins", attrs.evolve(SUM, next_view=View("run", 4, (member(ME), member(ME))))),  # type: ignore[misc]
    ("unsorted", attrs.evolve(SUM, next_view=View("run", 4, (member(OTHER), member(ME))))),  # type: ignore[misc]
    ("another run", attrs.evolve(SUM, next_view=View("other", 4, VIEW.members))),  # type: ignore[misc]
    ("two views of one number", attrs.evolve(SUM, next_view=View("run", 3, (member(OTHER),)))),  # type: ignore[misc]
    ("a sum without a state", attrs.evolve(SUM, state_round=0)),  # type: ignore[misc]
    ("an abort with a state", attrs.evolve(ABORT, state_round=1)),  # type: ignore[misc]
    ("a leap", attrs.evolve(SUM, next_view=View("run", 9, VIEW.members))),  # type: ignore[misc]
]


@pytest.mark.parametrize(("what", "value"), WRONG_VALUES)
def test_a_value_that_cannot_be_is_neither_decided_nor_voted(what: str, value: Value) -> None:
    core = seated()
    assert not persisted(hear(core, msg.Commit("run", OTHER, value, 0))), what
    leader = VIEW.order(1).index(OTHER)
    head = ("run", 3, 1, OTHER)
    for part, hash_ in enumerate(value.parts):
        core.step(cmd.ResultHeld(1, part, hash_), 1.0)
    propose = msg.Propose(*head, Ballot(2, leader), (ME, OTHER), (), value)
    records = persisted(hear(core, propose))
    assert not [record for record in records if isinstance(record, msg.Accepted)], what


@pytest.mark.parametrize(
    ("owners", "shares"),
    [
        ((ME, ME, ME), (Share(ME, 1.0),)),
        ((ME,), (Share(ME, 1.0),)),
        ((ME, STRANGER), (Share(ME, 1.0),)),
        ((ME, ME), ()),
        ((ME, ME), (Share(ME, 0.0),)),
        ((ME, ME), (Share(STRANGER, 1.0),)),
    ],
)
def test_a_seal_that_cannot_be_is_not_followed(owners: tuple[str, ...], shares: tuple[Share, ...]) -> None:
    core = seated()
    for part in range(3):
        core.step(cmd.PartHeld(1, ME, part, HASH), 1.0)
    leader = VIEW.order(1).index(OTHER)
    commands = hear(core, msg.Seal("run", 3, 1, OTHER, Ballot(2, leader), owners, HASH, shares, final=True))
    assert not [command for command in commands if isinstance(command, cmd.Reduce)]


def test_a_seal_that_can_be_is_followed() -> None:
    core = seated()
    for part in range(2):
        core.step(cmd.PartHeld(1, ME, part, HASH), 1.0)
    leader = VIEW.order(1).index(OTHER)
    commands = hear(
        core, msg.Seal("run", 3, 1, OTHER, Ballot(2, leader), (ME, ME), HASH, (Share(ME, 1.0),), final=True)
    )
    assert [command.part for command in commands if isinstance(command, cmd.Reduce)] == [0, 1]


def test_a_runaway_ballot_is_not_followed_nor_promised() -> None:
    core = seated()
    leader, head = VIEW.order(1).index(OTHER), ("run", 3, 1, OTHER)
    wild = Ballot(COUNTER_LEAP_MAX + 10, leader)
    for message in (msg.Nack(*head, wild), msg.Prepare(*head, wild, (ME, OTHER))):
        assert not persisted(hear(core, message))
    assert core.seat is not None
    assert core.seat.highest < 10
    assert core.seat.promised < wild


@pytest.mark.parametrize(
    "wish",
    [
        Member("c", ("/ip4/127.0.0.1/tcp/1",) * (ADDRESSES_MAX + 1), 1.0, 1),
        Member("c", ("/" + "x" * ADDRESS_CHARACTERS_MAX,), 1.0, 1),
        Member("c", (), 1e9, 1),
        Member("c", (), 0.0, 1),
        Member("c", (), math.inf, 1),
    ],
)
def test_a_wish_that_would_burden_everyone_is_refused(wish: Member) -> None:
    core = seated()
    commands = hear(core, msg.Join("run", wish))
    assert [c.message for c in commands if isinstance(c, cmd.Send) and isinstance(c.message, msg.Refuse)]
    assert not core.roster.joining


THREE = View("run", 3, (member(ME), member(OTHER), member("c")))


def seated_in(view: View) -> RoundCore:
    core = RoundCore.recover(
        member(ME), "run", Timing(), [msg.Born(member(ME)), msg.Booted(1), msg.Entered(1, view, 0)]
    )
    core.start(0.0)
    return core


def ahead(round_: int, view: View = THREE) -> Value:
    return Value(round_, 3, b"", (), (), view, 0)


def test_one_members_word_for_a_round_far_ahead_is_not_enough() -> None:
    core = seated_in(THREE)
    forged = ahead(1000)
    for _ in range(3):
        assert not persisted(hear(core, msg.Commit("run", OTHER, forged, 900)))
    assert core.round == 1
    assert persisted(hear(core, msg.Commit("run", "c", forged, 900))) == [msg.Decided(forged)]
    assert core.round == 1001


def test_two_words_for_two_different_rounds_far_ahead_are_one_word_each() -> None:
    core = seated_in(THREE)
    first = hear(core, msg.Commit("run", OTHER, ahead(1000), 900))
    assert {c.to for c in first if isinstance(c, cmd.Send) and isinstance(c.message, msg.Query)} == {OTHER, "c"}
    again = hear(core, msg.Commit("run", "c", ahead(1001), 900))
    assert not persisted(again)
    assert not [c for c in again if isinstance(c, cmd.Send) and isinstance(c.message, msg.Query)]  # no storm of askings


def test_in_a_view_of_two_there_is_no_second_word() -> None:
    core = seated()
    far = ahead(1000, VIEW)
    assert persisted(hear(core, msg.Commit("run", OTHER, far, 900))) == [msg.Decided(far)]


def test_warnings_about_one_peer_are_bounded() -> None:
    core = seated()
    warned: list[cmd.Command] = []
    for i in range(1000):
        warned += hear(core, msg.Refuse("run", 1, OTHER, f"{i} " + "x" * 100_000, b""))
        warned += hear(core, msg.Commit("run", OTHER, WRONG_VALUES[0][1], 0))
    texts = [c.text for c in warned if isinstance(c, cmd.Warn)]
    assert 1 <= len(texts) <= WARNINGS_MAX
    assert max(map(len, texts)) <= WARNING_CHARACTERS_MAX


def test_results_that_nobody_votes_on_are_not_remembered_without_end() -> None:
    core = seated()
    for i in range(10 * RESULTS_MAX):
        core.step(cmd.ResultHeld(1, 0, i.to_bytes(32, "big")), 1.0)
    assert core.seat is not None
    assert len(core.seat.results[0]) == RESULTS_MAX
    leader = VIEW.order(1).index(OTHER)
    wanted = attrs.evolve(SUM, parts=(b"w" * 32, HASH))  # type: ignore[misc]
    hear(core, msg.Propose("run", 3, 1, OTHER, Ballot(2, leader), (ME, OTHER), (), wanted))
    core.step(cmd.ResultHeld(1, 1, HASH), 1.0)
    voted = persisted(core.step(cmd.ResultHeld(1, 0, b"w" * 32), 1.0))
    assert [record.value for record in voted] == [wanted]


def report(**changes: Any) -> msg.Report:
    plain = msg.Report("run", 3, 1, OTHER, 1, False, True, Ballot(1, 0), None, (), (), (), None)
    return attrs.evolve(plain, **changes)  # type: ignore[misc]


SEAL = bytes(16)
WRONG_REPORTS = [
    ("a part too many", {"held": (msg.Holding(2, (ME,), (HASH,)),)}),
    ("a stranger's bytes", {"held": (msg.Holding(0, (STRANGER,), (HASH,)),)}),
    ("a contribution without a hash", {"held": (msg.Holding(0, (ME, OTHER), (HASH,)),)}),
    ("a contribution's hash of another size", {"held": (msg.Holding(0, (ME,), (b"short",)),)}),
    ("a hash of another size", {"reduced": (msg.Reduction(0, SEAL, b"short"),)}),
    ("a seal of another size", {"reduced": (msg.Reduction(0, b"short", HASH),)}),
    (
        "no end of results",
        {"reduced": tuple(msg.Reduction(0, i.to_bytes(16, "big"), HASH) for i in range(KEPT_MAX + 1))},
    ),
    ("more products than pairs", {"grams": (msg.PartGram(0, SEAL, (1.0,) * 4),)}),
    ("a link faster than any is told as", {"rate_bytes_s": 1 << 30}),
    ("a negative bandwidth", {"rate_bytes_s": -1}),
    ("an offer of more parts than members", {"offer": msg.Offer(1.0, HASH, (HASH,) * 3)}),
]


@pytest.mark.parametrize(("what", "changes"), WRONG_REPORTS)
def test_a_standing_that_cannot_be_is_not_taken(what: str, changes: dict[str, Any]) -> None:
    core = seated()
    commands = hear(core, report(**changes))
    assert core.seat is not None
    assert OTHER not in core.seat.standings, what
    assert [c for c in commands if isinstance(c, cmd.Warn)]


def test_a_members_results_are_bounded_over_all_its_reports() -> None:
    core = seated()
    for i in range(0, 3 * KEPT_MAX, 1000):
        many = tuple(msg.Reduction(0, (i + j).to_bytes(16, "big"), HASH) for j in range(1000))
        hear(core, report(reduced=many))
    assert core.seat is not None
    assert len(core.seat.standings[OTHER].reduced) == KEPT_MAX


@pytest.mark.parametrize("entry", [math.nan, math.inf, 1e308, -1e308])
def test_inner_products_that_no_contributions_have_are_as_good_as_none(entry: float) -> None:
    core = seated()
    hear(core, report(grams=(msg.PartGram(0, SEAL, (entry, 0.0, 1.0)), msg.PartGram(1, SEAL, (1.0, 0.0, 1.0)))))
    assert core.seat is not None
    assert list(core.seat.standings[OTHER].grams) == [(1, SEAL)]


def test_bytes_are_asked_of_members_only() -> None:
    core = seated()
    leader = VIEW.order(1).index(OTHER)
    commands = hear(core, msg.Propose("run", 3, 1, OTHER, Ballot(2, leader), (ME, OTHER), (STRANGER,), SUM))
    commands += core.step(cmd.Tick(), 5.0)
    assert {c.to for c in commands if isinstance(c, cmd.Send) and isinstance(c.message, msg.Fetch)} == {OTHER}


def test_a_refounded_run_goes_on_from_the_last_decided_state_under_another_name() -> None:
    records = [
        msg.Born(member(ME)),
        msg.Booted(1),
        msg.Entered(0, VIEW, 0),
        msg.Decided(attrs.evolve(SUM, next_view=THREE)),
    ]  # type: ignore[misc]
    run, journal = refounded(records, member(ME), 1)
    assert lineage(run) == ("run", 1)
    core = RoundCore.recover(member(ME), run, Timing(), journal)
    core.start(0.0)
    assert core.seat is not None
    assert (core.round, core.seat.state_round, core.seat.view.peers()) == (2, 1, (ME,))
    old = hear(core, msg.Query("run", 3, 2, OTHER))
    (answer,) = [c.message for c in old if isinstance(c, cmd.Send)]
    assert isinstance(answer, msg.Refuse)
    assert f"trains run {run!r}, not 'run'" in answer.reason
    hear(core, msg.Join(run, member(OTHER)))
    for now in range(2, 60):
        core.step(cmd.Tick(), float(now))
        core.step(cmd.Received(msg.Join(run, member(OTHER))), float(now))
    assert core.round > 2
    assert core.seat.view.peers() == (ME, OTHER)
    with pytest.raises(UsageError, match="in no view yet"):
        refounded(records[:2], member(ME), 0)
