"""Of which round a message is: one that is held here, of its view, from the member in whose name it is."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
import trio
import trio.testing

from prime.sim.exact import Exact
from prime.trainer.outer.fragments import Fragments
from prime.trainer.round import messages as msg
from prime.trainer.round.view import Member, View
from prime.trainer.swarm.rounds import Rounds

VIEW = View("run", 3, tuple(Member(peer, (), 1.0, 1) for peer in "ab"))
ANNOUNCE = msg.Announce("run", 3, 5, "b", 1, b"", b"h" * 32)


@pytest.fixture
def rounds() -> Rounds:
    rounds = Rounds("a", Exact())
    rounds.fragments = Fragments(61, 2)
    rounds.open(4, VIEW, 3)
    rounds.open(5, VIEW, 4)
    return rounds


def test_each_round_carries_its_fragment(rounds: Rounds) -> None:
    assert [rounds[number].elements for number in rounds] == [31, 30]
    assert [rounds.fragment_of(number) for number in rounds] == [1, 0]
    assert len(rounds) == 2 and 6 not in rounds


def test_a_message_is_of_the_round_and_the_part_that_it_names(rounds: Rounds) -> None:
    assert rounds.of_part(ANNOUNCE, "b") is rounds[5]
    vouch = msg.Vouch("run", 3, 4, "b", b"")
    assert rounds.of(vouch, "b") is rounds[4]


@pytest.mark.parametrize(
    "change",
    [{"run": "other"}, {"epoch": 2}, {"round": 6}, {"sender": "a"}, {"sender": "z"}, {"part": 2}, {"part": -1}],
    ids=str,
)
def test_what_is_of_nothing_here_is_not_taken(rounds: Rounds, change: dict[str, Any]) -> None:
    message = attrs.evolve(ANNOUNCE, **change)  # type: ignore[misc]  # a message is an attrs class
    assert rounds.of_part(message, message.sender) is None


def test_nobody_speaks_in_anothers_name(rounds: Rounds) -> None:
    assert rounds.of_part(ANNOUNCE, "z") is None
    assert rounds.of_part(ANNOUNCE, None) is None


async def test_of_rounds_that_are_forgotten_nobody_waits_for_more(rounds: Rounds) -> None:
    old = rounds[4]
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(old.grown)
            await trio.testing.wait_all_tasks_blocked()
            rounds.close_before(5)
    assert list(rounds) == [5]
    assert old.over
