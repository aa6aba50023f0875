"""Models are pushed and pulled: the file as a blob, its card under a name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

import attrs
import trio

from prime.dht.blob.content import content_of, is_content, text_of
from prime.errors import CorruptedError, DecodeError
from prime.store.manifest import ContentId
from prime.trainer.metadata import ModelMetadata
from prime.trainer.publish.card import (
    ModelCard,
    fits,
    pack_card,
    pack_metadata,
    read_card,
    read_metadata,
    without_metadata,
)
from prime.trainer.publish.header import dtypes, read_layout

if TYPE_CHECKING:
    from prime.dht.blob.blobs import Blobs
    from prime.dht.blob.filling import FetchProgress
    from prime.dht.publishing import Put
    from prime.store.blobs import Progress

SAFETENSORS: Final = "safetensors"
MODEL: Final = "model:"
LAYOUT: Final = "layout:"
"""Before a model's name: what keeps its blob, and that of its layout, in the store."""


class Names(Protocol):
    """What is published under names: the DHT, as far as models need it."""

    async def set_name(self, name: str, value: bytes) -> Put:
        """Publish a value under this node's own `name`."""
        ...

    async def resolve(self, name: str) -> bytes:
        """Return the value of `PEER/NAME`, or of this node's own `NAME`."""
        ...


@attrs.frozen(kw_only=True)
class Origin:
    """What a model was trained in, as far as that is known, and its licence."""

    run: str = ""
    step: int = -1
    round: int = -1
    loss: float | None = None
    licence: str = ""


def origin_beside(path: Path) -> Origin:
    """Return what the JSON beside an exported model says of it; blocks. Nothing is known where there is none."""
    try:
        told = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        if told.get("file") != path.name:
            return Origin()
        job = told.get("job")
        run = told.get("run") or (job.get("name") if isinstance(job, dict) else "")
        return Origin(
            run=_text(run), step=_int(told.get("step")), round=_int(told.get("round")), loss=_float(told.get("loss"))
        )
    except (OSError, ValueError, RecursionError, AttributeError):
        return Origin()


def _text(value: Any) -> str:
    return value[:256] if isinstance(value, str) else ""


def _int(value: Any) -> int:
    return value if type(value) is int and abs(value) < 2**53 else -1


def _float(value: Any) -> float | None:
    return float(value) if type(value) in (int, float) and abs(value) < float("inf") else None


async def push_model(
    names: Names, blobs: Blobs, path: Path, name: str, origin: Origin, now_ms: int, on_progress: Progress
) -> tuple[ModelCard, Put]:
    """Let others fetch a safetensors file (an absolute path), which stays where it is, and publish its card as `name`.

    Return the card and who holds its record. Raises `NotFoundError`, `DataError`, `ConflictError`, `RefusedError`,
    `UnreachableError`.
    """
    metadata = await trio.to_thread.run_sync(read_layout, path, name)
    blob = await blobs.push(path, name=f"{MODEL}{name}", on_progress=on_progress)
    card = ModelCard(
        name=name,
        content=blob.content,
        size_bytes=blob.manifest.size_bytes,
        format=SAFETENSORS,
        dtype=dtypes(metadata)[:256],
        parameters=metadata.parameters,
        tensors=len(metadata.layout),
        layout_hash=metadata.layout_hash,
        metadata=metadata,
        layout=b"",
        run=origin.run,
        step=origin.step,
        round=origin.round,
        loss=origin.loss,
        licence=origin.licence,
        created_ms=now_ms,
    )
    if not await trio.to_thread.run_sync(fits, card):
        layout = await blobs.push(await trio.to_thread.run_sync(pack_metadata, metadata), name=f"{LAYOUT}{name}")
        card = without_metadata(card, layout.content)
    return card, await names.set_name(name, pack_card(card))


async def find_model(names: Names, what: str) -> tuple[ContentId, ModelCard | None]:
    """Return the content id that a name or a content id means, and the card of a name.

    Raises `UsageError` for what is neither, `DecodeError` for a name of something else, and as `Dht.resolve`.
    """
    if is_content(what):
        return content_of(what), None
    card = read_card(await names.resolve(what))
    return ContentId(card.content), card


async def pull_model(
    blobs: Blobs, content: ContentId, card: ModelCard | None, to: Path, on_progress: Callable[[FetchProgress], None]
) -> None:
    """Fetch a model into the file `to` (an absolute path), whole and checked, and hold it against its card.

    Raises as `Blobs.pull`, and `CorruptedError` where the card says something else of it.
    """
    await blobs.pull(content, to=to, on_progress=on_progress)
    if card is None:
        return
    metadata = await trio.to_thread.run_sync(read_layout, to, card.name)
    if metadata.layout_hash != card.layout_hash:
        raise CorruptedError(
            f"{to} is {text_of(content)}, byte for byte, but its tensors are not those that its publisher's card names",
            hint="ask the publisher: the card and the file do not belong together",
        )


async def metadata_of(blobs: Blobs, card: ModelCard) -> ModelMetadata:
    """Return the layout of a model: out of its card, or fetched. Raises as `Blobs.pull`, and `DecodeError`."""
    if card.metadata is not None:
        return card.metadata
    if len(card.layout) != 32:
        raise DecodeError("the card names no layout", hint="ask its publisher to push the model again")
    blob = await blobs.pull(ContentId(card.layout))
    chunks = [await blobs.store.chunk(blob.content, index) for index in range(blob.manifest.chunks)]
    return read_metadata(b"".join(chunks))
