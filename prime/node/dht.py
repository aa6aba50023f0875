"""A node's part in the DHT: its settings from the configuration, and its user's orders."""

from __future__ import annotations

from collections.abc import Iterable

import attrs

from prime.config import Config, DhtConfig
from prime.dht.settings import PRESETS, DhtSettings
from prime.transport.reachability import Scope, scope_of_text


def settings_of(config: Config, addresses: Iterable[str]) -> DhtSettings:
    """Return what the [dht] section says, for a node with these `addresses`. Raises `ConfigError` for what cannot be.

    What is not said follows what is: replicas and beta are not over k, a request ends within its lookup, and a record is
    published anew as many times within its life as the preset says.
    """
    said = config.dht
    preset = PRESETS[_preset(config, addresses)]
    given = {field.name: value for field in attrs.fields(DhtSettings) if (value := getattr(said, field.name))}
    return attrs.evolve(preset, **{**_within(preset, said), **given})


def _within(preset: DhtSettings, said: DhtConfig) -> dict[str, float]:
    k, ttl_s = said.k or preset.k, said.ttl_s or preset.ttl_s
    return {
        "replicas": min(preset.replicas, k),
        "beta": min(preset.beta, k),
        "request_s": min(preset.request_s, said.lookup_s or preset.lookup_s),
        "republish_s": preset.republish_s * ttl_s / preset.ttl_s,
    }


def _preset(config: Config, addresses: Iterable[str]) -> str:
    if config.dht.preset != "auto":
        return config.dht.preset
    link = config.transport
    known = (*addresses, *link.join, *link.via, *link.via_libp2p)
    return "swarm" if any(scope_of_text(address) is Scope.INTERNET for address in known) else "lan"
