"""Hostile bytes for what reads them before, or beside, a link: yamux, multistream, TLS, addresses, relays, circuits."""

from __future__ import annotations

import contextlib
import functools
import math
import struct
import warnings
from collections import defaultdict
from collections.abc import Coroutine
from typing import Any

import anyio
import trio
from cryptography.hazmat.primitives.serialization import Encoding

from prime.errors import ConfigError, DecodeError, RefusedError, RemoteProtocolError
from prime.transport import multistream
from prime.transport.identity import KeyPair
from prime.transport.multiaddr import parse_address
from prime.transport.relay import preface
from prime.transport.relay.circuit import CONTROL_BYTES_MAX, CircuitChannel
from prime.transport.tls import (
    Credentials,
    TlsSession,
    _single_certificate,
    make_certificate,
    open_credentials,
    peer_of_certificate,
)
from prime.transport.yamux import (
    HEADER_BYTES,
    Arrived,
    Broken,
    Ended,
    Granted,
    Opened,
    Session,
    Silent,
    WentAway,
    YamuxLimits,
)
from tests.fuzz.target import Script, Target, chunks

KEY, OTHER = (KeyPair.from_seed(bytes([n]) * 32) for n in (1, 2))

# -------------------------------------------------------------------------------------------------------------- yamux

LIMITS = YamuxLimits(streams_max=5, window_bytes_max=1 << 20, memory_bytes_max=2 << 20, silence_s=3, linger_s=2)


class Muxed:
    """A session, its own model of what it may say, and what this side does between the peer's bytes."""

    def __init__(self, *, dialled: bool) -> None:
        self.now = 0.0
        self.session = Session(dialled=dialled, now=0.0, limits=LIMITS)
        self.unread: dict[int, int] = defaultdict(int)
        self.over: set[int] = set()
        self.opened: set[int] = set()
        assert len(self.session.output()) == HEADER_BYTES

    def hear(self, data: bytes) -> None:
        """Take bytes of the peer's: what comes of them is in proportion to them."""
        try:
            events = self.session.receive(data, self.now)
        finally:
            said = len(self.session.output())
            assert said <= len(data) + 2 * HEADER_BYTES, "each frame is answered by one at most"
        assert len(events) <= 2 * (len(data) // HEADER_BYTES) + 3
        self.note(events)

    def note(self, events: list[Any]) -> None:
        for event in events:
            assert not isinstance(event, WentAway | Silent) or self.session
            if isinstance(event, Opened):
                assert event.stream not in self.opened
                self.opened.add(event.stream)
            elif isinstance(event, Arrived):
                assert event.data
                assert event.stream in self.opened - self.over
                self.unread[event.stream] += len(event.data)
            elif isinstance(event, Ended | Granted):
                assert event.stream in self.opened - self.over
            elif isinstance(event, Broken):
                assert event.stream in self.opened - self.over
                self.over.add(event.stream)
                if not event.whole:
                    self.unread.pop(event.stream, None)
        assert self.session.streams <= 2 * LIMITS.streams_max
        assert sum(self.unread.values()) <= self.session.memory_bytes + LIMITS.window_bytes_max
        assert 0 <= self.session.memory_bytes <= LIMITS.memory_bytes_max
        assert self.session.due < math.inf

    def act(self, what: int) -> None:
        """Do what a user of the session may do at any time."""
        stream = 1 + what // 8 % 6
        match what % 8:
            case 0:
                with contextlib.suppress(RefusedError):
                    self.opened.add(self.session.open())
            case 1:
                self.session.take(stream, self.unread.pop(stream, 0), self.now)
            case 2:
                self.session.end(stream)
            case 3:
                self.session.close(stream, self.now, drop=bool(what & 128))
                if what & 128:
                    self.unread.pop(stream, None)
            case 4:
                self.session.reset(stream)
                self.unread.pop(stream, None)
            case 5:
                room = min(self.session.room(stream), 1 << 16)
                assert not room or len(self.session.send(stream, room)) == HEADER_BYTES
            case 6:
                self.now += 1
                self.note(self.session.tick(self.now))
            case 7:
                self.session.go_away()
        assert len(self.session.output()) <= 12 * HEADER_BYTES


def yamux(data: bytes) -> None:
    """Whatever a peer sends, a session stays within its limits and answers no more than it hears."""
    script = Script(data)
    side = Muxed(dialled=bool(script.byte() & 1))
    acts = script.take(script.byte() % 32)
    cuts = script.take(script.byte() % 4)
    for number, piece in enumerate(chunks(script.rest(), cuts)):
        side.hear(piece)
        if acts:
            side.act(acts[number % len(acts)])


def _yamux_frame(kind: int, flags: int, stream: int, length: int, body: bytes = b"") -> bytes:
    return struct.pack(">BBHII", 0, kind, flags, stream, length) + body


def _yamux_seeds() -> tuple[bytes, ...]:
    frames = [
        _yamux_frame(1, 1, 1, 0),
        _yamux_frame(0, 1, 3, 5, b"hello"),
        _yamux_frame(0, 0, 1, 20, bytes(20)),
        _yamux_frame(2, 1, 0, 9),
        _yamux_frame(1, 0, 1, 2**20),
        _yamux_frame(0, 4, 3, 0),
        _yamux_frame(1, 8, 1, 0),
        _yamux_frame(3, 0, 0, 0),
        _yamux_frame(0, 1, 5, 2**32 - 1, bytes(9)),
    ]
    talk = b"".join(frames)
    acts = bytes([1, 8, 0, 9, 2, 3, 11, 131, 5, 13, 4, 6, 6, 7])
    heads = (b"\x00\x00\x00", b"\x01\x00\x00", bytes([0, len(acts)]) + acts + b"\x01\x0c", b"\x00\x00\x03\x01\x02\x0d")
    return tuple(head + talk for head in heads)


# -------------------------------------------------------------------------------------------------------- multistream


class _OverError(Exception):
    """There are no more bytes."""


def _finish(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run what never has to wait."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value
    raise AssertionError("it waits for something")


def multiselect(data: bytes) -> None:
    """Both sides agree on what they were given or refuse, and read not a byte of what comes after."""
    said = 0
    script = Script(data)
    asks, most = script.byte() & 1, script.byte()

    async def send(item: bytes) -> None:
        nonlocal said
        said += len(item)

    async def receive(size: int) -> bytes:
        assert 0 < size <= multistream.LINE_BYTES_MAX
        piece = script.take(min(size, most or size))
        if not piece:
            raise _OverError
        return piece

    protocols = ("/yamux/1.0.0", "/prime/1")
    talk = multistream.propose if asks else multistream.answer
    try:
        assert _finish(talk(send, receive, protocols)) in protocols
    finally:
        assert said <= 2048


def _multistream_seeds() -> tuple[bytes, ...]:
    lines = [multistream.line(text) for text in ("/multistream/1.0.0", "ls", "na", "/prime/1")]
    return tuple(head + b"".join(lines) for head in (b"\x00\x00", b"\x00\x01", b"\x01\x00"))


# ---------------------------------------------------------------------------------------------------------------- TLS


@functools.cache
def _credentials() -> tuple[Credentials, Credentials]:
    held = contextlib.ExitStack()  # until the process ends: `TemporaryDirectory` then takes the files away
    mine, theirs = (held.enter_context(open_credentials(key)) for key in (KEY, OTHER))
    _HELD.append(held)
    return mine, theirs


_HELD: list[contextlib.ExitStack] = []


def tls(data: bytes) -> None:
    """Two sides shake hands over a line that changes bytes: they come to know each other, or refuse; then they talk."""
    script = Script(data)
    mine, theirs = _credentials()
    sides = [TlsSession(mine, server_side=False), TlsSession(theirs, server_side=True)]
    peers = [OTHER.peer, KEY.peer]
    done = [False, False]
    for _ in range(6):
        for here in (0, 1):
            if not done[here]:
                done[here] = sides[here].handshake()
                assert not done[here] or sides[here].peer == peers[here]
            sides[1 - here].feed(_changed(sides[here].output(), script) or b"\0")
    for here in (0, 1):
        if done[here] and done[1 - here]:
            sealed = _changed(sides[here].encrypt(b"a message"), script)
            sides[1 - here].feed(sealed or b"\0")
            assert sides[1 - here].decrypt(100) in {None, b"a message", b""}


def _changed(data: bytes, script: Script) -> bytes:
    """Change, cut, double or lengthen bytes as the script says."""
    what, at, change = script.byte(), script.byte() | script.byte() << 8, script.byte()
    if not data or not what:
        return data
    at %= len(data)
    match what % 4:
        case 0:
            return data[:at] + data[at + 1 :]
        case 1:
            return data[:at] + bytes([data[at] ^ (change or 1)]) + data[at + 1 :]
        case 2:
            return data[:at] + script.take(change) + data[at:]
        case _:
            return data[:at] + data[at:] * 2


def tls_raw(data: bytes) -> None:
    """Any bytes instead of a handshake, in pieces, at both sides."""
    for server_side in (True, False):
        session = TlsSession(_credentials()[0], server_side=server_side)
        with contextlib.suppress(RemoteProtocolError):
            for piece in chunks(data[1:], data[:1]):
                assert not session.handshake()
                session.feed(piece)
        assert len(session.output()) <= 4096


@functools.cache
def _flight() -> bytes:
    session = TlsSession(_credentials()[0], server_side=False)
    session.handshake()
    return session.output()


def certificate(data: bytes) -> None:
    """A certificate proves the peer that made it or is refused, by itself and as a message of TLS."""
    with contextlib.suppress(RemoteProtocolError):
        assert peer_of_certificate(data) == KEY.peer
    assert _single_certificate(data)


@functools.cache
def _certificate_seeds() -> tuple[bytes, ...]:
    der = make_certificate(KEY)[0].public_bytes(Encoding.DER)
    entry = len(der).to_bytes(3, "big") + der + b"\0\0"
    body = b"\0" + len(entry).to_bytes(3, "big") + entry
    return der, b"\x0b" + len(body).to_bytes(3, "big") + body


# ---------------------------------------------------------------------------------------------------------- addresses


def address(data: bytes) -> None:
    """A text is an address that is written the same way again, or refused."""
    text = data.decode(errors="replace")
    found = parse_address(text)
    assert parse_address(str(found)) == found


_ADDRESSES = (
    "/ip4/192.0.2.1/tcp/4001",
    f"/ip6/2001:db8::1/tcp/0/p2p/{KEY.peer}",
    "/dns4/example.org/tcp/65535",
    "/unix/run/node.sock",
    "/memory/alice",
    "/ip4/127.0.0.1/udp/443/quic-v1",
    f"/ip4/127.0.0.1/tcp/443/tls/ws/p2p/{KEY.peer}/p2p-circuit/p2p/{OTHER.peer}",
)

# -------------------------------------------------------------------------------------------------------------- relays


def relay_preface(data: bytes) -> None:
    """A request to a relay and its answer are what would be written, or refused."""
    with contextlib.suppress(DecodeError):
        assert 0 < preface.size_of(data[:2]) <= preface.MESSAGE_BYTES_MAX
    with contextlib.suppress(DecodeError, RemoteProtocolError):
        request = preface.read_request(data)
        assert preface.read_request(preface.pack_request(request)[1 + preface.SIZE_BYTES :]) == request
    answered = preface.read_answer(data)
    assert preface.read_answer(preface.pack_answer(answered)[preface.SIZE_BYTES :]) == answered


def _preface_seeds() -> tuple[bytes, ...]:
    requests = (preface.Connect(OTHER.peer), preface.TakeUp(2**40, bytes(preface.TOKEN_BYTES)))
    answers = (preface.Answer(), preface.Answer(3, "no room", "/ip4/192.0.2.1/tcp/1"))
    return (
        *(preface.pack_request(each)[3:] for each in requests),
        *(preface.pack_answer(each)[2:] for each in answers),
    )


class _Opened:
    """Stands for the TLS of a circuit: what is decrypted next is what is given."""

    peer = OTHER.peer

    def __init__(self, parts: list[bytes]) -> None:
        self._parts = parts

    def feed(self, _data: bytes) -> None:
        """Nothing comes from below."""

    def decrypt(self, _size_max: int) -> bytes | None:
        return self._parts.pop(0) if self._parts else b""


def circuit(data: bytes) -> None:
    """The records of a circuit give what is in them, or break it; control messages are bounded."""
    script = Script(data)
    most = script.byte() + 1
    parts = list(chunks(script.rest(), [script.byte()]))
    way: Any = None
    session: Any = _Opened(parts)
    channel = CircuitChannel(way, session, set())
    heard: list[bytes] = []
    channel.on_control = heard.append
    given = 0

    async def read() -> None:
        nonlocal given
        while True:
            given += len(await channel.receive(most))

    try:
        with warnings.catch_warnings():
            trio.run(read)
    finally:
        assert given + sum(4 + len(message) for message in heard) <= len(data)
        assert all(len(message) <= CONTROL_BYTES_MAX for message in heard)
        assert len(channel._plain) <= len(data)


CIRCUIT_SEEDS = tuple(
    head + b"\x00\x00\x00\x05hello" + b"\x01\x00\x00\x03ctl" + b"\x00\x00\x00\x01x"
    for head in (b"\x09\x00", b"\x00\x01")
)

TARGETS = (
    Target("yamux", yamux, (RemoteProtocolError,), _yamux_seeds()),
    Target("multistream", multiselect, (RemoteProtocolError, _OverError), _multistream_seeds()),
    Target(
        "tls", tls, (RemoteProtocolError,), (bytes(8), b"\x01\x20\x00\x01", bytes(8) + b"\x01\x60\x00\x01"), dear=True
    ),
    Target("tls_raw", tls_raw, (RemoteProtocolError,), (b"\x00" + _flight(), b"\x07" + _flight()), dear=True),
    Target("certificate", certificate, (RemoteProtocolError,), _certificate_seeds()),
    Target("address", address, (ConfigError,), tuple(text.encode() for text in _ADDRESSES)),
    Target("relay_preface", relay_preface, (DecodeError,), _preface_seeds()),
    Target("circuit", circuit, (anyio.EndOfStream, anyio.BrokenResourceError), CIRCUIT_SEEDS, dear=True),
)
