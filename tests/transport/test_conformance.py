"""All transports keep the one contract: Prime's own four, and the example of another's."""

from __future__ import annotations

import importlib.util
import itertools
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from prime.testing.transport import (
    CASES,
    LONG_CASES,
    LONG_WIRE_CASES,
    WIRE_CASES,
    Case,
    TransportKit,
    WireKit,
    detour_tcp,
    detour_unix,
    knock_tcp,
    knock_unix,
)
from prime.transport.contract import Transport
from prime.transport.libp2p import Libp2p
from prime.transport.memory import Memory, MemoryHub
from prime.transport.tcp import Tcp
from prime.transport.unix import Unix

EXAMPLE = Path(__file__).parents[2] / "examples" / "07_websocket" / "prime_websocket.py"
NOBODY_TCP = "/ip4/127.0.0.1/tcp/1"  # a privileged port without a service


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
        wire=WireKit(knock_unix, detour_unix, encrypts=False, tells_cuts=False),
    )


def websockets() -> Callable[..., Transport]:
    """Return the example's transport, imported from its file once."""
    if EXAMPLE.stem not in sys.modules:
        spec = importlib.util.spec_from_file_location(EXAMPLE.stem, EXAMPLE)
        sys.modules[EXAMPLE.stem] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return sys.modules[EXAMPLE.stem].WebSockets


def socket_kit(transport: Callable[..., Transport], layers: str = "", *, tells_cuts: bool = True) -> TransportKit:
    return TransportKit(
        make=transport,
        make_at=transport,
        make_hurried=lambda: transport(backlog_max=2, dial_timeout_s=0.5),
        nobody=NOBODY_TCP + layers,
        foreign="/memory/alice",
        wire=WireKit(knock_tcp, detour_tcp, tells_cuts=tells_cuts),
    )


KITS = {
    "memory": memory_kit,
    "unix": unix_kit,
    "tcp": lambda _folder: socket_kit(Tcp),
    "libp2p": lambda _folder: socket_kit(Libp2p, tells_cuts=False),
    "websocket": lambda _folder: socket_kit(websockets(), "/ws"),
}
NEEDS = {"libp2p": "libp2p", "websocket": "wsproto"}


def pairs(*cases: Case, over: frozenset[str] = frozenset(KITS)) -> pytest.MarkDecorator:
    """Run each case over each transport."""
    both = [pytest.param(name, case, id=f"{name}-{case.__name__}") for name in KITS if name in over for case in cases]
    return pytest.mark.parametrize(("name", "case"), both)


WIRED = frozenset(KITS) - {"memory"}  # which never leaves the process


@pairs(*CASES)
async def test_conformance(name: str, case: Case, tmp_path: Path) -> None:
    await case(kit(name, tmp_path))


@pairs(*WIRE_CASES, over=WIRED)
async def test_conformance_on_a_wire_that_fails(name: str, case: Case, tmp_path: Path) -> None:
    await case(kit(name, tmp_path))


@pytest.mark.nightly
@pytest.mark.timeout(2400)
@pairs(*LONG_CASES)
async def test_conformance_at_length(name: str, case: Case, tmp_path: Path) -> None:
    await case(kit(name, tmp_path))


@pytest.mark.nightly
@pytest.mark.timeout(2400)
@pairs(*LONG_WIRE_CASES, over=WIRED)
async def test_conformance_on_a_wire_that_fails_at_length(name: str, case: Case, tmp_path: Path) -> None:
    await case(kit(name, tmp_path))


def kit(name: str, folder: Path) -> TransportKit:
    if name in NEEDS:
        pytest.importorskip(NEEDS[name])
    return KITS[name](folder)
