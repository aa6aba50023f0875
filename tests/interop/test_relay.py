"""Prime nodes behind NATs that talk through go-libp2p's relay, in network namespaces."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

NAT = Path(__file__).parents[1] / "nat"
sys.path.insert(0, str(NAT))

from nets import Internet, Machine, Program, why_not  # type: ignore[import-not-found]  # noqa: E402 - from a folder of its own

pytest.importorskip("libp2p")
pytestmark = [pytest.mark.interop, pytest.mark.network]

NODE = NAT / "circuit_node.py"


@pytest.fixture
def internet() -> Iterator[Internet]:
    if reason := why_not():
        pytest.skip(reason)
    with Internet() as net:
        yield net


def start_relay(machine: Machine, daemon: Path, socket: Path, security: str) -> tuple[Program, str]:
    """Run `p2pd` as a public relay, and return its address."""
    place = f"/ip4/{machine.address}/tcp/4001"
    words = ("-hostAddrs", place, "-relay", "-relayService", "-forceReachabilityPublic", "-muxer", "yamux")
    secure = (f"-noise={str(security == 'noise').lower()}", f"-tls={str(security == 'tls').lower()}")
    program = machine.start(str(daemon), *words, *secure, "-listen", f"/unix{socket}")
    while not (line := program.line()).startswith("Peer ID"):
        pass
    return program, f"{place}/p2p/{line.split()[-1]}"


@pytest.mark.parametrize("security", ["noise", "tls"])
def test_a_node_behind_a_nat_is_dialled_through_go_libp2p_s_relay(
    internet: Internet, daemon: Path, tmp_path: Path, security: str
) -> None:
    program, relay = start_relay(internet.host("relay"), daemon, tmp_path / "control", security)
    inside = internet.lan("home").host("inside").start_python(NODE, "listen", relay)
    [address] = inside.object()
    caller = internet.lan("office", nat="symmetric").host("caller").start_python(NODE, "call", address)
    for letters in ("10", "20000"):
        caller.say(letters)
        assert caller.object() == [[True], True], program.errors()


def test_go_libp2p_s_relay_ends_a_circuit_at_128_kib(internet: Internet, daemon: Path, tmp_path: Path) -> None:
    _, relay = start_relay(internet.host("relay"), daemon, tmp_path / "control", "tls")
    inside = internet.lan("home").host("inside").start_python(NODE, "listen", relay)
    [address] = inside.object()
    caller = internet.lan("office").host("caller").start_python(NODE, "call", address)
    caller.say("200000")
    with pytest.raises(RuntimeError, match="LinkLostError|UnreachableError|DeadlineError"):
        caller.line()
