"""The fetch plan: parallel, resuming, distrustful."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from prime.trainer.swarm.fetch import (
    Arrived,
    Complete,
    DonorFound,
    Dropped,
    Event,
    Exhausted,
    Failed,
    FetchPlan,
    Request,
)
from prime.trainer.swarm.state import CHUNK_SIZE_BYTES, ChunkedState, OuterState, chunked, join_state

CHUNK = CHUNK_SIZE_BYTES // 4


def cut_state(chunks: int) -> ChunkedState:
    """A state of `chunks` different chunks of parameters, and a momentum of zeros."""
    theta = np.arange(chunks * CHUNK, dtype=np.float32)
    return chunked("run", OuterState(1, 1, theta, np.zeros_like(theta)))


CUT = cut_state(6)


def requests(commands: list[object]) -> list[Request]:
    return [c for c in commands if isinstance(c, Request)]


def test_requests_are_spread_over_the_donors_and_bounded() -> None:
    plan = FetchPlan(CUT.manifest, window=2)
    assert [(r.donor, r.index) for r in requests(plan.step(DonorFound("a")))] == [("a", 0), ("a", 1)]
    assert [(r.donor, r.index) for r in requests(plan.step(DonorFound("b")))] == [("b", 2), ("b", 3)]
    assert plan.step(Arrived("a", 0, CUT.chunk(0))) == [Request("a", 4)]


def test_a_chunk_that_occurs_often_is_fetched_once() -> None:
    plan = FetchPlan(CUT.manifest, window=100)
    assert len(requests(plan.step(DonorFound("a")))) == 7  # six of theta, one of zeros


def test_a_lost_donors_requests_go_to_the_others() -> None:
    plan = FetchPlan(CUT.manifest, window=3)
    plan.step(DonorFound("a"))
    plan.step(DonorFound("b"))
    assert plan.step(Failed("a", 1))[0] == Dropped("a", "it does not answer")
    assert plan.step(Arrived("a", 0, CUT.chunk(0))) == []  # too late
    assert plan.step(Arrived("b", 3, CUT.chunk(3))) == [Request("b", 0)]
    assert plan.donors == ("b",)


def test_a_liar_is_dropped_for_good() -> None:
    plan = FetchPlan(CUT.manifest, window=2)
    plan.step(DonorFound("liar"))
    commands = plan.step(Arrived("liar", 0, CUT.chunk(1)))
    assert isinstance(commands[0], Dropped)
    assert "chunk 0" in commands[0].reason
    assert commands[1] == Exhausted(7)
    assert plan.step(DonorFound("liar")) == [Exhausted(7)]
    assert requests(plan.step(DonorFound("honest")))


def test_a_fetch_goes_on_with_the_chunks_it_had() -> None:
    first = FetchPlan(CUT.manifest, window=100)
    first.step(DonorFound("a"))
    for index in range(4):
        first.step(Arrived("a", index, CUT.chunk(index)))
    second = FetchPlan(CUT.manifest, window=100, chunks=first.chunks)
    assert [r.index for r in requests(second.step(DonorFound("b")))] == [4, 5, 6]


def test_nothing_to_fetch() -> None:
    empty = np.zeros(0, np.float32)
    plan = FetchPlan(chunked("run", OuterState(0, 0, empty, empty)).manifest)
    assert plan.step(DonorFound("a")) == [Complete()]


@given(st.data())
def test_any_schedule_with_one_honest_donor_ends_with_the_state(data: st.DataObject) -> None:
    plan = FetchPlan(CUT.manifest, window=data.draw(st.integers(1, 4)))
    donors = ["honest", *data.draw(st.sets(st.sampled_from(["liar", "quitter", "second"])))]
    pending: list[Event] = [DonorFound(d) for d in data.draw(st.permutations(donors))]
    for _ in range(200):
        commands = plan.step(pending.pop(data.draw(st.integers(0, len(pending) - 1))))
        if Complete() in commands:
            break
        pending.extend(_answer(request) for request in requests(commands))
    assert plan.is_complete
    assert join_state(CUT.manifest, plan.chunks).state_hash() == CUT.manifest.state_hash


def _answer(request: Request) -> Event:
    if request.donor == "liar":
        return Arrived("liar", request.index, b"lies")
    if request.donor == "quitter" and request.index % 2:
        return Failed("quitter", request.index)
    return Arrived(request.donor, request.index, CUT.chunk(request.index))
