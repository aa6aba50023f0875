"""Links that should be there are made again, by whoever knows an address."""

from __future__ import annotations

import pytest
import trio

from prime.node.contacts import keep_linked, linked_peers
from prime.node.system import open_system
from prime.transport.identity import KeyPair
from prime.transport.tcp import Tcp


@pytest.mark.parametrize("named", [True, False], ids=["its peer named", "without a peer's id"])
async def test_a_node_that_was_started_again_is_found_by_those_that_know_its_address(named: bool) -> None:
    key = KeyPair.generate()
    async with open_system(transport=Tcp("/ip4/127.0.0.1/tcp/0")) as near, trio.open_nursery() as nursery:
        async with open_system(transport=Tcp("/ip4/127.0.0.1/tcp/0"), key=key) as far:
            full = far.addresses[0]
            place = full.partition("/p2p/")[0]
            wanted = ["no address at all", "/ip4/127.0.0.1/tcp/1", full if named else place]
            nursery.start_soon(lambda: keep_linked(near, lambda: wanted, every_s=0.05))
            await until_linked(near, far.peer)
        await until_linked(near, None)
        async with open_system(transport=Tcp(place), key=key) as again:
            await until_linked(near, again.peer)
        nursery.cancel_scope.cancel()


async def until_linked(system: object, peer: str | None) -> None:
    with trio.fail_after(10):
        while linked_peers(system) != ((peer,) if peer else ()):  # type: ignore[arg-type]  # noqa: ASYNC110
            await trio.sleep(0.01)
