"""Multicast that does not need a network: what a flood of names costs. The rest is proved in `tests/nat`."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import trio
import trio.testing

from prime.transport.mdns import Lan
from prime.transport.neighbours import ANNOUNCERS_MAX, Gone

LIBRARY = SimpleNamespace(
    ServiceStateChange=SimpleNamespace(Removed="removed"),
    ServiceBrowser=lambda *_, **__: SimpleNamespace(cancel=lambda: None),
)


async def test_a_flood_of_names_that_nobody_explains_waits_for_few_of_them() -> None:
    explained = threading.Event()
    zeroconf = SimpleNamespace(get_service_info=lambda *_, **__: explained.wait(10) and None)
    lan = Lan(LIBRARY, zeroconf, trio.lowlevel.current_trio_token())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lan.listen)
        await trio.testing.wait_all_tasks_blocked(0.05)
        before = trio.lowlevel.current_statistics().tasks_living
        for n in range(8 * ANNOUNCERS_MAX):
            lan._notice(name=f"{n}", state_change="added")
            if n % ANNOUNCERS_MAX == 0:
                await trio.testing.wait_all_tasks_blocked(0.01)
        assert trio.lowlevel.current_statistics().tasks_living - before <= ANNOUNCERS_MAX
        lan._notice(name="0", state_change="removed")
        with trio.fail_after(10):
            assert await lan.next() == Gone("0")
        explained.set()
        nursery.cancel_scope.cancel()
