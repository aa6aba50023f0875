"""A node's models: its user's orders to push and to pull them, carried out beside everything else that it does."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import attrs
import trio

from prime.actor import Actor, Later, on
from prime.dht.blob.blobs import Blobs, open_blobs
from prime.dht.blob.content import content_of, is_content, text_of
from prime.dht.name import salt_of, split_name
from prime.errors import NotFoundError, PrimeError, RefusedError, UsageError, WorldError
from prime.store.blob import Blob
from prime.store.blobs import BlobStore
from prime.store.manifest import ContentId
from prime.trainer.publish.messages import (
    ListShared,
    ModelsShared,
    Phase,
    PullModel,
    PushModel,
    SharedModel,
    ShowTransfer,
    StopTransfer,
    TransferShown,
    WithdrawModel,
)
from prime.trainer.publish.publishing import LAYOUT, MODEL, Origin, find_model, pull_model, push_model

if TYPE_CHECKING:
    from prime.actor import System
    from prime.dht.blob.filling import FetchProgress
    from prime.dht.dht import Dht

BLOBS: Final = "blobs"
"""The folder of the blobs in a node's folder."""
RUNNING_MAX: Final = 16
KEPT_MAX: Final = 64
"""Transfers that run at a time, and that are remembered."""

_NEW: Final = TransferShown(0, "reading", "", "", "", "", 0, 0, 0, (), None, 0, 0)


@attrs.define
class _Transfer:
    shown: TransferShown
    error: WorldError | None = None
    scope: trio.CancelScope = attrs.Factory(trio.CancelScope)

    @property
    def is_running(self) -> bool:
        return self.error is None and self.shown.phase != "done"

    def show(self, **changes: Any) -> None:
        self.shown = attrs.evolve(self.shown, **changes)  # type: ignore[misc]  # a @record is an attrs class


class Models:
    """The transfers of a node; they outlive the actor that takes the orders. Open them with `open_models`."""

    def __init__(self, dht: Dht, blobs: Blobs, nursery: trio.Nursery) -> None:
        self.blobs = blobs
        self._dht = dht
        self._nursery = nursery
        self._transfers: dict[int, _Transfer] = {}
        self._count = 0

    def push(self, order: PushModel) -> TransferShown:
        """Begin to push. Raises `RefusedError`."""
        return self._begin(order.name, order.file, "reading", functools.partial(self._push, order))

    def pull(self, order: PullModel) -> TransferShown:
        """Begin to pull. Raises `RefusedError`."""
        return self._begin(order.what, order.file, "searching", functools.partial(self._pull, order))

    def show(self, number: int) -> TransferShown:
        """Return how far a transfer is. Raises its error, and `NotFoundError` for one that nobody remembers."""
        transfer = self._transfers.get(number)
        if transfer is None:
            raise NotFoundError(f"there is no transfer {number}", hint="the node was started anew: order it again")
        if transfer.error is not None:
            raise transfer.error
        return transfer.shown

    def stop(self, number: int) -> None:
        """End a transfer; harmless for one that has ended."""
        transfer = self._transfers.get(number)
        if transfer is not None and transfer.is_running:
            transfer.error = RefusedError("it was stopped", hint="order it again: it goes on where it was")
            transfer.scope.cancel()

    def shared(self) -> ModelsShared:
        """Return what others can fetch."""
        return ModelsShared(self._dht.peer, tuple(_shared(self.blobs.store, blob) for blob in self.blobs.store.blobs()))

    async def withdraw(self, what: str) -> SharedModel:
        """Let go of a model. Raises `NotFoundError`, `ConflictError` while it is fetched, and as `Dht.remove`."""
        store = self.blobs.store
        name = "" if is_content(what) else what
        blob = store.named(f"{MODEL}{name}") if name else store.find(content_of(what))
        if blob is None:
            raise NotFoundError(f"this node shares no {what}", hint="`prime model shared` lists what it does")
        shown = _shared(store, blob)
        if name:
            await self._dht.remove(salt_of(name))
            await store.free(f"{MODEL}{name}")
            if (layout := store.named(f"{LAYOUT}{name}")) is not None:
                await self.blobs.remove(layout.content)
        if not any(each.startswith(MODEL) for each in blob.names if each != f"{MODEL}{name}"):
            await self.blobs.remove(blob.content)
        return shown

    def _begin(self, what: str, file: str, phase: Phase, work: Callable[[_Transfer], Awaitable[None]]) -> TransferShown:
        if not Path(file).is_absolute():
            raise RefusedError(f"{file} is no absolute path", hint="a node knows nothing of the folder that you are in")
        running = [one for one in self._transfers.values() if one.is_running]
        same = [one.shown for one in running if (one.shown.what, one.shown.file) == (what, file)]
        if same:
            return same[0]
        if len(running) >= RUNNING_MAX:
            raise RefusedError(f"{len(running)} transfers are under way", hint="wait for one to end")
        self._forget()
        self._count += 1
        transfer = _Transfer(attrs.evolve(_NEW, number=self._count, what=what, file=file, phase=phase))  # type: ignore[misc]
        self._transfers[self._count] = transfer
        self._nursery.start_soon(self._run, transfer, work)
        return transfer.shown

    def _forget(self) -> None:
        ended = [number for number, one in self._transfers.items() if not one.is_running]
        for number in ended[: max(0, len(self._transfers) - KEPT_MAX + 1)]:
            del self._transfers[number]

    async def _run(self, transfer: _Transfer, work: Callable[[_Transfer], Awaitable[None]]) -> None:
        try:
            with transfer.scope:
                await work(transfer)
                transfer.show(phase="done")
        except WorldError as error:
            transfer.error = error
        except PrimeError as error:  # what cannot be right: told to the user who gave the order
            transfer.error = RefusedError(str(error), hint=error.hint)
        except OSError as error:  # a name that no disk takes, or a folder that this user may not look into
            text = f"{transfer.shown.file}: {error.strerror or error}"
            transfer.error = WorldError(text, hint="name a file that the user of the node can reach")

    async def _push(self, order: PushModel, transfer: _Transfer) -> None:
        def tell(here_bytes: int, size_bytes: int) -> None:
            phase = "reading" if here_bytes < size_bytes else "publishing"
            transfer.show(phase=phase, here_bytes=here_bytes, size_bytes=size_bytes)

        origin = Origin(run=order.run, step=order.step, round=order.round, loss=order.loss, licence=order.licence)
        now_ms = int(time.time() * 1000)
        card, put = await push_model(self._dht, self.blobs, Path(order.file), order.name, origin, now_ms, tell)
        transfer.show(card=card, publisher=self._dht.peer, holders=len(put.holders), asked=put.asked)
        transfer.show(content=text_of(ContentId(card.content)), here_bytes=card.size_bytes, size_bytes=card.size_bytes)

    async def _pull(self, order: PullModel, transfer: _Transfer) -> None:
        def tell(now: FetchProgress) -> None:
            phase = "checking" if now.here_bytes == now.size_bytes else "fetching"
            transfer.show(
                phase=phase,
                size_bytes=now.size_bytes,
                here_bytes=now.here_bytes,
                kept_bytes=now.kept_bytes,
                sent=now.sent,
            )

        content, card = await find_model(self._dht, order.what)
        to, size_bytes = Path(order.file), 0 if card is None else card.size_bytes
        publisher = "" if card is None else split_name(order.what)[0] or self._dht.peer
        transfer.show(content=text_of(content), card=card, publisher=publisher, size_bytes=size_bytes)
        if not order.overwrite:
            await self._check_free(content, to)
        await pull_model(self.blobs, content, card, to, tell)
        blob = self.blobs.store.find(content)
        size_bytes = 0 if blob is None else blob.manifest.size_bytes
        transfer.show(size_bytes=size_bytes, here_bytes=size_bytes)

    async def _check_free(self, content: ContentId, to: Path) -> None:
        """Refuse to replace a file that somebody may still want: any but the one that is to be there."""
        if not await trio.Path(to).exists():
            return
        blob = self.blobs.store.find(content)
        if blob is None or blob.source != to or not await self.blobs.store.verify(content):
            raise RefusedError(f"{to} is there already", hint="--overwrite replaces it, or name another file with --to")


def _shared(store: BlobStore, blob: Blob) -> SharedModel:
    names = [name.removeprefix(MODEL) for name in blob.names if name.startswith(MODEL)]
    file = str(blob.source or store.folder)
    return SharedModel(", ".join(names), text_of(blob.content), blob.manifest.size_bytes, file, blob.is_whole)


Order = PushModel | PullModel | ShowTransfer | StopTransfer | ListShared | WithdrawModel


class ModelsActor(Actor[Order]):
    """At `/node/models`: takes the orders of this node's own user."""

    def __init__(self, models: Models | None) -> None:
        self._models = models

    @on(PushModel)
    def push_model(self, m: PushModel) -> TransferShown:
        """Begin to push a model."""
        return self._told().push(m)

    @on(PullModel)
    def pull_model(self, m: PullModel) -> TransferShown:
        """Begin to pull a model."""
        return self._told().pull(m)

    @on(ShowTransfer)
    def show_transfer(self, m: ShowTransfer) -> Later:
        """Say how far it is. Why a transfer ended is an answer, whatever it was, and no failure of this actor."""
        models, later = self._told(), self.ctx.defer()
        try:
            later.reply(models.show(m.number))
        except WorldError as error:
            later.fail(error)
        return later

    @on(StopTransfer)
    def stop_transfer(self, m: StopTransfer) -> None:
        """End it."""
        self._told().stop(m.number)

    @on(ListShared)
    def list_shared(self, _: ListShared) -> ModelsShared:
        """Say what others can fetch."""
        return self._told().shared()

    @on(WithdrawModel)
    def withdraw_model(self, m: WithdrawModel) -> Later:
        """Let go of a model, beside the actor: the DHT is told."""
        models, later = self._told(), self.ctx.defer()
        self.ctx.start_soon(self._withdraw, models, m.what, later)
        return later

    async def _withdraw(self, models: Models, what: str, later: Later) -> None:
        try:
            later.reply(await models.withdraw(what))
        except UsageError as error:
            later.fail(RefusedError(str(error), hint=error.hint))
        except PrimeError as error:
            later.fail(error)

    def _told(self) -> Models:
        if self.ctx.sender not in (None, self.ctx.system.peer):
            raise RefusedError(
                "a node takes such orders only on its own machine",
                hint="run the command there, as the user that runs the node",
            )
        if self._models is None:
            raise RefusedError("this node is not in the DHT", hint="set dht.enabled = true, and start it again")
        return self._models


@contextlib.asynccontextmanager
async def open_models(
    system: System, dht: Dht, folder: Path, *, size_bytes_max: int | None, bytes_per_s: float
) -> AsyncIterator[Models]:
    """Serve the blobs in a node's folder, and carry out orders about models until the block ends. Raises `WorldError`."""
    async with (
        open_blobs(system, folder / BLOBS, dht, size_bytes_max=size_bytes_max, bytes_per_s=bytes_per_s) as blobs,
        trio.open_nursery() as nursery,
    ):
        yield Models(dht, blobs, nursery)
        nursery.cancel_scope.cancel()
