"""Hostile bytes for the room `wire`: frames, CBOR, messages, signed bodies."""

from __future__ import annotations

import functools
import struct
from typing import Any

import cbor2

from prime.errors import DecodeError
from prime.transport import frames as fr
from prime.transport import signing
from prime.wire import Limits, dumps, from_plain, loads, message, open_signed, tag_of, to_plain
from prime.wire.cbor import encodes_to, peek
from prime.wire.cddl import room_messages
from prime.wire.frame import Frame, FrameParser
from prime.wire.message import encode_body, is_signed, read_body
from tests.fuzz.target import Script, Target, chunks, golden, vectors

assert signing, "importing it registers the scheme that signatures are verified with"

SMALL = Limits(
    header_size_bytes_max=600, payload_size_bytes_max=400, payload_count_max=5, frame_size_bytes_max=1200, items_max=100
)


@message(tag=0x7D10, signed=True)
class Vouched:
    """A signed message for these targets alone."""

    text: str
    number: int


@message(tag=0x7D16)
class Plainly:
    """A message of a flat class for these targets alone."""

    number: int
    text: str
    data: bytes
    weight: float
    flag: bool | None


# ------------------------------------------------------------------------------------------------------------- frames


def _frames(data: bytes, sizes: list[int], *, roomy: bool) -> tuple[list[tuple[bytes, list[bytes]]], bool]:
    """Parse in pieces; return the frames, and whether the parser gave up."""
    opened: list[list[bytearray]] = []

    def rooms(_header: bytes, sizes: tuple[int, ...]) -> list[memoryview] | None:
        if not roomy:
            return None
        opened.append([bytearray(b"x" * (size + 1)) for size in sizes])
        return [memoryview(room)[1:] for room in opened[-1]]

    parser, found = FrameParser(SMALL, rooms if roomy else None), []
    try:
        for piece in chunks(data, sizes):
            parser.feed(piece)
            assert parser.needed_bytes >= 0
            while (frame := parser.next()) is not None:
                found.append(_parts(frame, opened))
    except DecodeError:
        parser.feed(data)  # it drops what comes after
        return found, True
    return found, False


def _parts(frame: Frame, opened: list[list[bytearray]]) -> tuple[bytes, list[bytes]]:
    assert frame.size_bytes <= SMALL.frame_size_bytes_max
    if frame.placed:
        rooms = opened.pop(0)
        assert [len(room) - 1 for room in rooms] == list(frame.placed)
        return frame.header, [bytes(room[1:]) for room in rooms]
    return frame.header, [bytes(payload) for payload in frame.payloads]


def frames(data: bytes) -> None:
    """The same bytes are the same frames, however they are cut, and wherever their payloads are put."""
    sizes, stream = list(data[:3]), data[3:]
    whole = _frames(stream, [0], roomy=False)
    assert _frames(stream, sizes, roomy=False) == whole
    assert _frames(stream, sizes, roomy=True) == whole


# --------------------------------------------------------------------------------------------------------------- CBOR


def cbor(data: bytes) -> None:
    """What decodes is what would have been encoded; the short way agrees with the long one."""
    quick = peek(data)
    try:
        plain = loads(data)
    except DecodeError:
        assert quick is None or len(data) > 2**16 or not encodes_to(quick, data, closed=False)
        raise
    assert dumps(plain) == data
    assert plain is None or encodes_to(quick, data, closed=False)


# ----------------------------------------------------------------------------------------------------------- messages


@functools.cache
def _classes() -> tuple[type, ...]:
    return tuple(cls for cls in room_messages() if not is_signed(cls))


def messages(data: bytes) -> None:
    """Any plain value is an instance of the class of its tag or refused; what was taken can be sent on."""
    script = Script(data)
    cls = _classes()[script.byte() % len(_classes())]
    payloads = [memoryview(script.take(script.byte() % 32)) for _ in range(script.byte() % 4)]
    body = [tag_of(cls), *(_plain(script, 4) for _ in range(script.byte() % 12))]
    _taken(body, payloads)


def _plain(script: Script, depth: int) -> Any:
    """Build a plain value: what a decoder gives is drawn from numbers, so that a search finds its shape quickly."""
    kind = script.byte() % (12 if depth else 9)
    if kind < len(_LEAVES):
        return _LEAVES[kind]
    if kind == 5:
        return script.number() - 1
    if kind == 6:
        return struct.unpack(">d", script.take(8).ljust(8, b"\0"))[0]
    if kind == 7:
        return script.take(script.byte() % 64)
    if kind == 8:
        return script.take(script.byte() % 64).decode(errors="replace")
    items = [_plain(script, depth - 1) for _ in range(script.byte() % 6)]
    return items if kind < 11 else {str(number): item for number, item in enumerate(items)}


_LEAVES = (None, True, False, "", 0)


def _taken(body: Any, payloads: list[memoryview]) -> None:
    try:
        taken = from_plain(body, payloads)
    except DecodeError:
        return
    sent: list[memoryview] = []
    again = to_plain(taken, sent)
    resent: list[memoryview] = []
    assert dumps(to_plain(from_plain(loads(dumps(again)), sent), resent)) == dumps(again)
    assert [bytes(each) for each in resent] == [bytes(each) for each in sent]


def _message_seeds() -> tuple[bytes, ...]:
    fields = bytes([5, *(8, 1, 97), *(5, 9), *(7, 1, 98), 0, *(9, 2, 5, 1, 5, 2)])
    return tuple(bytes([number, 1, 2, 1, 2]) + fields for number in range(len(_classes())))


def flat(data: bytes) -> None:
    """What is read head by head is what the long way reads."""
    read = read_body(data)
    if read is None:
        from_plain(loads(data))
        return
    assert repr(from_plain(loads(data[: read[1]]))) == repr(read[0])  # by text: NaN equals nothing
    assert encode_body(type(read[0]), to_plain(read[0], [])) == data[: read[1]]


def _flat_seeds() -> tuple[bytes, ...]:
    values = Plainly(1, "text", b"bytes", 0.1, None), Plainly(-(2**40), "x" * 300, bytes(40), 0.5, flag=True)
    return tuple(encode_body(Plainly, to_plain(value, [])) for value in values)


# ------------------------------------------------------------------------------------------------------ signed bodies


def signed(data: bytes) -> None:
    """Bytes are a message that its signer signed, byte for byte, or refused."""
    opened = open_signed(data, Vouched)
    assert any(data == seed for seed in _signed_seeds()), opened  # who has no key makes no signature


@functools.cache
def _signed_seeds() -> tuple[bytes, ...]:
    from prime.transport.identity import KeyPair
    from prime.wire.message import sign, signed_bytes

    class Signatory:
        scheme, key = 1, KeyPair.from_seed(bytes(range(32)))
        signer = key.peer

        def stamp(self) -> tuple[int, int]:
            return 7, 1_700_000_000_000

        def sign(self, data: bytes) -> bytes:
            return self.key.sign(data)

    return tuple(signed_bytes(sign(Vouched(text, number), Signatory())) for text, number in (("", 0), ("text", 2**40)))


# --------------------------------------------------------------------------------------------- the frames of a link


def link_frames(data: bytes) -> None:
    """A header is a frame or refused, and every short way reads what the long one reads."""
    like = fr.Hello(1, "0.1.0", ("reliable",), fr.Allowance(), (), 2**62, 2**62 + 1, 7)
    quick = fr.read_hello(data, like)
    if quick is not None:
        assert fr.Hello.read(loads(data)) == quick
    if number := fr.read_piece(data):
        assert fr.read_frame(loads(data)) == fr.Piece(number)
    value, end = fr.read_uint(data, 0)
    if value >= 0:
        assert fr.uint(value) == data[:end]
    end = fr.path_end(data)
    assert end == 0 or end > 3
    frame = fr.read_frame(loads(data))
    sent = dumps(frame.plain())  # bytes are compared: a body may hold a NaN, which equals nothing
    assert dumps(fr.read_frame(loads(sent)).plain()) == sent
    if isinstance(frame, fr.Bulk):
        fr.read_frame(loads(frame.header))


def _headers() -> tuple[bytes, ...]:
    found = []
    for data in golden("link"):
        parser = FrameParser()
        parser.feed(data)
        frame = parser.next()
        assert frame is not None
        found.append(frame.header)
    return tuple(found)


DEEP = b"\x81" * 100_000 + b"\x00"
CBOR_SEEDS = (
    DEEP,
    b"\xa1\x60" * 50_000 + b"\x00",
    b"\x9b" + b"\xff" * 8,
    b"\xba\x00\x00\x10\x00" + b"".join(b"\x1b" + struct.pack(">Q", i << 42) + b"\x00" for i in range(4096)),
    b"\xd8\x1c\x81\xd8\x1d\x00",
    b"\xd9\x01\x00\x82\x63abc\xd8\x19\x00",
    cbor2.dumps({"b": 1, "aa": [1.5, None, -(2**63), b"x" * 30]}, canonical=True),
)

TARGETS = (
    Target("frames", frames, (), tuple(b"\x01\x07\x00" + data for data in (*golden("wire"), *golden("link")))),
    Target("cbor", cbor, (DecodeError,), (*CBOR_SEEDS, *_headers())),
    Target("messages", messages, (DecodeError,), _message_seeds()),
    Target("flat", flat, (DecodeError,), _flat_seeds()),
    Target(
        "signed",
        signed,
        (DecodeError,),
        (*_signed_seeds(), *(bytes.fromhex(each["signed"]) for each in vectors("signed").values())),
    ),
    Target("link_frames", link_frames, (DecodeError,), _headers()),
)
