"""Measuring a link: figures that can be, an allowance that is kept, and orders from this machine's user alone."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from prime.errors import RefusedError
from prime.node import link
from prime.node.link import ALLOWED_BYTES, ALLOWED_S, PEERS_MAX, PIECE_BYTES, Allowance, LinkActor, measure
from prime.node.system import open_system
from prime.observe.messages import LINK_PATH, GiveBulk, MeasureLinks
from prime.transport.memory import Memory


@asynccontextmanager
async def pair() -> AsyncIterator[tuple[object, object]]:
    hub = Memory()
    async with (
        open_system(transport=hub) as near,
        open_system(transport=hub) as far,
        far.supervisor("node") as sup,
    ):
        await sup.spawn(LinkActor, "link")
        assert near.network is not None
        await near.network.dial(far.addresses[0])
        yield near, far


async def test_a_link_is_measured_both_ways_within_its_bounds() -> None:
    async with pair() as (near, far):
        found = await measure(near, far.peer, 5.0, 8 * PIECE_BYTES)  # type: ignore[attr-defined, arg-type]
    assert found.error == ""
    assert found.up_bytes == found.down_bytes == 8 * PIECE_BYTES
    assert found.up_bytes_s > 0
    assert found.down_bytes_s > 0
    assert 0 < found.rtt_min_s <= found.rtt_s
    assert (found.pings, found.lost) == (link.PINGS, 0)


async def test_a_peer_that_lets_nothing_be_measured_is_an_error_in_words() -> None:
    hub = Memory()
    async with (
        open_system(transport=hub) as near,
        open_system(transport=hub) as far,
    ):
        assert near.network is not None
        await near.network.dial(far.addresses[0])
        found = await measure(near, far.peer, 0.1, PIECE_BYTES)
    assert LINK_PATH in found.error
    assert found.up_bytes == 0


async def test_a_stranger_cannot_have_this_node_measure_others_nor_ask_for_more_than_a_piece() -> None:
    async with pair() as (near, far):
        ref = near.ref(far.peer, LINK_PATH, LinkActor)  # type: ignore[attr-defined]
        with trio.fail_after(5), pytest.raises(RefusedError, match="own user"):
            await ref.ask(MeasureLinks((), 1.0, 1), timeout=2)
        with trio.fail_after(5), pytest.raises(RefusedError, match="a piece has at most"):
            await ref.ask(GiveBulk(PIECE_BYTES + 1), timeout=2)
        with trio.fail_after(5), pytest.raises(RefusedError, match="a piece has at most"):
            await ref.ask(GiveBulk(-1), timeout=2)


def test_what_a_peer_may_have_measured_is_bounded_and_comes_back_with_time() -> None:
    allowance = Allowance()
    for _ in range(ALLOWED_BYTES // PIECE_BYTES):
        assert allowance.refusal("a", PIECE_BYTES, 0.0) == ""
    assert "512 MiB were measured" in allowance.refusal("a", PIECE_BYTES, 1.0)
    assert allowance.refusal("b", PIECE_BYTES, 1.0) == ""
    assert allowance.refusal("a", PIECE_BYTES, ALLOWED_S) == ""


def test_peers_that_measure_are_bounded() -> None:
    allowance = Allowance()
    for peer in range(PEERS_MAX):
        assert allowance.refusal(f"p{peer}", 1, 0.0) == ""
    assert "peers have measured" in allowance.refusal("one more", 1, 0.0)
    assert allowance.refusal("p0", 1, 0.0) == ""
