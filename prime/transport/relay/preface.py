"""The first bytes of a connection that shall be an end of a circuit, and the relay's answer. Pure.

A connection to a relay that begins with `PREFACE` is no link. One request follows and one answer; from then on, if it was
granted, whatever bytes come are the circuit's. Both are a size (u16, big-endian) and one CBOR array in deterministic form;
see spec/protocols/relay.md, section 3. A link's first byte is 0, as no HELLO is that long.
"""

from __future__ import annotations

from typing import Any, Final

import attrs

from prime.errors import ConfigError, DecodeError, RemoteProtocolError
from prime.transport.messages import TOKEN_BYTES
from prime.transport.peer import parse_peer
from prime.transport.relay.ledger import Refusal
from prime.wire import dumps, loads

PREFACE: Final = b"\xc1"
VERSION: Final = 1
SIZE_BYTES: Final = 2
MESSAGE_BYTES_MAX: Final = 1024
TEXT_CHARS_MAX: Final = 256
CIRCUIT_MAX: Final = 2**63 - 1

_CONNECT, _TAKE_UP = 1, 2


@attrs.frozen
class Connect:
    """Lead me to this peer."""

    target: str


@attrs.frozen
class TakeUp:
    """I am the other end of this circuit."""

    circuit: int
    token: bytes


Request = Connect | TakeUp


@attrs.frozen
class Answer:
    """`refusal` is 0 if it was granted; `remote` is where the relay sees the asker."""

    refusal: int = 0
    text: str = ""
    remote: str = ""


def pack_request(request: Request) -> bytes:
    """Return the bytes of a request, `PREFACE` included."""
    if isinstance(request, Connect):
        return PREFACE + _pack([VERSION, _CONNECT, request.target])
    return PREFACE + _pack([VERSION, _TAKE_UP, request.circuit, request.token])


def read_request(body: bytes) -> Request:
    """Return the request in a body. Raises `DecodeError`."""
    match _array(body):
        case [int(version), int(), *_] if version != VERSION:
            raise DecodeError(f"version {version} of the relay protocol is not spoken here")
        case [int(), 1, str(target), *_]:
            return Connect(_peer(target))
        case [int(), 2, int(circuit), bytes(token), *_] if 0 < circuit <= CIRCUIT_MAX and len(token) == TOKEN_BYTES:
            return TakeUp(circuit, token)
        case _:
            raise DecodeError("no request to a relay")


def pack_answer(answer: Answer) -> bytes:
    """Return the bytes of an answer."""
    return _pack([answer.refusal, answer.text[:TEXT_CHARS_MAX], answer.remote])


def read_answer(body: bytes) -> Answer:
    """Return the answer in a body. Raises `DecodeError`."""
    match _array(body):
        case [int(refusal), str(text), str(remote), *_] if 0 <= refusal < 256 and len(text) <= TEXT_CHARS_MAX:
            return Answer(refusal, text, remote)
        case _:
            raise DecodeError("no answer of a relay")


def refused(why: Refusal, text: str) -> Answer:
    """Return the answer that says no."""
    return Answer(int(why), text)


def _pack(fields: list[Any]) -> bytes:
    body = dumps(fields)
    return len(body).to_bytes(SIZE_BYTES, "big") + body


def size_of(prefix: bytes) -> int:
    """Return how many bytes the body has. Raises `DecodeError` if it is over the bound."""
    size = int.from_bytes(prefix, "big")
    if not 0 < size <= MESSAGE_BYTES_MAX:
        raise DecodeError(f"a request of {size} bytes")
    return size


def _array(body: bytes) -> list[Any]:
    plain = loads(body)
    if not isinstance(plain, list):
        raise DecodeError("no array")
    return plain


def _peer(text: str) -> str:
    try:
        return parse_peer(text)
    except ConfigError as error:
        raise RemoteProtocolError(str(error)) from None
