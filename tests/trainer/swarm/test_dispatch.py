"""The way out to one peer: what it sends, and that it ends."""

from __future__ import annotations

from typing import Any

import trio
import trio.testing

from prime.trainer.swarm.dispatch import OFFERED_MAX, Job, Outlet


class Peer:
    """Takes what it is told."""

    peer = "far"

    def __init__(self) -> None:
        self.told: list[Any] = []

    async def tell(self, message: Any) -> None:
        await trio.lowlevel.checkpoint()
        self.told.append(message)


async def test_an_outlet_sends_until_it_is_closed(autojump_clock: trio.testing.MockClock) -> None:
    peer = Peer()
    outlet = Outlet(peer, lambda _: None)  # type: ignore[arg-type]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(outlet.run)
        outlet.send("letter")
        outlet.send_bulk(Job(("part",), lambda ref: ref.tell("bulk")))
        assert not outlet.is_idle
        await trio.sleep(1)
        assert sorted(peer.told) == ["bulk", "letter"]
        assert outlet.is_idle
        outlet.close()
        await trio.sleep(1)
        outlet.send("too late")
        await trio.sleep(1)
        assert nursery.child_tasks == frozenset()
    assert sorted(peer.told) == ["bulk", "letter"]


def test_what_was_sent_once_is_remembered_of_the_latest() -> None:
    outlet = Outlet(Peer(), lambda _: None)  # type: ignore[arg-type]
    assert all(outlet.first_time((number,)) for number in range(OFFERED_MAX + 1))
    assert not outlet.first_time((OFFERED_MAX,))
    assert not outlet.first_time((1,))
    assert outlet.first_time((0,))
