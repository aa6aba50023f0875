"""The control socket's side of a node: its status, runs, models and the DHT are reachable through it, in its own name."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TypeVar

from prime.actor.contract import PeerId
from prime.errors import RefusedError
from prime.node.messages import DHT_PATH
from prime.observe.messages import LINK_PATH, STATUS_PATH
from prime.trainer.publish.messages import MODELS_PATH
from prime.trainer.runs.messages import RUNS_PATH
from prime.transport.link import LinkLimits

if TYPE_CHECKING:
    from prime.actor import System
    from prime.actor.contract import ReplySlot

T = TypeVar("T")

CONTROL_LIMITS: Final = LinkLimits(greeting_s=20.0, heartbeat_timeout_s=60.0)
"""Bounds of a link over the control socket, at both its ends.

A node that compiles its kernels or imports torch stands still for seconds, longer than a far peer may be silent. Its user
waits for it: a process that has ended closes the socket, and that is seen at once.
"""

OPEN: Final = (STATUS_PATH, RUNS_PATH, LINK_PATH, DHT_PATH, MODELS_PATH)
"""Actors that the node's own user may speak to."""


class ControlInbound:
    """An `Inbound` that lets the node's own user (proved by the socket's owner and mode) speak as the node itself."""

    def __init__(self, system: System) -> None:
        self._system = system

    def deliver_nowait(
        self,
        path: str,
        message: Any,
        *,
        slot: ReplySlot | None,
        deadline: float | None,
        sender: PeerId,  # noqa: ARG002 - replaced: who may open the socket is this node's user
        trace: str | None = None,
        chain: tuple[str, ...] = (),
    ) -> bool:
        """See `contract.Inbound.deliver_nowait`. Raises `RefusedError` for any other path."""
        _check(path)
        own = PeerId(self._system.peer)
        return self._system.deliver_nowait(
            path, message, slot=slot, deadline=deadline, sender=own, trace=trace, chain=chain
        )

    async def deliver(
        self,
        path: str,
        message: Any,
        *,
        slot: ReplySlot | None,
        deadline: float | None,
        sender: PeerId,  # noqa: ARG002 - as above
        trace: str | None = None,
        chain: tuple[str, ...] = (),
    ) -> None:
        """See `contract.Inbound.deliver`. Raises `RefusedError` for any other path."""
        _check(path)
        own = PeerId(self._system.peer)
        await self._system.deliver(path, message, slot=slot, deadline=deadline, sender=own, trace=trace, chain=chain)

    def decoded(self, decode: Callable[..., T], *args: Any) -> T:
        """See `contract.Inbound.decoded`."""
        return self._system.decoded(decode, *args)

    def watch_path(self, path: str, notify: Callable[[str], None]) -> Callable[[], None]:
        """See `contract.Inbound.watch_path`."""
        if path in OPEN:
            return self._system.watch_path(path, notify)
        notify("not reachable through the control socket")
        return lambda: None


def _check(path: str) -> None:
    if path not in OPEN:
        raise RefusedError(f"{path} is not reachable through the control socket", hint=f"ask {' or '.join(OPEN)}")
