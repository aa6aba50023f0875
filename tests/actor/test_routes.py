"""The choice of a routee: turns, loads, places on a ring. No actor runs here."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prime.actor.routes import Broadcast, ConsistentHash, LeastLoaded, Ring, RoundRobin, RouteeState
from prime.errors import ActorUsageError, RefusedError

NAMES = st.lists(st.text("abcdef0123456789/", min_size=1, max_size=8), min_size=2, max_size=12, unique=True)


def states(*rows: tuple[int, bool]) -> list[RouteeState]:
    return [RouteeState(f"/r{i}", load, ready) for i, (load, ready) in enumerate(rows)]


def test_round_robin_takes_turns_and_passes_over_who_has_no_room() -> None:
    chooser = RoundRobin().chooser()
    free = states((0, True), (0, True), (0, True))
    assert [chooser.choose(None, free, asks=False) for _ in range(4)] == [0, 1, 2, 0]
    blocked = states((0, True), (9, False), (0, True))
    assert [chooser.choose(None, blocked, asks=False) for _ in range(3)] == [2, 0, 2]
    assert chooser.choose(None, states((9, False), (9, False)), asks=False) == "any"


@given(st.lists(st.tuples(st.integers(0, 9), st.booleans()), min_size=1, max_size=9), st.integers(1, 20))
def test_least_loaded_takes_one_of_the_least_that_has_room(rows: list[tuple[int, bool]], rounds: int) -> None:
    chooser = LeastLoaded().chooser()
    ready = [load for load, has_room in rows if has_room]
    for _ in range(rounds):
        choice = chooser.choose(None, states(*rows), asks=True)
        if not ready:
            assert choice == "any"
        else:
            assert isinstance(choice, int)
            assert rows[choice] == (min(ready), True)


def test_least_loaded_gives_equals_their_turn() -> None:
    chooser = LeastLoaded().chooser()
    assert [chooser.choose(None, states((1, True), (0, True), (0, True)), asks=True) for _ in range(4)] == [1, 2, 1, 2]


def test_broadcast_is_for_all_and_refuses_an_ask() -> None:
    chooser = Broadcast().chooser()
    assert chooser.choose("x", states((0, False)), asks=False) == "all"
    with pytest.raises(RefusedError, match="broadcast has no one answer"):
        chooser.choose("x", states((0, True)), asks=True)


# ------------------------------------------------------------------------------------------------------------- the ring


@given(NAMES, st.text("ghij", min_size=1, max_size=3))
def test_a_newcomer_takes_its_share_and_no_key_moves_between_others(names: list[str], newcomer: str) -> None:
    before, after = Ring(names), Ring([*names, newcomer])
    moved = [key for key in range(2_000) if before.owner(key) != after.owner(key)]
    assert all(after.owner(key) == newcomer for key in moved)
    share = len(moved) / 2_000
    assert 0.3 / (len(names) + 1) < share < 2.2 / (len(names) + 1)


@given(NAMES, st.data())
def test_one_that_leaves_gives_up_its_keys_and_no_others(names: list[str], data: st.DataObject) -> None:
    leaver = data.draw(st.sampled_from(names))
    before, after = Ring(names), Ring([name for name in names if name != leaver])
    for key in range(500):
        assert before.owner(key) == leaver or before.owner(key) == after.owner(key)


def test_a_ring_shares_out_evenly_enough() -> None:
    ring = Ring([f"/pool/worker-{i}" for i in range(10)])
    counts = Counter(ring.owner(f"user-{i}") for i in range(20_000))
    assert len(counts) == 10
    assert max(counts.values()) < 2 * min(counts.values())


def test_places_do_not_depend_on_this_process() -> None:
    """`hash()` differs from process to process; a ring must not, or two nodes would place a key differently."""
    program = "from prime.actor.routes import Ring; print([Ring(['/a','/b','/c']).owner(k) for k in ('x', b'x', 7)])"
    texts = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
            check=True,
            capture_output=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert texts == {f"{[Ring(['/a', '/b', '/c']).owner(k) for k in ('x', b'x', 7)]}\n".encode()}


def test_keys_of_different_types_are_different_keys() -> None:
    ring = Ring([f"/{i}" for i in range(64)], points=256)
    assert len({ring.owner(key) for key in ("1", 1, b"1")}) == 3


def test_consistent_hash_waits_for_the_key_s_routee_and_follows_the_members() -> None:
    chooser = ConsistentHash(key=lambda m: m["user"]).chooser()
    routees = states((0, True), (0, True), (0, True))
    choices = {user: chooser.choose({"user": user}, routees, asks=True) for user in range(50)}
    assert set(choices.values()) == {0, 1, 2}
    full = states((9, False), (9, False), (9, False))
    assert {user: chooser.choose({"user": user}, full, asks=True) for user in range(50)} == choices
    fewer = routees[1:]
    for user, choice in choices.items():
        if choice != 0:
            assert chooser.choose({"user": user}, fewer, asks=True) == int(choice) - 1


@pytest.mark.parametrize(
    ("key", "text"), [(lambda m: m["user"], "KeyError"), (lambda m: 1.5, "is a float"), (lambda m: None, "NoneType")]
)
def test_a_message_without_a_key_is_refused(key: Any, text: str) -> None:
    with pytest.raises(RefusedError, match=text):
        ConsistentHash(key=key).chooser().choose({}, states((0, True)), asks=False)


def test_an_impossible_ring_is_refused() -> None:
    with pytest.raises(ActorUsageError, match="0 points"):
        ConsistentHash(key=str, points=0)
    with pytest.raises(ActorUsageError, match="without names"):
        Ring([])
