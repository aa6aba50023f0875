"""The frames of a link: what two nodes say to each other, each one positional array `[kind, ...]`. Pure.

A frame's header is that array in deterministic CBOR; a message's body is nested in it as plain `[tag, fields...]`, and
payload bytes travel beside the header. Fields at the end that this version does not know are ignored; optional fields
at the end are left out when empty. The same shapes in CDDL: `spec/link.cddl`; the rules: `spec/protocols/`.

These classes are `define`, not `frozen`: one is built for every frame, and a frozen one costs four times as much.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from enum import IntEnum
from types import MappingProxyType
from typing import Any, ClassVar, Final

import attrs

from prime.errors import DecodeError
from prime.wire import dumps

PROTOCOL_VERSION: Final = 1

ID_MAX: Final = 2**63 - 1
PATH_CHARS_MAX: Final = 512
TEXT_CHARS_MAX: Final = 4096
TRACEBACK_CHARS_MAX: Final = 16_384
CHAIN_MAX: Final = 16
CHAIN_CHARS_MAX: Final = 4096
"""An ask chain: how many may be in it, and their characters in all."""
ADDRESSES_MAX: Final = 16
FEATURES_MAX: Final = 64
PAYLOADS_MAX: Final = 2**16 - 1
PAYLOAD_BYTES_MAX: Final = 2**32 - 1
HELLO_BYTES_MAX: Final = 16_384
"""Nothing longer is read from a peer that has not said HELLO."""


class Kind(IntEnum):
    """The first element of every header."""

    HELLO = 1
    TELL = 2
    ASK = 3
    REPLY = 4
    FAIL = 5
    CREDIT = 6
    WATCH = 7
    UNWATCH = 8
    DOWN = 9
    PING = 10
    PONG = 11
    BYE = 12
    BLOCKED = 13
    CANCEL = 14
    ACK = 15
    BULK = 16
    PIECE = 17
    ABANDON = 18


class Reason(IntEnum):
    """Why a side says BYE."""

    SHUTDOWN = 0
    DUPLICATE = 1
    PROTOCOL = 2
    VERSION = 3
    OVERLOAD = 4
    REPLACED = 5
    SILENT = 6
    REFUSED = 7


# ------------------------------------------------------------------------------------------------ checks of one field


def _integer(value: Any, what: str, least: int = 0, most: int = ID_MAX) -> int:
    if type(value) is not int or not least <= value <= most:
        raise DecodeError(f"link frame: {what} is not an integer from {least} to {most}")
    return value


def _text(value: Any, what: str, chars_max: int) -> str:
    if type(value) is not str or len(value) > chars_max:
        raise DecodeError(f"link frame: {what} is not a text of at most {chars_max} characters")
    return value


def _texts(value: Any, what: str, count_max: int, chars_max: int) -> tuple[str, ...]:
    if type(value) is not list or len(value) > count_max:
        raise DecodeError(f"link frame: {what} is not an array of at most {count_max} texts")
    if not value:
        return ()
    return tuple(_text(item, what, chars_max) for item in value)


def _path(value: Any) -> str:
    path = _text(value, "the target path", PATH_CHARS_MAX)
    if not path:
        raise DecodeError("link frame: the target path is empty")
    return path


def _optional_text(fields: list[Any], index: int, what: str) -> str | None:
    if len(fields) <= index or fields[index] is None:
        return None
    return _text(fields[index], what, PATH_CHARS_MAX)


def _at_least(fields: list[Any], count: int, kind: str) -> None:
    if len(fields) < count:
        raise DecodeError(f"link frame: {kind} has {len(fields)} elements, at least {count} are needed")


def _trimmed(fields: list[Any]) -> list[Any]:
    """Leave empty optional fields at the end out."""
    while fields[-1] is None:
        fields.pop()
    return fields


# ------------------------------------------------------------------------------------------------------------ frames


@attrs.frozen
class Allowance:
    """What one side lets the other do on a link; each side announces its own in HELLO and enforces it.

    `window_*` is per target path, `link_bytes` over all targets: the bytes of messages sent and not yet credited.
    """

    frame_bytes_max: int = 65 * 2**20
    header_bytes_max: int = 2**20
    payloads_max: int = 1024
    window_messages: int = 256
    window_bytes: int = 16 * 2**20
    link_bytes: int = 256 * 2**20
    targets_max: int = 4096
    asks_max: int = 16_384
    watches_max: int = 16_384

    def plain(self) -> list[Any]:
        """Return the wire form."""
        return [
            self.frame_bytes_max,
            self.header_bytes_max,
            self.payloads_max,
            self.window_messages,
            self.window_bytes,
            self.link_bytes,
            self.targets_max,
            self.asks_max,
            self.watches_max,
        ]

    @classmethod
    def read(cls, plain: Any) -> Allowance:
        """Check and return an allowance; raises `DecodeError`."""
        if type(plain) is list and tuple(plain) == _COMMON_PLAIN and _INT.issuperset(map(type, plain)):
            return _COMMON
        names = [field.name for field in attrs.fields(cls)]
        if type(plain) is not list or len(plain) < len(names):
            raise DecodeError(f"link frame: the allowance is not an array of {len(names)} integers")
        return cls(*(_integer(value, name, 1) for name, value in zip(names, plain, strict=False)))


_COMMON: Final = Allowance()
"""What nearly every node allows: read without looking at each number."""
_COMMON_PLAIN: Final = tuple(_COMMON.plain())
_INT: Final = frozenset({int})


@attrs.define
class Hello:
    """The first frame of each side: who speaks, in which version, and what it allows.

    `instance` names this run of the node, `link_id` the link (the dialler chooses it), `previous_id` the last link
    with this peer that the dialler had up, 0 for none: they settle two links that cross.
    """

    version: int
    node_version: str
    features: tuple[str, ...]
    allowance: Allowance
    addresses: tuple[str, ...]
    instance: int
    link_id: int
    previous_id: int
    front: bytes = attrs.field(default=b"", eq=False, repr=False)
    """The header up to the instance, once it was made: the same for all links of a node, and made once for them."""
    kind: ClassVar[Kind] = Kind.HELLO

    def numbered(self, instance: int, link_id: int, previous_id: int) -> Hello:
        """Return the same with other numbers."""
        return Hello(
            self.version,
            self.node_version,
            self.features,
            self.allowance,
            self.addresses,
            instance,
            link_id,
            previous_id,
            self.front or self._make_front(),
        )

    def header(self, link_id: int) -> bytes:
        """Return the header, for a link: what `dumps` makes of the wire form."""
        if self.instance >= 2**32 <= link_id and not self.previous_id:
            return (self.front or self._make_front()) + _NUMBERS.pack(0x1B, self.instance, 0x1B, link_id, 0)
        return (self.front or self._make_front()) + uint(self.instance) + uint(link_id) + uint(self.previous_id)

    def _make_front(self) -> bytes:
        plain = self.plain()
        self.front = HELLO_START[:1] + dumps(plain[:_HELLO_FRONT])[1:]
        return self.front

    def plain(self) -> list[Any]:
        """Return the wire form."""
        return [
            Kind.HELLO.value,
            self.version,
            self.node_version,
            list(self.features),
            self.allowance.plain(),
            list(self.addresses),
            self.instance,
            self.link_id,
            self.previous_id,
        ]

    @classmethod
    def read(cls, fields: list[Any]) -> Hello:
        """Check and return a frame; raises `DecodeError`."""
        _at_least(fields, 2, "HELLO")
        version = _integer(fields[1], "the protocol version")
        if version != PROTOCOL_VERSION:  # the rest may have any shape
            return cls(version, "", (), Allowance(), (), 0, 0, 0)
        _at_least(fields, 9, "HELLO")
        return cls(
            version,
            _text(fields[2], "the node version", 64),
            _texts(fields[3], "the features", FEATURES_MAX, 64),
            Allowance.read(fields[4]),
            _texts(fields[5], "the addresses", ADDRESSES_MAX, 512),
            _integer(fields[6], "the instance"),
            _integer(fields[7], "the link id"),
            _integer(fields[8], "the previous link id"),
        )


@attrs.define
class Tell:
    """A message that wants no answer. `seq` rises with every message of a direction.

    `numbered` marks one of reliable delivery: its series, its number in it, and the first number its sender still keeps.
    """

    target: str
    seq: int
    body: Any
    sender: str | None = None
    trace: str | None = None
    numbered: tuple[int, int, int] | None = None
    kind: ClassVar[Kind] = Kind.TELL

    def plain(self) -> list[Any]:
        """Return the wire form."""
        if self.numbered is not None:
            return [2, self.target, self.seq, self.body, self.sender, self.trace, *self.numbered]
        if self.sender is None and self.trace is None:
            return [2, self.target, self.seq, self.body]
        return _trimmed([2, self.target, self.seq, self.body, self.sender, self.trace])

    @classmethod
    def read(cls, fields: list[Any]) -> Tell:
        """Check and return a frame; raises `DecodeError`."""
        _at_least(fields, 4, "TELL")
        return cls(
            _path(fields[1]),
            _integer(fields[2], "seq", 1),
            fields[3],
            _optional_text(fields, 4, "the sender path"),
            _optional_text(fields, 5, "the trace context"),
            _numbered(fields) if len(fields) > 6 and fields[6] is not None else None,
        )


def _numbered(fields: list[Any]) -> tuple[int, int, int]:
    _at_least(fields, 9, "a numbered TELL")
    number = _integer(fields[7], "the number", 1)
    return _integer(fields[6], "the series"), number, _integer(fields[8], "the first number kept", 1, number)


@attrs.define
class Ask:
    """A message that wants one REPLY or FAIL under its `correlation`; `left_ms` is what is left of its deadline.

    `chain` is who waits for the answer, and for whom those wait, the first to ask first; an ask of no actor has none.
    """

    target: str
    seq: int
    body: Any
    correlation: int
    left_ms: int | None = None
    sender: str | None = None
    trace: str | None = None
    chain: tuple[str, ...] = ()
    kind: ClassVar[Kind] = Kind.ASK

    def plain(self) -> list[Any]:
        """Return the wire form."""
        if self.sender is None and self.trace is None and not self.chain:
            return [3, self.target, self.seq, self.body, self.correlation, self.left_ms]
        fields = [3, self.target, self.seq, self.body, self.correlation, self.left_ms, self.sender, self.trace]
        return _trimmed([*fields, list(self.chain) or None])

    @classmethod
    def read(cls, fields: list[Any]) -> Ask:
        """Check and return a frame; raises `DecodeError`."""
        _at_least(fields, 5, "ASK")
        left_ms = fields[5] if len(fields) > 5 else None
        return cls(
            _path(fields[1]),
            _integer(fields[2], "seq", 1),
            fields[3],
            _integer(fields[4], "the correlation"),
            None if left_ms is None else _integer(left_ms, "the deadline left"),
            _optional_text(fields, 6, "the sender path"),
            _optional_text(fields, 7, "the trace context"),
            _chain(fields[8]) if len(fields) > 8 and fields[8] is not None else (),
        )


def _chain(value: Any) -> tuple[str, ...]:
    chain = _texts(value, "the ask chain", CHAIN_MAX, CHAIN_CHARS_MAX)
    if sum(map(len, chain)) > CHAIN_CHARS_MAX:
        raise DecodeError(f"link frame: the ask chain has over {CHAIN_CHARS_MAX} characters")
    return chain


@attrs.define
class Reply:
    """The answer to an ask: the value in the wire form of the ask's reply type."""

    correlation: int
    value: Any
    kind: ClassVar[Kind] = Kind.REPLY

    def plain(self) -> list[Any]:
        """Return the wire form."""
        return [4, self.correlation, self.value]

    @classmethod
    def read(cls, fields: list[Any]) -> Reply:
        """Check and return a frame; raises `DecodeError`."""
        _at_least(fields, 3, "REPLY")
        return cls(_integer(fields[1], "the correlation"), fields[2])


@attrs.define
class Fail:
    """The failure of an ask: the code of a known error and texts, never a class of the sender's making."""

    correlation: int
    code: str
    text: str
    hint: str = ""
    traceback: str = ""
    kind: ClassVar[Kind] = Kind.FAIL

    def plain(self) -> list[Any]:
        """Return the wire form."""
        return [5, self.correlation, self.code, self.text, self.hint, self.traceback]

    @classmethod
    def read(cls, fields: list[Any]) -> Fail:
        """Check and return a frame; raises `DecodeError`."""
        _at_least(fields, 6, "FAIL")
        return cls(
            _integer(fields[1], "the correlation"),
            _text(fields[2], "the error code", 64),
            _text(fields[3], "the error text", TEXT_CHARS_MAX),
            _text(fields[4], "the hint", TEXT_CHARS_MAX),
            _text(fields[5], "the traceback", TRACEBACK_CHARS_MAX),
        )


@attrs.define
class Credit:
    """Room again for `messages` messages of `size_bytes` in all at `target`."""

    target: str
    messages: int
    size_bytes: int
    kind: ClassVar[Kind] = Kind.CREDIT

    def plain(self) -> list[Any]:
        """Return the wire form."""
        return [6, self.target, self.messages, self.size_bytes]

    @classmethod
    def read(cls, fields: list[Any]) -> Credit:
        """Check and return a frame; raises `DecodeError`."""
        _at_least(fields, 4, "CREDIT")
        return cls(_path(fields[1]), _integer(fields[2], "the messages", 1), _integer(fields[3], "the bytes", 1))


@attrs.define
class Watch:
    """Wants one DOWN under `watch_id` when the actor at `target` ends."""

    watch_id: int
    target: str
    kind: ClassVar[Kind] = Kind.WATCH

    def plain(self) -> list[Any]:
        """Return the wire form."""
        return [7, self.watch_id, self.target]

    @classmethod
    def read(cls, fields: list[Any]) -> Watch:
        """Check and return a frame; raises `DecodeError`."""
        _at_least(fields, 3, "WATCH")
        return cls(_integer(fields[1], "the watch id"), _path(fields[2]))


@attrs.define
class Unwatch:
    """Wants that DOWN no more."""

    watch_id: int
    kind: ClassVar[Kind] = Kind.UNWATCH

    def plain(self) -> list[Any]:
        """Return the wire form."""
        return [8, self.watch_id]

    @classmethod
    def read(cls, fields: list[Any]) -> Unwatch:
        """Check and return a frame; raises `DecodeError`."""
        _at_least(fields, 2, "UNWATCH")
        return cls(_integer(fields[1], "the watch id"))


@attrs.define
class Down:
    """A watched actor ended."""

    watch_id: int
    reason: str
    kind: ClassVar[Kind] = Kind.DOWN

    def plain(self) -> list[Any]:
        """Return the wire form."""
        return [9, self.watch_id, self.reason]

    @classmethod
    def read(cls, fields: list[Any]) -> Down:
        """Check and return a frame; raises `DecodeError`."""
        _at_least(fields, 3, "DOWN")
        return cls(_integer(fields[1], "the watch id"), _text(fields[2], "the reason", TEXT_CHARS_MAX))


@attrs.define
class Ping:
    """Asks for a sign of life."""

    kind: ClassVar[Kind] = Kind.PING

    def plain(self) -> list[Any]:
        """Return the wire form."""
        return [10]

    @classmethod
    def read(cls, _fields: list[Any]) -> Ping:
        """Return a frame."""
        return cls()


@attrs.define
class Pong:
    """Is the sign of life."""

    kind: ClassVar[Kind] = Kind.PONG

    def plain(self) -> list[Any]:
        """Return the wire form."""
        return [11]

    @classmethod
    def read(cls, _fields: list[Any]) -> Pong:
        """Return a frame."""
        return cls()


@attrs.define
class Bye:
    """The last frame of a side."""

    reason: Reason
    text: str
    kind: ClassVar[Kind] = Kind.BYE

    def plain(self) -> list[Any]:
        """Return the wire form."""
        return [12, self.reason.value, self.text]

    @classmethod
    def read(cls, fields: list[Any]) -> Bye:
        """Check and return a frame; an unknown reason reads as PROTOCOL. Raises `DecodeError`."""
        _at_least(fields, 3, "BYE")
        code = _integer(fields[1], "the reason")
        known = code in Reason._value2member_map_
        return cls(Reason(code) if known else Reason.PROTOCOL, _text(fields[2], "the text", TEXT_CHARS_MAX))


@attrs.define
class Blocked:
    """The next message for `target` is too big for the credit left: grant what is held back."""

    target: str
    kind: ClassVar[Kind] = Kind.BLOCKED

    def plain(self) -> list[Any]:
        """Return the wire form."""
        return [13, self.target]

    @classmethod
    def read(cls, fields: list[Any]) -> Blocked:
        """Check and return a frame; raises `DecodeError`."""
        _at_least(fields, 2, "BLOCKED")
        return cls(_path(fields[1]))


@attrs.define
class Cancel:
    """Nobody waits for the answer of this ask any more."""

    correlation: int
    kind: ClassVar[Kind] = Kind.CANCEL

    def plain(self) -> list[Any]:
        """Return the wire form."""
        return [14, self.correlation]

    @classmethod
    def read(cls, fields: list[Any]) -> Cancel:
        """Check and return a frame; raises `DecodeError`."""
        _at_least(fields, 2, "CANCEL")
        return cls(_integer(fields[1], "the correlation"))


@attrs.define
class Ack:
    """All numbers of a series up to `number` are taken; `again` says why the next one must come once more."""

    series: int
    number: int
    again: str | None = None
    kind: ClassVar[Kind] = Kind.ACK

    def plain(self) -> list[Any]:
        """Return the wire form."""
        return _trimmed([15, self.series, self.number, self.again])

    @classmethod
    def read(cls, fields: list[Any]) -> Ack:
        """Check and return a frame; raises `DecodeError`."""
        _at_least(fields, 3, "ACK")
        again = _optional_text(fields, 3, "the reason to send again")
        return cls(_integer(fields[1], "the series"), _integer(fields[2], "the number"), again)


@attrs.define
class Bulk:
    """Announces a frame whose payloads follow in pieces: its header, and the sizes of its payloads.

    `number` rises with every announcement of a direction.
    """

    number: int
    sizes: tuple[int, ...]
    header: bytes
    frame: Frame | None = attrs.field(default=None, eq=False)
    """What the header says, once it was read, and the tag of its message."""
    tag: int = attrs.field(default=0, eq=False)
    kind: ClassVar[Kind] = Kind.BULK

    def plain(self) -> list[Any]:
        """Return the wire form."""
        return [16, self.number, list(self.sizes), self.header]

    @classmethod
    def read(cls, fields: list[Any]) -> Bulk:
        """Check and return a frame; raises `DecodeError`."""
        _at_least(fields, 4, "BULK")
        sizes, header = fields[2:4]
        if type(sizes) is not list or not 0 < len(sizes) <= PAYLOADS_MAX:
            raise DecodeError(f"link frame: the payload sizes are not an array of 1 to {PAYLOADS_MAX}")
        if type(header) is not bytes:
            raise DecodeError("link frame: the announced header is not bytes")
        number = _integer(fields[1], "the number", 1)
        return cls(number, tuple(_integer(size, "a payload size", 0, PAYLOAD_BYTES_MAX) for size in sizes), header)

    @property
    def size_bytes(self) -> int:
        """The bytes of the announced frame, were it sent whole."""
        return PREFIX_BYTES + 4 * len(self.sizes) + len(self.header) + sum(self.sizes)


@attrs.define
class Piece:
    """The next bytes of an announced frame: each payload of this one is a part of one of its own."""

    number: int
    kind: ClassVar[Kind] = Kind.PIECE

    def plain(self) -> list[Any]:
        """Return the wire form."""
        return [17, self.number]

    @classmethod
    def read(cls, fields: list[Any]) -> Piece:
        """Check and return a frame; raises `DecodeError`."""
        _at_least(fields, 2, "PIECE")
        return cls(_integer(fields[1], "the number", 1))


@attrs.define
class Abandon:
    """No more of an announced frame will come."""

    number: int
    kind: ClassVar[Kind] = Kind.ABANDON

    def plain(self) -> list[Any]:
        """Return the wire form."""
        return [18, self.number]

    @classmethod
    def read(cls, fields: list[Any]) -> Abandon:
        """Check and return a frame; raises `DecodeError`."""
        _at_least(fields, 2, "ABANDON")
        return cls(_integer(fields[1], "the number", 1))


Frame = (
    Hello
    | Tell
    | Ask
    | Reply
    | Fail
    | Credit
    | Watch
    | Unwatch
    | Down
    | Ping
    | Pong
    | Bye
    | Blocked
    | Cancel
    | Ack
    | Bulk
    | Piece
    | Abandon
)
"""Any frame of the link protocol."""

_READERS: Final[Mapping[int, Callable[[list[Any]], Frame]]] = MappingProxyType(
    {
        1: Hello.read,
        2: Tell.read,
        3: Ask.read,
        4: Reply.read,
        5: Fail.read,
        6: Credit.read,
        7: Watch.read,
        8: Unwatch.read,
        9: Down.read,
        10: Ping.read,
        11: Pong.read,
        12: Bye.read,
        13: Blocked.read,
        14: Cancel.read,
        15: Ack.read,
        16: Bulk.read,
        17: Piece.read,
        18: Abandon.read,
    }
)


def read_frame(plain: Any) -> Frame:
    """Turn a decoded header into its frame; raises `DecodeError` for anything that is none."""
    if type(plain) is not list or not plain or type(plain[0]) is not int:
        raise DecodeError("link frame: the header is not an array that starts with an integer kind")
    reader = _READERS.get(plain[0])
    if reader is None:
        raise DecodeError(f"link frame: unknown kind {plain[0]}")
    return reader(plain)


# -------------------------------------------------------------------------------- the commonest headers, by their bytes

PREFIX_BYTES: Final = 6
QUICK_BYTES_MAX: Final = 4096
"""Headers up to this size may go the short way: TELL and ASK without sender and trace, REPLY; none with payloads."""

HELLO_START: Final = b"\x89\x01"
_NUMBERS: Final = struct.Struct(">BQBQB")
_HELLO_FRONT: Final = 6
"""The elements of a HELLO before its three numbers."""
TELL_START: Final = b"\x84\x02"
ASK_START: Final = b"\x86\x03"
CHAINED_ASK_START: Final = b"\x89\x03"
REPLY_START: Final = b"\x83\x04"
PIECE_START: Final = b"\x82\x11"
_UINTS: Final = tuple(bytes([value]) if value < 24 else bytes([0x18, value]) for value in range(256))
_UINT16, _UINT32, _UINT64 = struct.Struct(">BH"), struct.Struct(">BI"), struct.Struct(">BQ")


def uint(value: int) -> bytes:
    """Return the deterministic CBOR of an unsigned integer (RFC 8949 section 3.1, major type 0)."""
    if value < 0x100:
        return _UINTS[value]
    if value < 0x1_0000:
        return _UINT16.pack(0x19, value)
    return _UINT32.pack(0x1A, value) if value < 0x1_0000_0000 else _UINT64.pack(0x1B, value)


def read_uint(data: bytes, position: int) -> tuple[int, int]:
    """Return the unsigned integer at a position and where it ends; -1 for what is none, or not its one encoding."""
    first = data[position] if position < len(data) else 0xFF
    if first < 0x18:
        return first, position + 1
    width = _WIDTHS.get(first, 0)
    end = position + 1 + width
    value = int.from_bytes(data[position + 1 : end], "big")
    if not width or end > len(data) or value < _LEAST[width]:
        return -1, position
    return value, end


_WIDTHS: Final[Mapping[int, int]] = MappingProxyType({0x18: 1, 0x19: 2, 0x1A: 4, 0x1B: 8})
_LEAST: Final[Mapping[int, int]] = MappingProxyType({0: 0, 1: 24, 2: 0x100, 4: 0x1_0000, 8: 0x1_0000_0000})


def read_hello(header: bytes, like: Hello) -> Hello | None:
    """Read a HELLO that differs from `like` in its numbers alone; `None` for any other, which `Hello.read` judges."""
    front = like.front
    if not front or not header.startswith(front):
        return None
    if len(header) == len(front) + _NUMBERS.size:  # big ones, as they nearly always are, and no link before
        head, instance, next_head, link_id, previous_id = _NUMBERS.unpack_from(header, len(front))
        if (
            head == next_head == 0x1B
            and previous_id == 0
            and 2**32 <= instance <= ID_MAX
            and 2**32 <= link_id <= ID_MAX
        ):
            return like.numbered(instance, link_id, 0)
    instance, end = read_uint(header, len(front))
    link_id, end = read_uint(header, end)
    previous_id, end = read_uint(header, end)
    if end != len(header) or not (0 <= instance <= ID_MAX and 0 <= link_id <= ID_MAX and 0 <= previous_id <= ID_MAX):
        return None
    return like.numbered(instance, link_id, previous_id)


def piece_header(number: int) -> bytes:
    """Return the header of a piece."""
    return PIECE_START + uint(number)


def read_piece(header: bytes) -> int:
    """Return the number in the header of a piece; 0 for any other header, which `read_frame` judges."""
    if header[:2] != PIECE_START:
        return 0
    number, end = read_uint(header, 2)
    return number if 0 < number <= ID_MAX and end == len(header) else 0


def path_bytes(path: str) -> bytes:
    """Return the deterministic CBOR of a path, as it stands in a header."""
    if len(path) < 24 and path.isascii():
        return bytes((0x60 + len(path),)) + path.encode()
    return dumps(path)


def path_end(header: bytes) -> int:
    """Return where the path ends that is the third element of a header; 0 for a long one, or none."""
    first = header[2] if len(header) > 2 else 0
    return first - 0x60 + 3 if 0x60 < first < 0x78 else header[3] + 4 if first == 0x78 and len(header) > 3 else 0


def with_chain(header: bytes, chain: Sequence[str]) -> bytes:
    """Return the header of an ask without sender and trace with an ask chain behind it."""
    return CHAINED_ASK_START + header[len(ASK_START) :] + b"\xf6\xf6" + dumps(list(chain))


def read_rest(rest: list[Any]) -> tuple[str, ...] | None:
    """Return the ask chain behind an ask without sender and trace; `None` for anything else, which `Ask.read` judges."""
    if len(rest) != 3 or rest[0] is not None or rest[1] is not None:
        return None
    try:
        return _chain(rest[2])
    except DecodeError:
        return None


def size_of_frame(header: bytes, payloads: Sequence[memoryview]) -> int:
    """Return the bytes of a whole frame on the wire: prefix, payload sizes, header and payloads."""
    size_bytes = 6 + len(header)
    if payloads:
        size_bytes += sum(4 + payload.nbytes for payload in payloads)
    return size_bytes


def clipped(text: str, chars_max: int = TEXT_CHARS_MAX) -> str:
    """Shorten a text to what a frame may carry, keeping its end, where a traceback says what happened."""
    return text if len(text) <= chars_max else "…" + text[-(chars_max - 1) :]
