"""One network of several: what goes to a child process goes over its pair, the rest over the node's own transport."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import trio

from prime.actor.contract import Inbound, Network, PeerId
from prime.errors import ActorUsageError, UnreachableError

if TYPE_CHECKING:
    from prime.transport.links import Links


class Routes:
    """A `Network` that chooses by peer. `outer` is the node's own network, if it has one; it is served elsewhere."""

    def __init__(self, outer: Network | None, peer: PeerId) -> None:
        self.outer = outer
        self._peer = peer
        self._pairs: dict[PeerId, Links] = {}

    def add(self, peer: PeerId, links: Links) -> None:
        """Reach a child process over its pair."""
        self._pairs[peer] = links

    def remove(self, peer: PeerId) -> None:
        """Forget a process that has ended."""
        self._pairs.pop(peer, None)

    @property
    def processes(self) -> tuple[PeerId, ...]:
        """Return the child processes that run now."""
        return tuple(self._pairs)

    @property
    def peer(self) -> PeerId:
        """See `Network.peer`; processes know this node by the same id as others do."""
        return self._peer

    @property
    def addresses(self) -> tuple[str, ...]:
        """See `Network.addresses`."""
        return () if self.outer is None else self.outer.addresses

    async def serve(self, inbound: Inbound, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """See `Network.serve`."""
        if self.outer is not None:
            await self.outer.serve(inbound, task_status=task_status)
            return
        task_status.started()
        await trio.sleep_forever()

    def learn(self, peer: PeerId, addresses: Sequence[str]) -> None:
        """See `Network.learn`."""
        if self.outer is not None:
            self.outer.learn(peer, addresses)

    async def dial(self, address: str) -> PeerId:
        """See `Network.dial`."""
        if self.outer is None:
            raise ActorUsageError(
                f"{address} cannot be dialled by a system without a network",
                hint="open_system(transport=prime.Tcp(...))",
            )
        return await self.outer.dial(address)

    async def tell(self, peer: PeerId, path: str, message: Any) -> None:
        """See `Network.tell`."""
        await self._to(peer).tell(peer, path, message)

    async def tell_reliably(self, peer: PeerId, path: str, message: Any) -> None:
        """See `Network.tell_reliably`."""
        await self._to(peer).tell_reliably(peer, path, message)

    async def flush(self, peer: PeerId, path: str, *, timeout_s: float) -> None:
        """See `Network.flush`."""
        await self._to(peer).flush(peer, path, timeout_s=timeout_s)

    async def ask(self, peer: PeerId, path: str, message: Any, *, timeout_s: float, chain: tuple[str, ...] = ()) -> Any:
        """See `Network.ask`."""
        return await self._to(peer).ask(peer, path, message, timeout_s=timeout_s, chain=chain)

    def watch(self, peer: PeerId, path: str, notify: Callable[[str], None]) -> Callable[[], None]:
        """See `Network.watch`."""
        return self._to(peer).watch(peer, path, notify)

    def _to(self, peer: PeerId) -> Network:
        found = self._pairs.get(peer, self.outer)
        if found is None:
            raise UnreachableError(
                f"{peer} is no process of this node, or has ended, and this system has no network",
                hint="watch the refs that you keep, to hear when their process ends",
            )
        return found
