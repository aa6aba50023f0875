"""Hostile peers at real endpoints: each is bounded in what it makes a node hold and do, and the node serves the others.

What is decided by a core alone is tested there, and by the fuzz targets; `docs/explanation/hostile-peers.md` lists it all.
"""

from __future__ import annotations

import ctypes
import socket as os_socket
import struct
import sys
import time
import tracemalloc
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
import attrs
import pytest
import trio

import prime
from prime.errors import RemoteProtocolError
from prime.transport import frames as fr
from prime.transport.admission import AdmissionLimits
from prime.transport.contract import Channel
from prime.transport.identity import KeyPair
from prime.transport.tcp import Tcp
from prime.transport.tls import Credentials, TlsSession, open_credentials
from prime.transport.unix import Unix
from prime.wire import dumps
from prime.wire.frame import pack

HERE, FRIEND, FOE = (KeyPair.from_seed(bytes([n]) * 32) for n in (41, 42, 43))
LOCAL = "/ip4/127.0.0.1/tcp/0"
MIB = 1 << 20


@prime.message(tag=0x7D20)
class Double(prime.Ask[int]):
    number: int


class Doubler(prime.Actor[Double]):
    @prime.on(Double)
    def double(self, message: Double) -> int:
        return 2 * message.number


# ------------------------------------------------------------------------------------------------------------ the scene


@attrs.define
class Scene:
    """A node that is attacked, and one that is served by it all the while."""

    node: Any
    friend: Any
    transport: Any
    folder: Path

    async def serves(self) -> None:
        """Hold that an honest peer's ask is answered."""
        with trio.fail_after(10):
            assert await self.friend.ref(self.node.peer, "/s/doubler", Doubler).ask(Double(21), timeout=8) == 42

    def peers(self) -> set[str]:
        """Return who has a link with the node."""
        return set(self.node.network._up)

    async def loses_the_foe(self) -> None:
        """Wait until the node has no link with the attacker."""
        with trio.fail_after(5):
            while FOE.peer in self.peers():  # noqa: ASYNC110 (it watches what has no event)
                await trio.sleep(0.01)

    async def connect(self) -> trio.abc.Stream:
        """Connect as a stranger that has proved nothing."""
        address = self.node.addresses[0].split("/p2p/")[0]
        if address.startswith("/unix"):
            return await trio.open_unix_socket(address.removeprefix("/unix"))
        return await trio.open_tcp_stream("127.0.0.1", int(address.split("/")[4]))

    @asynccontextmanager
    async def proved(self) -> AsyncIterator[Channel]:
        """Connect as a peer that has proved who it is, and says what it likes from then on."""
        async with make(self.transport, self.folder, "foe").open(FOE) as endpoint:
            yield await endpoint.dial(self.node.addresses[0], HERE.peer)

    @asynccontextmanager
    async def linked(self) -> AsyncIterator[Channel]:
        """As `proved`, and with its HELLO said and answered."""
        async with self.proved() as channel:
            await channel.send(framed(fr.Hello(1, "foe", (), fr.Allowance(), (), 77, 5, 0)))
            assert await channel.receive()
            yield channel


def make(kind: str, folder: Path, name: str) -> Any:
    if kind == "unix":
        return Unix(folder / name, dial_timeout_s=1.0)
    if kind == "tcp":
        return Tcp(LOCAL, dial_timeout_s=1.0)
    from prime.transport.libp2p import Libp2p

    return Libp2p(LOCAL, dial_timeout_s=1.0)


@asynccontextmanager
async def attacked(kind: str, folder: Path) -> AsyncIterator[Scene]:
    folder.chmod(0o700)  # noqa: ASYNC240 - a test
    limits = AdmissionLimits(source_connects_per_s=1e6, peer_connects_per_s=1e6, source_proving_max=64)
    async with (
        prime.open_system(
            transport=make(kind, folder, "node"), key=HERE, admission=prime.Admission(limits=limits)
        ) as node,
        prime.open_system(transport=make(kind, folder, "friend"), key=FRIEND) as friend,
        node.supervisor("s") as supervisor,
    ):
        await supervisor.spawn(Doubler, "doubler")
        friend.learn(node.peer, node.addresses)
        scene = Scene(node, friend, kind, folder)
        await scene.serves()
        yield scene
        await scene.serves()


@contextmanager
def within(bytes_max: int, seconds_max: float) -> Iterator[None]:
    """Hold what runs inside to a peak of memory and a time, of both sides together."""
    started = time.monotonic()
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < bytes_max, f"{peak / MIB:.1f} MiB"
    assert time.monotonic() - started < seconds_max


def framed(frame: fr.Frame) -> bytes:
    return raw_frame(dumps(frame.plain()))


def raw_frame(header: bytes) -> bytes:
    return b"".join(pack(header))


async def drain(channel: Any) -> None:
    """Read until the other side ends it."""
    read = getattr(channel, "receive", None) or channel.receive_some
    with suppress(anyio.EndOfStream, anyio.BrokenResourceError, trio.BrokenResourceError), trio.fail_after(10):
        while await read():
            pass


EVERY = pytest.mark.parametrize("kind", ["tcp", "libp2p", "unix"])
FEW = pytest.mark.parametrize(
    "kind", ["tcp", pytest.param("libp2p", marks=pytest.mark.nightly), pytest.param("unix", marks=pytest.mark.nightly)]
)
STEPS = pytest.mark.parametrize("step", [pytest.param(1, marks=pytest.mark.nightly), 5], ids=["each", "each fifth"])
MUXED_OR_NOT = pytest.mark.parametrize("kind", ["tcp", "libp2p"])


# -------------------------------------------------------------------------------------------------- before it is proved


def first_flight(kind: str, credentials: Credentials) -> bytes:
    """What an honest caller says first."""
    if kind == "unix":
        return b"/prime/unix/1\n" + FOE.public_bytes + bytes(32)
    session = TlsSession(credentials, server_side=False)
    session.handshake()
    hello = session.output()
    return hello if kind == "tcp" else b"\x13/multistream/1.0.0\n\x0b/tls/1.0.0\n" + hello


@EVERY
@STEPS
async def test_a_handshake_that_is_cut_at_every_byte(kind: str, step: int, tmp_path: Path) -> None:
    async with attacked(kind, tmp_path) as scene:
        with open_credentials(FOE) as credentials:
            flight = first_flight(kind, credentials)
        with within(40 * MIB, 30):
            for end in range(0, len(flight), step):
                async with await scene.connect() as stream:
                    await stream.send_all(flight[:end] or b"\0")
        await scene.serves()


@EVERY
@STEPS
async def test_a_handshake_with_a_bit_flipped_in_every_byte(kind: str, step: int, tmp_path: Path) -> None:
    async with attacked(kind, tmp_path) as scene:
        with open_credentials(FOE) as credentials:
            flight = first_flight(kind, credentials)
        with within(40 * MIB, 30):
            for place in range(0, len(flight), step):
                changed = bytearray(flight)
                changed[place] ^= 1 << place % 8
                async with await scene.connect() as stream:
                    with suppress(trio.BrokenResourceError):
                        await stream.send_all(changed)


@EVERY
async def test_bytes_that_drop_in_end_at_the_deadline(kind: str, tmp_path: Path) -> None:
    """Slow loris: many strangers, each with a byte now and then."""
    async with attacked(kind, tmp_path) as scene, trio.open_nursery() as nursery:
        with open_credentials(FOE) as credentials:
            flight = first_flight(kind, credentials)

        async def drop() -> None:
            async with await scene.connect() as stream:
                with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                    for place in range(len(flight)):
                        await stream.send_all(flight[place : place + 1])
                        await trio.sleep(0.2)
                    raise AssertionError("it was let talk for as long as it liked")

        for _ in range(20):
            nursery.start_soon(drop)
        await scene.serves()


@MUXED_OR_NOT
async def test_a_handshake_that_was_recorded_proves_nobody(kind: str, tmp_path: Path) -> None:
    """Replay: all that a peer once said, said again."""
    said: list[bytes] = []
    async with attacked(kind, tmp_path) as scene:
        feed = TlsSession.feed

        def listening(session: TlsSession, data: bytes) -> None:
            if session._tls.server_side:
                said.append(data)
            feed(session, data)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(TlsSession, "feed", listening)
            async with scene.linked():
                pass
        known = scene.peers()
        async with await scene.connect() as stream:
            if kind == "libp2p":
                await stream.send_all(b"\x13/multistream/1.0.0\n\x0b/tls/1.0.0\n")
            for data in said:
                with suppress(trio.BrokenResourceError):
                    await stream.send_all(data)
            await drain(stream)
        assert said
        assert scene.peers() <= known


# --------------------------------------------------------------------------------------------------------------- TLS


def libssl() -> Any:
    """Return OpenSSL as this Python has loaded it; `ssl` has no call that asks for new keys."""
    if sys.implementation.name != "cpython" or not sys.platform.startswith("linux"):
        pytest.skip("finds OpenSSL in the process as CPython on Linux has it")
    maps = Path("/proc/self/maps").read_text(encoding="utf-8")
    paths = {line.split()[-1] for line in maps.splitlines() if "libssl" in line}
    if not paths:
        pytest.skip("this Python has OpenSSL linked into itself")
    library = ctypes.CDLL(paths.pop())
    library.SSL_key_update.argtypes = [ctypes.c_void_p, ctypes.c_int]
    return library


def update_keys(library: Any, session: TlsSession, *, requested: bool) -> bytes:
    """Return the bytes of a KeyUpdate (RFC 8446 section 4.6.3) from a session."""
    handle = id(session._tls._sslobj) + 24  # `PySSLSocket.ssl`, behind the head of the object and its socket
    assert library.SSL_key_update(ctypes.c_void_p.from_address(handle).value, int(requested)) == 1
    session._tls.do_handshake()
    return session.output()


def sessions(here: Credentials, there: Credentials) -> tuple[TlsSession, TlsSession]:
    client, server = TlsSession(here, server_side=False), TlsSession(there, server_side=True)
    while not client.handshake():
        server.feed(client.output())
        server.handshake()
        client.feed(server.output())
    server.feed(client.output())
    assert server.handshake()
    return client, server


@pytest.mark.parametrize("requested", [True, False])
def test_a_flood_of_key_updates_ends_the_connection(requested: bool) -> None:
    library = libssl()
    with open_credentials(FOE) as here, open_credentials(HERE) as there:
        client, server = sessions(here, there)
    most = 0
    with pytest.raises(RemoteProtocolError, match="too many messages of TLS itself"):
        for _ in range(5000):
            server.feed(update_keys(library, client, requested=requested))
            assert server.decrypt(100) is None
            most = max(most, server._outgoing.pending)
    assert most <= 8192
    with pytest.raises(RemoteProtocolError):
        server.decrypt(100)


def test_a_little_data_does_not_excuse_a_flood_of_key_updates() -> None:
    library = libssl()
    with open_credentials(FOE) as here, open_credentials(HERE) as there:
        client, server = sessions(here, there)
    flood = b"".join(update_keys(library, client, requested=False) for _ in range(2000))
    server.feed(flood + client.encrypt(b"data"))
    assert server.decrypt(100) == b"data"
    flood = b"".join(update_keys(library, client, requested=False) for _ in range(2000))
    server.feed(flood + client.encrypt(b"data"))
    server.decrypt(100)
    with pytest.raises(RemoteProtocolError, match="too many messages of TLS itself"):
        server.decrypt(100)


def test_little_read_of_much_that_is_there_is_no_flood() -> None:
    with open_credentials(FOE) as here, open_credentials(HERE) as there:
        client, server = sessions(here, there)
    for _ in range(10):
        server.feed(client.encrypt(bytes(1 << 20)))
        size = len(server.decrypt(12) or b"")
        while data := server.decrypt(1 << 18):
            size += len(data)
        assert size == 1 << 20


def test_key_updates_between_data_are_no_flood() -> None:
    library = libssl()
    with open_credentials(FOE) as here, open_credentials(HERE) as there:
        client, server = sessions(here, there)
    for _ in range(3000):
        server.feed(update_keys(library, client, requested=False) + client.encrypt(b"data"))
        assert server.decrypt(100) == b"data"
    for _ in range(300):
        server.feed(update_keys(library, client, requested=True))
        assert server.decrypt(100) is None
        client.feed(server.encrypt(b"answer"))
        assert client.decrypt(100) == b"answer"


@MUXED_OR_NOT
async def test_a_linked_peer_that_asks_for_new_keys_for_ever(kind: str, tmp_path: Path) -> None:
    library = libssl()
    async with attacked(kind, tmp_path) as scene, scene.linked() as channel:
        wire: Any = channel if kind == "tcp" else channel.connection._conduit
        session = wire._session
        flood = b"".join(update_keys(library, session, requested=True) for _ in range(20_000))
        with within(20 * MIB, 20), suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
            await (wire._wire if kind == "tcp" else wire._carriage).send_all(flood)
            await drain(channel)
        await scene.loses_the_foe()


def too_long_a_chain(credentials: Credentials, certificates: int) -> bytes:
    """Return a PEM file's text with the certificate many times."""
    text = credentials.path.read_bytes()
    at = text.index(b"-----BEGIN CERTIFICATE-----")
    return text + text[at:] * (certificates - 1)


@pytest.mark.parametrize("certificates", [2, 60, 250], ids=["two", "28 KB", "115 KB"])
async def test_a_chain_of_certificates_is_refused(certificates: int, tmp_path: Path) -> None:
    """A certificate bomb: nobody's chain is looked at, and none of over 100 KB is read."""
    async with attacked("tcp", tmp_path) as scene:
        with open_credentials(FOE) as credentials:
            credentials.path.write_bytes(too_long_a_chain(credentials, certificates))
            session = TlsSession(credentials, server_side=False)
            with within(30 * MIB, 10):
                async with await scene.connect() as stream:
                    with suppress(RemoteProtocolError, trio.BrokenResourceError):
                        while not session.handshake():
                            await stream.send_all(session.output())
                            session.feed(await stream.receive_some())
                        await stream.send_all(session.output())
                    await drain(stream)
        assert FOE.peer not in scene.peers()


# ------------------------------------------------------------------------------------------------ once it has a link

HEADERS = {
    "nested 100,000 deep": b"\x81" * 100_000 + b"\x00",
    "maps nested 100,000 deep": b"\xa1\x60" * 100_000 + b"\x00",
    "an array longer than memory": b"\x9b" + b"\xff" * 8,
    "a text longer than memory": b"\x7b\x7f" + b"\xff" * 7,
    "a million empty arrays": b"\x9a\x00\x0f\x42\x00" + b"\x80" * 0xF4200,
    "colliding keys": b"\xba\x00\x01\x00\x00"
    + b"".join(b"\x1b" + struct.pack(">Q", i << 42) + b"\x00" for i in range(2**16)),
    "a cyclic array": b"\xd8\x1c\x81\xd8\x1d\x00",
    "string references": b"\xd9\x01\x00\x82\x63abc\xd8\x19\x00",
    "bytes that trail": dumps(fr.Ping().plain()) + b"\x00",
    "a kind that is none": dumps([99, 1]),
    "no array": dumps({"kind": 2}),
}


@FEW
@pytest.mark.parametrize("name", HEADERS)
async def test_a_header_that_is_none_ends_its_link(kind: str, name: str, tmp_path: Path) -> None:
    async with attacked(kind, tmp_path) as scene, scene.linked() as channel:
        with within(30 * MIB, 5):
            with suppress(anyio.BrokenResourceError):
                await channel.send(raw_frame(HEADERS[name]))
            await drain(channel)
        await scene.loses_the_foe()


PREFIXES = {
    "a header of 4 GiB": struct.pack(">IH", 2**32 - 1, 0),
    "a payload of 4 GiB": struct.pack(">IHI", 10, 1, 2**32 - 1),
    "65,535 payloads": struct.pack(">IH", 10, 65_535),
    "no header": struct.pack(">IH", 0, 0),
}


@FEW
@pytest.mark.parametrize("name", PREFIXES)
async def test_a_prefix_that_lies_ends_its_link(kind: str, name: str, tmp_path: Path) -> None:
    async with attacked(kind, tmp_path) as scene, scene.linked() as channel:
        with within(30 * MIB, 5):
            with suppress(anyio.BrokenResourceError):
                await channel.send(PREFIXES[name])
            await drain(channel)
        await scene.loses_the_foe()


@EVERY
@STEPS
async def test_a_frame_that_is_cut_at_every_byte(kind: str, step: int, tmp_path: Path) -> None:
    whole = framed(fr.Ask("/s/doubler", 1, [0x7D20, 4], 1, 1000))
    async with attacked(kind, tmp_path) as scene:
        with within(60 * MIB, 60):
            for end in range(1, len(whole), step):
                async with scene.linked() as channel:
                    await channel.send(whole[:end])
                    await channel.aclose()


@MUXED_OR_NOT
async def test_a_connection_that_is_reset_in_the_middle_of_a_frame(kind: str, tmp_path: Path) -> None:
    async with attacked(kind, tmp_path) as scene, scene.linked() as channel:
        await channel.send(struct.pack(">IH", 1000, 0) + b"half")
        carriage: Any = channel._wire if kind == "tcp" else channel.connection._conduit._carriage
        linger = struct.pack("ii", 1, 0)
        carriage.socket.setsockopt(os_socket.SOL_SOCKET, os_socket.SO_LINGER, linger)
        carriage.close()
        await scene.loses_the_foe()


@EVERY
async def test_a_flood_of_pings_that_reads_no_answer(kind: str, tmp_path: Path) -> None:
    async with attacked(kind, tmp_path) as scene, scene.linked() as channel:
        flood = framed(fr.Ping()) * 50_000
        with within(30 * MIB, 20), suppress(anyio.BrokenResourceError):
            for _ in range(4):
                with trio.move_on_after(1):
                    await channel.send(flood)
        await scene.serves()


# --------------------------------------------------------------------------------------------------------------- yamux

DATA, WINDOW, PING, GO_AWAY = range(4)
SYN, RST = 1, 8


def yamux(kind: int, flags: int, stream: int, length: int) -> bytes:
    return struct.pack(">BBHII", 0, kind, flags, stream, length)


FLOODS = {
    "pings": yamux(PING, SYN, 0, 1) * 60_000,
    "window updates": yamux(WINDOW, 0, 1, 0) * 60_000,
    "windows that overflow": yamux(WINDOW, 0, 1, 2**31) * 3,
    "streams": b"".join(yamux(WINDOW, SYN, 2 * n + 1001, 0) for n in range(30_000)),
    "streams that end at once": b"".join(
        yamux(WINDOW, SYN, 2 * n + 1001, 0) + yamux(WINDOW, RST, 2 * n + 1001, 0) for n in range(30_000)
    ),
    "goodbyes": yamux(GO_AWAY, 0, 0, 0) * 60_000,
    "empty data": yamux(DATA, 0, 1, 0) * 60_000,
    "data of no stream": yamux(DATA, 0, 999, 5),
    "data over the window": yamux(DATA, 0, 1, 2**31),
}


@pytest.mark.parametrize("name", FLOODS)
async def test_a_flood_of_yamux_frames(name: str, tmp_path: Path) -> None:
    """The attacker reads nothing: whatever the node answers, it may not keep much of it."""
    async with attacked("libp2p", tmp_path) as scene, scene.linked() as channel:
        conduit: Any = channel.connection._conduit
        flood = FLOODS[name]

        async def deaf(_size: int) -> bytes:
            await trio.sleep_forever()
            raise AssertionError

        with (
            within(40 * MIB, 20),
            suppress(anyio.BrokenResourceError, anyio.ClosedResourceError),
            pytest.MonkeyPatch.context() as patch,
        ):
            patch.setattr(conduit, "receive", deaf)
            for start in range(0, len(flood), 60_000):
                channel.connection._emit(conduit.seal(flood[start : start + 60_000]))
            with trio.move_on_after(5):
                while channel.connection._waiting:  # noqa: ASYNC110 (it watches what has no event)
                    await trio.sleep(0.01)
            await scene.serves()
        endpoint = scene.node.network._endpoint
        assert sum(connection.streams for connection in endpoint.connections) < 300
