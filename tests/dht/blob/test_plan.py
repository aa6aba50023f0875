"""The plan of a fetch: every chunk once, whoever leaves, lies or is slow; bounded; and what is on the disk is not asked for."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prime.dht.blob.plan import (
    PAGES_OPEN,
    Arrived,
    BlobPlan,
    Command,
    Complete,
    Dropped,
    Exhausted,
    Failed,
    Look,
    Piece,
    ProviderFound,
    Request,
    Seen,
)
from prime.dht.blob.sharing import WINDOW_MAX
from prime.store.manifest import FANOUT, Manifest


def manifest_of(chunks: int) -> Manifest:
    return Manifest(chunks * 4096, 4096, bytes(32))


@attrs.define
class World:
    """A disk and providers around a plan: what was asked is answered in any order."""

    plan: BlobPlan
    random: random.Random
    here: set[int] = attrs.Factory(set)
    nodes: set[Piece] = attrs.Factory(set)
    asked: list[Request] = attrs.Factory(list)
    flying: list[Request | Look] = attrs.Factory(list)
    dropped: list[Dropped] = attrs.Factory(list)
    is_complete: bool = False
    is_exhausted: bool = False
    most: int = 0

    def take(self, commands: list[Command]) -> None:
        self.is_exhausted = any(isinstance(command, Exhausted) for command in commands)
        for command in commands:
            match command:
                case Request():
                    self.asked.append(command)
                    self.flying.append(command)
                case Look():
                    self.flying.append(command)
                case Dropped():
                    self.dropped.append(command)
                case Complete():
                    self.is_complete = True
        self.most = max(self.most, sum(isinstance(each, Request) for each in self.flying))

    def answer(self, outcome: Callable[[Request], Any]) -> None:
        """Answer one of those under way."""
        flying = self.flying.pop(self.random.randrange(len(self.flying)))
        if isinstance(flying, Look):
            self.take(self.plan.step(self._seen(flying.node)))
            return
        event = outcome(flying)
        if isinstance(event, Arrived) and event.is_right:
            assert self._has_parent(flying.piece), "a piece was asked for whose hash nobody knows"
            (self.nodes.add(flying.piece) if flying.piece.level else self.here.add(flying.piece.number))
        self.take(self.plan.step(event))

    def _seen(self, node: Piece) -> Seen:
        if node not in self.nodes and node.level <= self.plan.manifest.levels:
            return Seen(node, False)
        chunks = self.plan.manifest.chunks_of(node.number) if node.level == 1 else ()
        return Seen(node, True, tuple(index for index in chunks if index not in self.here))

    def _has_parent(self, piece: Piece) -> bool:
        above = Piece(piece.level + 1, piece.number // FANOUT)
        return piece.level == self.plan.manifest.levels or above in self.nodes


def right(request: Request) -> Arrived:
    return Arrived(request.provider, request.piece, is_right=True, seconds=0.1)


def begun(chunks: int, *providers: str, seed: int = 0) -> World:
    world = World(BlobPlan(manifest_of(chunks)), random.Random(seed))
    world.take(world.plan.start())
    for provider in providers:
        world.take(world.plan.step(ProviderFound(provider)))
    return world


def finish(world: World, outcome: Callable[[Request], Any] = right) -> None:
    while not world.is_complete and world.flying:
        world.answer(outcome)


@pytest.mark.parametrize("chunks", [1, 2, FANOUT, FANOUT + 1, 3 * FANOUT + 5])
def test_every_chunk_is_asked_for_once_and_then_it_is_complete(chunks: int) -> None:
    world = begun(chunks, "a", "b")
    finish(world)
    assert world.is_complete
    assert world.here == set(range(chunks))
    assert world.plan.here_bytes == world.plan.manifest.size_bytes
    wanted = [request.piece for request in world.asked]
    assert len(wanted) - len(set(wanted)) <= 2 * WINDOW_MAX  # the last ones, twice


def test_an_empty_blob_is_complete_at_once() -> None:
    assert BlobPlan(manifest_of(0)).start() == [Complete()]


def test_what_is_on_the_disk_is_not_asked_for() -> None:
    world = World(BlobPlan(manifest_of(FANOUT + 4)), random.Random(1))
    world.nodes = {Piece(2, 0), Piece(1, 0)}
    world.here = set(range(FANOUT))
    world.take(world.plan.start())
    world.take(world.plan.step(ProviderFound("a")))
    finish(world)
    assert {request.piece for request in world.asked} == {Piece(1, 1), *(Piece(0, FANOUT + i) for i in range(4))}
    assert world.plan.kept_bytes == FANOUT * 4096


def test_nobody_is_needed_where_all_is_on_the_disk() -> None:
    world = World(BlobPlan(manifest_of(7)), random.Random(1))
    world.nodes, world.here = {Piece(1, 0)}, set(range(7))
    world.take(world.plan.start())
    finish(world)
    assert world.is_complete
    assert not world.asked


def test_a_huge_blob_has_only_a_few_pages_in_hand() -> None:
    world = begun(FANOUT * FANOUT * 3, "a", "b", "c")
    for _ in range(20_000):
        world.answer(right)
    assert len(world.plan._missing) + len(world.plan._nodes) <= PAGES_OPEN
    assert world.most <= 3 * WINDOW_MAX
    assert world.plan._sharing.waiting <= PAGES_OPEN * FANOUT


def test_who_sends_a_wrong_piece_is_never_asked_again() -> None:
    world = begun(50, "liar", "b")
    finish(world, lambda r: attrs.evolve(right(r), is_right=r.provider != "liar"))
    assert world.is_complete
    assert [(each.provider, each.for_good) for each in world.dropped] == [("liar", True)]
    before = len(world.asked)
    world.take(world.plan.step(ProviderFound("liar")))
    assert world.asked[before:] == []
    assert "is not what its hash names" in world.dropped[0].reason
    assert world.plan.refused == {"liar"}


def test_who_is_gone_may_come_back() -> None:
    world = begun(50, "a")
    while not world.is_exhausted:
        world.answer(lambda r: Failed(r.provider, r.piece, "gone"))
    assert world.dropped[0].reason == "gone"
    world.take(world.plan.step(ProviderFound("a")))
    finish(world)
    assert world.is_complete


def test_who_is_slow_does_not_hold_up_the_end_and_gets_less() -> None:
    world = begun(200, "quick", "slow")
    for _ in range(2000):
        ready = [each for each in world.flying if isinstance(each, Look) or each.provider == "quick"]
        if world.is_complete or not ready:
            break
        world.flying.remove(ready[0])
        world.flying.append(ready[0])
        world.random = random.Random(0)
        world.random.randrange = lambda count: count - 1  # type: ignore[method-assign]
        world.answer(right)
    assert world.is_complete
    assert sum(request.provider == "slow" for request in world.asked) <= WINDOW_MAX


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2 * FANOUT + 50), st.integers(0, 2**32), st.floats(0, 0.5), st.floats(0, 0.2))
def test_with_one_honest_provider_it_always_ends_and_only_with_right_chunks(
    chunks: int, seed: int, failing: float, lying: float
) -> None:
    world = begun(chunks, "honest", "b", "c", "d", seed=seed)

    def outcome(request: Request) -> Any:
        if request.provider == "honest":
            return right(request)
        if world.random.random() < failing:
            return Failed(request.provider, request.piece)
        return attrs.evolve(right(request), is_right=world.random.random() >= lying, seconds=world.random.random() * 3)

    for _ in range(20 * (chunks + 100)):
        if world.is_complete or not world.flying:
            break
        world.answer(outcome)
        if world.random.random() < 0.01:
            world.take(world.plan.step(ProviderFound(world.random.choice("bcd"))))
    assert world.is_complete
    assert world.here == set(range(chunks))
    liars = {each.provider for each in world.dropped if each.for_good}
    assert not liars & set(world.plan.providers)
