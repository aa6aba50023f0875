"""A pool: some workers of one kind and a router in front of them, spawned, resized and stopped as one."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import trio

from prime.actor.mailbox import Mailbox
from prime.actor.ref import LocalRef, Ref
from prime.actor.restart import Restart
from prime.actor.router import Routees, Router
from prime.actor.routes import Route
from prime.errors import ActorCrashedError, ActorUsageError, PrimeError

if TYPE_CHECKING:
    from prime.actor.supervisor import Supervisor

M = TypeVar("M")

SIZE_MAX = 10_000
"""Workers of one pool."""
DRAIN_LOOK_S = 0.02
"""How often a worker that is to leave is looked at until it has handled what it was given."""


class Pool(Generic[M]):
    """Workers `NAME-workers/0`, `…/1`, … under a supervisor of their own, and a router `NAME` in front of them.

    `spawn_worker` starts one under the supervisor and the name that it is given. The router is their supervisor's
    sibling, so its ref outlives a restart of all workers.
    """

    def __init__(
        self,
        supervisor: Supervisor,
        name: str,
        spawn_worker: Callable[[Supervisor, str], Awaitable[Ref[M]]],
        size: int,
        drain_s: float,
    ) -> None:
        self._supervisor = supervisor
        self._name = name
        self._spawn_worker = spawn_worker
        self._size = checked_size(size)
        self._drain_s = drain_s
        self._branch: Supervisor | None = None
        self._workers: dict[str, Ref[M]] = {}
        self._router: Ref[M] | None = None
        self._unstarted: ActorCrashedError | None = None
        """Why the first workers could not start: the spawner's to hear, and nothing to restart."""
        self._resizing = trio.Lock()

    @property
    def workers(self) -> tuple[Ref[M], ...]:
        """Return the workers that have not ended for good."""
        alive = self._supervisor.system.whereis
        return tuple(ref for ref in self._workers.values() if alive(ref.path) == ref)

    async def open(self, route: Route, restart: Restart, mailbox: Mailbox, shutdown: float) -> Ref[M]:
        """Start the workers, then the router; all of it or nothing."""
        try:
            await self._supervisor.spawn_supervisor(f"{self._name}-workers", self._start, restart=restart)
            if self._unstarted is not None:
                raise self._unstarted
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

        A worker that has not done so after its `shutdown` seconds is stopped, and what it had are dead letters. While
        all workers are about to start anew, it is then that there are `size`.
        """
        self._size = checked_size(size)
        async with self._resizing:
            branch = self._branch
            if branch is None or not _runs(branch):
                return
            try:
                await self._grow(branch)
            except ActorUsageError:
                if _runs(branch):
                    raise
                return  # they failed once too often meanwhile: whoever starts them anew knows the size
            size = self._size  # of several resizes the last one counts
            leaving = self.workers[size:]
            await self._tell_router(self.workers[:size])
            for ref in leaving:
                await self._drain(ref)
                await branch.stop(ref)
                self._workers = {name: worker for name, worker in self._workers.items() if worker != ref}

    async def close(self) -> None:
        """Stop the router, so that nothing new comes, then the workers, last first."""
        if self._router is not None:
            await self._supervisor.stop(self._router)
        await self._supervisor.stop_supervisor(f"{self._name}-workers")

    async def _start(self, branch: Supervisor) -> None:
        """Start all workers, at first and whenever their supervisor has been restarted."""
        async with self._resizing:
            await self._start_all(branch)
        with contextlib.suppress(PrimeError):  # a router that is not up asks for the workers when it comes up
            await self._tell_router(self.workers)

    async def _start_all(self, branch: Supervisor) -> None:
        first, self._branch = self._branch is None, branch
        self._workers = {}
        try:
            await self._grow(branch)
        except ActorCrashedError as error:
            if not first:
                raise
            self._unstarted = error

    async def _grow(self, branch: Supervisor) -> None:
        taken = {ref.path for ref in self.workers}
        for number in range(SIZE_MAX):
            if len(self.workers) >= self._size:
                return
            if f"{branch.path}/{number}" not in taken:
                self._workers[str(number)] = await self._spawn_worker(branch, str(number))

    async def _tell_router(self, refs: tuple[Ref[M], ...]) -> None:
        router: Ref[Any] | None = self._router
        if router is not None:
            await router.ask(Routees(refs), timeout=self._drain_s)

    async def _drain(self, ref: Ref[M]) -> None:
        with trio.move_on_after(self._drain_s):
            while isinstance(ref, LocalRef) and ref.load:  # noqa: ASYNC110 - a mailbox does not tell when it is empty
                await trio.sleep(DRAIN_LOOK_S)


def _runs(branch: Supervisor) -> bool:
    return branch.state == "running"


def checked_size(size: int) -> int:
    """Return the size; raises `ActorUsageError` for a pool that cannot be."""
    if not 1 <= size <= SIZE_MAX:
        raise ActorUsageError(f"a pool of {size}", hint=f"a size of 1 to {SIZE_MAX}")
    return size
