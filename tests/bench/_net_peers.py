"""What the network bench measures Prime against: py-libp2p as it comes, blocking TLS 1.3, and a bare echo over Trio.

Run by the bench as `_net_peers.py far PEER WHAT` and `_net_peers.py near PEER WHAT ADDRESS`.

py-libp2p is `new_host` with Noise and Yamux and everything else as it comes. Its traps are kept off: no write is
cancelled, its reader never rests, and one stream is used throughout.
"""

from __future__ import annotations

import os
import secrets
import socket
import ssl
import statistics
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # a fresh checkout needs no installation

import trio
from _ends import BATCH_BYTES, MEBIBYTE, SMALL_BYTES, Watch, answer, questions

DIALS = 5
ECHO_BYTES = 48
"""About what a small ask takes on the wire."""
READ_BYTES = 64 * 1024
"""What the far ends ask for at a time: py-libp2p is the fastest so."""

# ------------------------------------------------------------------------------------------------------------ py-libp2p

SINK, ECHO = "/bench/sink/1", "/bench/echo/1"


def stock_host() -> Any:
    """Make a host of py-libp2p with Noise and Yamux."""
    from libp2p import new_host
    from libp2p.crypto.ed25519 import create_new_key_pair
    from libp2p.crypto.x25519 import create_new_key_pair as create_noise_key_pair
    from libp2p.security.noise.transport import PROTOCOL_ID, Transport

    keys = create_new_key_pair(secrets.token_bytes(32))
    noise = Transport(keys, noise_privkey=create_noise_key_pair().private_key)
    return new_host(key_pair=keys, sec_opt={PROTOCOL_ID: noise})


async def stock_far(_what: str) -> None:
    """Take what comes on one protocol and say so after each batch; echo what comes on the other."""
    from multiaddr import Multiaddr

    async def sink(stream: Any) -> None:
        missing = BATCH_BYTES
        while data := await stream.read(READ_BYTES):
            missing -= len(data)
            if not missing:
                await stream.write(b"\1")
                missing = BATCH_BYTES

    async def echo(stream: Any) -> None:
        while data := await stream.read(READ_BYTES):
            await stream.write(data)

    with socket.socket() as probe:  # its addresses do not tell a port that the system chose
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    host = stock_host()
    async with host.run(listen_addrs=[Multiaddr(f"/ip4/127.0.0.1/tcp/{port}")]):
        host.set_stream_handler(SINK, guarded(sink))
        host.set_stream_handler(ECHO, guarded(echo))
        answer(f"/ip4/127.0.0.1/tcp/{port}/p2p/{host.get_id()}")
        async for _ in questions():
            pass


def guarded(handler: Callable[[Any], Awaitable[None]]) -> Callable[[Any], Awaitable[None]]:
    """Keep an exception in a handler from ending the host."""

    async def handle(stream: Any) -> None:
        try:
            await handler(stream)
        except Exception:  # noqa: BLE001 - a stream that ended: it raises whatever its layers raise
            await stream.reset()

    return handle


async def stock_near(what: str, address: str) -> None:
    """Be the near end."""
    if what == "connect":
        await _blocks(lambda: stock_connect(address))
        return
    host = stock_host()
    async with host.run(listen_addrs=[]):
        await host.connect(_peer_info(address))
        stream = await host.new_stream(_peer_info(address).peer_id, [SINK if what == "bulk" else ECHO])
        await _blocks(lambda: stock_bulk(stream) if what == "bulk" else stock_rtt(stream))


async def stock_bulk(stream: Any) -> float:
    """Return MB/s of writes of 1 MiB, one way, until the far end says that all came."""
    watch = Watch()
    while not watch.over:
        for _ in range(BATCH_BYTES // len(MEBIBYTE)):
            await stream.write(MEBIBYTE)
        await _read_exactly(stream, 1)
        watch.sent_bytes += BATCH_BYTES
    return watch.megabytes_a_second()


async def stock_rtt(stream: Any) -> float:
    """Return the median round trip of 100 bytes, in ms."""
    watch, data, took = Watch(), bytes(SMALL_BYTES), list[float]()
    while not watch.over:
        started = time.perf_counter()
        await stream.write(data)
        await _read_exactly(stream, len(data))
        took.append(time.perf_counter() - started)
    return statistics.median(took) * 1e3


async def stock_connect(address: str) -> float:
    """Return the median time that new hosts take to connect, without a stream, in ms."""
    took = []
    for _ in range(DIALS):
        host = stock_host()
        async with host.run(listen_addrs=[]):
            started = time.perf_counter()
            await host.connect(_peer_info(address))
            took.append(time.perf_counter() - started)
    return statistics.median(took) * 1e3


def _peer_info(address: str) -> Any:
    from libp2p.peer.peerinfo import info_from_p2p_addr
    from multiaddr import Multiaddr

    return info_from_p2p_addr(Multiaddr(address))


async def _read_exactly(stream: Any, size_bytes: int) -> None:
    while size_bytes:
        data = await stream.read(size_bytes)
        assert data, "the far end has gone"
        size_bytes -= len(data)


# --------------------------------------------------------------------------------------------------------- blocking TLS


def tls_far(_what: str) -> None:
    """Take what comes over TLS 1.3 on a blocking socket and say so after each batch."""
    from prime.transport.identity import KeyPair
    from prime.transport.tls import open_credentials

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    with open_credentials(KeyPair.generate()) as credentials:
        context.load_cert_chain(credentials.path, password=credentials.password)
    _leave_with_bench()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        answer(listener.getsockname()[1])
        with context.wrap_socket(listener.accept()[0], server_side=True) as stream:
            room, missing = memoryview(bytearray(len(MEBIBYTE))), BATCH_BYTES
            while size_bytes := stream.recv_into(room, min(missing, len(room))):
                missing -= size_bytes
                if not missing:
                    stream.sendall(b"\1")
                    missing = BATCH_BYTES


def tls_near(_what: str, address: str) -> None:
    """Be the near end: MB/s of writes of 1 MiB, one way, until the far end says that all came."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with context.wrap_socket(socket.create_connection(("127.0.0.1", int(address)))) as stream:
        answer("ready")
        for _ in sys.stdin:
            watch = Watch()
            while not watch.over:
                for _ in range(BATCH_BYTES // len(MEBIBYTE)):
                    stream.sendall(MEBIBYTE)
                assert stream.recv(1), "the far end has gone"
                watch.sent_bytes += BATCH_BYTES
            answer(watch.megabytes_a_second())


def _leave_with_bench() -> None:
    """End this process when its standard input does: a blocking accept would outlive the bench."""

    def wait() -> None:
        sys.stdin.read()
        os._exit(0)

    threading.Thread(target=wait, daemon=True).start()


# ----------------------------------------------------------------------------------------------------- a bare Trio echo


async def trio_far(_what: str) -> None:
    """Send back what comes over a bare socket."""

    async def echo(stream: trio.SocketStream) -> None:
        while data := await stream.receive_some(65536):
            await stream.send_all(data)

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, echo, 0)
        answer(listeners[0].socket.getsockname()[1])
        async for _ in questions():
            pass
        nursery.cancel_scope.cancel()


async def trio_near(_what: str, address: str) -> None:
    """Be the near end: small frames a second to and fro, one after the other."""
    stream = await trio.open_tcp_stream("127.0.0.1", int(address))

    async def turns() -> float:
        watch, frame, count = Watch(), bytes(ECHO_BYTES), 0
        while not watch.over:
            await stream.send_all(frame)
            missing = len(frame)
            while missing:
                missing -= len(await stream.receive_some(65536))
            count += 1
        return count / watch.took_s

    await _blocks(turns)


async def _blocks(block: Callable[[], Awaitable[float]]) -> None:
    answer("ready")
    async for _ in questions():
        answer(await block())


def main(side: str, peer: str, what: str, address: str = "") -> None:
    """Run one end until the bench is gone."""
    if peer == "tls":
        tls_far(what) if side == "far" else tls_near(what, address)
    elif side == "far":
        trio.run({"stock": stock_far, "trio": trio_far}[peer], what)
    else:
        trio.run({"stock": stock_near, "trio": trio_near}[peer], what, address)


if __name__ == "__main__":
    main(*sys.argv[1:])
