"""libp2p: the traps of py-libp2p, each with its rule, and peers that are not Prime."""

from __future__ import annotations

import importlib
import logging
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import anyio
import pytest
import trio
import trio.testing

from prime.errors import AddressInUseError, ConfigError, MissingExtraError, UnreachableError
from prime.testing.transport import meet, opened, pattern, receive_all, receive_exactly
from prime.transport.contract import Channel
from prime.transport.identity import KeyPair
from prime.transport.libp2p import PROTOCOL, Libp2p
from prime.transport.tcp import Tcp
from prime.transport.yamux import WINDOW_BYTES, YamuxLimits

pytest.importorskip("libp2p")

KEY = KeyPair.from_seed(bytes(32))


def test_a_missing_extra_is_named_with_its_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "libp2p", None)

    async def start() -> None:
        async with Libp2p().open(KEY):
            pass

    with pytest.raises(MissingExtraError, match="libp2p") as caught:
        trio.run(start)
    assert "pip install 'prime-actors[libp2p]'" in caught.value.hint


async def test_the_same_key_is_the_same_peer_over_tcp_and_libp2p() -> None:
    async with Libp2p().open(KEY) as one, Tcp().open(KEY) as other:
        assert one.peer == other.peer == KEY.peer
        assert str(one.host.get_id()) == KEY.peer


async def test_a_port_that_another_shares_is_in_use() -> None:
    with socket.socket() as sharing:
        sharing.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sharing.bind(("127.0.0.1", 0))
        sharing.listen()
        with pytest.raises(AddressInUseError):
            async with Libp2p(f"/ip4/127.0.0.1/tcp/{sharing.getsockname()[1]}").open(KEY):
                pass


@pytest.mark.parametrize("address", ["/ip4/192.0.2.1/tcp/0", "/dns4/localhost/tcp/0", "/unix/tmp/x"])
async def test_an_address_that_cannot_be_listened_on_is_a_config_error(address: str) -> None:
    with pytest.raises(ConfigError) as caught:
        async with Libp2p(address).open(KEY):
            pass
    assert caught.value.hint


async def test_channels_between_two_nodes_share_one_connection() -> None:
    async with opened(Libp2p(), Libp2p()) as (dialler, listener):
        for _ in range(3):
            await meet(dialler, listener)
        await meet(listener, dialler)
        assert len(dialler.host.get_network().get_connections()) == 1
        assert len(listener.host.get_network().get_connections()) == 1


async def test_after_a_failed_dial_the_next_is_tried_at_once() -> None:
    async with Libp2p().open(KEY) as dialler, Libp2p().open(KeyPair.generate()) as listener:
        with pytest.raises(UnreachableError):
            await dialler.dial("/ip4/127.0.0.1/tcp/1", listener.peer)
        await meet(dialler, listener)


async def test_a_reader_that_pauses_longer_than_yamux_bears(mock_clock: trio.testing.MockClock) -> None:
    """py-libp2p resets a sender that waited 5 s for the window; ours waits, and nothing is lost."""
    mock_clock.rate = 1
    data = pattern(16 << 20)
    async with opened(Libp2p(), Libp2p()) as (dialler, listener), trio.open_nursery() as nursery:
        m = await meet(dialler, listener)
        nursery.start_soon(send_and_end, m.near, data)
        await trio.sleep(0.1)
        mock_clock.rate = 50
        await trio.sleep(12)
        mock_clock.rate = 1
        assert await receive_all(m.far) == data


async def send_and_end(channel: Channel, data: bytes) -> None:
    await channel.send(data)
    await channel.send_eof()


async def test_cancelling_blocked_sends_leaves_the_connection_whole() -> None:
    async with opened(Libp2p(), Libp2p()) as (dialler, listener):
        other = await meet(dialler, listener)
        for _ in range(4):
            m = await meet(dialler, listener)
            with trio.move_on_after(0.3):
                await m.near.send(bytes(16 << 20))
            with pytest.raises(anyio.BrokenResourceError):
                await m.near.send(b"more")
        await other.near.send(b"alive")
        assert await receive_exactly(other.far, 5) == b"alive"
        assert len(dialler.host.get_network().get_connections()) == 1


async def test_a_reader_that_sleeps_costs_bounded_memory() -> None:
    async with opened(Libp2p(), Libp2p()) as (dialler, listener):
        m = await meet(dialler, listener)
        sent = 0
        with trio.move_on_after(0.5):
            while sent < 32 << 20:
                await m.near.send(bytes(1 << 16))
                sent += 1 << 16
        assert sent <= WINDOW_BYTES  # nobody reads, so the window never grows


async def test_a_handler_that_raises_does_not_end_the_host() -> None:
    async def explode(_stream: Any) -> None:
        raise LookupError("a bug in somebody's handler")

    async with opened(Libp2p(), Libp2p()) as (dialler, listener):
        m = await meet(dialler, listener)
        listener.host.set_stream_handler("/buggy/1", explode)
        with trio.fail_after(5):
            await talk_to(dialler, listener, "/buggy/1")
        await m.near.send(b"alive")
        assert await receive_exactly(m.far, 5) == b"alive"


async def talk_to(dialler: Any, listener: Any, protocol: str) -> None:
    with suppress(importlib.import_module("libp2p.exceptions").BaseLibp2pError):
        stream = await dialler.host.new_stream(
            importlib.import_module("libp2p.peer.id").ID.from_string(listener.peer), [protocol]
        )
        await stream.read(1)


async def test_a_lost_connection_breaks_its_channels_and_a_new_dial_makes_another() -> None:
    async with opened(Libp2p(), Libp2p()) as (dialler, listener):
        m = await meet(dialler, listener)
        (connection,) = dialler.connections
        connection.break_off("the cable was cut")
        with trio.fail_after(5):
            with pytest.raises(anyio.BrokenResourceError):
                await m.near.receive()
            with pytest.raises(anyio.BrokenResourceError):
                await m.near.send(bytes(10_000))
            with pytest.raises((anyio.BrokenResourceError, anyio.EndOfStream)):
                await m.far.receive()
            await meet(dialler, listener)


async def test_too_many_streams_are_an_error() -> None:
    async with opened(Libp2p(limits=YamuxLimits(streams_max=3)), Libp2p()) as (dialler, listener):
        near = await dialler.dial(listener.addresses[0])
        await until(lambda: dialler.connections[0].streams_of_ours == 1)  # py-libp2p's identify has come and gone
        others = [await dialler.dial(listener.addresses[0]) for _ in range(2)]
        with pytest.raises(UnreachableError, match="3 streams") as caught:
            await dialler.dial(listener.addresses[0])
        assert "long-lived" in caught.value.hint
        await near.aclose()
        await (await listener.accept()).aclose()
        await until(lambda: dialler.connections[0].streams_of_ours == 2)
        await dialler.dial(listener.addresses[0])
        await others[0].send(b"alive")


async def until(holds: Callable[[], bool]) -> None:
    with trio.fail_after(5):
        while not holds():  # noqa: ASYNC110 (what it waits for is told to nobody)
            await trio.sleep(0.01)


async def test_streams_over_the_listeners_limit_are_refused_and_harm_no_other() -> None:
    async with opened(Libp2p(), Libp2p(limits=YamuxLimits(streams_max=4))) as (dialler, listener):
        m = await meet(dialler, listener)
        refused = 0
        for _ in range(6):
            try:
                await dialler.dial(listener.addresses[0])
            except UnreachableError:
                refused += 1
        assert refused >= 3
        await m.near.send(b"alive")
        assert await receive_exactly(m.far, 5) == b"alive"


async def test_nothing_is_logged_about_strangers(capfd: pytest.CaptureFixture[str]) -> None:
    async with opened(Libp2p(), Libp2p(dial_timeout_s=0.3)) as (dialler, listener):
        port = int(listener.addresses[0].split("/")[4])
        async with await trio.open_tcp_stream("127.0.0.1", port) as stranger:
            await stranger.send_all(b"GET / HTTP/1.1\r\n\r\n")
            await trio.sleep(0.4)
        await meet(dialler, listener)
    assert capfd.readouterr() == ("", "")
    logging.getLogger().warning("%s", "others still log")
    assert importlib.import_module("prime.transport.libp2p.host").not_from_libp2p(
        logging.makeLogRecord({"pathname": "/app/main.py"})
    )


# --------------------------------------------------------------------------------------------- peers that are not Prime


async def test_a_plain_libp2p_host_can_dial_us() -> None:
    libp2p, info = importlib.import_module("libp2p"), importlib.import_module("libp2p.peer.peerinfo")
    host = libp2p.new_host()
    async with Libp2p().open(KEY) as listener, host.run([]):
        address = importlib.import_module("multiaddr").Multiaddr(listener.addresses[0])
        await host.connect(info.info_from_p2p_addr(address))
        stream = await host.new_stream(host.get_connected_peers()[0], [PROTOCOL])
        await stream.write(b"hello")
        channel = await listener.accept()
        assert channel.peer == str(host.get_id())
        assert await receive_exactly(channel, 5) == b"hello"
        await channel.send(b"hello yourself")
        assert await stream.read(100) == b"hello yourself"
        await host.close()


async def test_a_libp2p_host_without_our_protocol_is_named() -> None:
    host = importlib.import_module("libp2p").new_host()
    multiaddr = importlib.import_module("multiaddr")
    async with Libp2p().open(KEY) as dialler, host.run([multiaddr.Multiaddr("/ip4/127.0.0.1/tcp/0")]):
        with pytest.raises(UnreachableError, match=PROTOCOL) as caught:
            await dialler.dial(str(host.get_transport_addrs()[0]))
        assert "Prime node" in caught.value.hint
        await host.close()


async def test_a_listener_of_another_kind_is_named() -> None:
    async with Libp2p(dial_timeout_s=1).open(KEY) as dialler, Tcp().open(KeyPair.generate()) as listener:
        with pytest.raises(UnreachableError):
            await dialler.dial(listener.addresses[0])
