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
