"""Every point of a round at which a member can end, with every way to end there: nightly (`test_kills.py` has a few)."""

from __future__ import annotations

import contextlib
import itertools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from points import LEADER, POINTS  # type: ignore[import-not-found]
from swarm import Swarm, running  # type: ignore[import-not-found]

pytestmark = pytest.mark.nightly
LEADERS = [name for name, point in POINTS.items() if point.role == LEADER]
OTHERS = [name for name, point in POINTS.items() if point.role != LEADER]


class Stage:
    """One run for many tests, begun afresh after one that failed."""

    def __init__(self, folders: pytest.TempPathFactory, **options: Any) -> None:
        self._folders = folders
        self._options = options
        self._open = contextlib.ExitStack()
        self._swarm: Swarm | None = None

    @contextlib.contextmanager
    def swarm(self) -> Iterator[Swarm]:
        """Give the run to a test; all must be in again at its end, with one state."""
        if self._swarm is None:
            self._swarm = self._open.enter_context(running(self._folders.mktemp("run"), **self._options))
        swarm, self._swarm = self._swarm, None
        yield swarm
        swarm.all_in()
        assert len(swarm.states()) == 1
        self._swarm = swarm

    def close(self) -> None:
        """End all that was begun."""
        self._open.close()


@pytest.fixture(scope="module")
def stage_of_three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with contextlib.closing(Stage(tmp_path_factory, count=3)) as stage:
        yield stage


@pytest.fixture(scope="module")
def stage_of_five(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with contextlib.closing(Stage(tmp_path_factory, count=5, elements=400_000)) as stage:
        yield stage


@pytest.fixture
def three(stage_of_three: Stage) -> Iterator[Swarm]:
    with stage_of_three.swarm() as swarm:
        yield swarm


@pytest.fixture
def five(stage_of_five: Stage) -> Iterator[Swarm]:
    with stage_of_five.swarm() as swarm:
        yield swarm


@pytest.mark.parametrize("back", [False, True], ids=["back later", "back at once"])
@pytest.mark.parametrize("point", POINTS)
def test_one_of_three_is_killed(three: Swarm, point: str, back: bool) -> None:
    victim = three.victim(point)
    three.kill({victim: point}, back=back)
    if not back:
        three.restart(victim)


@pytest.mark.parametrize("point", POINTS)
def test_one_of_three_stands_still_and_goes_on(three: Swarm, point: str) -> None:
    victim = three.victim(point)
    three.stop({victim: point})
    three.resume(victim)


@pytest.mark.parametrize(
    ("first", "second"), list(itertools.product(LEADERS, ["scatter", "reduced", "vote written", "ready"]))
)
def test_the_leader_and_another_of_five_are_killed(five: Swarm, first: str, second: str) -> None:
    leader, *_, last = five.order()
    five.kill({leader: first, last: second})
    five.restart(leader)
    five.restart(last)


@pytest.mark.parametrize("point", ["scatter", "reduced"])
def test_below_a_majority_nothing_commits_until_enough_are_back(five: Swarm, point: str) -> None:
    victims = five.order()[-3:]
    five.begin(dict.fromkeys(victims, point))
    for index in (m.index for m in five.alive()):
        five.heard(index, "stalled", round=five.round)
    round_ = five.round
    assert not [m for m in five.alive() if m.last("decided", round=round_)]
    for victim in victims:
        five.restart(victim)
    outcomes = five.decided(five.alive(*victims))
    assert outcomes[0]["round"] == round_


def test_all_are_killed_at_once_and_go_on_with_their_journals(three: Swarm) -> None:
    round_ = three.round
    three.run_round()
    three.begin(dict.fromkeys(range(3), "scatter"))
    for index in range(3):
        three.restart(index)
    assert three.decided(three.members)[0]["round"] == round_ + 1


def test_one_joins_while_another_is_killed(tmp_path: Path) -> None:
    with running(tmp_path, 3) as swarm:
        victim = swarm.victim("after seal")
        swarm.start(3)
        swarm.kill({victim: "after seal"})
        swarm.restart(victim)
        swarm.address(3)
        swarm.all_in()
        assert len(swarm.states()) == 1


@pytest.mark.parametrize("point", ["scatter", "after seal", "decided, told nobody"])
def test_one_of_three_is_killed_over_libp2p(tmp_path: Path, point: str) -> None:
    with running(tmp_path, 3, transport="libp2p") as swarm:
        victim = swarm.victim(point)
        swarm.kill({victim: point})
        swarm.restart(victim)
        swarm.all_in()
        assert len(swarm.states()) == 1


def test_members_that_come_and_go_leave_nothing_behind(three: Swarm) -> None:
    def come_and_go(times: int) -> None:
        for _ in range(times):
            three.kill({2: "scatter"})
            three.restart(2)
            three.all_in()

    come_and_go(2)  # what it takes once
    before = [three.counts(index) for index in (0, 1)]
    come_and_go(8)
    for index, then in enumerate(before):
        now = three.counts(index)
        assert now["tasks"] <= then["tasks"] and now["fds"] <= then["fds"] + 1, (then, now)
        assert now["kib"] < 1.1 * then["kib"], (then, now)
