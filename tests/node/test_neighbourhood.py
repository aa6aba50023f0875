"""What a node says of itself on its local network."""

from __future__ import annotations

import ipaddress
import sys
from typing import Any

import pytest

import prime
from prime.config import Config, TransportConfig
from prime.errors import ConfigError, MissingExtraError
from prime.node import neighbourhood
from prime.node.neighbourhood import Neighbourhood, open_neighbourhood

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
