"""The fetch of one blob by its content id: its manifest from whoever has it, then the rest into a draft."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import attrs
import trio

from prime.dht.blob.causes import Causes
from prime.dht.blob.content import text_of
from prime.dht.blob.filling import FetchProgress, Filling, Find
from prime.dht.blob.keeper import BlobKeeper
from prime.dht.blob.messages import KEEPER_PATH, DescribeBlob
from prime.errors import WorldError
from prime.store.blob import Blob
from prime.store.blobs import BlobStore
from prime.store.manifest import ContentId, Manifest, read_manifest

if TYPE_CHECKING:
    from prime.actor import Ref, System

ASK_S: Final = 10.0
PATIENCE_S: Final = 60.0
"""How long a fetch that has begun looks for providers without one new piece."""


@attrs.frozen
class BlobFetched:
    """A blob came whole, `fetched_bytes` of it from these providers; the rest was here."""

    content: str
    size_bytes: int
    fetched_bytes: int
    providers: tuple[str, ...]
    seconds: float


async def fetch_blob(
    system: System,
    store: BlobStore,
    content: ContentId,
    find: Find,
    *,
    to: Path | None = None,
    on_progress: Callable[[FetchProgress], None] = lambda _: None,
    patience_s: float = PATIENCE_S,
) -> Blob:
    """Return the blob once it is whole on the disk, in the store or in the file `to`.

    A fetch that failed goes on where it was when it is called again. Raises `NotFoundError` where nobody provides it, or
    nobody who does has it; `UnreachableError` where no provider answers; `CorruptedError` where one sent something else
    and nobody sent the right thing; and what the store raises.
    """
    started, causes = trio.current_time(), Causes(content)
    known = store.find(content)
    peers: Sequence[str] = ()
    if known is None:
        peers = await find()
        manifest = await _described(system, content, peers, causes)
    else:
        manifest = known.manifest
    draft = await store.draft(manifest, to)
    try:
        filling = Filling(system, draft, peers, find, causes, on_progress=on_progress, patience_s=patience_s)
        progress = await filling.run()
        blob = await draft.finish()
    finally:
        with trio.CancelScope(shield=True):
            await draft.aclose()
    fetched_bytes, providers = progress.here_bytes - progress.kept_bytes, tuple(peer for peer, _ in progress.sent)
    seconds = trio.current_time() - started
    system.emit(BlobFetched(text_of(content), manifest.size_bytes, fetched_bytes, providers, seconds))
    return blob


async def _described(system: System, content: ContentId, peers: Sequence[str], causes: Causes) -> Manifest:
    """Ask all providers at once what the blob is, and return the first right answer."""
    found: list[Manifest] = []

    async def ask(peer: str) -> None:
        ref: Ref[Any] = system.ref(peer, KEEPER_PATH, BlobKeeper)
        try:
            answer = await ref.ask(DescribeBlob(content), timeout=ASK_S)
            found.append(read_manifest(answer.manifest, content))
        except WorldError as error:
            causes.failed(peer, error)
        else:
            nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        for peer in peers:
            nursery.start_soon(ask, peer)
    if not found:
        raise causes.error()
    return found[0]
