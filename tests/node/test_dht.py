"""A node's part in the DHT: what its settings are."""

from __future__ import annotations

import attrs
import pytest

from prime.config import Config, DhtConfig, NodeConfig, TransportConfig
from prime.dht.settings import PRESETS, DhtSettings
from prime.errors import ConfigError
from prime.node.dht import settings_of

LOCAL = "/ip4/127.0.0.1/tcp/4001"
NEAR = "/ip4/192.168.1.7/tcp/4001"
FAR = "/ip4/8.8.8.8/tcp/4001"


def dht(**keys: object) -> Config:
    return Config(dht=DhtConfig(**keys))


@pytest.mark.parametrize(
    ("addresses", "join", "preset"),
    [
        ((LOCAL,), (), "lan"),
        ((LOCAL, NEAR), (NEAR,), "lan"),
        ((NEAR, FAR), (), "swarm"),
        ((NEAR,), (FAR,), "swarm"),
        ((NEAR,), ("/dns4/example.org/tcp/4001",), "swarm"),
        ((), (), "lan"),
    ],
)
def test_auto_is_lan_where_no_address_is_of_the_internet(
    addresses: tuple[str, ...], join: tuple[str, ...], preset: str
) -> None:
    config = Config(transport=TransportConfig(join=join))
    assert settings_of(config, addresses) == PRESETS[preset]


def test_a_node_behind_a_relay_is_on_the_internet() -> None:
    assert settings_of(Config(transport=TransportConfig(via=(FAR,))), (NEAR,)) == PRESETS["swarm"]


@pytest.mark.parametrize("name", list(PRESETS))
def test_a_preset_can_be_named(name: str) -> None:
    assert settings_of(dht(preset=name), (LOCAL, FAR)) == PRESETS[name]


def test_every_figure_can_be_set() -> None:
    figures = {field.name: getattr(PRESETS["lan"], field.name) for field in attrs.fields(DhtSettings)}
    assert settings_of(dht(preset="swarm", **figures), ()) == PRESETS["lan"]


def test_a_short_life_takes_its_repairs_with_it() -> None:
    found = settings_of(dht(preset="lan", ttl_s=240, lookup_s=5), ())
    assert (found.republish_s, found.request_s) == (pytest.approx(110), 5)


def test_a_small_k_takes_replicas_and_beta_with_it() -> None:
    found = settings_of(dht(preset="swarm", k=2), ())
    assert (found.k, found.replicas, found.beta) == (2, 2, 2)
    with pytest.raises(ConfigError, match="k = 2"):
        settings_of(dht(k=2, replicas=5), ())


def test_records_are_published_anew_before_they_end() -> None:
    with pytest.raises(ConfigError, match="get lost"):
        settings_of(dht(ttl_s=60, republish_s=60), ())


def test_a_node_of_the_role_is_in_the_dht() -> None:
    assert Config(node=NodeConfig(roles=("dht",))).dht.enabled
    with pytest.raises(ConfigError, match=r"node\.roles names dht"):
        Config(node=NodeConfig(roles=("dht",)), dht=DhtConfig(enabled=False))
    with pytest.raises(ConfigError, match="without a role"):
        NodeConfig(roles=())


@pytest.mark.parametrize("backend", ["redis", "", "a:b:c", "module:"])
def test_a_backend_has_a_name_or_a_function(backend: str) -> None:
    with pytest.raises(ConfigError, match="module:function"):
        DhtConfig(backend=backend)
