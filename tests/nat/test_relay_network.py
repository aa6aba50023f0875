"""Nodes behind real NAT boxes: they reach each other through a relay, and punch holes where the boxes let them."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from nets import ROOT, Internet, Machine  # type: ignore[import-not-found]

from prime.testing.nodes import NodeProcess, until, write_text

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


@pytest.mark.parametrize(
    ("nat", "other"), [("restricted", "restricted"), pytest.param("cone", "restricted", marks=pytest.mark.nightly)]
)
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


@pytest.mark.nightly  # both sides try for their whole time
@pytest.mark.parametrize(("nat", "other"), [("symmetric", "symmetric"), ("symmetric", "restricted")])
def test_where_no_hole_can_be_punched_the_circuit_stays(internet: Internet, nat: str, other: str) -> None:
    _, relay = open_relay(internet)
    node = behind(internet.lan("home", nat=nat).host("node"), relay)
    told = call(internet.lan("away", nat=other).host("caller"), node["circuits"][0])
    assert told["relayed"], told
    assert "no attempt got through" in told["failed"][0]
    assert kept_every_message(told), told


@pytest.mark.nightly
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


def test_the_doctor_sees_the_router_and_says_what_to_do(internet: Internet) -> None:
    _, relay = open_relay(internet)
    home = internet.lan("home", nat="restricted")
    told = doctor(home.host("node"), relay)
    assert told["reachability"] == "client-only", told
    (finding,) = [finding for finding in told["findings"] if finding["check"] == "reachability"]
    assert f"{home.address}, the address of a router" in finding["fix"]


def doctor(host: Machine, relay: str) -> dict[str, Any]:
    environ = {"PRIME_TRANSPORT__KIND": "tcp", "PRIME_TRANSPORT__LISTEN": "/ip4/0.0.0.0/tcp/4001"}
    program = host.start(
        sys.executable, "-m", "prime", "doctor", "--network", "--join", relay, "--json", environ=environ
    )
    found = program.object()
    assert isinstance(found, dict)
    return found


def start_node(host: Machine, folder: Path, name: str, *flags: str, **settings: Any) -> NodeProcess:
    """Start a node that trains, in a host."""
    node = NodeProcess(
        folder,
        name,
        {
            "transport.listen": "/ip4/0.0.0.0/tcp/4001",
            "train.nodes_min": 3,
            "train.data": write_text(folder / f"{name}.txt"),
            "train.model": f"{ROOT / 'tests' / 'node' / 'tiny_task.py'}:quick",
            "transport.dead_after_s": 6.0,
            **settings,
        },
    )
    command = (sys.executable, "-m", "prime", "node", "start", "--config", str(node.file), "--parent-eof", "--json")
    program = host.start(*command, *flags)
    node.peer = program.object(60)["peer"]
    return node


def status(host: Machine, node: NodeProcess) -> dict[str, Any]:
    told = host.run(sys.executable, "-m", "prime", "status", "--config", str(node.file), "--json").stdout
    found: dict[str, Any] = json.loads(told)
    return found


@pytest.mark.nightly
@pytest.mark.parametrize("nat", ["restricted", "symmetric"])
def test_nodes_in_two_homes_train_with_each_other(internet: Internet, tmp_path: Path, nat: str) -> None:
    """With `prime node start` alone: the third node relays, and each round has all three in it."""
    pytest.importorskip("torch")
    public = internet.host("public")
    hosts = [public, internet.lan("home", nat=nat).host("home"), internet.lan("away", nat=nat).host("away")]
    relay = start_node(public, tmp_path, "relay", "--relay")
    address = f"/ip4/{public.address}/tcp/4001/p2p/{relay.peer}"
    names = ("home", "away")
    others = [
        start_node(host, tmp_path, name, "--via", address, "--join", address)
        for host, name in zip(hosts[1:], names, strict=True)
    ]
    told = until(lambda: _finished(hosts, [relay, *others]), 90, "two rounds with three contributors")
    home = told[1]
    assert home["reachability"] == "relayed"
    assert (others[1].peer in home["relayed"]) == (nat == "symmetric")
    assert relay.peer not in home["relayed"]


def _finished(hosts: list[Machine], nodes: list[NodeProcess]) -> list[dict[str, Any]]:
    told = [status(host, node) for host, node in zip(hosts, nodes, strict=True)]
    history = (told[1]["run"] or {"history": []})["history"]
    done = [decided for decided in history if decided["committed"] and len(decided["contributors"]) == 3]
    return told if len(done) >= 2 else []
