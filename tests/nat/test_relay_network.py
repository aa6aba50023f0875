"""Nodes behind real NAT boxes: they reach each other through a relay, and punch holes where the boxes let them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from nets import Internet, Machine  # type: ignore[import-not-found]

pytestmark = pytest.mark.network

PROGRAM = Path(__file__).with_name("relay_node.py")


def open_relay(internet: Internet, kind: str = "tcp") -> tuple[Machine, str]:
    host = internet.host("relay")
    address = host.start_python(PROGRAM, "relay", kind).object()
    assert isinstance(address, str)
    return host, address


def behind(host: Machine, relay: str, kind: str = "tcp") -> dict[str, Any]:
    found = host.start_python(PROGRAM, "behind", kind, relay).object()
    assert isinstance(found, dict)
    return found


def call(host: Machine, address: str, *, kind: str = "tcp", seconds: int = 15) -> dict[str, Any]:
    found = host.start_python(PROGRAM, "call", kind, address, str(seconds)).object()
    assert isinstance(found, dict)
    return found


def kept_every_message(told: dict[str, Any]) -> bool:
    return told["count"] == told["sent"] and told["right"] and not told["down"]


@pytest.mark.parametrize(("nat", "other"), [("restricted", "restricted"), ("cone", "restricted")])
def test_a_hole_is_punched_between_two_homes_and_no_message_is_lost(internet: Internet, nat: str, other: str) -> None:
    _, relay = open_relay(internet)
    home, away = internet.lan("home", nat=nat), internet.lan("away", nat=other)
    node = behind(home.host("node"), relay)
    assert node["outcome"] == "relayed", node
    told = call(away.host("caller"), node["circuits"][0])
    assert told["moved"], told
    assert told["moved"][0].startswith(f"/ip4/{home.address}/tcp/")
    assert not told["relayed"]
    assert kept_every_message(told), told


@pytest.mark.parametrize(("nat", "other"), [("symmetric", "symmetric"), ("symmetric", "restricted")])
def test_where_no_hole_can_be_punched_the_circuit_stays(internet: Internet, nat: str, other: str) -> None:
    _, relay = open_relay(internet)
    node = behind(internet.lan("home", nat=nat).host("node"), relay)
    told = call(internet.lan("away", nat=other).host("caller"), node["circuits"][0])
    assert told["relayed"], told
    assert "no attempt got through" in told["failed"][0]
    assert kept_every_message(told), told


def test_over_libp2p_the_same_relay_carries_two_homes(internet: Internet) -> None:
    pytest.importorskip("libp2p")
    _, relay = open_relay(internet, "libp2p")
    node = behind(internet.lan("home", nat="symmetric").host("node"), relay, "libp2p")
    assert node["outcome"] == "relayed", node
    told = call(internet.lan("away", nat="restricted").host("caller"), node["circuits"][0], kind="libp2p", seconds=1)
    assert told["relayed"]
    assert kept_every_message(told), told


def test_each_outcome_is_found_out(internet: Internet) -> None:
    """Public on the open internet, relayed at home with a relay; the router's address is seen by peers."""
    _, relay = open_relay(internet)
    public = behind(internet.host("public"), relay)
    assert public["outcome"] == "public", public
    home = internet.lan("home", nat="restricted")
    node = behind(home.host("node"), relay)
    assert node["outcome"] == "relayed"
    assert node["seen"][0].startswith(f"/ip4/{home.address}/tcp/")


def test_the_doctor_tells_a_router_from_a_public_place(internet: Internet) -> None:
    _, relay = open_relay(internet)
    home = internet.lan("home", nat="restricted")
    told = doctor(home.host("node"), relay)
    assert told["reachability"] == "client-only", told
    (finding,) = [finding for finding in told["findings"] if finding["check"] == "reachability"]
    assert f"{home.address}, the address of a router" in finding["fix"]
    assert doctor(internet.host("public"), relay)["reachability"] == "public"


def doctor(host: Machine, relay: str) -> dict[str, Any]:
    environ = {"PRIME_TRANSPORT__KIND": "tcp", "PRIME_TRANSPORT__LISTEN": "/ip4/0.0.0.0/tcp/4001"}
    program = host.start(
        sys.executable, "-m", "prime", "doctor", "--network", "--join", relay, "--json", environ=environ
    )
    found = program.object()
    assert isinstance(found, dict)
    return found
