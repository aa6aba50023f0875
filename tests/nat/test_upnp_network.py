"""A port mapped by a real UPnP router (miniupnpd) with a NAT between: strangers outside reach the node inside."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import pytest
from nets import Internet, Lan, Machine, Program  # type: ignore[import-not-found]

pytest.importorskip("miniupnpc")
pytestmark = [
    pytest.mark.network,
    pytest.mark.skipif(shutil.which("miniupnpd") is None, reason="needs miniupnpd (Debian: miniupnpd-nftables)"),
]

PROGRAM = Path(__file__).with_name("upnp_node.py")


def listen(host: Machine) -> tuple[Program, list[str]]:
    """Start a node that wants the router to map its port 4001, and return it with the addresses that it has."""
    node = host.start_python(PROGRAM, "listen", "/ip4/0.0.0.0/tcp/4001")
    return node, node.object()


def call(host: Machine, address: str) -> str:
    answer = json.loads(host.start_python(PROGRAM, "call", address).line())
    assert isinstance(answer, str)
    return answer


def mappings(box: Lan) -> list[str]:
    """Return what the router passes on, as its own rules say."""
    rules = box.run("nft", "list", "chain", "inet", "upnp", "prerouting").stdout
    return [line.strip() for line in rules.splitlines() if "dnat" in line]


def test_strangers_reach_a_node_through_the_port_that_its_router_maps(internet: Internet) -> None:
    home, stranger = internet.lan("home", nat="symmetric"), internet.host("stranger")
    home.serve_upnp()
    node, addresses = listen(home.host("node"))
    neighbour, further = listen(home.host("neighbour"))

    assert addresses[-1].startswith(f"/ip4/{home.address}/tcp/4001/p2p/")
    assert further[-1].startswith(f"/ip4/{home.address}/tcp/4002/p2p/")  # 4001 is its neighbour's
    assert [call(stranger, address) for address in (addresses[-1], further[-1])] == ["hello stranger"] * 2
    assert len(mappings(home)) == 2

    node.say("")  # it ends, and gives its port back
    assert node.process.wait(10) == 0
    assert ["4002" in rule for rule in mappings(home)] == [True]
    assert "the router passes on what comes to" in neighbour.errors()


def test_behind_two_routers_the_node_says_that_its_port_is_of_no_use(internet: Internet) -> None:
    home = internet.lan("carrier").lan("home")
    home.serve_upnp()
    node, addresses = listen(home.host("node"))
    assert not any(home.address in address for address in addresses)
    assert "no port of the router: it has no public address" in node.errors()


@pytest.mark.nightly
def test_without_a_router_that_maps_ports_the_node_says_so_and_runs(internet: Internet) -> None:
    home = internet.lan("home")
    node, addresses = listen(home.host("node"))
    assert [home.address in address for address in addresses] == [False, False]
    deadline = time.monotonic() + 20  # the search goes on while the node runs
    while "no port of the router" not in node.errors() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert "no port of the router" in node.errors()
