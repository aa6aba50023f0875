"""A member killed at each of its acts in a round, under each kind of rule: the others end that very round, all alike."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

from prime.trainer.robust.rules import Rule
from prime.trainer.round import commands as cmd
from prime.trainer.round import messages as msg
from prime.trainer.round.terms import DEFAULT_TERMS, Terms

sys.path.insert(0, str(Path(__file__).parent))
from round_world import Node, World  # type: ignore[import-not-found]

SIZE = 4
TERMS = {
    "plain": DEFAULT_TERMS,
    "gated": Terms(rule=Rule("mean", norm_gate=3.0)),
    "krum": Terms(rule=Rule("krum")),
    "centred-clipping": Terms(rule=Rule("centred-clipping")),
}
CLIENTS = {"nobody": (), "two": ("b", "d")}
LATE_S = 7.0
"""Far below two deadlines; a round whose seal has to wait for its time, and then for a ballot, takes no longer."""


def round_of(command: cmd.Command) -> int | None:
    """Return the round that an act is of, if it is of one."""
    thing = getattr(command, "message", getattr(command, "record", command))
    found = getattr(thing, "round", None)
    return getattr(getattr(thing, "value", None), "round", None) if found is None else found


def begun(rule: str, clients: str) -> tuple[World, int]:
    """Return a world whose next round is about to begin, and that round."""
    world = World(7, terms=TERMS[rule])
    world.rates = dict.fromkeys(CLIENTS[clients], 0)
    world.swarm(SIZE)
    round_ = world.last_round + 1
    world.until(lambda: all(n.core is not None and n.core.round == round_ for n in world.nodes.values()))
    return world, round_


def acts(rule: str, clients: str) -> list[cmd.Command]:
    """Return what all members do in a round in which nobody dies, in order."""
    world, round_ = begun(rule, clients)
    seen: list[cmd.Command] = []
    world.before = lambda _node, command: round_of(command) == round_ and bool(seen.append(command))
    world.until(lambda: all(n.state is not None and n.state[0] == round_ for n in world.nodes.values()))
    return seen


def killed_at(step: int, rule: str, clients: str) -> None:
    """Kill whoever is about to do the `step`-th act of a round: every third comes back in it."""
    world, round_ = begun(rule, clients)
    left = [step]
    died: list[tuple[str, float]] = []

    def before(node: Node, command: cmd.Command) -> bool:
        if round_of(command) != round_ or died:
            return False
        left[0] -= 1
        if left[0] >= 0:
            return False
        died.append((node.peer, world.now))
        if step % 3 == 0:
            world.at(0.3, lambda: world.restart(node.peer))
        return True

    world.before = before
    world.until(lambda: bool(died) and round_ in world.decided)
    assert world.decided_at[round_] - died[0][1] < LATE_S
    world.until(lambda: world.commits()[-1].round > round_ and world.same_states())
    living = {peer for peer, node in world.nodes.items() if node.core is not None}
    assert living >= set(world.nodes) - {died[0][0]}
    if not world.decided[round_].aborted:
        assert living - {died[0][0]} <= set(world.decided[round_].contributors()), "a living member was left out"


def failures(steps: Iterable[int], rule: str, clients: str) -> dict[int, str]:
    found = {}
    for step in steps:
        try:
            killed_at(step, rule, clients)
        except AssertionError as error:
            found[step] = str(error)
    return found


def is_decisive(act: cmd.Command) -> bool:
    """Tell whether the leader or an owner acts here, or a vote is given."""
    kinds = (msg.Seal, msg.Propose, msg.Ready, msg.Commit)
    return isinstance(act, cmd.Multiply | cmd.Reduce | cmd.SendResult | cmd.Persist) or isinstance(
        getattr(act, "message", None), kinds
    )


@pytest.mark.parametrize("rule", TERMS)
def test_a_member_killed_where_a_leader_or_an_owner_acts(rule: str) -> None:
    steps = [step for step, act in enumerate(acts(rule, "nobody")) if is_decisive(act)]
    assert len(steps) > 40
    assert not failures(steps[:: 1 if rule == "krum" else 4], rule, "nobody")


def test_a_member_killed_where_two_of_four_own_nothing() -> None:
    steps = [step for step, act in enumerate(acts("krum", "two")) if is_decisive(act)]
    assert not failures(steps[::4], "krum", "two")


@pytest.mark.nightly
@pytest.mark.parametrize("clients", CLIENTS)
@pytest.mark.parametrize("rule", TERMS)
def test_a_member_killed_at_each_act_of_a_round(rule: str, clients: str) -> None:
    assert not failures(range(len(acts(rule, clients))), rule, clients)
