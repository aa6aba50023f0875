"""Nodes of one local network find each other by multicast, and nobody else finds them."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import pytest
from nets import Internet, Machine, Program  # type: ignore[import-not-found]

pytest.importorskip("zeroconf")
pytestmark = pytest.mark.network

PROGRAM = Path(__file__).with_name("neighbour_node.py")
WAIT_S = "1.5"


def look(host: Machine, run: str = "main", kind: str = "tcp", wait_s: str = WAIT_S) -> tuple[Program, str]:
    """Start a node that looks for its run, and return it with its peer id."""
    node = host.start_python(PROGRAM, run, kind, wait_s)
    return node, node.object()["peer"]


def test_newcomers_found_one_network_and_further_ones_join_it(internet: Internet) -> None:
    home, elsewhere = internet.lan("home"), internet.lan("elsewhere")
    nodes = [look(home.host(name)) for name in ("a", "b")]
    stranger, _ = look(home.host("c"), run="other")
    away, _ = look(elsewhere.host("d"))
    founder = min(peer for _, peer in nodes)
    for node, peer in nodes:
        found = node.object()
        assert found["dialled"] == ([] if peer == founder else [founder])
    assert stranger.object()["contacts"] == []  # of another run
    assert away.object()["contacts"] == []  # and of another network

    late, _ = look(home.host("e"), wait_s="30")
    found = late.object()
    assert set(found["dialled"]) < {peer for _, peer in nodes}
    assert found["took_s"] < 10  # whoever hears a member does not wait to the end


@pytest.mark.nightly
def test_a_liar_neither_misleads_a_newcomer_nor_holds_it_up(internet: Internet) -> None:
    home = internet.lan("home")
    member, peer = look(home.host("member"), wait_s="0")
    assert member.object()["contacts"] == []
    liar = home.host("liar").start_python(PROGRAM, "liar", "main")
    assert liar.object() == {"lies": 200}
    node, _ = look(home.host("node"), wait_s="30")
    found = node.object()
    assert found["dialled"] == [peer]
    assert found["took_s"] < 20


@pytest.mark.nightly
def test_nodes_started_without_any_address_train_together(internet: Internet, tmp_path: Path) -> None:
    home = internet.lan("home")
    nodes: list[Program] = []
    for name in ("a", "b"):
        words = ("node", "start", "--name", name, "--mdns", "--listen", "/ip4/0.0.0.0/tcp/0", "--nodes-min", "2")
        environ = {"PRIME_NODE__STATE_DIR": str(tmp_path), "PRIME_TRAIN__ROUNDS": "9"}
        environ |= {"XDG_RUNTIME_DIR": str(tmp_path), "OMP_NUM_THREADS": "1"}
        nodes.append(home.host(name).start(sys.executable, "-m", "prime", *words, "--json", environ=environ))
    assert [node.object(60)["event"] for node in nodes] == ["node.ready"] * 2
    deadline = time.monotonic() + 90
    members: list[int] = []
    while members != [2, 2] and time.monotonic() < deadline:
        members = [members_of_run(home, name, tmp_path) for name in ("a", "b")]
        time.sleep(0.5)
    assert members == [2, 2], [node.errors() for node in nodes]


def members_of_run(machine: Machine, name: str, folder: Path) -> int:
    """Return how many nodes train with this one; its control socket is a file, which namespaces share."""
    environ = ("env", f"PRIME_NODE__STATE_DIR={folder}", f"XDG_RUNTIME_DIR={folder}")
    done = machine.run(*environ, sys.executable, "-m", "prime", "status", "--name", name, "--json", check=False)
    run = json.loads(done.stdout)["run"] if done.returncode == 0 else None
    return len(run["members"]) if run is not None else 0


@pytest.mark.nightly
def test_nodes_of_the_dht_find_each_other_without_any_address(internet: Internet, tmp_path: Path) -> None:
    home, nodes = internet.lan("home"), list[Program]()
    environ = {"PRIME_NODE__STATE_DIR": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path)}
    for name in ("a", "b", "c"):
        words = ("node", "start", "--name", name, "--role", "dht", "--mdns", "--listen", "/ip4/0.0.0.0/tcp/0")
        nodes.append(home.host(name).start(sys.executable, "-m", "prime", *words, "--json", environ=environ))
    assert [node.object(60)["event"] for node in nodes] == ["node.ready"] * 3
    deadline = time.monotonic() + 60
    seen: list[tuple[str, int]] = []
    while seen != [("merged", 2)] * 3 and time.monotonic() < deadline:
        seen = [dht_of(home, name, tmp_path) for name in ("a", "b", "c")]
        time.sleep(0.5)
    assert seen == [("merged", 2)] * 3, [node.errors() for node in nodes]


def dht_of(machine: Machine, name: str, folder: Path) -> tuple[str, int]:
    """Return what a node sees of the DHT: how far it has joined, and whom it knows."""
    environ = ("env", f"PRIME_NODE__STATE_DIR={folder}", f"XDG_RUNTIME_DIR={folder}")
    done = machine.run(*environ, sys.executable, "-m", "prime", "dht", "stats", "--node", name, "--json", check=False)
    found = json.loads(done.stdout) if done.returncode == 0 else {"phase": "", "contacts": 0}
    return found["phase"], found["contacts"]
