"""The schema: every key that can be set, with its type, default, unit, range and meaning.

A section is an attrs class and a key is one of its fields, so the same rules hold for a value from a file and for
`TransportConfig(ping_interval_s=-1)` in a program. Keys carry their unit last (`ping_interval_s`). Pure.
"""

from __future__ import annotations

import ipaddress
import typing
from collections.abc import Callable
from typing import Any, Final

import attrs
from attrs import frozen

from prime.config.values import Value, shown, to_type
from prime.errors import ConfigError

_META: Final = "prime"
Check = Callable[[Any], str]
"""A rule beyond type and range: returns what is wrong, or nothing."""


@frozen
class Rule:
    """What a key's value must be, beyond its type."""

    doc: str
    unit: str = ""
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    check: Check | None = None
    flag: str = ""
    """The command line's option for it, where that is not the key's own name."""

    def fault(self, value: Value) -> str:
        """Return what is wrong with a value of the right type, or an empty text."""
        if isinstance(value, int | float) and not isinstance(value, bool) and not self._in_range(value):
            return f"{shown(value)} is out of range: {self.range_text()}"
        chosen = value if isinstance(value, tuple) else (value,)
        strangers = [item for item in chosen if self.choices and item not in self.choices]
        if strangers:
            return f"{shown(strangers[0])} is none of {', '.join(self.choices)}"
        return self.check(value) if self.check is not None else ""

    def _in_range(self, value: float) -> bool:
        return (self.low is None or value >= self.low) and (self.high is None or value <= self.high)

    def range_text(self) -> str:
        """Return the range in words: `0.1 to 60 s`, `at least 1`, `one of …`, or an empty text."""
        unit = f" {self.unit}" if self.unit else ""
        if self.choices:
            return f"one of {', '.join(self.choices)}"
        if self.low is not None and self.high is not None:
            return f"{_figure(self.low)} to {_figure(self.high)}{unit}"
        if self.low is not None:
            return f"at least {_figure(self.low)}{unit}"
        return f"at most {_figure(self.high)}{unit}" if self.high is not None else ""


def _figure(number: float) -> str:
    return str(number) if isinstance(number, int) else f"{number:g}"


@frozen
class Key:
    """One key of the schema, as loading, explaining and the docs page see it."""

    section: str
    field: str
    type: type
    default: Value
    rule: Rule

    @property
    def name(self) -> str:
        """The key as it is written after a dot: `train.seed`."""
        return f"{self.section}.{self.field}"

    @property
    def variable(self) -> str:
        """The environment variable that sets it."""
        return f"PRIME_{self.section}__{self.field}".upper()

    @property
    def flag(self) -> str:
        """The option of the command line that sets it, where a command has one."""
        return self.rule.flag or f"--{self.field.replace('_', '-')}"

    def fit(self, raw: object) -> Value:
        """Return `raw` as this key's value; raise `ValueError` with the reason if it cannot be."""
        value = to_type(self.type, raw)
        fault = self.rule.fault(value)
        if fault:
            raise ValueError(fault)
        return value


def _key(default: Value, doc: str, **rule: Any) -> Any:  # the type of an attrs field is that of its annotation
    """Declare a key: its default, its meaning, and what else holds for its value."""
    return attrs.field(default=default, validator=_validate, kw_only=True, metadata={_META: Rule(doc, **rule)})


def _validate(section: object, attribute: attrs.Attribute[Any], value: object) -> None:
    """Hold a section that is built in a program to the rules of one that is read from a file."""
    rule: Rule = attribute.metadata[_META]
    try:
        fault = rule.fault(to_type(_plain_type(type(section), attribute.name), value))
    except ValueError as error:
        fault = str(error)
    if fault:
        raise ConfigError(f"{type(section).__name__}.{attribute.name}: {fault}", hint=rule.doc)


def _address_fault(address: str) -> str:
    return "" if address.startswith("/") else f"{shown(address)} is no multiaddr, such as /ip4/127.0.0.1/tcp/4001"


def _listen_fault(address: str) -> str:
    return _address_fault(address) if address else ""


def _word_fault(word: str) -> str:
    if word.replace("-", "").isalnum() and word.isascii() and word == word.lower():
        return ""
    return f"{shown(word)} is no name of a transport, such as tcp"


def _join_fault(addresses: tuple[str, ...]) -> str:
    for address in addresses:
        if fault := _address_fault(address):
            return fault
    return ""


_BASE58: Final = frozenset("123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz")


def _is_peer(text: str) -> bool:
    return len(text) == 52 and text.startswith("12D3KooW") and _BASE58.issuperset(text)


def _allow_fault(peers: tuple[str, ...]) -> str:
    for peer in peers:
        if not _is_peer(peer):
            return f"{shown(peer)} is no peer id, such as `prime key show` prints"
    return ""


def _deny_fault(texts: tuple[str, ...]) -> str:
    for text in texts:
        try:
            _is_peer(text) or ipaddress.ip_network(text, strict=False)
        except ValueError:
            return f"{shown(text)} is neither a peer id nor a network, such as 192.0.2.0/24"
    return ""


def _name_fault(name: str) -> str:
    if name and name.replace("-", "").replace("_", "").isalnum() and name.isascii():
        return ""
    return f"{shown(name)} is no name: letters, digits, - and _ only (it names a folder and a socket)"


@frozen
class NodeConfig:
    """This node: its name, what it does, and where it keeps its things."""

    name: str = _key("node", "Names this node's state folder and its control socket.", check=_name_fault)
    roles: tuple[str, ...] = _key(("trainer",), "What this node does.", choices=("trainer",))
    state_dir: str = _key("~/.local/state/prime", "The folder that holds one folder of state for each node by name.")
    key_file: str = _key("node.key", "The node's Ed25519 key; a relative path starts at the node's state folder.")
    control_socket: str = _key("", "The socket that `prime status` asks; empty: in the user's run-time folder.")
    memory_free_bytes_min: int = _key(
        512 * 2**20, "A node does not start with less free memory than this.", unit="bytes", low=0
    )


@frozen
class TransportConfig:
    """How bytes reach other nodes, and when a silent one counts as gone."""

    kind: str = _key(
        "auto",
        "The transport: memory, unix, tcp, libp2p, or one that an installed package offers; auto takes libp2p where it "
        "is installed, else tcp.",
        check=_word_fault,
        flag="--transport",
    )
    listen: str = _key(
        "",
        "The address to listen on; port 0 takes a free one. Empty: a free port of this machine's loopback, or the "
        "transport's own choice.",
        check=_listen_fault,
    )
    join: tuple[str, ...] = _key((), "Addresses of nodes to join; none: this node founds a network.", check=_join_fault)
    mdns: bool = _key(
        False,
        "Tell the local network, by multicast, that this node is there; without `join`, look there for others first.",
    )
    mdns_wait_s: float = _key(
        3.0, "How long a node without `join` listens to the local network before it founds one of its own.",
        unit="s", low=0, high=3600,
    )  # fmt: skip
    relay: bool = _key(False, "Carry circuits for nodes that nobody can dial. For a node that everybody can.")
    via: tuple[str, ...] = _key(
        (), "Relays to be reached through while this node cannot be dialled.", check=_join_fault, flag="--via"
    )
    via_libp2p: tuple[str, ...] = _key(
        (),
        "Standard libp2p relays (circuit relay v2) to be reached through; only with libp2p.",
        check=_join_fault,
        flag="--via-libp2p",
    )
    upnp: bool = _key(False, "Ask the router, by UPnP, to pass a port on to this node.")
    deadline_s: float = _key(
        30.0, "The longest that one request to another node may take; dialling and the hello take parts of it.",
        unit="s", low=0.5, high=3600,
    )  # fmt: skip
    ping_interval_s: float = _key(
        2.0, "How often an idle link is asked for a sign of life.", unit="s", low=0.05, high=600
    )
    dead_after_s: float = _key(6.0, "A link this long without a sign of life is down.", unit="s", low=0.1, high=3600)


@frozen
class AdmissionConfig:
    """Who may link with this node, and how much each may use."""

    allow: tuple[str, ...] = _key(
        (), "The only peers that may link, by id; none: all that are not denied.", check=_allow_fault
    )
    deny: tuple[str, ...] = _key(
        (), "Peers that may not link, by id, and networks from which no connection is taken.", check=_deny_fault
    )
    links_max: int = _key(1024, "Links that are kept at the same time.", low=1, high=65_536)
    memory_bytes_max: int = _key(
        256 * 2**20, "What the messages of one peer that wait may take; no message may take over half of it.",
        unit="bytes", low=4 * 2**20, high=2**40,
    )  # fmt: skip
    targets_max: int = _key(4096, "Actors that one peer may have messages waiting for.", low=2, high=2**20)
    messages_per_s: float = _key(
        0.0, "Messages that one peer may send over time; 0: as many as are handled.", unit="messages/s", low=0, high=1e9
    )
    bytes_per_s: float = _key(
        0.0, "Bytes of messages that one peer may send over time; 0: as many as are handled.",
        unit="bytes/s", low=0, high=1e12,
    )  # fmt: skip
    connects_per_s: float = _key(
        50.0, "Connections that are taken from one address over time; of IPv6, from one /64.",
        unit="connections/s", low=0.1, high=1e6,
    )  # fmt: skip


@frozen
class TrainConfig:
    """The training run that this node takes part in."""

    run: str = _key("main", "The run to take part in; every node of it names the same.", check=_name_fault)
    model: str = _key("", "`module:function` that builds the model; empty: the built-in character transformer.")
    rounds: int = _key(20, "Rounds until the run is done.", low=1, high=10_000_000)
    nodes_min: int = _key(3, "Nodes that must be there before the first round starts.", low=1, high=1_000)
    inner_steps: int = _key(100, "Local optimiser steps between two rounds (H).", unit="steps", low=1, high=1_000_000)
    contributors_final_min: int = _key(
        0, "The run ends only with a round to which this many members contributed.", low=0, high=1_000
    )
    batch_size: int = _key(32, "Sequences in one local step.", low=1, high=65_536)
    context: int = _key(128, "Characters that the model sees at once.", low=2, high=65_536)
    warmup_steps: int = _key(20, "Steps over which the learning rate rises to its value.", low=0, high=1_000_000)
    learning_rate: float = _key(1e-3, "Learning rate of the inner optimiser, AdamW.", low=0, high=10)
    weight_decay: float = _key(0.1, "Weight decay of the inner optimiser.", low=0, high=10)
    clip_norm: float = _key(1.0, "Gradients are clipped to this norm; 0: not at all.", low=0, high=1e6)
    outer_learning_rate: float = _key(0.7, "Step size of the outer optimiser (eta).", low=0, high=10)
    outer_momentum: float = _key(0.9, "Nesterov momentum of the outer optimiser (mu).", low=0, high=0.9999)
    round_deadline_s: float = _key(
        60.0, "The longest that one round's exchange may take.", unit="s", low=1, high=86_400
    )
    seed: int = _key(0, "Decides the first parameters and the order of the data.", low=0, high=2**63 - 1)
    data: str = _key("", "A text file, or a folder of them; empty: the sources of Python's standard library.")
    threads: int = _key(1, "Threads of the worker process.", low=1, high=1_024)


@frozen
class LogConfig:
    """What a node writes about itself, on standard error or into a file."""

    level: str = _key("info", "The least that is written.", choices=("debug", "info", "warning", "error"))
    format: str = _key("text", "For people, or one JSON object a line.", choices=("text", "json"))
    file: str = _key("", "The file to write to; empty: standard error.")


@frozen
class Config:
    """Everything that can be set, by section."""

    node: NodeConfig = attrs.field(factory=NodeConfig)
    transport: TransportConfig = attrs.field(factory=TransportConfig)
    admission: AdmissionConfig = attrs.field(factory=AdmissionConfig)
    train: TrainConfig = attrs.field(factory=TrainConfig)
    log: LogConfig = attrs.field(factory=LogConfig)


SECTIONS: Final[dict[str, type]] = {
    "node": NodeConfig,
    "transport": TransportConfig,
    "admission": AdmissionConfig,
    "train": TrainConfig,
    "log": LogConfig,
}


def _plain_type(section: type, field: str) -> type:
    """Return the run-time type of a field: `tuple` for `tuple[str, ...]`."""
    hint = typing.get_type_hints(section)[field]
    plain: type = typing.get_origin(hint) or hint
    return plain


def section_keys(section: str) -> tuple[Key, ...]:
    """Return the keys of one section in the order of the schema; `KeyError` if there is no such section."""
    owner = SECTIONS[section]
    return tuple(
        Key(section, field.name, _plain_type(owner, field.name), field.default, field.metadata[_META])
        for field in attrs.fields(owner)
    )


def all_keys() -> dict[str, Key]:
    """Return every key by its dotted name, in the order of the schema."""
    return {key.name: key for section in SECTIONS for key in section_keys(section)}
