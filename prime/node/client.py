"""The other end of the control socket: how a command asks a running node on this machine."""

from __future__ import annotations

import contextlib
import socket as sockets
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from prime.actor import Ref, System
from prime.errors import NotFoundError, UnreachableError
from prime.node.control import CONTROL_LIMITS
from prime.node.link import LinkActor
from prime.node.messages import DHT_PATH
from prime.node.runs import RunsActor
from prime.node.system import open_system
from prime.observe.messages import (
    LINK_PATH,
    STATUS_PATH,
    GetStatus,
    GiveBulk,
    MeasureLinks,
    NodeStatus,
    Ping,
    StopNode,
    TakeBulk,
)
from prime.observe.status import StatusActor
from prime.trainer.publish.messages import MODELS_PATH
from prime.trainer.runs.messages import RUNS_PATH, AuditRun, EndRun, LeaveRun, ListRuns, RecoverRun, ShareRun, SubmitRun
from prime.transport.unix import Unix

if TYPE_CHECKING:
    from prime.node.models import Order as ModelOrder
    from prime.node.orders import Order

ASK_TIMEOUT_S = 5.0

Connect = Callable[[Path], Awaitable[Ref[GetStatus | StopNode]]]
LinksRef = Ref[Ping | TakeBulk | GiveBulk | MeasureLinks]
RunsRef = Ref[ShareRun | SubmitRun | ListRuns | LeaveRun | EndRun | RecoverRun | AuditRun]


@contextlib.asynccontextmanager
async def open_client() -> AsyncIterator[Connect]:
    """Yield a function that connects to a node's control socket and returns a ref to its status actor.

    The function raises `NotFoundError` if no node is there, and what `Network.dial` raises.
    """
    with tempfile.TemporaryDirectory(prefix="prime-") as folder:
        async with open_system(transport=Unix(Path(folder) / "c.sock"), limits=CONTROL_LIMITS) as system:

            async def connect(socket: Path) -> Ref[GetStatus | StopNode]:
                return system.ref(await _dialled(system, socket), STATUS_PATH, StatusActor)

            yield connect


async def ask_status(socket: Path, *, rounds_after: int = -1) -> NodeStatus:
    """Ask the node behind a control socket once."""
    async with open_client() as connect:
        return await (await connect(socket)).ask(GetStatus(rounds_after), timeout=ASK_TIMEOUT_S)


@contextlib.asynccontextmanager
async def open_runs(socket: Path) -> AsyncIterator[tuple[Ref[GetStatus | StopNode], RunsRef]]:
    """Connect to a node's control socket, and yield refs to its status actor and to the actor of its runs.

    Raises as the function of `open_client`.
    """
    with tempfile.TemporaryDirectory(prefix="prime-") as folder:
        async with open_system(transport=Unix(Path(folder) / "c.sock"), limits=CONTROL_LIMITS) as system:
            peer = await _dialled(system, socket)
            yield system.ref(peer, STATUS_PATH, StatusActor), system.ref(peer, RUNS_PATH, RunsActor)


@contextlib.asynccontextmanager
async def open_links(socket: Path) -> AsyncIterator[tuple[Ref[GetStatus | StopNode], LinksRef]]:
    """As `open_runs`, with a ref to the actor that measures links."""
    with tempfile.TemporaryDirectory(prefix="prime-") as folder:
        async with open_system(transport=Unix(Path(folder) / "c.sock"), limits=CONTROL_LIMITS) as system:
            peer = await _dialled(system, socket)
            yield system.ref(peer, STATUS_PATH, StatusActor), system.ref(peer, LINK_PATH, LinkActor)


@contextlib.asynccontextmanager
async def open_orders(socket: Path) -> AsyncIterator[Ref[Order]]:
    """As `open_runs`, with a ref to the actor that takes orders for the DHT alone."""
    from prime.node.orders import DhtActor  # a status is asked without it

    with tempfile.TemporaryDirectory(prefix="prime-") as folder:
        async with open_system(transport=Unix(Path(folder) / "c.sock"), limits=CONTROL_LIMITS) as system:
            yield system.ref(await _dialled(system, socket), DHT_PATH, DhtActor)


@contextlib.asynccontextmanager
async def open_models_of(socket: Path) -> AsyncIterator[Ref[ModelOrder]]:
    """As `open_runs`, with a ref to the actor of its models alone."""
    from prime.node.models import ModelsActor

    with tempfile.TemporaryDirectory(prefix="prime-") as folder:
        async with open_system(transport=Unix(Path(folder) / "c.sock"), limits=CONTROL_LIMITS) as system:
            yield system.ref(await _dialled(system, socket), MODELS_PATH, ModelsActor)


async def ask_stop(socket: Path) -> None:
    """Ask the node behind a control socket to stop in order."""
    async with open_client() as connect:
        await (await connect(socket)).ask(StopNode(), timeout=ASK_TIMEOUT_S)


async def _dialled(system: System, socket: Path) -> str:
    if system.network is None or not await trio.Path(socket).exists():
        raise no_node(socket)
    try:
        return await system.network.dial(f"/unix/{socket}")
    except UnreachableError as error:
        raise no_node(socket) from error


def no_node(socket: Path) -> NotFoundError:
    """Say that no node answers at a control socket, and which of other names do."""
    hint = "start one with `prime node start`, or name its configuration with --config"
    if others := _named_beside(socket):
        hint = f"these run here: {', '.join(others)}; say which with --node"
    return NotFoundError(f"no node runs here: nothing answers at {socket}", hint=hint)


def _named_beside(socket: Path) -> list[str]:
    """Return the names of the nodes whose sockets lie where that of a node with another name does, and that answer."""
    if socket.name == "control.sock":  # in the node's state folder
        return sorted(one.parent.name for one in socket.parent.parent.glob("*/control.sock") if _answers(one))
    if socket.parent.name == "prime":  # in the user's run-time folder
        return sorted(one.stem for one in socket.parent.glob("*.sock") if _answers(one))
    return []


def _answers(path: Path) -> bool:
    with sockets.socket(sockets.AF_UNIX) as one:
        one.settimeout(0.5)
        return not one.connect_ex(str(path))
