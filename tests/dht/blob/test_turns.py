"""Requests in turns."""

from __future__ import annotations

from prime.dht.blob.turns import Turns


def test_each_peer_has_its_turn_and_its_own_order() -> None:
    turns: Turns[str] = Turns(8, 8)
    for wish in ("a1", "a2", "a3", "b1", "b2", "c1"):
        turns.add(wish[0], wish)
    assert [turns.next() for _ in range(len(turns) + 1)] == ["a1", "b1", "c1", "a2", "b2", "a3", None]


def test_no_more_wait_than_is_allowed() -> None:
    turns: Turns[int] = Turns(2, 2)
    turns.add("a", 1)
    assert turns.has_room("a")
    turns.add("a", 2)
    assert not turns.has_room("a")
    assert turns.has_room("b")
    turns.add("b", 3)
    assert not turns.has_room("c")
    turns.next()
    assert turns.has_room("a")
