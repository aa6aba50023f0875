"""go-libp2p's relay between Prime nodes behind NATs, and its AutoNAT, in network namespaces."""

from __future__ import annotations

import json
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
STOCK = NAT / "stock_libp2p.py"
AUTONAT_OK, AUTONAT_ERROR = 0, 100  # libp2p specs, autonat-v1


@pytest.fixture
def internet() -> Iterator[Internet]:
    if reason := why_not():
        pytest.skip(reason)
    with Internet() as net:
        yield net


def start_relay(machine: Machine, daemon: Path, socket: Path, security: str) -> tuple[Program, str]:
    """Run `p2pd` as a public relay that answers AutoNAT, and return its address."""
    place = f"/ip4/{machine.address}/tcp/4001"
    words = ("-hostAddrs", place, "-relay", "-relayService", "-autonat", "-forceReachabilityPublic", "-muxer", "yamux")
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


@pytest.mark.nightly
def test_of_two_circuits_to_a_node_one_outlives_the_other(internet: Internet, daemon: Path, tmp_path: Path) -> None:
    """As py-libp2p's relay does not have it: tests/nat/test_py_libp2p.py."""
    _, relay = start_relay(internet.host("relay"), daemon, tmp_path / "control", "tls")
    inside = internet.lan("home").host("inside").start_python(NODE, "listen", relay)
    [address] = inside.object()
    ends, stays = (internet.lan(name).host(name).start_python(NODE, "call", address) for name in ("ends", "stays"))
    for caller in (ends, stays):
        caller.say("10")
        assert caller.object() == [[True], True]
    ends.kill()
    for _ in range(3):
        stays.say("10")
        assert stays.object() == [[True], True]  # over the link that it had


@pytest.mark.nightly
def test_py_libp2p_s_autonat_client_hears_the_truth_from_go(internet: Internet, daemon: Path, tmp_path: Path) -> None:
    """So of AutoNAT only py-libp2p's server is wrong: tests/nat/test_py_libp2p.py."""
    _, server = start_relay(internet.host("server"), daemon, tmp_path / "control", "noise")
    home = internet.lan("home")
    inside, outside = home.host("inside"), internet.host("outside")
    verdicts = []
    for machine, shown in ((inside, home), (outside, outside)):
        program = machine.start_python(STOCK, "/ip4/0.0.0.0/tcp/4001")
        program.object(60)
        claimed = [f"/ip4/{shown.address}/tcp/4001"]
        for order in (
            {"do": "connect", "address": server},
            {"do": "ask_autonat", "server": server.rpartition("/")[2], "addresses": claimed},
        ):
            program.say(json.dumps(order))
            answer = program.object(40)
        verdicts.append(answer["result"])
    assert verdicts == [AUTONAT_ERROR, AUTONAT_OK]
