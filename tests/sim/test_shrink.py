"""Failures made smaller: what is left is what they need, they stay the same failure, and the result is a test."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import Phase, find, given, settings
from hypothesis import strategies as st

from prime import sim
from prime.errors import MissingExtraError, UsageError
from prime.sim import plan as p
from prime.sim.knobs import Knobs, cost
from prime.sim.notation import as_test, from_plain, to_plain
from prime.sim.plan import draw
from prime.sim.run import load
from prime.sim.shrink import Shrinking, shrink
from prime.sim.strategies import plans

TESTDATA = Path(__file__).parent / "testdata"
SPACE = p.Space(("n1", "n2", "n3", "n4"), nodes_min=2)
PLANS = plans(SPACE, writes=st.integers(-50, 50))


@pytest.fixture(autouse=True)
def scenarios_on_the_path(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(str(TESTDATA))
    yield
    sys.modules.pop("searched", None)


# ---- knobs


@given(PLANS)
def test_at_the_top_of_its_knobs_a_plan_is_itself(plan: p.Plan) -> None:
    knobs = Knobs.of(plan, SPACE)
    assert knobs.turned(knobs.tops) == plan
    assert knobs.turned([99] * len(knobs.tops)) == plan


@given(PLANS, st.data())
def test_a_plan_with_knobs_turned_down_is_a_plan_of_the_same_space(plan: p.Plan, data: st.DataObject) -> None:
    knobs = Knobs.of(plan, SPACE)
    levels = [data.draw(st.integers(0, top)) for top in knobs.tops]
    smaller = knobs.turned(levels)
    there = set(SPACE.nodes) - set(smaller.without)
    assert len(there) >= 2
    assert all(set(p.nodes_of(action)) <= there for action in smaller.actions)
    assert len(smaller.actions) <= len(plan.actions)
    assert [action.at_s for action in smaller.actions] == sorted(action.at_s for action in smaller.actions)
    assert from_plain(to_plain(smaller)) == smaller


@given(PLANS)
def test_with_all_knobs_at_0_nothing_goes_wrong(plan: p.Plan) -> None:
    knobs = Knobs.of(plan, SPACE)
    nothing = knobs.turned([0] * len(knobs.tops))
    assert (nothing.network, nothing.disk, nothing.actions) == (p.NetworkFaults(), p.DiskFaults(), ())
    assert nothing.params == {"writes": 0}
    assert nothing.without == ("n1", "n2")


@given(PLANS, st.data())
def test_each_knob_turned_down_alone_costs_less_or_moves_what_happens(plan: p.Plan, data: st.DataObject) -> None:
    knobs = Knobs.of(plan, SPACE)
    if knobs.tops:
        index = data.draw(st.integers(0, len(knobs.tops) - 1))
        levels = [*knobs.tops[:index], 0, *knobs.tops[index + 1 :]]
        assert knobs.turned(levels) != plan


# ---- shrinking


def failure(name: str, seeds: range = range(200)) -> tuple[sim.Outcome, sim.Scenario]:
    """Return the first failure of a scenario that has at least three actions."""
    scenario = load(f"searched:{name}")
    outcomes = (sim.run(seed, scenario) for seed in seeds if len(draw(seed, scenario.space).actions) > 2)
    return next(outcome for outcome in outcomes if not outcome.ok), scenario


def test_what_is_left_is_what_the_failure_needs() -> None:
    failed, scenario = failure("stumbles")
    small = shrink(failed, scenario)
    assert (small.seed, small.violated) == (failed.seed, "nobody stumbles")
    assert len(small.plan.actions) == 1
    pause = small.plan.actions[0]
    assert isinstance(pause, p.Pause)
    assert (pause.node, pause.at_s) == ("n2", 0.0)
    assert small.plan == p.Plan(actions=(pause,), storm_s=1.0, params={"writes": 5}, without=("n1", "n3"))
    assert sim.run(small.seed, scenario, small.plan) == small


@pytest.mark.parametrize("name", ["double_apply", "leaked_ask", "split_brain"])
def test_a_planted_bug_that_a_lost_message_shows_is_left_with_that(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(TESTDATA.parent))
    scenario = load(f"planted.{name}:broken")
    failed = next(outcome for seed in range(100) if not (outcome := sim.run(seed, scenario)).ok)
    small = shrink(failed, scenario)
    assert small.plan == p.Plan(p.NetworkFaults(loss=small.plan.network.loss), storm_s=small.plan.storm_s)
    assert small.plan.network.loss > 0


def test_scenario_and_faults_drawn_from_strategies_shrink_as_any_example_does() -> None:
    scenario = load("searched:stumbles")
    space = p.Space(scenario.space.nodes, frozenset({"pause", "jitter"}), storm_s=3.0, actions_max=3)
    drawn = plans(space, writes=st.integers(1, 50))
    phases = (Phase.generate, Phase.shrink)  # to explain what was found takes ten times as long
    chosen = settings(max_examples=200, deadline=None, database=None, derandomize=True, phases=phases)
    seed, plan = find(
        st.tuples(st.integers(0, 9), drawn), lambda run: not sim.run(run[0], scenario, run[1]).ok, settings=chosen
    )
    assert seed == 0
    assert plan == p.Plan(actions=(p.Pause("n2", 0.0, 0.05),), storm_s=3.0, params={"writes": 5})


def test_a_failure_that_needs_no_fault_is_left_with_none() -> None:
    scenario = load("searched:fails_on_7")
    small = shrink(sim.run(7, scenario), scenario)
    assert small.plan == p.Plan(storm_s=1.0)


def test_shrinking_does_not_slip_to_another_failure() -> None:
    scenario = load("searched:has_two_bugs")
    failed = next(outcome for seed in range(100) if (outcome := sim.run(seed, scenario)).violated == "nobody pauses")
    small = shrink(failed, scenario)
    assert small.violated == "nobody pauses"
    assert [type(action) for action in small.plan.actions] == [p.Pause]


def test_a_failure_that_only_its_own_plan_has_stays_as_it_is() -> None:
    scenario = load("searched:is_brittle")
    failed = sim.run(4, scenario)
    assert not failed.ok
    assert failed.plan.actions
    small = shrink(failed, scenario)
    assert small.plan.actions == failed.plan.actions
    assert small.violated == failed.violated


def test_it_ends_after_so_many_runs_with_the_best_by_then() -> None:
    failed, scenario = failure("stumbles")
    shrinking = Shrinking(failed, scenario, runs_max=5)
    shrinking.search()
    shrinking.walk()
    assert shrinking.runs == 5
    assert shrinking.best.violated == failed.violated
    assert cost(shrinking.best.plan) <= cost(failed.plan)


def test_it_ends_when_its_time_is_up() -> None:
    failed, scenario = failure("stumbles")
    readings = iter(range(1000))
    shrinking = Shrinking(failed, scenario, within_s=4, clock=lambda: next(readings))
    shrinking.search()
    shrinking.walk()
    assert shrinking.runs == 3


def test_a_run_is_the_same_each_time_it_is_made_smaller() -> None:
    failed, scenario = failure("stumbles")
    assert shrink(failed, scenario, runs_max=30) == shrink(failed, scenario, runs_max=30)


def test_a_run_that_holds_has_nothing_to_shrink() -> None:
    scenario = load("searched:holds")
    with pytest.raises(UsageError, match="holds"):
        shrink(sim.run(0, scenario), scenario)


def test_without_hypothesis_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    failed, scenario = failure("stumbles")
    monkeypatch.setitem(sys.modules, "hypothesis", None)
    with pytest.raises(MissingExtraError) as caught:
        shrink(failed, scenario)
    assert "[testing]" in caught.value.hint
    monkeypatch.delitem(sys.modules, "prime.sim.strategies")
    with pytest.raises(MissingExtraError):
        importlib.import_module("prime.sim.strategies")


# ---- the test that is kept


def imported(file: Path) -> Any:
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_result_is_a_test_that_fails_until_it_is_mended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failed, scenario = failure("stumbles")
    file = tmp_path / "test_kept.py"
    file.write_text(as_test(shrink(failed, scenario)))
    kept = imported(file)
    test = getattr(kept, f"test_nobody_stumbles_with_seed_{failed.seed}")
    with pytest.raises(AssertionError, match="nobody stumbles: after 5 writes"):
        test()
    monkeypatch.setattr(kept, "stumbles", load("searched:holds"))
    monkeypatch.setattr(kept, "PLAN", p.Plan())
    test()


@given(PLANS)
def test_each_kept_test_can_be_read(plan: p.Plan) -> None:
    text = as_test(sim.Outcome(3, "searched:holds", 1, "t", ok=False, violated='a "rule" \\ of\nours', plan=plan))
    names: dict[str, Any] = {}
    exec(text, names)  # noqa: S102 - our own text
    assert names["PLAN"] == plan
    assert "test_a_rule_of_ours_with_seed_3" in names


def test_a_kept_test_is_laid_out_as_the_formatter_does(tmp_path: Path) -> None:
    failed, scenario = failure("stumbles")
    file = tmp_path / "test_kept.py"
    file.write_text(as_test(shrink(failed, scenario)))
    done = subprocess.run(
        [sys.executable, "-m", "ruff", "format", "--check", "--isolated", str(file)], capture_output=True, check=False
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("violated", ["x² holds", "größer als ½", "²", "class"])
def test_each_kept_test_has_a_name_that_python_reads(violated: str) -> None:
    names: dict[str, Any] = {}
    exec(as_test(sim.Outcome(3, "searched:holds", 1, "t", ok=False, violated=violated)), names)  # noqa: S102 - our own text
    assert any(name.startswith("test_") and name.endswith("_with_seed_3") for name in names)


@pytest.mark.parametrize(
    "name", ["__main__:it", "searched:outer.<locals>.it", "searched:Class.it", "my-file:it", "a.1:it", "a.class:it"]
)
def test_what_a_test_cannot_import_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="cannot import"):
        as_test(sim.Outcome(3, name, 1, "t", ok=False, violated="x"))
