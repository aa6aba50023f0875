"""What the runtime's own actors say to each other about streams. Users see `Stream`, `Streaming` and `open_stream`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from prime.wire import Ask, Finite, Payload, Range, decode_value, encode_value, message, register_field

CREDIT_MAX = 65_536
"""Items that one consumer may allow ahead of itself."""
BATCH_ITEMS_MAX = 512
"""Items of one answer; below the payloads that one frame may have."""


class Items:
    """Items of one type on their way: as they are within a process, encoded by their type only when they leave it."""

    __slots__ = ("_plain", "_values", "annotation")

    def __init__(self, annotation: Any, values: Sequence[Any] | None, plain: Any = None) -> None:
        self.annotation = annotation
        self._values = values
        self._plain = plain

    def values(self, annotation: Any) -> Sequence[Any]:
        """Return the items, checked against their type if they came from elsewhere; raises `DecodeError`."""
        if self._values is not None:
            return self._values
        return [decode_value(annotation, each, [memoryview(p) for p in payloads]) for each, payloads in self._plain]

    def to_plain(self) -> list[Any]:
        """Return `[[item, [payload, …]], …]`; raises `LocalProtocolError` for an item that is not of the type."""
        if self._values is None:
            plain: list[Any] = self._plain
            return plain
        return [_encoded(self.annotation, value) for value in self._values]

    @classmethod
    def from_plain(cls, plain: list[Any]) -> Items:
        """Take items as they came; they are checked when their type is known."""
        if len(plain) > BATCH_ITEMS_MAX or not all(_is_item(each) for each in plain):
            raise ValueError("items are [[item, [payload, ...]], ...]")
        return cls(None, None, plain)


def _encoded(annotation: Any, value: Any) -> list[Any]:
    payloads: list[memoryview] = []
    plain = encode_value(annotation, value, payloads)
    return [plain, [bytes(payload) for payload in payloads]]


def _is_item(plain: Any) -> bool:
    return (
        type(plain) is list
        and len(plain) == 2
        and type(plain[1]) is list
        and all(type(payload) is bytes for payload in plain[1])
    )


register_field(Items, Items.to_plain, Items.from_plain, "[* [any, [* bstr]]]", plain_type=list)

StreamId = Annotated[int, Range(0, 2**63 - 1)]


@message(tag=0x040)
class StreamOpened:
    """The answer to a `Stream`: it stands, under an id that nobody guesses."""

    stream: StreamId


@message(tag=0x041)
class StreamBatch:
    """Some items, in order. A stream of payloads has them in `payloads`, uncopied; any other in `items`."""

    items: Items
    payloads: tuple[Payload, ...]
    done: bool


@message(tag=0x042)
class StreamPull(Ask[StreamBatch]):
    """Asks for what is there, and waits for one item at least.

    `allowed` is how many items may be made in all, since the beginning. Without another word within `lease_s` seconds
    the producer gives up.
    """

    stream: StreamId
    allowed: Annotated[int, Range(0, 2**62)]
    lease_s: Finite


@message(tag=0x043)
class StreamRenewed:
    """The consumer still wants the stream; it only takes its time."""

    stream: StreamId
    lease_s: Finite


@message(tag=0x044)
class StreamLeft:
    """The consumer wants no more."""

    stream: StreamId
