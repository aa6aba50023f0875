"""Every point of a round at which a member can end, with every way to end there: nightly (`test_kills.py` has a few)."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from points import LEADER, POINTS  # type: ignore[import-not-found]
from swarm import Swarm, running  # type: ignore[import-not-found]

pytestmark = pytest.mark.nightly
LEADERS = [name for name, point in POINTS.items() if point.role == LEADER]
OTHERS = [name for name, point in POINTS.items() if point.role != LEADER]


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Swarm]:
    with running(tmp_path_factory.mktemp("three"), 3) as swarm:
        yield swarm


@pytest.fixture(scope="module")
def five(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Swarm]:
    with running(tmp_path_factory.mktemp("five"), 5, elements=400_000) as swarm:
        yield swarm


@pytest.mark.parametrize("back", [False, True], ids=["back later", "back at once"])
@pytest.mark.parametrize("point", POINTS)
def test_one_of_three_is_killed(three: Swarm, point: str, back: bool) -> None:
    victim = three.victim(point)
    three.kill({victim: point}, back=back)
    if not back:
        three.restart(victim)
    three.all_in()
    assert len(three.states()) == 1


@pytest.mark.parametrize("point", POINTS)
def test_one_of_three_stands_still_and_goes_on(three: Swarm, point: str) -> None:
    victim = three.victim(point)
    three.stop({victim: point})
    three.resume(victim)
    three.all_in()
    assert len(three.states()) == 1


@pytest.mark.parametrize(
    ("first", "second"), itertools.product(LEADERS, ["scatter", "reduced", "vote written", "ready"])
)
def test_the_leader_and_another_of_five_are_killed(five: Swarm, first: str, second: str) -> None:
    leader, *_, last = five.order()
    five.kill({leader: first, last: second})
    five.restart(leader)
    five.restart(last)
    five.all_in()
    assert len(five.states()) == 1
