"""Every point of a round at which a member can end, with every way to end there: nightly (`test_kills.py` has a few)."""

from __future__ import annotations

import contextlib
import itertools
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from points import LEADER, POINTS, SPOOLED  # type: ignore[import-not-found]
from stage import Stage  # type: ignore[import-not-found]
from swarm import Swarm, running  # type: ignore[import-not-found]

pytestmark = [pytest.mark.nightly, pytest.mark.timeout(600)]  # a busy machine takes a minute for a test
DEADLINE_S = 10.0
LEADERS = [name for name, point in POINTS.items() if point.role == LEADER]


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with contextlib.closing(Stage(tmp_path_factory, count=3)) as stage:
        yield stage


@pytest.fixture(scope="module")
def spooled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with contextlib.closing(Stage(tmp_path_factory, count=3, elements=3_000_000, spooled=True)) as stage:
        yield stage


@pytest.fixture(scope="module")
def five(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with contextlib.closing(Stage(tmp_path_factory, count=5, elements=400_000)) as stage:
        yield stage


@pytest.mark.parametrize("back", [False, True], ids=["back later", "back at once"])
@pytest.mark.parametrize("point", POINTS)
def test_one_of_three_is_killed(three: Stage, point: str, back: bool) -> None:
    with three.swarm() as swarm:
        strike = swarm.kill(point, back=back)
        if not back:
            swarm.restart(*strike.victims)


@pytest.mark.parametrize("back", [False, True], ids=["back later", "back at once"])
@pytest.mark.parametrize("point", [*SPOOLED, "vote torn", "vote unsynced", "vote written", "ready", "decision torn"])
def test_one_of_three_that_stages_its_votes_is_killed(spooled: Stage, point: str, back: bool) -> None:
    with spooled.swarm() as swarm:
        strike = swarm.kill(point, back=back)
        if not back:
            swarm.restart(*strike.victims)


@pytest.mark.parametrize("point", POINTS)
def test_one_of_three_stands_still_and_goes_on(three: Stage, point: str) -> None:
    with three.swarm() as swarm:
        swarm.resume(*swarm.stop(point).victims)


@pytest.mark.parametrize("point", ["half sealed", "reduce", "vote unsynced", "decided, told nobody"])
def test_one_that_stands_still_beyond_every_deadline_goes_on(tmp_path: Path, point: str) -> None:
    with running(tmp_path, 3, timing={"deadline_s": DEADLINE_S}) as swarm:
        strike = swarm.stop(point)
        while time.monotonic() < strike.struck_at + 2 * DEADLINE_S:
            swarm.run_round()
        swarm.resume(*strike.victims)
        swarm.all_in()
        assert len(swarm.states()) == 1


@pytest.mark.parametrize(
    ("first", "second"), list(itertools.product(LEADERS, ["scatter", "reduced", "vote written", "ready"]))
)
def test_the_leader_and_another_of_five_are_killed(five: Stage, first: str, second: str) -> None:
    with five.swarm() as swarm:
        swarm.restart(*swarm.kill(first, second).victims)


@pytest.mark.parametrize("point", ["scatter", "reduced"])
def test_below_a_majority_nothing_commits_until_enough_are_back(five: Stage, point: str) -> None:
    with five.swarm() as swarm:
        victims = swarm.order()[-3:]
        swarm.begin(dict.fromkeys(victims, point))
        for index in (m.index for m in swarm.alive()):
            swarm.heard(index, "stalled", round=swarm.round)
        round_ = swarm.round
        assert not [m for m in swarm.alive() if m.last("decided", round=round_)]
        swarm.restart(*victims)
        outcomes = swarm.decided(swarm.alive(*victims))
        assert outcomes[0]["round"] == round_


def test_all_are_killed_at_once_and_go_on_with_their_journals(three: Stage) -> None:
    with three.swarm() as swarm:
        round_ = swarm.round
        swarm.run_round()
        swarm.begin(dict.fromkeys(range(3), "scatter"))
        swarm.restart(*range(3))
        assert swarm.decided(swarm.members)[0]["round"] == round_ + 1


def test_one_joins_while_another_is_killed(tmp_path: Path) -> None:
    with running(tmp_path, 3) as swarm:
        swarm.start(3)
        strike = swarm.kill("after seal")
        swarm.restart(*strike.victims)
        swarm.address(3)
        swarm.all_in()
        assert len(swarm.states()) == 1


@pytest.mark.parametrize("point", ["scatter", "after seal", "decided, told nobody"])
def test_one_of_three_is_killed_over_libp2p(tmp_path: Path, point: str) -> None:
    with running(tmp_path, 3, transport="libp2p") as swarm:
        swarm.restart(*swarm.kill(point).victims)
        swarm.all_in()
        assert len(swarm.states()) == 1


def test_members_that_come_and_go_leave_nothing_behind(three: Stage) -> None:
    def come_and_go(swarm: Swarm, times: int) -> None:
        for _ in range(times):
            swarm.restart(*swarm.kill("scatter").victims)
            swarm.all_in()

    with three.swarm() as swarm:
        come_and_go(swarm, 2)  # what it takes once
        before = [swarm.counts(index) for index in (0, 1)]
        come_and_go(swarm, 8)
        for index, then in enumerate(before):
            now = swarm.counts(index)
            assert now["tasks"] <= then["tasks"] and now["fds"] <= then["fds"] + 1, (then, now)
            assert now["kib"] < 1.1 * then["kib"], (then, now)
