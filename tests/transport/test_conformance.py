"""All transports keep the one contract: Prime's own four, and the example of another's."""

from __future__ import annotations

import importlib.util
import itertools
import re
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import trio

from prime.testing.transport import CASES, Case, TransportKit
from prime.transport.contract import Transport
from prime.transport.libp2p import Libp2p
from prime.transport.memory import Memory, MemoryHub
from prime.transport.tcp import Tcp
from prime.transport.unix import Unix

EXAMPLE = Path(__file__).parents[2] / "examples" / "07_websocket" / "prime_websocket.py"
NOBODY_TCP = "/ip4/127.0.0.1/tcp/1"  # a privileged port without a service


async def intrude_tcp(address: str, data: bytes) -> None:
    port = int(re.search(r"/tcp/(\d+)", address)[1])
    await send_and_hang_up(await trio.open_tcp_stream("127.0.0.1", port), data)


async def intrude_unix(address: str, data: bytes) -> None:
    path = address.removeprefix("/unix").rpartition("/p2p/")[0]
    await send_and_hang_up(await trio.open_unix_socket(path), data)


async def send_and_hang_up(stream: trio.SocketStream, data: bytes) -> None:
    async with stream:
        with suppress(trio.BrokenResourceError):  # it may be shown the door before it has finished
            await stream.send_all(data)


def memory_kit(_folder: Path) -> TransportKit:
    hub = MemoryHub()
    return TransportKit(
        make=lambda: Memory(hub=hub),
        make_at=lambda address: Memory(address, hub=hub),
        make_hurried=lambda: Memory(hub=hub, backlog_max=2, dial_timeout_s=0.5),
        nobody="/memory/nobody",
        foreign=NOBODY_TCP,
    )


def unix_kit(folder: Path) -> TransportKit:
    names = map("s{}".format, itertools.count())
    return TransportKit(
        make=lambda: Unix(folder / next(names)),
        make_at=Unix,
        make_hurried=lambda: Unix(folder / next(names), backlog_max=2, dial_timeout_s=0.5),
        nobody=f"/unix{folder}/nobody",
        foreign=NOBODY_TCP,
        intrude=intrude_unix,
    )


def websockets() -> Callable[..., Transport]:
    """Return the example's transport, imported from its file once."""
    if EXAMPLE.stem not in sys.modules:
        spec = importlib.util.spec_from_file_location(EXAMPLE.stem, EXAMPLE)
        sys.modules[EXAMPLE.stem] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return sys.modules[EXAMPLE.stem].WebSockets


def socket_kit(transport: Callable[..., Transport], layers: str = "") -> TransportKit:
    return TransportKit(
        make=transport,
        make_at=transport,
        make_hurried=lambda: transport(backlog_max=2, dial_timeout_s=0.5),
        nobody=NOBODY_TCP + layers,
        foreign="/memory/alice",
        intrude=intrude_tcp,
    )


KITS = {
    "memory": memory_kit,
    "unix": unix_kit,
    "tcp": lambda _folder: socket_kit(Tcp),
    "libp2p": lambda _folder: socket_kit(Libp2p),
    "websocket": lambda _folder: socket_kit(websockets(), "/ws"),
}
NEEDS = {"libp2p": "libp2p", "websocket": "wsproto"}


@pytest.fixture(params=KITS)
def kit(request: pytest.FixtureRequest, tmp_path: Path) -> TransportKit:
    if request.param in NEEDS:
        pytest.importorskip(NEEDS[request.param])
    return KITS[request.param](tmp_path)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
async def test_conformance(case: Case, kit: TransportKit) -> None:
    await case(kit)
