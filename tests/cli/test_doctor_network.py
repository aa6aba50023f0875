"""`prime doctor --network`: public, relayed, client-only or unknown, why, and what to do."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

import prime
from prime.actor import System
from prime.cli.main import run
from prime.cli.network import network_findings
from prime.config import Config, TransportConfig, places
from prime.dht.dht import open_dht
from prime.dht.settings import PRESETS
from prime.node.probe import Contact, NetworkView, view_network
from prime.node.sight import DhtSight, look_through, parts
from prime.transport.identity import KeyPair
from prime.transport.memory import Memory
from prime.transport.reachability import Evidence, Reachability

PEER = KeyPair.from_seed(bytes(32)).peer
HOME = f"/ip4/192.168.1.2/tcp/4001/p2p/{PEER}"
SEEN = "/ip4/203.0.113.5/tcp/50000"
MET = Contact("/ip4/198.51.100.1/tcp/4001", PEER)


def view(outcome: Reachability, **changes: Any) -> NetworkView:
    whole = {"why": "because", "listening": (HOME,), "seen": (SEEN,), "contacts": (MET,), "evidence": (), "slots": ()}
    return NetworkView(outcome, **{**whole, **changes})


def last(seen: NetworkView) -> Any:
    return list(network_findings(seen))[-1]


def test_public() -> None:
    assert last(view(Reachability.PUBLIC)).text == "public: because"
    assert last(view(Reachability.PUBLIC)).status == "ok"


def test_behind_a_router() -> None:
    finding = last(view(Reachability.CLIENT_ONLY))
    assert finding.status == "warn"
    assert "203.0.113.5, the address of a router" in finding.fix
    assert "TCP port 4001" in finding.fix
    assert "--upnp" in finding.fix
    assert "--via" in finding.fix


def test_behind_a_firewall() -> None:
    finding = last(view(Reachability.CLIENT_ONLY, listening=(f"/ip4/203.0.113.5/tcp/4001/p2p/{PEER}",)))
    assert "firewall" in finding.fix


def test_listening_on_loopback() -> None:
    listening, *_, finding = network_findings(
        view(Reachability.CLIENT_ONLY, listening=(f"/ip4/127.0.0.1/tcp/4001/p2p/{PEER}",))
    )
    assert "this machine only" in listening.text
    assert "/ip4/0.0.0.0/tcp/4001" in listening.fix
    assert "/ip4/0.0.0.0/tcp/4001" in finding.fix


def test_relayed() -> None:
    finding = last(view(Reachability.RELAYED))
    assert finding.status == "ok"
    assert finding.fix.startswith("faster without the relay")


@pytest.mark.parametrize(
    ("contacts", "fix"),
    [
        ((), "--join ADDRESS"),
        ((Contact("/ip4/198.51.100.1/tcp/4001", error="nobody"),), "reach one"),
        ((MET,), "older"),
    ],
)
def test_unknown(contacts: tuple[Contact, ...], fix: str) -> None:
    assert fix in last(view(Reachability.UNKNOWN, contacts=contacts, seen=())).fix


def test_a_contact_that_does_not_answer_fails() -> None:
    findings = list(
        network_findings(view(Reachability.UNKNOWN, contacts=(Contact(MET.address, error="nobody", hint="look"),)))
    )
    assert [(f.status, f.text, f.fix, f.exit_code) for f in findings if f.check == "contact"] == [
        ("fail", "nobody", "look", 4)
    ]


async def test_a_view_from_here(tmp_path: Path) -> None:
    tcp = prime.Tcp("/ip4/127.0.0.1/tcp/0")
    async with prime.open_system(transport=tcp, relay=prime.RelayLimits(), reachability=True) as helper:
        config = Config(transport=TransportConfig(kind="tcp", listen=helper.addresses[0].partition("/p2p/")[0]))
        address, peer = helper.addresses[0], helper.peer
        found = await view_network(config, places(config.node, {"HOME": str(tmp_path)}), helper.addresses)
    assert found.borrowed
    assert found.outcome is Reachability.PUBLIC
    assert found.contacts == (Contact(address, peer),)
    assert [type(each) for each in found.evidence] == [Evidence]
    (listening,) = [f for f in network_findings(found) if f.check == "listening"]
    assert "stood in" in listening.text


FAR = Contact("/ip4/198.51.100.2/tcp/4001", KeyPair.from_seed(bytes([1]) * 32).peer)


@pytest.mark.parametrize(
    ("first", "second", "status", "words"),
    [
        ("ab", "bc", "ok", "one, as seen through 2 contacts: 3 peers nearest to here"),
        ("ab", "cd", "fail", "2 separate DHTs: /ip4/198.51.100.1/tcp/4001 and /ip4/198.51.100.2/tcp/4001 know no peer"),
        ("ab", "", "warn", "/ip4/198.51.100.2/tcp/4001: in no DHT"),
        ("", "", "warn", "/ip4/198.51.100.1/tcp/4001, /ip4/198.51.100.2/tcp/4001: in no DHT"),
    ],
)
def test_two_contacts_are_in_one_dht_or_in_two(first: str, second: str, status: str, words: str) -> None:
    sights = (DhtSight(MET.address, frozenset(first)), DhtSight(FAR.address, frozenset(second)))
    found = network_findings(view(Reachability.PUBLIC, contacts=(MET, FAR), dht=sights))
    (finding,) = [each for each in found if each.check == "dht"]
    assert (finding.status, bool(finding.fix)) == (status, status != "ok")
    assert words in finding.text


def test_one_that_knows_both_joins_two() -> None:
    sights = [DhtSight(name, frozenset(peers)) for name, peers in (("a", "xy"), ("b", "zw"), ("c", "xz"), ("d", ""))]
    assert [sorted(each.address for each in part) for part in parts(sights)] == [["a", "b", "c"]]


@asynccontextmanager
async def in_dht(hub: Memory, *through: str) -> AsyncIterator[System]:
    key = KeyPair.generate()
    async with (
        prime.open_system(transport=hub, key=key) as system,
        open_dht(system, key, settings=PRESETS["lan"], bootstrap=through) as dht,
    ):
        await dht.joined()
        yield system


async def test_two_dhts_are_seen_from_a_third_place() -> None:
    hub, key = Memory(), KeyPair.generate()
    async with (
        in_dht(hub) as one,
        in_dht(hub, one.addresses[0]) as its,
        in_dht(hub) as other,
        prime.open_system(transport=hub) as outside,
        prime.open_system(transport=hub, key=key) as here,
    ):
        for _ in range(2):  # the second time it is linked with all of them
            sights = [
                await look_through(here, key, each.addresses[0], each.peer) for each in (one, its, other, outside)
            ]
    assert sights[0].peers == sights[1].peers == {one.peer, its.peer}
    assert (sights[2].peers, sights[3].peers) == ({other.peer}, frozenset())
    assert [len(part) for part in parts(sights)] == [2, 1]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.setenv("PRIME_TRANSPORT__KIND", "tcp")
    return tmp_path


@pytest.mark.usefixtures("home")
def test_the_command_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["doctor", "--network", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["schema"] == 1
    assert answer["ok"]
    assert answer["reachability"] == "unknown"
    assert [f["check"] for f in answer["findings"]] == ["listening", "reachability"]


@pytest.mark.usefixtures("home")
def test_the_command_with_a_contact_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["doctor", "--join", "/ip4/127.0.0.1/tcp/1"]) == 4
    assert "fail contact" in capsys.readouterr().out


@pytest.mark.usefixtures("home")
def test_the_command_speaks_the_transport_that_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    run(["doctor", "--network", "--transport", "memory", "--json"])
    (address,) = json.loads(capsys.readouterr().out)["listening"]
    assert address.startswith("/memory/")
