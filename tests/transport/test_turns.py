"""Turns of readers, and the share of work that strangers cause, on the virtual clock."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing

from prime.transport.turns import ROUNDS_MAX, SAVED_S, SHARE, SHARED_S, TURN_S, Rested, Turns, give_way


def test_a_reader_alone_takes_long_turns_and_two_take_short_ones_for_a_while() -> None:
    turns = Turns()
    assert [turns.shared("a", now) for now in (0.0, 0.1, 0.2)] == [False] * 3
    assert turns.shared("b", 0.3)
    assert turns.shared("b", 0.3 + SHARED_S / 2)
    assert not turns.shared("b", 0.3 + SHARED_S)
    assert turns.shared("a", 1.0)


@pytest.mark.parametrize(
    ("spent_s", "rounds"), [(0.0, 1), (TURN_S / 2, 1), (2.5 * TURN_S, 3), (100 * TURN_S, ROUNDS_MAX)]
)
async def test_who_took_too_long_lets_the_others_go_first_more_often(spent_s: float, rounds: int) -> None:
    others = 0

    async def other() -> None:
        nonlocal others
        while True:
            others += 1
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(other)
        await give_way(spent_s)
        assert rounds - 1 <= others <= rounds + 1
        nursery.cancel_scope.cancel()


async def test_what_strangers_cause_is_done_one_at_a_time_and_takes_a_fifth_of_the_time(
    autojump_clock: trio.testing.MockClock,
) -> None:
    proofs, busy, count = Rested(), 0, 200

    async def prove() -> None:
        nonlocal busy
        async with proofs:
            busy += 1
            assert busy == 1
            autojump_clock.jump(0.004)  # the work
            busy -= 1

    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        for _ in range(count):
            nursery.start_soon(prove)
    took = trio.current_time() - began
    assert took == pytest.approx((count * 0.004 - SAVED_S) / SHARE, rel=0.05)


async def test_a_few_proofs_need_not_wait(autojump_clock: trio.testing.MockClock) -> None:
    proofs = Rested()
    for _ in range(10):
        async with proofs:
            autojump_clock.jump(0.004)
    assert trio.current_time() == pytest.approx(0.04)


async def test_a_cancelled_rest_leaves_the_next_its_turn(autojump_clock: Any) -> None:
    proofs = Rested()
    async with proofs:
        autojump_clock.jump(0.02)
        proofs._began -= 10
    proofs._due = trio.current_time() + 10
    with trio.move_on_after(0.5):
        async with proofs:
            raise AssertionError
    proofs._due = 0.0
    with trio.fail_after(1):
        async with proofs:
            pass
