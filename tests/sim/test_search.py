"""Runs in processes of their own: the same traces as here, and every way in which a process can end."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import attrs
import pytest
import trio

from prime import sim
from prime.errors import ActorUsageError, RunFailedError, UsageError
from prime.sim import plan as p
from prime.sim.run import load
from prime.testing.nodes import lives

TESTDATA = Path(__file__).parent / "testdata"


@pytest.fixture(autouse=True)
def scenarios_on_the_path(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(str(TESTDATA))
    yield
    sys.modules.pop("searched", None)


async def all_of(scenario: str, seeds: list[int], jobs: int = 2, deadline_s: float = 60.0) -> dict[int, sim.Outcome]:
    with trio.fail_after(120):
        async with sim.search(scenario, seeds, jobs=jobs, deadline_s=deadline_s) as outcomes:
            return {outcome.seed: outcome async for outcome in outcomes}


def told(outcome: sim.Outcome) -> sim.Outcome:
    """Return what another process tells of an outcome."""
    return attrs.evolve(outcome, history=(), cause=None)


def test_a_search_runs_each_seed_once_and_gives_what_a_run_here_gives() -> None:
    found = trio.run(all_of, "searched:holds", list(range(6)))
    assert sorted(found) == list(range(6))
    for seed, outcome in found.items():
        assert outcome == told(sim.run(seed, load("searched:holds")))


def test_failures_come_with_their_plan_and_their_name() -> None:
    found = trio.run(all_of, "searched:fails_on_7", [6, 7, 8, 17])
    assert {seed: outcome.ok for seed, outcome in found.items()} == {6: True, 7: False, 8: True, 17: False}
    assert found[7].violated.startswith("AssertionError at searched.py:")
    assert found[7].at_s == 1.5
    assert "sevens are unlucky" in found[7].error
    assert found[7].plan == p.draw(7, load("searched:fails_on_7").space)


def test_a_process_that_is_killed_fails_its_seed_and_another_takes_its_place() -> None:
    found = trio.run(all_of, "searched:kills_itself", list(range(8)), 1)
    assert [seed for seed, outcome in found.items() if not outcome.ok] == [3]
    assert "signal SIGKILL" in found[3].error
    assert "last words" in found[3].error
    assert len(found) == 8


def test_a_run_that_hangs_fails_after_real_time_and_the_search_goes_on() -> None:
    found = trio.run(all_of, "searched:hangs", [2, 3], 1, 5.0)
    assert {seed: outcome.ok for seed, outcome in found.items()} == {2: False, 3: True}
    assert "5 s of real time" in found[2].error


def test_leaving_a_search_kills_its_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEARCHED_FOLDER", str(tmp_path))

    async def left() -> list[int]:
        with trio.fail_after(60):
            async with sim.search("searched_apart:hangs", count(), jobs=2):
                while len(found := [int(file.name) for file in tmp_path.iterdir()]) < 2:  # noqa: ASYNC110, ASYNC240
                    await trio.sleep(0.02)  # a file of another process, in real time
                assert all(lives(process) for process in found)
                return found

    for process in trio.run(left):
        assert not lives(process)


def test_an_error_in_the_block_is_itself() -> None:
    async def raising() -> None:
        async with sim.search("searched:holds", count(), jobs=1) as outcomes:
            async for outcome in outcomes:
                raise ValueError(outcome.seed)

    with pytest.raises(ValueError, match="0"):
        trio.run(raising)


def test_a_run_apart_is_the_run_here_with_its_history() -> None:
    scenario = load("searched:holds")
    here = sim.run(4, scenario)
    plan = p.Plan(actions=(p.Pause("n1", 0.5, 1.0),), storm_s=5.0)

    async def apart() -> list[sim.Outcome]:
        return [await sim.run_apart(4, scenario), await sim.run_apart(4, "searched:holds", plan)]

    drawn, given = trio.run(apart)
    assert (drawn, drawn.history) == (here, here.history)
    assert given == sim.run(4, scenario, plan)
    assert (drawn.command, given.command) == (here.command, f"{here.command} --plan PLAN.json")
    assert here.command == "prime sim replay 4 --scenario searched:holds"


def test_what_follows_the_hash_of_texts_differs_between_processes() -> None:
    async def traces() -> set[str]:
        outcomes = [
            await sim.run_apart(1, "searched:follows_the_hash", environment={"PYTHONHASHSEED": str(seed)})
            for seed in (1, 2, 3)
        ]
        return {outcome.trace for outcome in outcomes}

    assert len(trio.run(traces)) > 1


def refused(scenario: sim.Scenario | str, seeds: list[int], jobs: int = 1) -> UsageError:
    async def search() -> None:
        async with sim.search(scenario, seeds, jobs=jobs) as outcomes:
            async for _ in outcomes:
                pass

    with pytest.raises(UsageError) as caught:
        trio.run(search)
    assert caught.value.hint
    return caught.value


def test_what_cannot_be_searched_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    @sim.scenario
    async def local(world: sim.World) -> None:
        pass

    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "wrong_syntax.py").write_text("def (")
    (tmp_path / "raises.py").write_text("raise ZeroDivisionError('at import')")
    assert "cannot import the scenario" in str(refused(local, [1]))
    assert "there is no scenario searched:none" in str(refused("searched:none", [1]))
    assert "there is no module nowhere" in str(refused("nowhere:at_all", [1]))
    assert "searched:NOT_ONE is no scenario" in str(refused("searched:NOT_ONE", [1]))
    assert "there is no scenario searched" in str(refused("searched", [1]))
    assert "SyntaxError" in str(refused("wrong_syntax:it", [1]))
    assert "ZeroDivisionError: at import" in str(refused("raises:it", [1]))
    assert "no seed is -3" in str(refused("searched:holds", [-3]))
    assert "0 processes" in str(refused("searched:holds", [1], jobs=0))


def test_an_error_of_a_search_is_never_lost() -> None:
    for _ in range(50):  # Trio's scheduler draws which task is first
        assert "no seed is -3" in str(refused("searched:holds", [-3]))


def test_no_seeds_are_no_outcomes() -> None:
    assert trio.run(all_of, "searched:holds", []) == {}


def test_a_module_that_ends_the_process_at_import_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "leaves.py").write_text("import os\nprint('gone', flush=True)\nos._exit(3)\n")
    with pytest.raises(RunFailedError, match="exit status 3; it last wrote:\ngone"):
        trio.run(all_of, "leaves:it", [1])


async def test_a_clock_that_jumps_is_refused(autojump_clock: trio.testing.MockClock) -> None:
    with pytest.raises(ActorUsageError, match="real time"):
        await sim.run_apart(1, "searched:holds")
