"""Turns of readers, and the share of work that strangers cause, on the virtual clock."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import trio
import trio.testing

from prime.transport.turns import REST, ROUNDS_MAX, SHARED_S, TURN_S, Rested, Turns, give_way


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


async def test_what_strangers_cause_is_done_one_at_a_time_with_rests(autojump_clock: trio.testing.MockClock) -> None:
    proofs, now, busy = Rested(), list[float](), 0

    async def prove() -> None:
        nonlocal busy
        async with proofs:
            busy += 1
            assert busy == 1
            now.append(trio.current_time())
            autojump_clock.jump(0.004)  # the work
            busy -= 1

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(prove)
    gaps = [later - earlier for earlier, later in itertools.pairwise(now)]
    assert gaps == pytest.approx([0.004 * (1 + REST)] * 4)


async def test_a_cancelled_rest_leaves_the_next_its_turn(autojump_clock: Any) -> None:
    proofs = Rested()
    with trio.CancelScope() as scope:
        async with proofs:
            scope.cancel()
    with trio.fail_after(1):
        async with proofs:
            pass
