"""A pool: some workers of one kind and a router in front of them, spawned, resized and stopped as one."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import trio

from prime.actor.mailbox import Mailbox
from prime.actor.ref import LocalRef, Ref
from prime.actor.router import Routees, Router
from prime.actor.routes import Route
from prime.errors import ActorUsageError, PrimeError

if TYPE_CHECKING:
    from prime.actor.supervisor import Supervisor

M = TypeVar("M")

SIZE_MAX = 10_000
"""Workers of one pool."""
DRAIN_LOOK_S = 0.02
"""How often a worker that is to leave is looked at until it has handled what it was given."""


class Pool(Generic[M]):
    """Workers `NAME-0`, `NAME-1`, … behind a router `NAME`. `spawn_worker` starts one, under the name it is given."""

    def __init__(
        self, supervisor: Supervisor, name: str, spawn_worker: Callable[[str], Awaitable[Ref[M]]], drain_s: float
    ) -> None:
        self._supervisor = supervisor
        self._name = name
        self._spawn_worker = spawn_worker
        self._drain_s = drain_s
        self._workers: dict[str, Ref[M]] = {}
        self._router: Ref[M] | None = None
        self._resizing = trio.Lock()

    @property
    def workers(self) -> tuple[Ref[M], ...]:
        """Return the workers that have not ended for good."""
        alive = self._supervisor.system.whereis
        return tuple(ref for ref in self._workers.values() if alive(ref.path) is not None)

    async def open(self, size: int, route: Route, mailbox: Mailbox, shutdown: float) -> Ref[M]:
        """Start the workers, then the router; all of it or nothing."""
        checked_size(size)
        try:
            await self._grow(size)
            self._router = await self._supervisor.spawn(
                lambda: Router(self.workers, route=route), self._name, mailbox=mailbox, shutdown=shutdown
            )
        except BaseException:
            with trio.CancelScope(shield=True):
                await self.close()
            raise
        return self._router

    async def resize(self, size: int) -> None:
        """Have `size` workers: start what is missing; what is too many first handles what it has.

        A worker that has not done so after its `shutdown` seconds is stopped, and what it had are dead letters.
        """
        checked_size(size)
        async with self._resizing:
            await self._grow(size)
            leaving = self.workers[size:]
            await self._tell_router(self.workers[:size])
            for ref in leaving:
                await self._drain(ref)
                await self._stop(ref)

    async def close(self) -> None:
        """Stop the router, so that nothing new comes, then the workers, last first."""
        if self._router is not None:
            await self._supervisor.stop(self._router)
        for ref in reversed(self.workers):
            await self._stop(ref)

    async def _grow(self, size: int) -> None:
        number = 0
        while len(self.workers) < size:
            name = f"{self._name}-{number}"
            number += 1
            if self._supervisor.system.whereis(f"{self._supervisor.path}/{name}") is None:
                self._workers[name] = await self._spawn_worker(name)

    async def _tell_router(self, refs: tuple[Ref[M], ...]) -> None:
        router: Ref[Any] | None = self._router
        if router is not None:
            await router.ask(Routees(refs), timeout=self._drain_s)

    async def _drain(self, ref: Ref[M]) -> None:
        with trio.move_on_after(self._drain_s):
            while isinstance(ref, LocalRef) and ref.load:  # noqa: ASYNC110 - a mailbox does not tell when it is empty
                await trio.sleep(DRAIN_LOOK_S)

    async def _stop(self, ref: Ref[M]) -> None:
        self._workers = {name: worker for name, worker in self._workers.items() if worker != ref}
        with contextlib.suppress(PrimeError):
            await self._supervisor.stop(ref)


def checked_size(size: int) -> None:
    """Raise `ActorUsageError` for a pool that cannot be."""
    if not 1 <= size <= SIZE_MAX:
        raise ActorUsageError(f"a pool of {size}", hint=f"a size of 1 to {SIZE_MAX}")
