"""What others say is checked before it changes anything: forged decisions, impossible seals, runaway ballots."""

from __future__ import annotations

import math
from typing import Any

import attrs
import pytest

from prime.trainer.round import commands as cmd
from prime.trainer.round import messages as msg
from prime.trainer.round.ballot import Ballot
from prime.trainer.round.round import RoundCore
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
