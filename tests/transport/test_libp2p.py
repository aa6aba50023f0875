"""libp2p: the traps of py-libp2p, each with its rule, and peers that are not Prime."""

from __future__ import annotations

import gc
import importlib
import logging
import math
import os
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import anyio
import pytest
import trio
import trio.testing

import prime
from prime.errors import AddressInUseError, ConfigError, MissingExtraError, UnreachableError, WrongPeerError
from prime.testing.transport import meet, opened, pattern, receive_all, receive_exactly
from prime.transport import multistream
from prime.transport.admission import Admission, AdmissionLimits
from prime.transport.contract import Channel
from prime.transport.facts import LinkDown
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


async def test_a_connection_whose_peer_goes_away_and_stays_is_not_dialled_over() -> None:
    async with opened(Libp2p(), Libp2p()) as (dialler, listener):
        m = await meet(dialler, listener)
        (leaving,) = listener.connections
        leaving._session.go_away()
        leaving._flush()
        await m.far.send(b"behind it")
        assert await receive_exactly(m.near, 9) == b"behind it"
        await meet(dialler, listener)
        assert len(dialler.connections) == 2 or leaving.ended.is_set()


@pytest.mark.parametrize("turns", range(4, 12))
async def test_opening_can_be_cancelled_at_any_point(turns: int) -> None:
    async with trio.open_nursery() as nursery:

        async def cancel() -> None:
            for _ in range(turns):
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()

        nursery.start_soon(cancel)
        async with Libp2p().open(KEY):
            await trio.sleep_forever()


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


@pytest.mark.parametrize("who", ["dialler", "listener"])
async def test_a_node_that_shuts_down_says_goodbye(who: str) -> None:
    """What ends the node cancels its tasks; its connections last until the links have said BYE."""
    told = []
    with trio.fail_after(60):
        for _ in range(5):
            async with prime.open_system(transport=Libp2p()) as other:
                other.subscribe(lambda fact: told.append(fact.reason) if isinstance(fact, LinkDown) else None)
                async with prime.open_system(transport=Libp2p()) as ends:
                    assert ends.network is not None and other.network is not None
                    near, far = (ends, other) if who == "dialler" else (other, ends)
                    await near.network.dial(far.addresses[0])
                with trio.move_on_after(5):
                    while not told:  # noqa: ASYNC110 (facts are told to plain functions)
                        await trio.sleep(0.01)
            assert told and all("goodbye" in each for each in told)
            told.clear()


# --------------------------------------------------------------------------------------------- peers that are not Prime


@pytest.mark.parametrize("security", ["/noise", "/tls/1.0.0"])
async def test_a_plain_libp2p_host_can_dial_us(security: str) -> None:
    async with Libp2p().open(KEY) as listener, plain_host(security) as host:
        await dial_by(host, listener)
        stream = await host.new_stream(host.get_connected_peers()[0], [PROTOCOL])
        await stream.write(b"hello")
        channel = await listener.accept()
        assert channel.peer == str(host.get_id())
        assert await receive_exactly(channel, 5) == b"hello"
        got = b""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(channel.send, pattern(3 << 20))  # more than the window: it waits for its reader
            while len(got) < 3 << 20:
                got += await stream.read(1 << 16)
        assert got == pattern(3 << 20)


@pytest.mark.parametrize("security", ["/noise", "/tls/1.0.0"])
async def test_we_can_dial_a_plain_libp2p_host(security: str) -> None:
    async with Libp2p().open(KEY) as dialler, plain_host(security) as host:
        got = bytearray()

        async def take(stream: Any) -> None:
            with suppress(importlib.import_module("libp2p.network.stream.exceptions").StreamEOF):
                while True:
                    got.extend(await stream.read(1 << 16))
            await stream.write(b"all of it")
            await stream.close()

        host.set_stream_handler(PROTOCOL, take)
        channel = await dialler.dial(str(host.get_addrs()[0]))
        assert channel.peer == str(host.get_id())
        await send_and_end(channel, pattern(1 << 20))
        assert await receive_all(channel) == b"all of it"
        assert bytes(got) == pattern(1 << 20)


@pytest.mark.parametrize("security", ["/noise", "/tls/1.0.0"])
async def test_a_plain_host_that_is_another_is_named(security: str) -> None:
    async with Libp2p().open(KEY) as dialler, plain_host(security) as host:
        place = str(host.get_addrs()[0]).rpartition("/p2p/")[0]
        with pytest.raises(WrongPeerError, match=str(host.get_id())):
            await dialler.dial(place, KeyPair.generate().peer)


async def test_identify_and_ping_of_py_libp2p_work_over_our_connection() -> None:
    ping = importlib.import_module("libp2p.host.ping")
    async with opened(Libp2p(), Libp2p()) as (dialler, listener):
        await meet(dialler, listener)
        peer = dialler.host.get_connected_peers()[0]
        assert len(await ping.PingService(dialler.host).ping(peer, ping_amt=3)) == 3  # milliseconds, often 0
        await until(lambda: dialler.host.peerstore.supports_protocols(peer, [PROTOCOL]) == [PROTOCOL])
        await until(lambda: dialler.connections[0].streams_of_ours == 1)


async def test_py_libp2p_dials_over_our_transport_too() -> None:
    async with opened(Libp2p(), Libp2p()) as (dialler, listener):
        await dial_by(dialler.host, listener)
        (connection,) = dialler.connections
        near = await dialler.dial(listener.addresses[0])
        assert near.connection is connection


async def test_only_tls_and_noise_are_on_offer() -> None:
    async with Libp2p().open(KEY) as listener:
        stream = await trio.open_tcp_stream("127.0.0.1", int(listener.addresses[0].split("/")[4]))
        async with stream:
            await stream.send_all(multistream.line(multistream.VERSION))
            assert await multistream.read_line(stream.receive_some) == multistream.VERSION
            for insecure in ("/plaintext/2.0.0", "/secio/1.0.0", "/insecure/1.0.0"):
                await stream.send_all(multistream.line(insecure))
                assert await multistream.read_line(stream.receive_some) == multistream.REFUSAL
            await stream.send_all(multistream.line(multistream.LIST))
            offered = await multistream.read_line(stream.receive_some)
        assert offered.encode() == multistream.line("/tls/1.0.0") + multistream.line("/noise")


async def test_both_sides_agree_on_the_muxer_within_the_handshake(monkeypatch: pytest.MonkeyPatch) -> None:
    endpoint = importlib.import_module("prime.transport.libp2p.endpoint")
    monkeypatch.delattr(endpoint, "agree_on_yamux")  # a round trip that nobody needs
    async with opened(Libp2p(), Libp2p()) as (dialler, listener):
        await meet(dialler, listener)


@pytest.mark.parametrize("cycles", [200, pytest.param(10_000, marks=[pytest.mark.nightly, pytest.mark.timeout(1800)])])
async def test_connecting_and_disconnecting_leaves_nothing_behind(cycles: int) -> None:
    async with opened(Libp2p(), Libp2p()) as (dialler, listener):
        often = AdmissionLimits(peer_connects_per_s=math.inf, source_connects_per_s=math.inf)
        listener.guard(Admission(limits=often))
        await connect_and_disconnect(dialler, listener, 100)  # until every table and cache has its size
        before = await kept()
        await connect_and_disconnect(dialler, listener, cycles)
        after = await kept()
        assert after[0] == before[0]
        assert after[1] < before[1] + 5000
        assert not dialler.connections and not listener.connections
        assert not listener.host.get_network().get_connections()


async def connect_and_disconnect(dialler: Any, listener: Any, cycles: int) -> None:
    for _ in range(cycles):
        m = await meet(dialler, listener)
        await m.near.send(b"x")
        assert await m.far.receive() == b"x"
        await m.near.aclose()
        await m.far.aclose()
        for connection in dialler.connections:
            await connection.aclose()


async def kept() -> tuple[int, int]:
    """Return how many descriptors and objects this process has, when goodbyes are over."""
    await trio.sleep(1)
    gc.collect()
    return len(os.listdir("/proc/self/fd")), len(gc.get_objects())  # noqa: PTH208 (no file system that blocks)


@asynccontextmanager
async def plain_host(security: str) -> AsyncIterator[Any]:
    """py-libp2p as it comes, with one security."""
    libp2p = importlib.import_module("libp2p")
    keys = importlib.import_module("libp2p.crypto.ed25519").create_new_key_pair()
    if security == "/noise":
        noise_key = importlib.import_module("libp2p.crypto.x25519").create_new_key_pair().private_key
        made = importlib.import_module("libp2p.security.noise.transport").Transport(keys, noise_privkey=noise_key)
    else:
        made = importlib.import_module("libp2p.security.tls.transport").TLSTransport(keys)
    host = libp2p.new_host(key_pair=keys, sec_opt={security: made})
    async with host.run([importlib.import_module("multiaddr").Multiaddr("/ip4/127.0.0.1/tcp/0")]):
        yield host
        await host.close()


async def dial_by(host: Any, listener: Any) -> None:
    """Have a host of py-libp2p dial."""
    address = importlib.import_module("multiaddr").Multiaddr(listener.addresses[0])
    await host.connect(importlib.import_module("libp2p.peer.peerinfo").info_from_p2p_addr(address))


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
