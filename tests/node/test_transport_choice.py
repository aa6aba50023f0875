"""The transport of a node, by its name in the configuration."""

from __future__ import annotations

from pathlib import Path

import pytest

from prime.config import NODE, places
from prime.config.layers import assemble
from prime.config.sources import flag_layer
from prime.errors import ConfigError
from prime.node.run import transport_of
from prime.transport.contract import Transport
from prime.transport.identity import KeyPair
from prime.transport.libp2p import Libp2p
from prime.transport.upnp import Mapped


def chosen(kind: str, listen: str, folder: Path) -> Transport:
    settings = {"transport.kind": kind, "transport.listen": listen, "node.state_dir": str(folder)}
    config = assemble([flag_layer(settings)], NODE).config
    return transport_of(config, places(config.node, {}))


@pytest.mark.parametrize(
    ("kind", "listens"), [("memory", ""), ("unix", "/unix{folder}/node/peers.sock"), ("tcp", "/ip4/127.0.0.1/tcp/0")]
)
def test_without_an_address_each_transport_has_a_place_of_its_own(kind: str, listens: str, tmp_path: Path) -> None:
    transport = chosen(kind, "", tmp_path)
    where = transport.path if kind == "unix" else transport.address
    assert (transport.name, where) == (kind, listens.format(folder=tmp_path))


def test_with_an_address_it_listens_there(tmp_path: Path) -> None:
    assert chosen("tcp", "/ip4/127.0.0.1/tcp/7", tmp_path).address == "/ip4/127.0.0.1/tcp/7"
    assert chosen("unix", "/unix/run/x", tmp_path).path == "/unix/run/x"
    assert chosen("auto", "", tmp_path).name in {"tcp", "libp2p"}


def test_a_name_that_nothing_offers(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no transport 'udp'; installed are memory, unix, tcp, libp2p"):
        chosen("udp", "", tmp_path)


def test_standard_relays_are_for_libp2p_only(tmp_path: Path) -> None:
    relay = f"/ip4/51.0.0.2/tcp/4001/p2p/{KeyPair.generate().peer}"
    settings = {"transport.via_libp2p": relay, "node.state_dir": str(tmp_path)}
    config = assemble([flag_layer({**settings, "transport.kind": "tcp"})], NODE).config
    with pytest.raises(ConfigError, match="of use to libp2p only, not to tcp") as caught:
        transport_of(config, places(config.node, {}))
    assert "transport.via:" in caught.value.hint
    config = assemble([flag_layer({**settings, "transport.kind": "libp2p", "transport.upnp": True})], NODE).config
    mapped = transport_of(config, places(config.node, {}))
    assert isinstance(mapped, Mapped) and mapped.inner == Libp2p(via=(relay,), dial_timeout_s=10)
