"""`/prime/kad/1`: what the DHT's actors ask each other, over streams of libp2p, for programs without Prime's links.

`spec/protocols/kad.md` has it byte by byte. A request goes to the actor that it is for, as if its peer had asked it over a
link; the actor's answer, or why there is none, goes back. Such a peer answers nobody itself, so it is a client of the DHT.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

import attrs
import trio

from prime.actor.contract import PeerId
from prime.actor.slots import Slot
from prime.dht import messages as m
from prime.dht.ipfs.protobuf import varint
from prime.dht.ipfs.streams import Messages
from prime.errors import DeadlineError, DecodeError, PrimeError, RemoteProtocolError
from prime.transport.contract import Channel
from prime.wire import Ask, Limits, decode_value, dumps, encode_value, from_plain, loads, reply_type, to_plain

if TYPE_CHECKING:
    from prime.dht.peering import Peering

PROTOCOL: Final = "/prime/kad/1"
PATHS: Final[Mapping[type[Ask[Any]], str]] = MappingProxyType(
    {
        m.FindPeers: m.ROUTING_PATH,
        m.Introduce: m.ROUTING_PATH,
        m.GetRecord: m.RECORDS_PATH,
        m.StoreRecord: m.RECORDS_PATH,
        m.FindProviders: m.PROVIDERS_PATH,
        m.Provide: m.PROVIDERS_PATH,
    }
)
"""Which actor a request is for; others are refused."""
ANSWERED, FAILED = 0, 1
ANSWER_BYTES_MAX: Final = 256 << 10
"""More than a record, and two lists of contacts, can have."""
IDLE_S: Final = 30.0
"""How long a stream may be silent between requests."""
_LIMITS: Final = Limits()
_HINT: Final = "send what spec/protocols/kad.md asks for"


@attrs.frozen
class Failure:
    """Why there is no answer: the name of the error, its text, and what to do."""

    name: str
    text: str
    hint: str


# ------------------------------------------------------------------------------------------------ requests and answers


def pack_request(request: Ask[Any]) -> bytes:
    """Return a request's bytes behind their length."""
    return _sized(dumps(to_plain(request, [])))


def read_request(data: bytes) -> Ask[Any]:
    """Return the request in bytes, their length taken away. Raises `DecodeError`."""
    found = from_plain(loads(data, _LIMITS))
    if type(found) not in PATHS:
        raise DecodeError(f"{type(found).__name__} is no request of {PROTOCOL}", hint=_HINT)
    return found  # type: ignore[no-any-return]


def pack_answer(request: Ask[Any], value: Any) -> bytes:
    """Return the bytes of an answer's value behind their length; of a `Failure` too."""
    if isinstance(value, Failure):
        return _sized(dumps([FAILED, value.name, value.text, value.hint]))
    return _sized(dumps([ANSWERED, encode_value(reply_type(type(request)), value, [])]))


def read_answer(request: Ask[Any], data: bytes) -> Any:
    """Return the value of an answer, or the `Failure`. Raises `DecodeError`."""
    match loads(data, _LIMITS):
        case [0, value, *_]:
            return decode_value(reply_type(type(request)), value)
        case [1, str(name), str(text), str(hint), *_]:
            return Failure(name, text, hint)
    raise DecodeError("an answer of another shape", hint="its sender is broken or hostile: nothing of it was used")


def _sized(data: bytes) -> bytes:
    return varint(len(data)) + data


async def ask(channel: Channel, request: Ask[Any], within_s: float) -> Any:
    """Ask over a stream of `/prime/kad/1`; return the answer or a `Failure`.

    Raises `RemoteProtocolError` where the other side ends without one, and as `Messages` does.
    """
    messages = Messages(channel)
    await messages.send(pack_request(request), within_s)
    data = await messages.receive(ANSWER_BYTES_MAX, within_s)
    if data is None:
        raise RemoteProtocolError(f"{channel.peer} gave no answer", hint="ask another")
    return read_answer(request, data)


# ------------------------------------------------------------------------------------------------ the other side


@contextmanager
def answering_streams(peering: Peering) -> Iterator[None]:
    """Answer streams of `/prime/kad/1` for the length of the block, where this node is a server and its transport has any."""
    links = peering.links
    protocols = None if links is None else links.protocols
    if protocols is None or not peering.server:
        yield
        return
    stop = protocols.answer(PROTOCOL, partial(_serve, peering))
    try:
        yield
    finally:
        stop()


async def _serve(peering: Peering, channel: Channel) -> None:
    """Answer the requests of one stream, one after another. What it raises resets the stream."""
    messages, settings = Messages(channel), peering.settings
    with peering.streaming(channel.peer, channel.remote):
        while (data := await messages.receive(settings.request_bytes_max, IDLE_S)) is not None:
            request = read_request(data)
            value = await _answer(peering, channel.peer, request)
            await messages.send(pack_answer(request, value), settings.request_s)


async def _answer(peering: Peering, peer: PeerId, request: Ask[Any]) -> Any:
    """Have the actor that a request is for answer it as if `peer` had asked over a link, or say why it does not."""
    slot, path, within_s = Slot(), PATHS[type(request)], peering.settings.request_s
    try:
        with trio.move_on_after(within_s):
            deadline = trio.current_time() + within_s
            await peering.system.deliver(path, request, slot=slot, deadline=deadline, sender=peer)
            return await slot.wait()
        raise DeadlineError(f"{path} gave no answer within {within_s:g} s", hint="ask another node")
    except PrimeError as error:
        return Failure(type(error).__name__, str(error), error.hint)
