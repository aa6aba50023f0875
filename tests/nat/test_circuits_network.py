"""Prime nodes behind NATs that talk through a standard libp2p relay, and then without it where both NATs keep the port."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from nets import Internet, Machine, Program  # type: ignore[import-not-found]

pytest.importorskip("libp2p")
pytestmark = pytest.mark.network

NODE = Path(__file__).with_name("circuit_node.py")
STOCK = Path(__file__).with_name("stock_libp2p.py")
LISTEN = "/ip4/0.0.0.0/tcp/4001"


def start_stock(machine: Machine, ability: str) -> tuple[Program, str]:
    """Start a py-libp2p host, and return it with its address."""
    program = machine.start_python(STOCK, LISTEN, ability)
    return program, f"/ip4/{machine.address}/tcp/4001/p2p/{program.object(60)['peer']}"


def circuit_to(inside: Machine, relay: str) -> str:
    """Start a node that keeps a slot at a relay, and return where it can be dialled."""
    [address] = inside.start_python(NODE, "listen", relay).object()
    return str(address)


def talk(caller: Machine, address: str, *letters: int) -> list[Any]:
    """Ask with texts of so many letters; return whether each link so far went through the relay."""
    program, ways = caller.start_python(NODE, "call", address), []
    for count in letters:
        program.say(str(count))
        ways, right = program.object()
        assert right
    return ways


def test_nodes_behind_nats_that_keep_the_port_end_up_without_the_relay(internet: Internet) -> None:
    _, relay = start_stock(internet.host("relay"), "hop")
    address = circuit_to(internet.lan("home").host("inside"), relay)
    assert talk(internet.lan("office").host("caller"), address, 10, 200_000) == [False]


@pytest.mark.nightly
@pytest.mark.parametrize(("nat", "relayed"), [("cone", False), ("symmetric", True), ("same", False)])
def test_who_ends_up_without_the_relay(internet: Internet, nat: str, relayed: bool) -> None:
    _, relay = start_stock(internet.host("relay"), "hop")
    home = internet.lan("home")
    address = circuit_to(home.host("inside"), relay)
    office = home if nat == "same" else internet.lan("office", nat=nat)
    assert talk(office.host("caller"), address, 10, 200_000) == [relayed]  # one link, and right answers


@pytest.mark.nightly
def test_py_libp2p_and_prime_punch_holes_together(internet: Internet) -> None:
    _, relay = start_stock(internet.host("relay"), "hop")
    address = circuit_to(internet.lan("home").host("inside"), relay)
    caller, _ = start_stock(internet.lan("office").host("caller"), "punch")
    ways: list[str] = []
    for order in ({"do": "connect", "address": relay}, {"do": "circuit", "address": address}):
        caller.say(json.dumps(order))
        assert "error" not in caller.object(40)
    deadline = time.monotonic() + 20
    while "DIRECT" not in ways and time.monotonic() < deadline:
        caller.say(json.dumps({"do": "ways", "peer": address.rpartition("/")[2]}))
        ways = caller.object()["result"]
        time.sleep(0.1)
    assert "DIRECT" in ways
