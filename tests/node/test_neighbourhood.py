"""What a node says of itself on its local network."""

from __future__ import annotations

import ipaddress
import sys
from typing import Any

import pytest
import trio

import prime
from prime.config import Config, NodeConfig, TransportConfig
from prime.errors import ConfigError, MissingExtraError
from prime.node import neighbourhood
from prime.node.neighbourhood import Neighbourhood, open_neighbourhood
from prime.transport import neighbours as core

PEER = prime.KeyPair.generate().peer
LOOPBACK = f"/ip4/127.0.0.1/tcp/4001/p2p/{PEER}"


class Network:
    """A system that listens somewhere."""

    network = None
    peer = PEER

    def __init__(self, *addresses: str) -> None:
        self.addresses = addresses


@pytest.fixture(autouse=True)
def interfaces(monkeypatch: pytest.MonkeyPatch) -> None:
    found = (ipaddress.IPv4Interface("192.168.1.2/24"), ipaddress.IPv4Interface("10.0.0.7/8"))
    monkeypatch.setattr(neighbourhood, "own_interfaces", lambda: found)


def hosts(listen: str, *addresses: str) -> Any:
    lan: Any = None
    system: Any = Network(*addresses)
    return Neighbourhood(lan, system, Config(transport=TransportConfig(listen=listen)))._hosts


def test_a_node_that_listens_everywhere_says_all_its_addresses() -> None:
    assert hosts("/ip4/0.0.0.0/tcp/4001", LOOPBACK) == (("192.168.1.2", 4001), ("10.0.0.7", 4001))


def test_one_that_listens_at_an_address_says_this_one() -> None:
    assert hosts("/ip4/10.0.0.7/tcp/4001", f"/ip4/10.0.0.7/tcp/4001/p2p/{PEER}") == (("10.0.0.7", 4001),)


@pytest.mark.parametrize("addresses", [(), (LOOPBACK,), ("/ip4/51.0.0.2/tcp/1",), ("/unix/tmp/a.sock",)])
def test_one_that_no_neighbour_can_dial_is_told_what_to_do(addresses: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match="Nobody on the local network can dial") as caught:
        hosts("", *addresses)
    assert "/ip4/0.0.0.0/tcp/0" in caught.value.hint


async def test_without_the_library_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zeroconf", None)
    system: Any = Network(LOOPBACK)
    with pytest.raises(MissingExtraError) as caught:
        async with open_neighbourhood(system, Config()):
            pass
    assert "prime-actors[lan]" in caught.value.hint


class Heard:
    """A local network on which these things are said."""

    def __init__(self, *events: Any) -> None:
        self._events = list(events)

    async def next(self) -> Any:
        if not self._events:
            await trio.sleep_forever()
        return self._events.pop(0)


OTHER = prime.KeyPair.generate().peer


async def test_the_dht_is_told_where_neighbours_of_any_run_are() -> None:
    def said(peer: str, run: str, transport: str, *addresses: tuple[str, int]) -> core.Seen:
        return core.Seen(
            peer, core.Announcement(peer, core.run_digest(run), transport, member=True, addresses=addresses)
        )

    lan: Any = Heard(
        said(OTHER, "chess", "tcp", ("192.168.1.9", 4001), ("8.8.8.8", 1)),
        said(OTHER, "", "tcp", ("10.1.1.1", 4002)),
        said(OTHER, "chess", "libp2p", ("192.168.1.9", 4003)),
        said(PEER, "chess", "tcp", ("192.168.1.2", 4001)),
        core.Gone(OTHER),
    )
    told: list[str] = []
    system: Any = Network(f"/ip4/192.168.1.2/tcp/4001/p2p/{PEER}")
    config = Config(transport=TransportConfig(kind="tcp"))
    found = Neighbourhood(lan, system, config, told.append)
    found._transport = "tcp"
    with trio.move_on_after(0.05):
        await found.listen()
    assert told == [f"/ip4/192.168.1.9/tcp/4001/p2p/{OTHER}", f"/ip4/10.1.1.1/tcp/4002/p2p/{OTHER}"]


def test_a_node_that_takes_part_in_no_run_announces_none() -> None:
    lan: Any = None
    system: Any = Network(f"/ip4/192.168.1.2/tcp/4001/p2p/{PEER}")
    trains, serves = (
        Neighbourhood(lan, system, Config(node=NodeConfig(roles=roles)))._run
        for roles in (("trainer", "dht"), ("dht",))
    )
    assert (trains, serves) == (core.run_digest("main"), core.run_digest(""))
