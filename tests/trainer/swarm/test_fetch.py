"""The fetch plan: parallel, resuming, distrustful."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prime.dht.blob.sharing import WINDOW, WINDOW_MAX
from prime.trainer.swarm.fetch import (
    Arrived,
    Complete,
    DonorFound,
    Dropped,
    Event,
    Exhausted,
    Failed,
    FetchPlan,
    Piece,
    Request,
)
from prime.trainer.swarm.state import CHUNK_SIZE_BYTES, ChunkedState, OuterState, chunked

CHUNK = CHUNK_SIZE_BYTES // 4
PAGE = Piece(0, is_page=True)


def cut_state(chunks: int, first: float = 0.0) -> ChunkedState:
    """A state of `chunks` different chunks of parameters, and a slot of zeros; `first` is its first parameter."""
    theta = np.arange(chunks * CHUNK, dtype=np.float32)
    theta[0] = first
    return chunked("run", OuterState(1, 1, theta, (np.zeros_like(theta),)))


CUT = cut_state(6)


def requests(commands: list[Any]) -> list[tuple[str, int]]:
    return [(c.donor, c.piece.number) for c in commands if isinstance(c, Request) and not c.piece.is_page]


def chunk(donor: str, index: int, cut: ChunkedState = CUT, seconds: float = 9.0) -> Arrived:
    return Arrived(donor, Piece(index), cut.chunk(index), seconds)


def begun(*donors: str, cut: ChunkedState = CUT, earlier: FetchPlan | None = None) -> tuple[FetchPlan, list[Any]]:
    """A plan whose first donor has brought the page, and what it asks for now."""
    plan = FetchPlan(cut.manifest, earlier)
    assert plan.step(DonorFound(donors[0])) == [Request(donors[0], PAGE)]
    commands = plan.step(Arrived(donors[0], PAGE, cut.page(0), 9.0))
    for donor in donors[1:]:
        commands += plan.step(DonorFound(donor))
    return plan, commands


def test_requests_are_spread_over_the_donors_and_bounded() -> None:
    plan, commands = begun("a", "b")
    assert requests(commands) == [("a", 0), ("b", 1), ("b", 2)]  # the page was slow: a has one place less
    assert requests(plan.step(chunk("a", 0))) == [("a", 3)]


def test_who_is_quick_is_asked_for_more_up_to_a_bound() -> None:
    plan, cut = FetchPlan(cut_state(200).manifest), cut_state(200)
    plan.step(DonorFound("a"))
    asked = requests(plan.step(Arrived("a", PAGE, cut.page(0), 0.1)))
    assert len(asked) == WINDOW + 1
    for _ in range(40):
        _, index = asked.pop(0)
        asked += requests(plan.step(chunk("a", index, cut, seconds=0.1)))
    assert len(asked) == WINDOW_MAX


def test_a_chunk_that_occurs_often_is_fetched_once() -> None:
    plan, commands = begun("a")
    asked = requests(commands)
    while not plan.is_complete:
        commands = plan.step(chunk("a", asked[-1][1]))
        asked += requests(commands)
    assert [index for _, index in asked] == [0, 1, 2, 3, 4, 5, 6]  # six of theta, one of zeros
    assert plan.state().state_hash() == CUT.manifest.state_hash


def test_a_lost_donors_requests_go_to_the_others() -> None:
    plan, _ = begun("a", "b")
    commands = plan.step(Failed("a", Piece(0)))
    assert isinstance(commands[0], Dropped)
    plan.step(chunk("b", 1))
    assert requests(plan.step(chunk("b", 2))) == [("b", 0)]
    assert plan.donors == ("b",)
    assert plan.step(chunk("b", 99 % 6, cut_state(6, 7.0))) == []  # it was not asked for that one


def test_what_a_lost_donor_had_under_way_counts_if_it_comes() -> None:
    plan, _ = begun("a", "b")
    plan.step(Failed("a", Piece(0)))
    plan.step(chunk("a", 0))
    assert plan.here == 1
    plan.step(chunk("b", 1))
    assert requests(plan.step(chunk("b", 2))) == [("b", 3)]


@pytest.mark.parametrize("piece", [PAGE, Piece(0)])
def test_a_liar_is_dropped_for_good(piece: Piece) -> None:
    plan = FetchPlan(CUT.manifest)
    plan.step(DonorFound("liar"))
    if not piece.is_page:
        plan.step(Arrived("liar", PAGE, CUT.page(0)))
    commands = plan.step(Arrived("liar", piece, CUT.chunk(1)))
    assert isinstance(commands[0], Dropped)
    assert f"{piece.number} is not what its hash names" in commands[0].reason
    assert commands[1] == Exhausted(12)
    assert plan.step(DonorFound("liar")) == [Exhausted(12)]
    assert plan.step(DonorFound("honest"))[:1] != [Exhausted(12)]


def test_the_last_pieces_wait_for_no_slow_donor() -> None:
    plan, _ = begun("slow")
    plan.step(DonorFound("quick"))
    waiting = [1, 2]
    while waiting:
        waiting += [index for donor, index in requests(plan.step(chunk("quick", waiting.pop(0)))) if donor == "quick"]
    assert plan.is_complete  # chunk 0, which the slow one was asked for, came from the quick one
    assert plan.step(chunk("slow", 0)) == [Complete()]


def test_a_fetch_goes_on_with_the_chunks_it_had() -> None:
    first, _ = begun("a")
    for index in range(4):
        first.step(chunk("a", index))
    second, commands = begun("b", earlier=first)
    assert requests(commands)[0] == ("b", 4)
    assert second.here == 4


def test_of_another_state_only_the_chunks_that_differ_are_fetched() -> None:
    first, commands = begun("a")
    while not first.is_complete:
        commands = first.step(chunk("a", requests(commands)[-1][1]))
    later = cut_state(6, first=7.0)
    second, commands = begun("a", cut=later, earlier=first)
    assert requests(commands) == [("a", 0)]
    assert second.step(chunk("a", 0, later)) == [Complete()]
    assert second.state().state_hash() == later.manifest.state_hash


def test_what_is_left_of_an_earlier_state_is_not_taken_for_one_that_it_has_overwritten() -> None:
    first, commands = begun("a")
    while not first.is_complete:
        commands = first.step(chunk("a", requests(commands)[-1][1]))
    later = cut_state(6, first=7.0)
    second, _ = begun("a", cut=later, earlier=first)
    second.step(chunk("a", 0, later))
    third, commands = begun("a", earlier=second)
    assert requests(commands) == [("a", 0)]
    assert third.here == 11


def test_nothing_to_fetch() -> None:
    empty = np.zeros(0, np.float32)
    plan = FetchPlan(chunked("run", OuterState(0, 0, empty, (empty,))).manifest)
    assert plan.step(DonorFound("a")) == [Complete()]


@given(st.data())
def test_any_schedule_with_one_honest_donor_ends_with_the_state(data: st.DataObject) -> None:
    plan = FetchPlan(CUT.manifest)
    donors = ["honest", *data.draw(st.sets(st.sampled_from(["liar", "quitter", "second"])))]
    pending: list[Event] = [DonorFound(d) for d in data.draw(st.permutations(donors))]
    for _ in range(200):
        commands = plan.step(pending.pop(data.draw(st.integers(0, len(pending) - 1))))
        if Complete() in commands:
            break
        pending.extend(_answer(request) for request in commands if isinstance(request, Request))
    assert plan.is_complete
    assert plan.state().state_hash() == CUT.manifest.state_hash


def _answer(request: Request) -> Event:
    if request.donor == "liar":
        return Arrived("liar", request.piece, b"lies")
    if request.donor == "quitter" and request.piece.number % 2:
        return Failed("quitter", request.piece)
    number = request.piece.number
    return Arrived(request.donor, request.piece, CUT.page(number) if request.piece.is_page else CUT.chunk(number))
