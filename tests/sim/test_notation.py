"""Plans in writing: what is written is read again, and what cannot be a plan is refused where it is wrong."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prime import sim
from prime.errors import UsageError
from prime.sim import plan as p
from prime.sim.notation import ACTIONS, from_plain, to_plain, to_source
from prime.sim.plan import Kind
from prime.sim.strategies import plans

SPACE = p.Space(("n1", "n2", "n3"))
PLANS = plans(SPACE, writes=st.integers(-3, 50))


@given(PLANS)
def test_a_plan_as_json_is_read_again(plan: p.Plan) -> None:
    assert from_plain(json.loads(json.dumps(to_plain(plan), allow_nan=False))) == plan


@given(PLANS)
def test_a_plan_as_python_is_the_plan(plan: p.Plan) -> None:
    assert eval(to_source(plan), {**vars(p), "math": math}) == plan  # noqa: S307 - our own text


@given(st.integers(0, 10_000))
def test_a_drawn_plan_is_read_again(seed: int) -> None:
    plan = p.draw(seed, SPACE)
    assert from_plain(to_plain(plan)) == plan


def test_only_what_is_special_is_written() -> None:
    plan = p.Plan(p.NetworkFaults(loss=0.1), actions=(p.Crash("n1", 2.0, math.inf),))
    assert to_plain(plan) == {
        "network": {"loss": 0.1},
        "actions": [{"kind": "Crash", "node": "n1", "at_s": 2.0, "down_s": "never"}],
    }
    assert to_plain(p.Plan()) == {}


@given(st.sampled_from(sorted(p.ALL)).flatmap(lambda kind: plans(p.Space(("a",), frozenset({kind})))))
def test_one_node_is_neither_cut_off_nor_parted(plan: p.Plan) -> None:
    assert not any(isinstance(action, p.Cut | p.Partition) for action in plan.actions)


@pytest.mark.parametrize("kinds", [frozenset[Kind](), p.NETWORK, p.DISK, p.NODE])
def test_plans_have_the_faults_of_their_space(kinds: frozenset[Kind]) -> None:
    @given(plans(p.Space(("a", "b"), kinds)))
    def check(plan: p.Plan) -> None:
        assert "crash" in kinds or not any(isinstance(action, p.Crash) for action in plan.actions)
        assert "loss" in kinds or plan.network.loss == 0
        assert "torn" in kinds or not plan.disk.torn

    check()


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ([], "the plan is \\[\\]"),
        ({"storm": 3}, "the plan has no field storm"),
        ({"storm_s": "long"}, "storm_s is 'long'"),
        ({"storm_s": "never"}, "storm_s is 'never'"),
        ({"storm_s": -1}, "storm_s is -1"),
        ({"network": {"loss": 2}}, "network: loss is 2"),
        ({"network": {"loss": True}}, "network: loss is True"),
        ({"disk": {"torn": 1}}, "disk: torn is 1"),
        ({"actions": {}}, "actions is {}"),
        ({"actions": [3]}, "actions 0 is 3"),
        ({"actions": [{"kind": "Flood"}]}, "actions 0 is of no known kind"),
        ({"actions": [{"kind": "Pause", "node": "n1"}]}, "actions 0 lacks at_s, for_s"),
        ({"actions": [{"kind": "Crash", "node": "n1", "at_s": 1, "disk": "eaten"}]}, "disk is 'eaten'"),
        ({"actions": [{"kind": "Crash", "node": "n1", "at_s": 1, "steps": 1.5}]}, "steps is 1.5"),
        ({"params": {"writes": "3"}}, "params: writes is '3'"),
        ({"without": "n1"}, "without is 'n1'"),
    ],
)
def test_what_is_no_plan_is_refused_where_it_is_wrong(data: Any, told: str) -> None:
    with pytest.raises(UsageError, match=told) as caught:
        from_plain(data)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: p.Plan(storm_s=math.inf), "storm_s is inf"),
        (lambda: p.Plan(storm_s=-1.0), "storm_s is -1"),
        (lambda: p.Plan(p.NetworkFaults(loss=1.5)), "loss is 1.5"),
        (lambda: p.Plan(p.NetworkFaults(corruption=-0.1)), "corruption is -0.1"),
        (lambda: p.Plan(p.NetworkFaults(latency_s=math.nan)), "latency_s is nan"),
        (lambda: p.Plan(p.NetworkFaults(jitter_s=-1.0)), "jitter_s is -1"),
        (lambda: p.Plan(p.NetworkFaults(bandwidth_bytes_per_s=0.0)), "bandwidth_bytes_per_s is 0"),
        (lambda: p.Plan(disk=p.DiskFaults(latency_s=-1.0)), "DiskFaults: latency_s is -1"),
        (lambda: p.Plan(actions=(p.BitFlip("n1", math.nan),)), "BitFlip: at_s is nan"),
        (lambda: p.Plan(actions=(p.BitFlip("n1", "soon"),)), "at_s is 'soon'"),  # type: ignore[arg-type]
        (lambda: p.Plan(actions=(p.Pause("n1", 1.0, -1.0),)), "Pause: for_s is -1"),
        (lambda: p.Plan(actions=(p.Crash("n1", -1.0),)), "Crash: at_s is -1"),
        (lambda: p.Plan(actions=(p.Crash("n1", 1.0, math.nan),)), "down_s is nan"),
        (lambda: p.Plan(actions=(p.SlowReader("n1", 1.0, 1.0, 0.0),)), "bytes_per_s is 0"),
        (lambda: p.Plan(actions=(p.Skew("n1", 1.0, 0.0, 0.0),)), "rate is 0"),
        (lambda: p.Plan(actions=(p.Skew("n1", 1.0, math.inf),)), "offset_s is inf"),
        (lambda: p.Plan(actions=(p.Cut("n1", "n1", 1.0, 1.0),)), "cut off from itself"),
        (lambda: p.Plan(actions=(p.Partition((), 1.0, 1.0),)), "side is empty"),
        (lambda: p.Plan(actions=("crash",)), "'crash' is no fault"),  # type: ignore[arg-type]
    ],
)
def test_a_plan_that_cannot_be_is_refused_where_it_is_made(make: Callable[[], p.Plan], told: str) -> None:
    with pytest.raises(UsageError, match=told) as caught:
        make()
    assert caught.value.hint


def test_actions_are_in_the_order_of_their_times() -> None:
    late, early, same = p.Crash("n1", 5.0), p.Pause("n2", 1.0, 1.0), p.BitFlip("n1", 1.0)
    assert p.Plan(actions=(late, early, same)).actions == (early, same, late)


@sim.scenario(nodes=3, nodes_min=2)
async def idle(world: sim.World) -> None:
    world.note("there", nodes=",".join(node.name for node in world.nodes), writes=world.choose("writes", 5, 9))


def test_a_choice_is_drawn_from_the_seed_recorded_and_given() -> None:
    drawn = [sim.run(seed, idle).plan.params["writes"] for seed in range(20)]
    assert set(drawn) == {5, 6, 7, 8, 9}
    assert drawn[0] == sim.run(0, idle).plan.params["writes"]
    assert sim.run(0, idle, p.Plan(params={"writes": 7})).history[0].detail == "nodes=n1,n2,n3 writes=7"
    assert sim.run(0, idle, p.Plan(params={"writes": 0})).plan.params == {"writes": 5}


def test_nodes_are_left_out_down_to_the_least_number() -> None:
    assert "nodes=n1,n3 " in sim.run(0, idle, p.Plan(without=("n2",))).history[0].detail
    with pytest.raises(UsageError, match="leaves out nodes"):
        sim.run(0, idle, p.Plan(without=("n1", "n2")))


@pytest.mark.parametrize(
    "plan",
    [
        p.Plan(actions=(p.Pause("n9", 1.0, 1.0),)),
        p.Plan(actions=(p.Cut("n1", "n2", 1.0, 1.0),), without=("n2",)),
        p.Plan(actions=(p.Partition(("n1", "m"), 1.0, 1.0),)),
    ],
)
def test_a_plan_of_nodes_that_are_not_there_is_refused(plan: p.Plan) -> None:
    with pytest.raises(UsageError, match="no node is called"):
        sim.run(0, idle, plan)


def test_no_seed_is_below_0() -> None:
    with pytest.raises(UsageError, match="no seed is -1"):
        sim.run(-1, idle)


def test_a_fault_that_there_is_not_is_refused() -> None:
    kinds: Any = frozenset({"los"})
    with pytest.raises(UsageError, match="no fault is called los") as caught:
        sim.scenario(kinds=kinds)
    assert "latency, loss" in caught.value.hint


def test_the_names_of_a_printed_plan_are_those_of_the_room() -> None:
    for kind in (*ACTIONS, "Plan", "NetworkFaults", "DiskFaults"):
        assert getattr(sim, kind) is getattr(p, kind)
