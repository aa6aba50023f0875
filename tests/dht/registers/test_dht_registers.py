"""Registers on real actors: written and read from several nodes over the memory transport, across crashes of electors."""

from __future__ import annotations

import pytest
import trio

import prime
from prime.dht.dht import Dht
from prime.errors import ConflictError, NotFoundError, UsageError
from tests.dht.swarm import open_nodes


async def test_one_of_several_writers_wins_and_the_others_hear_what_is_there(autojump_clock: trio.abc.Clock) -> None:
    team = prime.KeyPair.from_seed(b"t" * 32)
    async with open_nodes(6) as opened:
        nodes = [each.dht for each in opened]
        won: list[bytes] = []
        lost: list[object] = []

        async def write(node: Dht, value: bytes) -> None:
            try:
                version = await node.compare_and_set(b"leader", 0, value, signer=team)
            except ConflictError as error:
                lost.append(error.found)
            else:
                assert (version.seq, version.value) == (1, value)
                won.append(value)

        async with trio.open_nursery() as nursery:
            for number, node in enumerate(nodes):
                nursery.start_soon(write, node, b"%d" % number)
        there = await nodes[0].read_register(team.peer, b"leader")
        assert won == [there.value]
        assert lost == [there] * 5
        assert (await nodes[3].compare_and_set(b"leader", 1, None, signer=team)).seq == 2
        with pytest.raises(NotFoundError, match="removed, by version 2"):
            await nodes[1].read_register(team.peer, b"leader")


async def test_a_register_that_is_not_there(autojump_clock: trio.abc.Clock) -> None:
    async with open_nodes(4) as opened:
        nodes = [each.dht for each in opened]
        with pytest.raises(NotFoundError, match="never written"):
            await nodes[0].read_register(nodes[1].peer, b"none")
        with pytest.raises(ConflictError, match="nothing was ever written") as caught:
            await nodes[0].compare_and_set(b"none", 4, b"x")
        assert caught.value.found is None
        with pytest.raises(UsageError, match="65 bytes"):
            await nodes[0].compare_and_set(b"s" * 65, 0, b"x")
