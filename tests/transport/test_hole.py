"""Holes: two that dial each other meet, whoever else comes is shown out, and nobody is dialled that no peer may point at."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from prime.errors import RemoteProtocolError
from prime.transport.hole import STRANGERS_MAX, Hole, may_be_dialled
from prime.transport.multiaddr import TcpPlace, parse_once
from prime.transport.tcp import shared_socket


async def prove(socket: trio.socket.SocketType) -> tuple[str, int]:
    """Return who is at the other end, once it has said that it is the right one."""
    await socket.send(b"!")
    if await socket.recv(1) != b"!":
        raise RemoteProtocolError("nobody is there", hint="none")
    host, port = socket.getpeername()[:2]
    socket.close()
    return host, port


def here(port: int) -> TcpPlace:
    return TcpPlace("ip4", "127.0.0.1", port)


def free_port() -> int:
    with shared_socket(2, 0) as socket:
        return int(socket.getsockname()[1])


async def test_two_that_knock_at_each_other_meet() -> None:
    one, other = free_port(), free_port()
    found: dict[int, Any] = {}

    async def open_hole(own: int, theirs: int) -> None:
        found[own] = await Hole(here(own), prove, 5).open([here(theirs)])

    async with trio.open_nursery() as nursery:
        nursery.start_soon(open_hole, one, other)
        nursery.start_soon(open_hole, other, one)
    assert found == {one: ("127.0.0.1", other), other: ("127.0.0.1", one)}


async def test_where_nobody_is_it_gives_up_in_time_and_leaves_no_socket() -> None:
    port = free_port()
    with trio.fail_after(2):
        assert await Hole(here(port), prove, 0.6).open([here(free_port())]) is None
    with trio.socket.socket() as again:
        await again.bind(("127.0.0.1", port))  # without SO_REUSEPORT: nobody else has it


async def test_a_stranger_at_the_hole_is_shown_out() -> None:
    port = free_port()

    async def intrude() -> None:
        await trio.sleep(0.1)
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            await stream.send_all(b"?")
            while await stream.receive_some(10):
                pass

    with trio.move_on_after(0.7):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(intrude)
            await Hole(here(port), prove, 5).open([here(free_port())])
            raise AssertionError("it was let in")


async def test_a_stranger_that_a_peer_points_at_is_soon_left_alone() -> None:
    """A candidate is a peer's word: it must not have this node knock at a third party's door for seconds."""
    knocks = 0

    async def hang_up(stream: trio.SocketStream) -> None:
        nonlocal knocks
        knocks += 1
        await stream.aclose()

    async with trio.open_nursery() as nursery:
        stranger = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
        nursery.start_soon(trio.serve_listeners, hang_up, [stranger])
        place = here(stranger.socket.getsockname()[1])
        assert await Hole(here(free_port()), prove, 1.0).open([place]) is None
        assert 0 < knocks <= STRANGERS_MAX
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("candidate", "own", "fair"),
    [
        ("/ip4/192.0.2.1/tcp/4", "/ip4/192.168.1.2/tcp/5", True),
        ("/ip4/192.168.1.3/tcp/4", "/ip4/192.168.1.2/tcp/5", True),
        ("/ip4/127.0.0.1/tcp/22", "/ip4/192.168.1.2/tcp/5", False),
        ("/ip4/127.0.0.1/tcp/22", "/ip4/127.0.0.1/tcp/5", True),
        ("/ip6/::1/tcp/22", "/ip4/192.168.1.2/tcp/5", False),
        ("/ip6/::ffff:127.0.0.1/tcp/22", "/ip6/2001:db8::2/tcp/5", False),
        ("/ip4/169.254.169.254/tcp/80", "/ip4/192.168.1.2/tcp/5", False),
        ("/ip6/fe80::1/tcp/80", "/ip6/2001:db8::2/tcp/5", False),
        ("/ip4/0.0.0.0/tcp/22", "/ip4/192.168.1.2/tcp/5", False),
        ("/ip4/255.255.255.255/tcp/9", "/ip4/192.168.1.2/tcp/5", False),
        ("/ip4/224.0.0.251/tcp/9", "/ip4/192.168.1.2/tcp/5", False),
    ],
)
def test_no_peer_has_a_node_dial_its_own_machine(candidate: str, own: str, fair: bool) -> None:
    assert may_be_dialled(parse_once(candidate).place, parse_once(own).place) is fair
