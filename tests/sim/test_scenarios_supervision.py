"""The supervision scenario: fresh seeds, and that its books see what is wrong."""

from __future__ import annotations

from random import Random

import pytest

from prime import sim
from prime.actor.restart import Restart
from prime.sim import plan as p
from prime.sim.scenarios import grove
from prime.sim.scenarios.grove import Branch, Leaf, Record
from prime.sim.scenarios.patience import stood_still_s
from prime.sim.scenarios.supervision import supervision


@pytest.mark.parametrize("seed", [41, 720, 1001, 1002, 1003, 1004])
def test_seeds(seed: int) -> None:
    """41: an actor is spawned while the restart of its elder sibling is under way. 720: one is, while its supervisor gives up."""
    outcome = sim.run(seed, supervision)
    assert outcome.ok, f"{outcome.error} at {outcome.at_s:g} s; {outcome.command}"


def test_the_same_seed_makes_the_same_run() -> None:
    assert sim.run(7, supervision).trace == sim.run(7, supervision).trace


# ------------------------------------------------------------------------------------------ the books see what is wrong


def leaf(path: str = "/app/a0", **changes: object) -> Leaf:
    rest = {"worker": True, "capacity": 3, "full": "wait", "on_restart": "keep", "passivate_s": None, "shutdown_s": 1.0}
    return Leaf(path, **{"kind": "permanent", **rest, **changes})  # type: ignore[arg-type]


def branch(*children: Leaf | Branch, maximum: int = 2, within_s: float = 5.0) -> Branch:
    return Branch("/app", "permanent", "one_for_all", Restart(maximum, within_s), children)


def test_restarts_beyond_the_budget_are_seen() -> None:
    record, tree = Record(), branch(leaf())
    assert [record.failed(tree, now) for now in (1.0, 2.0, 6.0)] == [""] * 3
    assert "3 times in 5 s" in record.failed(tree, 6.5)
    record.renewed(tree)
    assert record.failed(tree, 6.6) == ""


def test_a_temporary_actor_that_comes_back_is_seen() -> None:
    record, gone = Record(), leaf(kind="temporary")
    assert record.born(gone) == ""
    assert "came back" in record.born(gone)
    record.renewed(branch(gone))
    assert record.born(gone) == ""


def test_a_task_that_outlives_its_actor_is_seen() -> None:
    record, actor = Record(), leaf()
    record.born(actor)
    record.beside[actor.path] = 1
    assert "1 tasks of its earlier life" in record.born(actor)


def test_jobs_out_of_order_and_twice_are_seen() -> None:
    record = Record()
    assert [record.handled("/app/a0", "t", number) for number in (1, 2, 5)] == [""] * 3
    assert "job 5 of t after 5" in record.handled("/app/a0", "t", 5)
    assert record.handled("/app/a0", "u", 1) == ""
    record.late["/app/a0", "t", 4] = None
    assert record.handled("/app/a0", "t", 4) == ""
    assert "job 4 of t after 5" in record.handled("/app/a0", "t", 4)


def test_a_drawn_tree_has_every_kind_of_thing_in_it() -> None:
    trees = [grove.grow(Random(seed)) for seed in range(60)]
    leaves = [each for tree in trees for each, _ in tree.leaves()]
    branches = [each for tree in trees for each in tree.branches()]
    assert len({each.kind for each in leaves}) == 3
    assert len({each.full for each in leaves}) == 4
    assert {each.worker for each in leaves} == {True, False}
    assert len({each.strategy for each in branches}) == 3
    assert max(each.path.count("/") for each in leaves) == 4
    assert all(
        each.passivate_s is None or tree.strategy == "one_for_one"
        for tree in trees
        for each in tree.children
        if isinstance(each, Leaf)
    )


def test_what_a_node_may_be_late_is_what_it_stood_still() -> None:
    plan = p.Plan(actions=(p.Pause("a", 1.0, 2.0), p.Skew("a", 2.0, -3.0), p.Pause("b", 1.0, 9.0)))
    assert stood_still_s(plan, "a", 2.0, 10.0) == pytest.approx(1.0 + 3.0)
    assert stood_still_s(plan, "a", 4.0, 10.0) == 0.0
