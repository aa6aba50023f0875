"""`prime dht`: values, peers and providers by key, through the node on this machine or as a client of a network."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from prime.cli.options import AsJson, ConfigFile, Kind, Node
from prime.cli.output import console, emit, say
from prime.cli.words import many, plain
from prime.errors import ConflictError, PrimeError, RefusedError, UsageError

if TYPE_CHECKING:
    from prime.node.messages import PeerShown, RecordShown
    from prime.node.orders import Order

app = typer.Typer(help="Values, peers and providers by key, without any server.", no_args_is_help=True)
names = typer.Typer(
    help="Names of a node's own: PEER/NAME is what that peer says, and nobody else can.", no_args_is_help=True
)

DEADLINE_S: Final = 60.0

Join = Annotated[
    list[str] | None,
    typer.Option(
        "--join", metavar="MULTIADDR", help="Go through no node here, but as a client of this one; repeatable."
    ),
]
Deadline = Annotated[
    float, typer.Option("--deadline", metavar="SECONDS", min=0.1, max=3600, help="Give up after this long.")
]
KeyText = Annotated[
    str,
    typer.Argument(
        metavar="KEY",
        help="64 hex digits, PEER/NAME, NAME of the node itself, run:NAME or a CID; ipfs:… in libp2p's DHT.",
    ),
]
IfSeq = Annotated[
    int | None,
    typer.Option(
        "--if-seq", metavar="N", min=0, help="In the name's register, and only if version N is there; 0: none was ever."
    ),
]
NameText = Annotated[str, typer.Argument(metavar="NAME", help="A name of the node itself.")]


class _Way:
    """How an order gets done: through a node here, or as a client."""

    def __init__(
        self,
        config: Path | None,
        node: str | None,
        join: list[str] | None,
        transport: str | None,
        deadline_s: float,
    ) -> None:
        if node and join:
            raise UsageError("either --node or --join", hint="--node goes through that node, --join through none here")
        self._config = config
        self._node = node
        self.join = tuple(join or ())
        self._transport = transport
        self._deadline_s = deadline_s

    def carry_out(self, order: Order, doing: str, *, own: bool = False) -> Any:
        """Return the answer to an order; a terminal shows meanwhile what is done. `own`: under the node's own key."""
        import trio

        try:
            with _shown(doing):
                return trio.run(self._as_client, order, own) if self.join else trio.run(self._by_node, order)
        except ConflictError as error:
            raise RefusedError(str(error), hint=error.hint) from error

    async def _by_node(self, order: Order) -> Any:
        from prime.cli.node import socket_of
        from prime.node.client import open_orders

        async with open_orders(socket_of(self._config, self._node)) as node:
            return await node.ask(order, timeout=self._deadline_s)

    async def _as_client(self, order: Order, own: bool) -> Any:
        import trio

        from prime.config import load, places
        from prime.errors import DeadlineError
        from prime.node.dht_client import as_client

        flags = {"transport.listen": "", "transport.kind": self._transport, "transport.join": self.join}
        config = load(self._config, flags=flags).config
        with trio.move_on_after(self._deadline_s):
            return await as_client(config, places(config.node, os.environ), order, own_key=own)
        raise DeadlineError(
            f"not done within {self._deadline_s:g} s", hint="give it longer with --deadline, or another --join"
        )


@contextlib.contextmanager
def _shown(doing: str) -> Iterator[None]:
    screen = console(error=True)
    live = screen.is_terminal and not screen.is_dumb_terminal and not os.environ.get("NO_COLOR")
    with screen.status(doing) if live else contextlib.nullcontext():
        yield


@app.command()
def get(
    key: KeyText,
    critical: Annotated[
        bool, typer.Option("--critical", help="Ask over more disjoint paths, where a lie would cost most.")
    ] = False,
    register: Annotated[
        bool, typer.Option("--register", help="Read the register of a name, which --if-seq writes: its version now.")
    ] = False,
    node: Node = None,
    join: Join = None,
    deadline: Deadline = DEADLINE_S,
    transport: Kind = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Print the value of a key: its bytes as they are; --json says whose it is, and which version.

    ipfs:/pk/PEER and ipfs:/prime/HEX are values of libp2p's own DHT, in which nodes of Prime are too.
    """
    from prime.dht.ipfs.name import is_ipfs, read_value_key
    from prime.dht.name import split_name
    from prime.node.messages import ShowRecord, ShowValue

    way = _Way(config, node, join, transport, deadline)
    if is_ipfs(key):
        read_value_key(key)
        _show_value(key, way.carry_out(ShowValue(key), f"looking {key} up"), as_json=as_json)
        return
    if register:
        split_name(key)
    _check_key(key, way)
    found: RecordShown = way.carry_out(ShowRecord(key, critical, register), f"looking {key} up")
    if as_json:
        emit({"event": "dht.record", **_record(found)}, "", as_json=True)
    else:
        _write(found.value)


@app.command()
def put(
    value: Annotated[
        str | None, typer.Argument(metavar="[VALUE]", help="The value; without one, standard input.")
    ] = None,
    file: Annotated[Path | None, typer.Option("--file", metavar="FILE", help="Take the value from this file.")] = None,
    name: Annotated[
        str | None, typer.Option("--name", metavar="NAME", help="Publish it under this name; else under its own hash.")
    ] = None,
    ttl: Annotated[
        int | None, typer.Option("--ttl", metavar="SECONDS", min=1, max=172_800, help="How long it holds.")
    ] = None,
    if_seq: IfSeq = None,
    node: Node = None,
    join: Join = None,
    deadline: Deadline = DEADLINE_S,
    transport: Kind = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Publish a value of up to 16 KiB, from the argument, a file or standard input, and print its key.

    The node publishes it anew as long as it runs. What is published with --join holds until its time is over.
    """
    from prime.node.messages import PublishRecord

    if if_seq is not None and not name:
        raise UsageError("--if-seq compares the versions of a name", hint="give --name NAME, too")
    if if_seq is not None and ttl is not None:
        raise UsageError("a register holds without an end", hint="leave --ttl or --if-seq away")
    if name is not None:
        _check_name(name)
    order = PublishRecord(_value(value, file), name or "", ttl or 0, -1 if if_seq is None else if_seq)
    way = _Way(config, node, join, transport, deadline)
    _tell_published(way.carry_out(order, "publishing", own=True), as_json=as_json)


@app.command()
def remove(
    name: NameText,
    if_seq: IfSeq = None,
    node: Node = None,
    join: Join = None,
    deadline: Deadline = DEADLINE_S,
    transport: Kind = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Remove what the node has published under a name. A value under its own hash ends by itself."""
    from prime.node.messages import WithdrawRecord

    _check_name(name)
    way = _Way(config, node, join, transport, deadline)
    order = WithdrawRecord(name, -1 if if_seq is None else if_seq)
    found: RecordShown = way.carry_out(order, f"removing {name}", own=True)
    where = f" at {_holders(found)}" if found.asked else ""
    emit({"event": "dht.removed", **_record(found)}, f"removed {name}{where}", as_json=as_json)


@app.command()
def find(
    target: Annotated[
        str,
        typer.Argument(
            metavar="PEER|KEY", help="A peer's id, or a key as `prime dht get` takes it; ipfs:PEER in libp2p's DHT."
        ),
    ],
    node: Node = None,
    join: Join = None,
    deadline: Deadline = DEADLINE_S,
    transport: Kind = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Find a peer and its addresses, or the peers nearest to a key, nearest first."""
    from prime.dht.ipfs.name import PREFIX
    from prime.dht.name import read_peer
    from prime.node.messages import ShowPeers

    way = _Way(config, node, join, transport, deadline)
    if read_peer(target.removeprefix(PREFIX)) is None:
        _check_target(target, way)
    _tell_peers(way.carry_out(ShowPeers(target), f"looking for {target}"), as_json=as_json)


@app.command()
def providers(
    key: KeyText,
    count: Annotated[int, typer.Option("--count", metavar="N", min=1, max=1000, help="As many as this.")] = 20,
    node: Node = None,
    join: Join = None,
    deadline: Deadline = DEADLINE_S,
    transport: Kind = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Find the peers that have what a key names: the members of a run, run:NAME; in libp2p's DHT content, ipfs:CID."""
    from prime.node.messages import ShowProviders

    way = _Way(config, node, join, transport, deadline)
    _check_content(key, way)
    found = way.carry_out(ShowProviders(key, count), f"looking for providers of {key}")
    _tell_peers(found, as_json=as_json)
    if not found:
        raise _nobody(key)


@app.command()
def provide(
    key: KeyText,
    end: Annotated[bool, typer.Option("--end", help="Say so no more.")] = False,
    node: Node = None,
    deadline: Deadline = DEADLINE_S,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Say that the node here has what a key names, now and again as long as it runs."""
    from prime.node.messages import OfferKey

    way = _Way(config, node, None, None, deadline)
    _check_content(key, way)
    holders = way.carry_out(OfferKey(key, end), f"providing {key}")
    text = (
        f"{key} is provided no more" if end else f"{key} is provided, as {many(holders, 'peer')} will say to who asks"
    )
    emit({"event": "dht.provided", "key": key, "holders": holders, "ends": end}, text, as_json=as_json)


@names.command("set")
def set_(
    name: NameText,
    value: Annotated[
        str | None, typer.Argument(metavar="[VALUE]", help="The value; without one, standard input.")
    ] = None,
    node: Node = None,
    join: Join = None,
    deadline: Deadline = DEADLINE_S,
    transport: Kind = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Let a name of the node stand for a value, and print it as others resolve it."""
    put(value, name=name, node=node, join=join, deadline=deadline, transport=transport, config=config, as_json=as_json)


@names.command()
def resolve(
    name: Annotated[str, typer.Argument(metavar="PEER/NAME", help="Whose name and which; NAME alone: the node's own.")],
    node: Node = None,
    join: Join = None,
    deadline: Deadline = DEADLINE_S,
    transport: Kind = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Print what a name stands for."""
    from prime.dht.name import split_name

    split_name(name)
    get(name, node=node, join=join, deadline=deadline, transport=transport, config=config, as_json=as_json)


app.add_typer(names, name="name")


@app.command()
def stats(node: Node = None, config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Show the DHT as the node here sees it: its table bucket by bucket, what it holds, how long lookups take."""
    from attrs import asdict

    from prime.cli.dht_view import stats_lines
    from prime.cli.node import status_of
    from prime.errors import RefusedError

    found = status_of(config, node).dht
    if found is None:
        raise RefusedError("this node is not in the DHT", hint="remove dht.enabled = false, and start it again")
    told = asdict(found)  # type: ignore[arg-type]  # a @record is an attrs class
    emit({"event": "dht.stats", **told}, "\n".join(stats_lines(found)), as_json=as_json)


def _nobody(key: str) -> PrimeError:
    from prime.dht.name import RUN
    from prime.errors import NotFoundError

    if key.startswith(RUN):
        return NotFoundError(
            f"nobody takes part in a run {key.removeprefix(RUN)}", hint="its members say that they do while they run"
        )
    return NotFoundError(f"nobody provides {key}", hint="`prime dht provide KEY` on a node that has it says so")


# -------------------------------------------------------------------------------------------------------- what is given


def _check_key(key: str, way: _Way) -> None:
    """Raise `UsageError` for what is no key, before anybody is asked; as a client there is no node whose name it could be."""
    from prime.actor.contract import PeerId
    from prime.dht.name import read_key

    read_key(key, None if way.join else PeerId(""))


def _check_content(key: str, way: _Way) -> None:
    """As `_check_key`, for what is provided: in libp2p's DHT it has a CID."""
    from prime.dht.ipfs.name import is_ipfs, read_multihash

    if is_ipfs(key):
        read_multihash(key)
    else:
        _check_key(key, way)


def _check_target(key: str, way: _Way) -> None:
    """As `_check_key`, for whose neighbours are looked for."""
    from prime.dht.ipfs.name import is_ipfs, read_value_key

    if is_ipfs(key):
        read_value_key(key)
    else:
        _check_key(key, way)


def _check_name(name: str) -> None:
    from prime.dht.name import salt_of

    salt_of(name)


def _value(text: str | None, file: Path | None) -> bytes:
    from prime.dht.record import VALUE_BYTES_MAX

    if text is not None and file is not None:
        raise UsageError("either VALUE or --file", hint="leave one of them away")
    value = os.fsencode(text) if text is not None else _read(file, VALUE_BYTES_MAX + 1)
    if len(value) > VALUE_BYTES_MAX:
        raise UsageError(
            f"a value has at most {VALUE_BYTES_MAX >> 10} KiB", hint="bigger ones are blobs: `prime model push`"
        )
    return value


def _read(file: Path | None, size_bytes: int) -> bytes:
    if file is None:
        if sys.stdin.isatty():
            say("reads the value from standard input, up to Ctrl-D")
        return sys.stdin.buffer.read(size_bytes)
    try:
        with file.open("rb") as source:
            return source.read(size_bytes)
    except OSError as error:
        raise UsageError(f"{file}: cannot be read ({error.strerror})", hint="name a file that you may read") from error


# --------------------------------------------------------------------------------------------------------- what is told


def _write(value: bytes) -> None:
    """Write a value as it is; on a terminal as text that cannot command it, with an end of line."""
    if sys.stdout.isatty():
        text = value.decode("utf-8", "replace")
        emit({}, "\n".join(plain(line) for line in text.splitlines()), as_json=False)
        return
    sys.stdout.flush()
    sys.stdout.buffer.write(value)
    sys.stdout.buffer.flush()


def _show_value(key: str, value: bytes, *, as_json: bool) -> None:
    import base64

    if as_json:
        told = {"event": "dht.value", "key": key, "value": _text(value)}
        emit({**told, "value_base64": base64.b64encode(value).decode()}, "", as_json=True)
    else:
        _write(value)


def _tell_published(found: RecordShown, *, as_json: bool) -> None:
    told = _record(found)
    text = "\n".join(filter(None, (told["name"], told["key"])))
    emit({"event": "dht.published", **told}, text, as_json=as_json)
    if not as_json and found.asked:
        what = "it" if found.salt is None else f"version {found.seq}"
        say(f"{what} is held by {_holders(found)}")


def _holders(found: RecordShown) -> str:
    return f"{found.holders} of {many(found.asked, 'peer')}"


def _record(found: RecordShown) -> dict[str, Any]:
    """Return a record as JSON has it: its value as text where it is UTF-8, and always in base64."""
    import base64

    from prime.dht.name import name_of

    name = name_of(found.salt)
    return {
        "key": found.key.hex(),
        "name": f"{found.publisher}/{name}" if name else "",
        "publisher": found.publisher,
        "seq": found.seq,
        "created_ms": found.created_ms,
        "ttl_s": found.ttl_s,
        "value": _text(found.value),
        "value_base64": base64.b64encode(found.value).decode(),
        "holders": found.holders,
        "asked": found.asked,
    }


def _text(value: bytes) -> str | None:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return None


def _tell_peers(found: tuple[PeerShown, ...], *, as_json: bool) -> None:
    from attrs import asdict

    told = {"event": "dht.peers", "peers": [asdict(one) for one in found]}  # type: ignore[arg-type]  # a @record
    lines = (f"{one.peer}  {' '.join(one.addresses) or 'no address'}" for one in found)
    if found or as_json:
        emit(told, "\n".join(lines), as_json=as_json)
