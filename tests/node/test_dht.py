"""A node's part in the DHT: its settings, its backend, and whom it begins with when it is started again."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import attrs
import pytest
import trio

from prime import Memory, open_system
from prime.config import Config, DhtConfig, NodeConfig, TransportConfig
from prime.dht.backends.memory import MemoryBackend
from prime.dht.backends.sqlite import SqliteBackend
from prime.dht.dht import open_dht
from prime.dht.settings import PRESETS, DhtSettings
from prime.errors import ConfigError
from prime.node import dht as dht_module
from prime.node.dht import KNOWN, STORE, StoreLost, _read_known, open_backend, open_node_dht, settings_of
from prime.transport.facts import ReachabilityChanged
from prime.transport.identity import KeyPair

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


def test_what_comes_from_the_disk_is_checked(tmp_path: Path) -> None:
    assert _read_known(tmp_path / "none") == []
    for text in ("", "{", "3", "[3]", '["nonsense"]'):
        (tmp_path / KNOWN).write_text(text)
        assert _read_known(tmp_path / KNOWN) == []


def own_backend(folder: Path) -> MemoryBackend:
    """Return a backend, as a user's own function does."""
    assert folder.is_absolute()
    return MemoryBackend()


def test_backends_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    assert isinstance(open_backend("memory", tmp_path), MemoryBackend)
    assert isinstance(open_backend("sqlite", tmp_path), SqliteBackend)
    assert isinstance(open_backend(f"{Path(__file__).stem}:own_backend", tmp_path), MemoryBackend)
    for name in ("no_such_module:f", "json:no_such", "json:dumps_"):
        with pytest.raises(ConfigError, match="cannot be used") as caught:
            open_backend(name, tmp_path)
        assert "prime.dht.backend.Backend" in caught.value.hint


async def test_a_node_that_is_started_again_needs_no_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dht_module, "KEEP_S", 0.02)
    hub, key = Memory(), KeyPair.generate()
    found: Any = SimpleNamespace(state=tmp_path)
    with trio.fail_after(20):
        other_key = KeyPair.generate()
        async with open_system(transport=hub, key=other_key) as other, open_dht(other, other_key):
            for join in ((other.addresses[0],), ()):
                config = Config(transport=TransportConfig(join=join))
                async with (
                    open_system(transport=hub, key=key) as system,
                    open_node_dht(system, key, config, found) as dht,
                ):
                    await dht.joined()
                    assert [contact.peer for contact in dht.known()] == [other.peer]
                    while not (tmp_path / KNOWN).exists():  # noqa: ASYNC110 - a file has no event
                        await trio.sleep(0.01)
            assert json.loads((tmp_path / KNOWN).read_text()) == list(other.addresses)


async def test_a_store_of_which_nothing_can_be_read_is_told_of_and_begun_anew(tmp_path: Path) -> None:
    (tmp_path / STORE).write_bytes(b"z" * 5000)
    facts: list[Any] = []
    key = KeyPair.generate()
    found: Any = SimpleNamespace(state=tmp_path)
    with trio.fail_after(20):
        async with open_system(transport=Memory(), key=key) as system:
            system.subscribe(facts.append)
            async with open_node_dht(system, key, Config(), found) as dht:
                await dht.set_name("motd", b"hello")
    (lost,) = [fact for fact in facts if isinstance(fact, StoreLost)]
    assert f"{STORE}-damaged" in lost.text
    assert (tmp_path / f"{STORE}-damaged").read_bytes() == b"z" * 5000


@pytest.mark.parametrize(("client", "back"), [(False, "public"), (False, "relayed"), (True, "public")])
async def test_a_node_that_nobody_can_dial_is_in_no_table(tmp_path: Path, *, client: bool, back: str) -> None:
    hub, key, other_key = Memory(), KeyPair.generate(), KeyPair.generate()
    found: Any = SimpleNamespace(state=tmp_path)
    with trio.fail_after(20):
        async with open_system(transport=hub, key=other_key) as other, open_dht(other, other_key) as others:
            config = Config(transport=TransportConfig(join=other.addresses), dht=DhtConfig(client=client))
            async with open_system(transport=hub, key=key) as system, open_node_dht(system, key, config, found) as dht:
                system.emit(ReachabilityChanged("unknown", "client-only", "nobody could"))
                await dht.joined()
                await dht.closest(dht.contact.key)
                assert (dht.status().server, others.known()) == (False, ())
                system.emit(ReachabilityChanged("client-only", back, "a router lets them in"))
                assert dht.status().server is not client
                await dht.closest(dht.contact.key)
                while not client and not others.known():  # noqa: ASYNC110 - a table has no event
                    await trio.sleep(0.01)
                assert {contact.peer for contact in others.known()} == (set() if client else {system.peer})


async def test_what_a_node_publishes_is_there_when_it_is_started_again(tmp_path: Path) -> None:
    hub, key = Memory(), KeyPair.generate()
    found: Any = SimpleNamespace(state=tmp_path)
    with trio.fail_after(20):
        async with open_system(transport=hub, key=key) as system, open_node_dht(system, key, Config(), found) as dht:
            await dht.set_name("motd", b"hello")
        async with open_system(transport=hub, key=key) as system, open_node_dht(system, key, Config(), found) as dht:
            assert await dht.resolve("motd") == b"hello"
