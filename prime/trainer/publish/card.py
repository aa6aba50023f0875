"""The card of a model: what is published under its name, as a signed record of the DHT. Pure.

A layout that is too long for a record is a blob of its own, which the card names.
"""

from __future__ import annotations

from typing import Annotated, Final

import attrs

from prime.errors import DecodeError, UsageError
from prime.trainer.metadata import ModelMetadata
from prime.wire import Finite, Limits, Range, Size, decode_value, dumps, encode_value, loads, record

FORMAT: Final = "prime-model-1"
CARD_BYTES_MAX: Final = 12 << 10
"""The room of a record's value is 16 KiB."""
LICENCE_MAX: Final = 2000
"""Characters."""
_LIMITS: Final = Limits(header_size_bytes_max=16 << 10)
_LAYOUT_LIMITS: Final = Limits(header_size_bytes_max=64 << 20, items_max=4 << 20)
_HINT: Final = "whoever published it has a later version, or is no node of Prime: update this one"

Count = Annotated[int, Range(0, 2**53)]
Text = Annotated[str, Size(0, 256)]


@record
class ModelCard:
    """What a model is, in its publisher's words.

    `content` and `size_bytes` are its file's, of the `format` `safetensors`; `dtype` names the types of its tensors, those
    with most elements first. `layout_hash` is `ModelMetadata.layout_hash`; the metadata stand in the card, or are the blob
    `layout` where they are long. `run`, `step`, `round` and `loss` say what it was trained in, as far as that is known
    (-1, `None`: not); `licence` is a name (SPDX) or a text.
    """

    name: Text
    content: Annotated[bytes, Size(32, 32)]
    size_bytes: Count
    format: Text
    dtype: Text
    parameters: Count
    tensors: Count
    layout_hash: Text
    metadata: ModelMetadata | None
    layout: Annotated[bytes, Size(0, 32)]
    run: Text = ""
    step: int = -1
    round: int = -1
    loss: Finite | None = None
    licence: Annotated[str, Size(0, LICENCE_MAX)] = ""
    created_ms: Count = 0


def pack_card(card: ModelCard) -> bytes:
    """Return the value of a card's record. Raises `UsageError` for one that has no room in it."""
    data = dumps([FORMAT, encode_value(ModelCard, card, [])])
    if len(data) > CARD_BYTES_MAX:
        raise UsageError(
            f"the card of {card.name!r} has {len(data):,} bytes, where {CARD_BYTES_MAX:,} are allowed",
            hint="shorten the licence: a name such as Apache-2.0 is enough",
        )
    return data


def fits(card: ModelCard) -> bool:
    """Tell whether a card has room for the metadata that it holds."""
    return len(dumps([FORMAT, encode_value(ModelCard, card, [])])) <= CARD_BYTES_MAX


def without_metadata(card: ModelCard, layout: bytes) -> ModelCard:
    """Return the card with the content id of its metadata in their place."""
    return attrs.evolve(card, metadata=None, layout=layout)  # type: ignore[misc]  # a @record is an attrs class


def read_card(data: bytes) -> ModelCard:
    """Return the card that a record's value is. Raises `DecodeError` for anything else."""
    match loads(data, _LIMITS):
        case [str(name), plain] if name == FORMAT:
            card: ModelCard = decode_value(ModelCard, plain)
            return card
    raise DecodeError("what has that name is no model", hint=_HINT)


def pack_metadata(metadata: ModelMetadata) -> bytes:
    """Return the bytes of a blob of metadata."""
    return dumps([FORMAT, encode_value(ModelMetadata, metadata, [])])


def read_metadata(data: bytes) -> ModelMetadata:
    """Return the metadata in a blob. Raises `DecodeError`."""
    match loads(data, _LAYOUT_LIMITS):
        case [str(name), plain] if name == FORMAT:
            metadata: ModelMetadata = decode_value(ModelMetadata, plain, (), _LAYOUT_LIMITS)
            return metadata
    raise DecodeError("that blob holds no layout of a model", hint=_HINT)
