"""What py-libp2p itself does between NATs, by runs: docs/explanation/reachability.md quotes these tests.

Those that show a failing feature are named after the failure. When one of them fails, py-libp2p has mended it: change the
page, and what Prime does instead.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
from nets import Internet, Lan, Machine, Program, why_not  # type: ignore[import-not-found]

pytest.importorskip("libp2p")
pytestmark = pytest.mark.network

PROGRAM = Path(__file__).with_name("stock_libp2p.py")
LISTEN = "/ip4/0.0.0.0/tcp/4001"
AUTONAT_OK, AUTONAT_ERROR, AUTONAT_REFUSED = 0, 100, 101  # libp2p specs, autonat-v1


@attrs.define(eq=False)
class Host:
    """A running stock host."""

    machine: Machine
    program: Program
    peer: str

    @property
    def address(self) -> str:
        return f"/ip4/{self.machine.address}/tcp/4001/p2p/{self.peer}"

    def does(self, name: str, **arguments: Any) -> dict[str, Any]:
        self.program.say(json.dumps({"do": name, **arguments}))
        answer: dict[str, Any] = self.program.object(40)
        return answer

    def do(self, name: str, **arguments: Any) -> Any:
        answer = self.does(name, **arguments)
        assert "error" not in answer, f"{answer}\n{self.program.errors()}"
        return answer["result"]

    def via(self, relay: Host) -> str:
        return f"{relay.address}/p2p-circuit/p2p/{self.peer}"


def begin(machine: Machine, *abilities: str, listen: str = LISTEN) -> tuple[Machine, Program]:
    return machine, machine.start_python(PROGRAM, listen, *abilities)


def begun(started: tuple[Machine, Program]) -> Host:
    machine, program = started
    return Host(machine, program, program.object(60)["peer"])


@attrs.define
class World:
    relay: Host
    home: Lan
    a: Host
    b: Host
    symmetric: Host
    beside: Host
    """Another one behind the same symmetric NAT."""


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    """A public relay, two hosts behind NATs that keep the port, and two behind a symmetric NAT."""
    if reason := why_not():
        pytest.skip(reason)
    with Internet() as net:
        home = net.lan("home", nat="restricted")
        machines = [net.host("relay"), home.host("a"), net.lan("flat").host("b")]
        office = net.lan("office", nat="symmetric")
        machines += [office.host("c"), office.host("d")]
        started = [begin(each, "hop" if each is machines[0] else "punch") for each in machines]
        relay, a, b, c, d = map(begun, started)
        assert a.do("reserve", address=relay.address)
        for caller in (b, c, d):
            caller.do("connect", address=relay.address)
        yield World(relay, home, a, b, c, d)


def test_circuit_relay_v2_carries_a_connection_between_two_nats(world: World) -> None:
    world.symmetric.do("circuit", address=world.a.via(world.relay))
    assert world.symmetric.do("echo", peer=world.a.peer, size=100_000)
    assert world.symmetric.do("ways", peer=world.a.peer) == ["RELAYED"]


def test_a_circuit_to_a_peer_without_a_reservation_is_refused(world: World) -> None:
    answer = world.symmetric.does("circuit", address=world.b.via(world.relay))
    assert "status 204" in answer["error"]  # NO_RESERVATION


def test_dcutr_makes_a_direct_connection_where_both_nats_keep_the_port(world: World) -> None:
    world.b.do("circuit", address=world.a.via(world.relay))
    deadline = time.monotonic() + 20
    while "DIRECT" not in world.b.do("ways", peer=world.a.peer) and time.monotonic() < deadline:
        world.a.do("punch", peer=world.b.peer)  # which each side also tries by itself, every 2 s
    assert "DIRECT" in world.b.do("ways", peer=world.a.peer)
    assert world.b.do("echo", peer=world.a.peer, size=100_000)


def test_its_relay_ends_every_circuit_to_a_peer_when_one_of_them_ends(world: World) -> None:
    """`_active_relays` keeps one pair of streams for each target: whoever came last pays for whoever ends first."""
    ends, stays = world.symmetric, world.beside
    for caller in (ends, stays):
        caller.do("circuit", address=world.a.via(world.relay))
    assert stays.do("echo", peer=world.a.peer, size=100)
    ends.do("disconnect", peer=world.a.peer)
    answers = [stays.does("echo", peer=world.a.peer, size=100) for _ in range(3)]
    assert any("error" in answer for answer in answers), answers


@pytest.mark.parametrize("port", [4001, 9])
def test_its_autonat_calls_any_address_of_a_connected_peer_dialable(world: World, port: int) -> None:
    """The server asks its host to connect, and the host is connected: by the connection that the question came by."""
    claimed = f"/ip4/{world.home.address}/tcp/{port}"
    assert world.a.do("ask_autonat", server=world.relay.peer, addresses=[claimed]) == AUTONAT_OK
    reach = f"import socket; socket.create_connection(({world.home.address!r}, {port}), timeout=1)"
    assert world.relay.machine.run("python3", "-c", reach, check=False).returncode != 0  # and nobody can


def test_its_autonat_is_asked_about_the_wildcard_by_default_and_refuses(world: World) -> None:
    assert world.a.do("ask_autonat", server=world.relay.peer, addresses=[LISTEN]) == AUTONAT_REFUSED


@pytest.mark.nightly
def test_dcutr_fails_behind_a_symmetric_nat_and_the_circuit_stays(world: World) -> None:
    world.symmetric.do("circuit", address=world.a.via(world.relay))
    assert not world.a.do("punch", peer=world.symmetric.peer)
    assert world.symmetric.do("echo", peer=world.a.peer, size=100)


@pytest.mark.nightly
@pytest.mark.skipif(shutil.which("miniupnpd") is None, reason="needs miniupnpd (Debian: miniupnpd-nftables)")
def test_its_upnp_maps_a_port_for_a_week(internet: Internet) -> None:
    home = internet.lan("home")
    home.serve_upnp()
    node = begun(begin(home.host("node")))
    found, external, entry = node.do("map_port", port=4001)
    assert found and external == home.address
    assert entry[:3] == ["192.168.1.2", 4001, "py-libp2p"]


@pytest.mark.nightly
@pytest.mark.parametrize("everywhere", [False, True])
def test_its_mdns_finds_peers_but_announces_a_wildcard_as_it_is(internet: Internet, everywhere: bool) -> None:
    home = internet.lan("home")
    machines = [home.host("a"), home.host("b")]
    listens = [LISTEN if everywhere else f"/ip4/{each.address}/tcp/4001" for each in machines]
    a, b = map(begun, [begin(each, listen=listen) for each, listen in zip(machines, listens, strict=True)])
    a.program.say(json.dumps({"do": "discover", "within_s": 10}))
    b.program.say(json.dumps({"do": "discover", "within_s": 10}))
    for host, other, listen in ((a, b, listens[1]), (b, a, listens[0])):
        stood_still_s, found = host.program.object(40)["result"]
        assert found == [[other.peer, [listen]]]
        assert stood_still_s > 0.2  # it registers on the loop's own thread, and everything else waits
