"""`@on`: one method for several classes, and what it refuses. What type checkers say of it is in tests/typing."""

from __future__ import annotations

from typing import Any, cast

import pytest
import trio.testing

import prime
from prime import Actor, Ask, on
from prime.actor.handlers import table_of
from prime.errors import MessageError


@prime.message
class Open:
    pass


@prime.message
class Close:
    pass


@prime.message
class Count(Ask[int]):
    pass


class Door(Actor[Open | Close | Count]):
    def __init__(self) -> None:
        self.moves = 0

    @on(Open, Close)
    def move(self, _: Open | Close) -> None:
        self.moves += 1

    @on(Count)
    def count(self, _: Count) -> int:
        return self.moves


async def test_one_method_hears_each_class_it_names(autojump_clock: trio.testing.MockClock) -> None:
    async with prime.open_system(seed=0) as system, system.supervisor("house") as sup:
        door = await sup.spawn(Door, "door")
        await door.tell(Open())
        await door.tell(Close())
        assert await door.ask(Count(), timeout=1) == 2


def test_stacked_marks_add_up() -> None:
    class Stacked(Actor[Any]):
        @on(Open)
        @on(Close)  # type: ignore[arg-type]  # the checker wants @on(Open, Close)
        def move(self, _: Open | Close) -> None: ...

    assert set(table_of(Stacked)) == {Open, Close}


@pytest.mark.parametrize("kinds", [(), (Open, "Close"), (lambda: None,)], ids=["nothing", "a name", "a method"])
def test_what_is_no_class_is_refused(kinds: tuple[Any, ...]) -> None:
    with pytest.raises(MessageError, match="@on takes message classes"):
        cast("Any", on)(*kinds)
