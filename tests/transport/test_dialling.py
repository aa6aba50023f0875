"""Attempts to open a channel that race each other, on the virtual clock."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from typing import Any

import anyio
import pytest
import trio
import trio.testing

from prime.actor.contract import PeerId
from prime.errors import UnreachableError
from prime.transport.contract import Buffer, Channel
from prime.transport.dialling import ATTEMPTS_MAX, Race

PEER = PeerId("12D3KooWFar")


class Opened(Channel):
    """A channel that only knows whether it was closed."""

    closed = False

    @property
    def peer(self) -> PeerId:
        return PEER

    async def receive(self, max_bytes: int = 65536) -> bytes:
        raise anyio.EndOfStream

    async def send(self, item: Buffer) -> None: ...

    async def send_eof(self) -> None: ...

    async def aclose(self) -> None:
        self.closed = True
        await trio.lowlevel.checkpoint()


class Network:
    """Addresses that answer after a time, fail after a time, or are silent; `/slow-2` answers after 2 s."""

    def __init__(self) -> None:
        self.dialled: list[tuple[float, str]] = []
        self.opened: list[Opened] = []
        self.running = self.running_max = 0

    async def dial(self, address: str) -> Channel:
        self.dialled.append((round(trio.current_time(), 3), address))
        self.running += 1
        self.running_max = max(self.running, self.running_max)
        try:
            await self.answer(address)
        finally:
            self.running -= 1
        self.opened.append(Opened())
        return self.opened[-1]

    async def answer(self, address: str) -> None:
        name, _, seconds = address.partition("-")
        if name == "/silent":
            await trio.sleep_forever()
        await trio.sleep(float(seconds or 0))
        if name == "/refusing":
            raise UnreachableError(f"nobody answers at {address}", hint="look there")

    def race(self, *addresses: str, wanted: Callable[[], bool] = lambda: True) -> Race:
        return Race(PEER, addresses, self.dial, random.Random(1), wanted)


async def test_the_first_that_answers_is_taken_and_the_others_are_let_go(autojump_clock: Any) -> None:
    net = Network()
    won = await net.race("/silent", "/slow-2", "/slow-3").run()
    assert won is not None
    assert won[1] == "/slow-2"
    assert 2.8 <= trio.current_time() <= 3.2
    assert [address for _, address in net.dialled][:3] == ["/silent", "/slow-2", "/slow-3"]
    assert net.running == 0
    assert not net.opened[0].closed


async def test_one_that_fails_gives_way_to_the_next_at_once(autojump_clock: Any) -> None:
    net = Network()
    won = await net.race("/refusing", "/slow-0.5").run()
    assert won is not None
    assert trio.current_time() == 0.5


async def test_a_silent_address_is_tried_afresh_every_second_and_a_few_at_a_time(autojump_clock: Any) -> None:
    net = Network()
    with trio.move_on_after(30):
        await net.race("/silent").run()
    times = [at for at, _ in net.dialled]
    assert all(0.8 <= later - earlier <= 1.2 for earlier, later in itertools.pairwise(times))
    assert len(times) >= 25
    assert net.running_max <= ATTEMPTS_MAX + 1  # one of them is ending
    assert net.running == 0


async def test_a_slow_first_attempt_is_given_its_time(autojump_clock: Any) -> None:
    net = Network()
    won = await net.race("/slow-9").run()
    assert won is not None
    assert trio.current_time() == 9


async def test_when_all_have_failed_the_error_names_each(autojump_clock: Any) -> None:
    net = Network()
    with pytest.raises(UnreachableError, match=r"none of its 2 addresses: .*-0.1; .*-0.2"):
        await net.race("/refusing-0.1", "/refusing-0.2").run()
    with pytest.raises(UnreachableError, match="nobody answers at /refusing$"):
        await net.race("/refusing").run()
    with pytest.raises(UnreachableError, match="no address is known"):
        await net.race().run()


async def test_what_is_not_wanted_any_more_ends_without_an_error(autojump_clock: Any) -> None:
    net = Network()
    assert await net.race("/silent", wanted=lambda: trio.current_time() < 3).run() is None
    assert 3 <= trio.current_time() <= 4.2
    assert net.running == 0


@pytest.mark.parametrize("cancelled_at_s", [0.0, 0.5, 1.0, 1.5])
async def test_a_cancelled_race_leaves_no_channel_open(cancelled_at_s: float, autojump_clock: Any) -> None:
    net, won = Network(), None
    with trio.CancelScope() as scope:
        scope.deadline = trio.current_time() + cancelled_at_s
        won = await net.race("/silent", "/slow-0.5").run()
    assert net.running == 0
    assert all(channel.closed for channel in net.opened if won is None or channel is not won[0])
