"""Configuration: what can be set, where each value came from, and what follows from it.

`load()` reads every source, from the lowest to the highest: the defaults, `/etc/prime/config.toml`, the user's own file,
`./prime.toml` (or the file named by `--config`), `PRIME_SECTION__KEY` in the environment, flags. A key that is not in
the schema, a value of the wrong type or out of its range, and an order of deadlines that cannot work are each a
`ConfigError` that names its file and line. No secret is a configuration value: the node's key lives in a file of its
own, and the configuration names that file.

| file | what it holds |
|---|---|
| `keys.py` | what a key is, and a schema of sections and keys: one for each kind of file |
| `schema.py` | a node's sections and keys: type, default, unit, range, meaning |
| `values.py` | a raw value into one that fits its key, or a reason why not |
| `positions.py` | which line of a TOML text sets which key |
| `layers.py` | the sources, merged; pure |
| `sources.py` | the sources, read from disk and the environment |
| `derived.py` | the deadlines that follow from the ones set |
| `explain.py` | one key in words |
| `template.py` | a fresh `prime.toml`, and one value changed in an existing one |
| `places.py` | where a node keeps its state, key and control socket |
"""

from __future__ import annotations

from prime.config.derived import Derived, derive
from prime.config.explain import Explanation, explain
from prime.config.keys import Key, Schema
from prime.config.layers import Layer, Loaded, Origin, assemble
from prime.config.places import Places, places
from prime.config.schema import (
    NODE,
    AdmissionConfig,
    Config,
    DhtConfig,
    LogConfig,
    NodeConfig,
    RunsConfig,
    TrainConfig,
    TransportConfig,
    all_keys,
)
from prime.config.sources import load
from prime.config.template import set_value, template

__all__ = [
    "NODE",
    "AdmissionConfig",
    "Config",
    "Derived",
    "DhtConfig",
    "Explanation",
    "Key",
    "Layer",
    "Loaded",
    "LogConfig",
    "NodeConfig",
    "Origin",
    "Places",
    "RunsConfig",
    "Schema",
    "TrainConfig",
    "TransportConfig",
    "all_keys",
    "assemble",
    "derive",
    "explain",
    "load",
    "places",
    "set_value",
    "template",
]
