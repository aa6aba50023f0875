"""Members that are killed or stopped at a named point of a round: those who live end that very round, all alike.

Of each round that ends `swarm.py` checks that all hold the same value and bytes, that the bytes are the mean of what
the contributors froze, and that nothing is applied twice. What a test says itself is who died, and what the living had.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from swarm import Swarm, running  # type: ignore[import-not-found]

QUICK = ["scatter", "vote unsynced", "decided, told nobody"]
"""One of each kind: a sender, a voter in the middle of its vote, a leader who alone knows the outcome."""


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Swarm]:
    """One run of three, through all tests of this file: whoever dies is started again at the end of its test."""
    with running(tmp_path_factory.mktemp("three"), 3) as swarm:
        yield swarm


@pytest.mark.parametrize("point", QUICK)
def test_one_of_three_is_killed(three: Swarm, point: str) -> None:
    victim = three.victim(point)
    three.kill({victim: point})
    three.restart(victim)
    three.all_in()
    assert len(three.states()) == 1


def test_an_owner_that_stands_still_is_left_out_and_comes_back_right(three: Swarm) -> None:
    victim = three.victim("reduce")
    three.stop({victim: "reduce"})
    three.run_round()
    three.resume(victim)
    three.all_in()
    assert len(three.states()) == 1


def test_two_of_five_are_killed_at_once(tmp_path: Path) -> None:
    with running(tmp_path, 5, elements=300_000) as five:
        leader, *_, last = five.order()
        five.kill({leader: "half sealed", last: "scatter"})
        five.restart(leader)
        five.restart(last)
        five.all_in()
        assert len(five.states()) == 1
