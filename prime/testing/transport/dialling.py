"""Cases: who is there, and dialling."""
# ruff: noqa: D401 - the first line of a case says what is promised, not what to do

from __future__ import annotations

import trio

from prime.errors import ConfigError, UnreachableError, WrongPeerError
from prime.testing.transport.kit import (
    CASE_TIMEOUT_S,
    TransportKit,
    check,
    dial_and_echo,
    dial_if_possible,
    echo,
    meet,
    met,
    opened,
    pattern,
    raises,
    serve_echo,
)
from prime.transport.identity import KeyPair
from prime.transport.multiaddr import parse_address


async def proves_identity_on_both_sides(kit: TransportKit) -> None:
    """Each side knows the other's true id, and addresses end in it."""
    async with met(kit) as m:
        check(m.near.peer == m.listener.peer, "the dialler does not know who answered")
        check(m.far.peer == m.dialler.peer, "the listener does not know who dialled")
        check(
            all(each.endswith(f"/p2p/{m.listener.peer}") for each in m.listener.addresses)
            and m.listener.addresses != (),
            f"addresses without the peer id: {m.listener.addresses}",
        )


async def says_where_the_other_side_is(kit: TransportKit) -> None:
    """Where a channel's bytes come from is an address without a peer, or nothing where that is not known."""
    async with met(kit) as m:
        for channel in (m.near, m.far):
            check(
                not channel.remote or parse_address(channel.remote).peer is None,
                f"it comes from {channel.remote!r}, which names a peer",
            )


async def refuses_a_wrong_peer(kit: TransportKit) -> None:
    """Dialling somebody else raises `WrongPeerError` naming who answered; the listener goes on."""
    async with met(kit) as m:
        bare = m.listener.addresses[0].rpartition("/p2p/")[0]
        stranger = KeyPair.generate().peer
        for address, peer in ((bare, stranger), (f"{bare}/p2p/{stranger}", None)):
            with raises(WrongPeerError, m.listener.peer, stranger):
                await m.dialler.dial(address, peer)
        await echo(await meet(m.dialler, m.listener), b"still here")


async def refuses_contradictions(kit: TransportKit) -> None:
    """An address that names another peer than the one asked for is the caller's mistake."""
    async with met(kit) as m:
        with raises(ConfigError):
            await m.dialler.dial(m.listener.addresses[0], KeyPair.generate().peer)


async def dials_without_knowing_the_peer(kit: TransportKit) -> None:
    """Without a `/p2p/` part anybody may answer, and the channel says who did."""
    async with met(kit) as m:
        near = await m.dialler.dial(m.listener.addresses[0].rpartition("/p2p/")[0])
        check(near.peer == m.listener.peer, "the dialler does not know who answered")


async def says_that_nobody_answers(kit: TransportKit) -> None:
    """An address without a listener, or of another transport, raises `UnreachableError`; no address `ConfigError`."""
    async with met(kit) as m:
        for address in (kit.nobody, kit.foreign):
            with raises(UnreachableError):
                await m.dialler.dial(address)
        for text in ("", "nonsense", "/ip4/127.0.0.1", "/ip4/1.2.3.4/tcp/99999", "/ip4/1.2.3.4/tcp/1/p2p/12D3Koo"):
            with raises(ConfigError):
                await m.dialler.dial(text)


async def dials_twenty_at_once(kit: TransportKit) -> None:
    """Twenty concurrent dials give twenty channels, each with its own bytes."""
    with trio.fail_after(CASE_TIMEOUT_S):
        async with opened(kit.make(), kit.make()) as (dialler, listener), trio.open_nursery() as nursery:
            nursery.start_soon(serve_echo, listener, 20)
            for number in range(20):
                nursery.start_soon(dial_and_echo, dialler, listener.addresses[0], pattern(10_000, number))


async def dials_both_ways_at_once(kit: TransportKit) -> None:
    """Two endpoints that dial each other at the same time both get their channel."""
    with trio.fail_after(CASE_TIMEOUT_S):
        async with opened(kit.make(), kit.make()) as (first, second), trio.open_nursery() as nursery:
            for here, there in ((first, second), (second, first)):
                nursery.start_soon(serve_echo, here, 1)
                nursery.start_soon(dial_and_echo, here, there.addresses[0], pattern(100_000))


async def survives_a_cancelled_dial(kit: TransportKit) -> None:
    """A dial that is given up leaves the endpoint, and channels that are open, as they were."""
    async with met(kit) as m:
        for delay_s in (0.0, 0.001, 0.01):
            with trio.move_on_after(delay_s):
                await m.dialler.dial(m.listener.addresses[0])
        await echo(m, b"still here")
        near = await m.dialler.dial(m.listener.addresses[0])
        await near.send(b"x")


async def bounds_its_backlog(kit: TransportKit) -> None:
    """A listener that does not accept leaves no dial hanging, and works once it accepts again."""
    with trio.fail_after(CASE_TIMEOUT_S):
        async with opened(kit.make_hurried(), kit.make_hurried()) as (dialler, listener):
            async with trio.open_nursery() as nursery:
                for _ in range(12):
                    nursery.start_soon(dial_if_possible, dialler, listener.addresses[0])
            await trio.sleep(0.55)  # past the deadline of whatever still waits to be accepted
            while True:
                with trio.move_on_after(0.2) as scope:
                    await (await listener.accept()).aclose()
                if scope.cancelled_caught:
                    break
            await echo(await meet(dialler, listener), b"accepting again")
