"""Members that are killed or stopped at a named point of a round: those who live end that very round, all alike.

Of each round that ends `swarm.py` checks that all hold the same value and bytes, that the bytes are the mean of what
the contributors froze, and that nothing is applied twice. What a test says itself is who died, and what the living had.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from stage import Stage  # type: ignore[import-not-found]
from swarm import running  # type: ignore[import-not-found]

QUICK = ["scatter", "half gathered", "vote unsynced", "decided, told nobody"]
"""One of each kind: a sender, an owner, a voter in the middle of its vote, a leader who alone knows the outcome."""


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """One run of three, through all tests of this file: whoever dies is started again at the end of its test."""
    with contextlib.closing(Stage(tmp_path_factory, count=3)) as stage:
        yield stage


@pytest.mark.parametrize("point", QUICK)
def test_one_of_three_is_killed(three: Stage, point: str) -> None:
    with three.swarm() as swarm:
        swarm.restart(*swarm.kill(point).victims)


def test_a_round_that_ends_before_its_victim_came_to_the_point_is_one_like_any(three: Stage) -> None:
    with three.swarm() as swarm:
        round_ = swarm.round
        swarm.deafen(swarm.victims(["ready"])[0], "Propose")
        strike = swarm.kill("ready")
        assert strike.round > round_ and strike.tries == 2
        swarm.restart(*strike.victims)


def test_an_owner_that_stands_still_is_left_out_and_comes_back_right(three: Stage) -> None:
    with three.swarm() as swarm:
        strike = swarm.stop("reduce")
        swarm.run_round()
        swarm.resume(*strike.victims)


def test_two_of_five_are_killed_at_once(tmp_path: Path) -> None:
    with running(tmp_path, 5, elements=300_000) as five:
        five.restart(*five.kill("half sealed", "scatter").victims)
        five.all_in()
        assert len(five.states()) == 1
