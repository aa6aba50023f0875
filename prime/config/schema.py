"""A node's schema: every key that can be set, with its type, default, unit, range and meaning.

Keys carry their unit last (`ping_interval_s`). Orders between deadlines that cannot work are refused here too. Pure.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from typing import Final

import attrs
from attrs import frozen

from prime.config.keys import Key, Order, Schema, key, refuse_orders
from prime.config.values import shown


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


def _roles_fault(roles: tuple[str, ...]) -> str:
    return "" if roles else "a node without a role does nothing: name trainer, dht or both"


_BACKEND: Final = re.compile(r"sqlite|memory|[\w.]+:[\w.]+")


def _backend_fault(text: str) -> str:
    if _BACKEND.fullmatch(text):
        return ""
    return f"{shown(text)} is neither sqlite nor memory nor a function as module:function"


_SUCCESSOR: Final = re.compile(r"~[0-9]{1,9}-[0-9a-f]{8}\Z")

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


def _run_fault(run: str) -> str:
    return _name_fault(_SUCCESSOR.sub("", run))


@frozen
class NodeConfig:
    """This node: its name, what it does, and where it keeps its things."""

    name: str = key("node", "Names this node's state folder and its control socket.", check=_name_fault)
    roles: tuple[str, ...] = key(
        ("trainer",),
        "What this node does. A trainer is in the DHT, too, unless dht.enabled says otherwise; a node of the role dht alone "
        "trains nothing and needs neither numpy nor torch.",
        choices=("trainer", "dht"), check=_roles_fault, flag="--role",
    )  # fmt: skip
    state_dir: str = key("~/.local/state/prime", "The folder that holds one folder of state for each node by name.")
    key_file: str = key("node.key", "The node's Ed25519 key; a relative path starts at the node's state folder.")
    control_socket: str = key("", "The socket that `prime status` asks; empty: in the user's run-time folder.")
    memory_free_bytes_min: int = key(
        512 * 2**20, "A node does not start with less free memory than this.", unit="bytes", low=0
    )


@frozen
class TransportConfig:
    """How bytes reach other nodes, and when a silent one counts as gone."""

    kind: str = key(
        "auto",
        "The transport: memory, unix, tcp, libp2p, or one that an installed package offers; auto takes libp2p where it "
        "is installed, else tcp.",
        check=_word_fault,
        flag="--transport",
    )
    listen: str = key(
        "",
        "The address to listen on; port 0 takes a free one. Empty: a free port of this machine's loopback, or the "
        "transport's own choice.",
        check=_listen_fault,
    )
    join: tuple[str, ...] = key((), "Addresses of nodes to join; none: this node founds a network.", check=_join_fault)
    mdns: bool = key(
        False,
        "Tell the local network, by multicast, that this node is there; without `join`, look there for others first.",
    )
    mdns_wait_s: float = key(
        3.0, "How long a node without `join` listens to the local network before it founds one of its own.",
        unit="s", low=0, high=3600,
    )  # fmt: skip
    relay: bool = key(False, "Carry circuits for nodes that nobody can dial. For a node that everybody can.")
    via: tuple[str, ...] = key(
        (), "Relays to be reached through while this node cannot be dialled.", check=_join_fault, flag="--via"
    )
    via_libp2p: tuple[str, ...] = key(
        (),
        "Standard libp2p relays (circuit relay v2) to be reached through; only with libp2p.",
        check=_join_fault,
        flag="--via-libp2p",
    )
    upnp: bool = key(False, "Ask the router, by UPnP, to pass a port on to this node.")
    deadline_s: float = key(
        30.0, "The longest that one request to another node may take; dialling and the hello take parts of it.",
        unit="s", low=0.5, high=3600,
    )  # fmt: skip
    ping_interval_s: float = key(
        2.0, "How often an idle link is asked for a sign of life.", unit="s", low=0.05, high=600
    )
    dead_after_s: float = key(6.0, "A link this long without a sign of life is down.", unit="s", low=0.1, high=3600)


@frozen
class AdmissionConfig:
    """Who may link with this node, and how much each may use."""

    allow: tuple[str, ...] = key(
        (), "The only peers that may link, by id; none: all that are not denied.", check=_allow_fault
    )
    deny: tuple[str, ...] = key(
        (), "Peers that may not link, by id, and networks from which no connection is taken.", check=_deny_fault
    )
    links_max: int = key(1024, "Links that are kept at the same time.", low=1, high=65_536)
    memory_bytes_max: int = key(
        256 * 2**20, "What the messages of one peer that wait may take; no message may take over half of it.",
        unit="bytes", low=4 * 2**20, high=2**40,
    )  # fmt: skip
    targets_max: int = key(4096, "Actors that one peer may have messages waiting for.", low=2, high=2**20)
    messages_per_s: float = key(
        0.0, "Messages that one peer may send over time; 0: as many as are handled.", unit="messages/s", low=0, high=1e9
    )
    bytes_per_s: float = key(
        0.0, "Bytes of messages that one peer may send over time; 0: as many as are handled.",
        unit="bytes/s", low=0, high=1e12,
    )  # fmt: skip
    connects_per_s: float = key(
        50.0, "Connections that are taken from one address over time; of IPv6, from one /64.",
        unit="connections/s", low=0.1, high=1e6,
    )  # fmt: skip


@frozen
class TrainConfig:
    """The training run that this node takes part in."""

    run: str = key(
        "main",
        "The run to take part in; every node of it names the same. `main~1-5f0c1a9b` succeeds `main`.",
        check=_run_fault,
    )
    model: str = key("", "`module:function` that builds the model; empty: the built-in character transformer.")
    rounds: int = key(20, "Rounds until the run is done.", low=1, high=10_000_000)
    nodes_min: int = key(3, "Nodes that must be there before the first round starts.", low=1, high=1_000)
    inner_steps: int = key(100, "Local optimiser steps between two rounds (H).", unit="steps", low=1, high=1_000_000)
    local_epochs: int = key(
        0, "Passes over the node's own data between two rounds, instead of inner_steps; 0: inner_steps count.",
        low=0, high=100_000,
    )  # fmt: skip
    participation: float = key(
        1.0, "The fraction of the members that each round asks to contribute; the others idle.", low=1e-6, high=1
    )
    contributors_final_min: int = key(
        0, "The run ends only with a round to which this many members contributed.", low=0, high=1_000
    )
    batch_size: int = key(32, "Sequences in one local step.", low=1, high=65_536)
    context: int = key(128, "Characters that the model sees at once.", low=2, high=65_536)
    warmup_steps: int = key(20, "Steps over which the learning rate rises to its value.", low=0, high=1_000_000)
    learning_rate: float = key(1e-3, "Learning rate of the inner optimiser, AdamW.", low=0, high=10)
    weight_decay: float = key(0.1, "Weight decay of the inner optimiser.", low=0, high=10)
    clip_norm: float = key(1.0, "Gradients are clipped to this norm; 0: not at all.", low=0, high=1e6)
    outer_optimiser: str = key(
        "nesterov",
        "What a round's average does to the shared parameters.",
        choices=("nesterov", "sgd", "average", "adam"),
    )
    outer_learning_rate: float = key(0.7, "Step size of the outer optimiser (eta); averaging has none.", low=0, high=10)
    outer_momentum: float = key(
        0.7, "Momentum of the outer optimiser: mu of nesterov, beta 1 of adam.", low=0, high=0.9999
    )
    outer_square_decay: float = key(0.99, "Decay of adam's mean square (beta 2).", low=0, high=0.999999)
    outer_epsilon: float = key(1e-6, "What adam adds to the root of its mean square.", low=1e-30, high=1)
    fragments: int = key(
        1, "Parts that the parameters are cut into; each round carries one of them, in turn (P).", low=1, high=10_000
    )
    overlap_steps: int = key(
        -1, "Steps that training goes on for while a round is under way (tau); -1: until the next round is due.",
        unit="steps", low=-1, high=1_000_000,
    )  # fmt: skip
    aggregation: str = key(
        "mean",
        "The rule by which a round makes one vector of its contributions.",
        choices=("mean", "median", "trimmed-mean", "krum", "multi-krum", "centred-clipping"),
    )
    byzantine_max: int = key(
        0, "Members of a round that may be liars (f): krum and multi-krum need 2f + 3 contributions, the others 2f + 1.",
        low=0, high=1_000,
    )  # fmt: skip
    norm_gate: float = key(
        0.0, "Contributions are refused whose norm per token is above this multiple of the median; 0: none is.",
        low=0, high=1e6,
    )  # fmt: skip
    codec: str = key(
        "int8",
        "How contributions travel to those who sum them up; topk: the largest 1.56 % alone.",
        choices=("int8", "int4", "fp8", "fp16", "topk", "none"),
    )
    gather_codec: str = key(
        "auto",
        "How a round's result travels; auto: int8, and with topk the sparse form of its sums.",
        choices=("auto", "int8", "fp8", "fp16", "none"),
    )
    error_feedback: str = key(
        "auto",
        "What the codec leaves out of a contribution goes with the next one; auto: on with int4 and topk.",
        choices=("auto", "on", "off"),
    )
    round_deadline_s: float = key(60.0, "The longest that one round's exchange may take.", unit="s", low=1, high=86_400)
    seed: int = key(0, "Decides the first parameters and the order of the data.", low=0, high=2**63 - 1)
    data: str = key("", "A text file, or a folder of them; empty: the sources of Python's standard library.")
    threads: int = key(1, "Threads of the worker process.", low=1, high=1_024)


@frozen
class RunsConfig:
    """Runs that others submit: a node with none of its own takes part in the first that waits for members."""

    accept: bool = key(True, "Take part in runs that are submitted to other nodes.")
    accept_functions: tuple[str, ...] = key(
        (),
        "Models and data of such runs that this node loads beyond the presets, as `module:function` or the path of a "
        "file of its own; `*`: all that can be imported here.",
    )
    data: str = key(
        "", "What this node trains on in a run whose data is `own`: a path, a preset or `module:function`; empty: it "
        "takes part in no such run.",
    )  # fmt: skip
    client: bool = key(
        False,
        "Own no part of a run's vector, only contribute and vote: for a node with a slow upload, or that others cannot reach.",
    )


@frozen
class DhtConfig:
    """The DHT: where nodes, runs, records and blobs are found by key. A 0 stands for what the preset says."""

    enabled: bool = key(True, "Take part in the DHT of the nodes that this one is linked with.")
    preset: str = key(
        "auto",
        "What the figures below are where they are 0: lan for a few machines that know each other, swarm for the "
        "internet, large for thousands of nodes there; auto: lan where all addresses, this node's and those it joins, "
        "are private, else swarm.",
        choices=("auto", "lan", "swarm", "large"),
    )
    client: bool = key(False, "Use the DHT and answer nobody in it; so does a node while nobody can dial it.")
    rendezvous: tuple[str, ...] = key(
        (),
        "Addresses of nodes at which this one registers, and finds who else did: points that it need not have in its table.",
        check=_join_fault,
    )
    meet_under: tuple[str, ...] = key(
        (),
        "Names under which this node meets others: it says them in the DHT, and links with those that say them, too.",
    )
    backend: str = key(
        "sqlite",
        "Where its records are kept: sqlite, a file in the node's state folder; memory, which a restart empties; or "
        "`module:function` that returns a backend for a folder.",
        check=_backend_fault,
    )
    ipfs: bool = key(
        True,
        "Be in libp2p's own Kademlia, /ipfs/kad/1.0.0, too, with peers that are not Prime; where the transport is libp2p.",
        flag="--ipfs/--no-ipfs",
    )
    k: int = key(0, "Contacts of a bucket, and of an answer (Kademlia's k).", low=0, high=256)
    alpha: int = key(0, "Requests of one path of a lookup that are under way at a time.", low=0, high=64)
    beta: int = key(0, "Closest contacts that must have answered before a lookup ends.", low=0, high=256)
    paths: int = key(0, "Disjoint paths of a lookup.", low=0, high=32)
    paths_critical: int = key(0, "Disjoint paths of a lookup where lies cost most.", low=0, high=32)
    replicas: int = key(0, "Holders that a record should have.", low=0, high=256)
    agreeing: int = key(0, "Equal answers, from distinct paths, that a read waits for.", low=0, high=32)
    request_s: float = key(0.0, "The longest that one request of a lookup may take.", unit="s", low=0, high=600)
    lookup_s: float = key(0.0, "The longest that a whole lookup may take.", unit="s", low=0, high=3600)
    refresh_s: float = key(0.0, "A bucket this long without a lookup is looked up.", unit="s", low=0, high=86_400)
    republish_s: float = key(0.0, "How often this node publishes its own records anew.", unit="s", low=0, high=172_800)
    replicate_s: float = key(
        0.0, "How often a holder looks whether its records have their replicas.", unit="s", low=0, high=86_400
    )
    ttl_s: int = key(0, "How long a record holds unless it says otherwise.", unit="s", low=0, high=172_800)
    group_table_max: int = key(0, "Contacts of one group of addresses in the table.", low=0, high=5120)
    group_bucket_max: int = key(0, "Contacts of one group of addresses in one bucket.", low=0, high=256)
    group_records_max: int = key(
        0, "Records that the peers of one group of addresses may store here.", low=0, high=2**20
    )
    store_bytes_max: int = key(0, "Bytes of records that this node holds.", unit="bytes", low=0, high=2**40)
    request_bytes_max: int = key(0, "Bytes of one request that this node takes.", unit="bytes", low=0, high=2**20)
    blob_bytes_max: int = key(
        64 << 30,
        "Bytes of blobs that this node keeps itself; models that stay in files of their own do not count.",
        unit="bytes",
        low=0,
        high=2**50,
    )
    blob_bytes_per_s: float = key(
        0.0,
        "Bytes of blobs that it sends over time to all who fetch; 0: as many as they take.",
        unit="bytes/s",
        low=0,
        high=1e12,
    )
    requests_per_s: float = key(0.0, "Requests that one peer may make over time.", unit="requests/s", low=0, high=1e6)


@frozen
class LogConfig:
    """What a node writes about itself, on standard error or into a file."""

    level: str = key("info", "The least that is written.", choices=("debug", "info", "warning", "error"))
    format: str = key("text", "For people, or one JSON object a line.", choices=("text", "json"))
    file: str = key("", "The file to write to; empty: standard error.")


@frozen
class Config:
    """Everything that can be set, by section."""

    node: NodeConfig = attrs.field(factory=NodeConfig)
    transport: TransportConfig = attrs.field(factory=TransportConfig)
    admission: AdmissionConfig = attrs.field(factory=AdmissionConfig)
    train: TrainConfig = attrs.field(factory=TrainConfig)
    runs: RunsConfig = attrs.field(factory=RunsConfig)
    dht: DhtConfig = attrs.field(factory=DhtConfig)
    log: LogConfig = attrs.field(factory=LogConfig)

    def __attrs_post_init__(self) -> None:
        """Refuse orders between deadlines that cannot work."""
        refuse_orders(_order_faults(self))


def _order_faults(config: Config) -> Iterator[Order]:
    """Yield every order between deadlines that cannot work."""
    link = config.transport
    if link.dead_after_s < 2 * link.ping_interval_s:
        yield (
            ("transport.dead_after_s", "transport.ping_interval_s"),
            (
                f"transport.dead_after_s ({link.dead_after_s:g} s) is under twice transport.ping_interval_s "
                f"({link.ping_interval_s:g} s): one lost ping would take a link down"
            ),
            "raise transport.dead_after_s or lower transport.ping_interval_s",
        )
    if link.dead_after_s > link.deadline_s:
        yield (
            ("transport.dead_after_s", "transport.deadline_s"),
            (
                f"transport.dead_after_s ({link.dead_after_s:g} s) is over transport.deadline_s ({link.deadline_s:g} s): "
                "requests would be given up before a dead link is noticed"
            ),
            "raise transport.deadline_s or lower transport.dead_after_s",
        )
    if "dht" in config.node.roles and not config.dht.enabled:
        yield (
            ("node.roles", "dht.enabled"),
            "node.roles names dht, and dht.enabled is false",
            "leave dht out of node.roles, or remove dht.enabled",
        )
    if config.train.round_deadline_s <= link.dead_after_s:
        yield (
            ("train.round_deadline_s", "transport.dead_after_s"),
            (
                f"train.round_deadline_s ({config.train.round_deadline_s:g} s) is not over transport.dead_after_s "
                f"({link.dead_after_s:g} s): a round would end before a dead member is noticed"
            ),
            "raise train.round_deadline_s or lower transport.dead_after_s",
        )


NODE: Final = Schema(Config, "`prime config show` lists every key", "`prime config init` writes one")
"""What a node's configuration can hold."""


def all_keys() -> dict[str, Key]:
    """Return every key of a node's configuration by its dotted name, in the order of the schema."""
    return NODE.keys
