"""`prime node`: run a node, stop it, ask it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from prime.cli.options import AsJson, AskedNode, ConfigFile, Kind
from prime.cli.output import emit, say

if TYPE_CHECKING:
    from collections.abc import Callable

    from prime.config import Config
    from prime.observe.messages import NodeStatus

app = typer.Typer(help="Run a node of a swarm, stop it, ask it.", no_args_is_help=True)

Listen = Annotated[str | None, typer.Option("--listen", metavar="MULTIADDR", help="Listen here; port 0: a free one.")]
Join = Annotated[
    list[str] | None,
    typer.Option("--join", metavar="MULTIADDR", help="Join the network of this node; may be given again."),
]
Name = Annotated[str | None, typer.Option("--name", help="This node's name: its state folder and control socket.")]
Mdns = Annotated[bool | None, typer.Option("--mdns/--no-mdns", help="Find nodes of the run on the local network.")]
Relay = Annotated[
    bool | None, typer.Option("--relay/--no-relay", help="Carry circuits for nodes that nobody can dial.")
]
Via = Annotated[
    list[str] | None,
    typer.Option("--via", metavar="MULTIADDR", help="Be reached through this relay; may be given again."),
]
ViaLibp2p = Annotated[
    list[str] | None,
    typer.Option("--via-libp2p", metavar="MULTIADDR", help="Be reached through this standard libp2p relay, too."),
]
Upnp = Annotated[bool | None, typer.Option("--upnp/--no-upnp", help="Ask the router to pass a port on to this node.")]
NodesMin = Annotated[
    int | None, typer.Option("--nodes-min", help="Found a run of its own once this many nodes are there.")
]
Data = Annotated[str | None, typer.Option("--data", metavar="PATH", help="Train on this text file or folder.")]

Role = Annotated[
    str | None,
    typer.Option("--role", metavar="ROLES", help="trainer, dht, or both with a comma; dht alone trains nothing."),
]
Allow = Annotated[
    list[str] | None,
    typer.Option("--allow", metavar="PEER", help="Link with this peer and those allowed like it alone; repeatable."),
]
Deny = Annotated[
    list[str] | None,
    typer.Option("--deny", metavar="PEER", help="Never link with this peer, or from this network; repeatable."),
]


@app.command()
def start(
    config: ConfigFile = None,
    name: Name = None,
    listen: Listen = None,
    join: Join = None,
    transport: Kind = None,
    mdns: Mdns = None,
    via_libp2p: ViaLibp2p = None,
    upnp: Upnp = None,
    relay: Relay = None,
    via: Via = None,
    nodes_min: NodesMin = None,
    data: Data = None,
    allow: Allow = None,
    deny: Deny = None,
    role: Role = None,
    parent_eof: Annotated[bool, typer.Option("--parent-eof", hidden=True)] = False,
    as_json: AsJson = False,
) -> None:
    """Run a node: with --join, or --mdns, it links with others, and takes part in the runs that they tell of.

    With settings of a run of its own (a section train, --nodes-min, --data) it founds that one, or joins it. With --role dht
    it serves the DHT alone. Ctrl-C once drains, twice stops.
    """
    run_one(
        config,
        {
            "node.name": name,
            "transport.listen": listen,
            "transport.join": tuple(join) if join else None,
            "transport.kind": transport,
            "transport.mdns": mdns,
            "transport.via_libp2p": tuple(via_libp2p) if via_libp2p else None,
            "transport.upnp": upnp,
            "transport.relay": relay,
            "transport.via": tuple(via) if via else None,
            "train.nodes_min": nodes_min,
            "train.data": data,
            "admission.allow": tuple(allow) if allow else None,
            "admission.deny": tuple(deny) if deny else None,
            "node.roles": tuple(filter(None, role.split(","))) if role is not None else None,
        },
        parent_eof=parent_eof,
        as_json=as_json,
    )


def run_one(file: Path | None, flags: dict[str, Any], *, parent_eof: bool, as_json: bool) -> None:
    """Load the configuration, check the machine, and run one node to its end."""
    import functools
    import os

    import trio

    from prime.cli.logs import configure
    from prime.config import load
    from prime.node.run import run_node

    loaded = load(file, flags={key: value for key, value in flags.items() if value is not None})
    configure(loaded.config.log)
    _check_memory(loaded.config)
    own_run = loaded.sets("train")
    waits = not own_run and "trainer" in loaded.config.node.roles
    on_ready: Callable[[NodeStatus], None] = functools.partial(_tell_ready, waits=waits, as_json=as_json)
    status = trio.run(
        functools.partial(
            run_node,
            loaded.config,
            os.environ,
            on_ready=on_ready,
            parent_eof=parent_eof,
            own_run=own_run,
        ),
        restrict_keyboard_interrupt_to_checkpoints=True,
    )
    raise typer.Exit(status)


def _check_memory(config: Config) -> None:
    from prime.cli.machine import free_memory_bytes
    from prime.errors import UsageError

    free, least = free_memory_bytes(), config.node.memory_free_bytes_min
    if free is not None and free < least:
        raise UsageError(
            f"{free / 2**20:.0f} MiB of memory are free, a node wants {least / 2**20:.0f} MiB",
            hint="end other programs, or lower node.memory_free_bytes_min",
        )


def _tell_ready(status: NodeStatus, *, waits: bool, as_json: bool) -> None:
    result = {"event": "node.ready", "peer": status.peer, "name": status.name, "addresses": list(status.addresses)}
    text = f"node {status.name} listens over {status.transport}\n" + "\n".join(
        f"  join it with: prime node start --transport {status.transport} --join {address}"
        for address in status.addresses
    )
    if waits:
        text += f"\n  train with it:    prime train submit charlm --node {status.name}"
    emit(result, text, as_json=as_json)


@app.command()
def stop(config: ConfigFile = None, node: AskedNode = None, as_json: AsJson = False) -> None:
    """Ask the node on this machine to finish its round, leave and end."""
    import trio

    from prime.node.client import ask_stop

    socket = socket_of(config, node)
    trio.run(ask_stop, socket)
    emit({"event": "node.stopping", "socket": str(socket)}, "the node is stopping", as_json=as_json)


@app.command()
def peers(config: ConfigFile = None, node: AskedNode = None, as_json: AsJson = False) -> None:
    """List the peers that the node on this machine has a link to."""
    status = status_of(config, node)
    emit({"peers": list(status.links)}, "\n".join(status.links) or "no links", as_json=as_json)


def status_of(config: Path | None, name: str | None) -> NodeStatus:
    """Ask the node on this machine what it is doing."""
    import trio

    from prime.node.client import ask_status

    return trio.run(ask_status, socket_of(config, name))


def socket_of(config: Path | None, name: str | None) -> Path:
    """Return the control socket of the node that the configuration, or a name, means."""
    import os

    from prime.config import load, places

    loaded = load(config, flags={"node.name": name} if name else {})
    return places(loaded.config.node, os.environ).control_socket


def bootstrap(
    config: ConfigFile = None,
    name: Name = None,
    listen: Listen = None,
    transport: Kind = None,
    mdns: Mdns = None,
    via_libp2p: ViaLibp2p = None,
    upnp: Upnp = None,
    relay: Relay = None,
    via: Via = None,
    nodes_min: NodesMin = None,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Run the first node of a new network; it prints the address that others join."""
    say("founding a new network; Ctrl-C once drains, twice stops")
    run_one(
        config,
        {
            "node.name": name,
            "transport.listen": listen,
            "transport.join": (),
            "transport.kind": transport,
            "transport.mdns": mdns,
            "transport.mdns_wait_s": 0.0,  # it is the first, whoever else there is
            "transport.via_libp2p": tuple(via_libp2p) if via_libp2p else None,
            "transport.upnp": upnp,
            "transport.relay": relay,
            "transport.via": tuple(via) if via else None,
            "train.nodes_min": nodes_min,
            "train.data": data,
        },
        parent_eof=False,
        as_json=as_json,
    )
