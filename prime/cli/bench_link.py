"""`prime bench link`: what a link of this machine carries, and how long a round of training over it would take."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from prime.cli.options import AsJson, ConfigFile, Kind

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from prime.observe.messages import LinkMeasured
    from prime.trainer.swarm.forecast import Forecast

MIB: Final = 1 << 20
PEER_SHOWN: Final = 8
GRACE_S: Final = 30.0
"""Beyond the time of measuring, how long a node may take to answer."""
DIAL_S: Final = 30.0


def link(
    addresses: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[ADDRESS]...", help="Nodes to measure the way to; without any, those that --node has links to."
        ),
    ] = None,
    node: Annotated[
        str | None, typer.Option("--node", metavar="NAME", help="Let this node on this machine measure its own links.")
    ] = None,
    seconds: Annotated[float, typer.Option("--seconds", min=0.1, max=60.0, help="Time of each way.")] = 3.0,
    mebibytes: Annotated[int, typer.Option("--mib", min=1, max=200, help="The most to send each way, in MiB.")] = 64,
    parameters: Annotated[
        int, typer.Option("--parameters", min=1, max=10**13, help="A model's size, for the time of a round.")
    ] = 25_000_000,
    members: Annotated[int, typer.Option("--members", min=2, max=1000, help="Nodes in that round.")] = 4,
    codec: Annotated[
        str, typer.Option("--codec", help="Of the contributions: int8, int4, fp8, fp16, topk or none.")
    ] = "int8",
    gather_codec: Annotated[str, typer.Option("--gather-codec", help="Of their sum, or auto.")] = "auto",
    transport: Kind = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Measure links: the time there and back, goodput each way, and the time of a round that this makes.

    The other side must run a Prime node. Bytes and time are bounded; nothing is measured while nobody asks.
    """
    import trio

    from prime.cli.node import socket_of
    from prime.cli.output import emit
    from prime.errors import UnreachableError
    from prime.trainer.swarm.forecast import forms

    forms(codec, gather_codec, members)  # a name that is none is told before anything is measured
    if addresses:
        measured = trio.run(functools.partial(_from_here, config, transport, addresses, seconds, mebibytes * MIB))
    else:
        measured = trio.run(functools.partial(_by_node, socket_of(config, node), seconds, mebibytes * MIB))
    ahead = _forecast(measured, parameters, members, codec, gather_codec)
    emit(_plain(measured, ahead), "\n".join(_words(measured, ahead)), as_json=as_json)
    if all(one.error for one in measured):
        raise UnreachableError("no link could be measured", hint="is the other side a Prime node of this version?")


async def _from_here(
    config: Path | None, transport: str | None, addresses: Sequence[str], seconds: float, bytes_max: int
) -> tuple[LinkMeasured, ...]:
    """Measure from an endpoint of this command's own, so that it disturbs no node that runs."""
    import os

    import attrs
    import trio

    from prime.config import load, places
    from prime.errors import DeadlineError
    from prime.node.link import measure
    from prime.node.run import transport_of
    from prime.node.system import open_system

    loaded = load(config, flags={"transport.listen": "", "transport.kind": transport}).config
    found = []
    async with open_system(transport=transport_of(loaded, places(loaded.node, os.environ))) as system:
        for address in addresses:
            peer = ""
            with trio.move_on_after(DIAL_S):
                peer = await system.network.dial(address) if system.network is not None else ""
            if not peer:
                raise DeadlineError(
                    f"{address} did not answer within {DIAL_S:g} s", hint="is the node up, and reachable?"
                )
            one = await measure(system, peer, seconds, bytes_max)
            found.append(attrs.evolve(one, address=address))  # type: ignore[misc]  # a @record is an attrs class
    return tuple(found)


async def _by_node(socket: Path, seconds: float, bytes_max: int) -> tuple[LinkMeasured, ...]:
    from prime.errors import NotFoundError
    from prime.node.client import ASK_TIMEOUT_S, open_links
    from prime.observe.messages import GetStatus, MeasureLinks

    async with open_links(socket) as (status, ref):
        peers = (await status.ask(GetStatus(0), timeout=ASK_TIMEOUT_S)).links
        if not peers:
            raise NotFoundError("the node has no links", hint="name an address, or start it with --join")
        within_s = len(peers) * 2 * seconds + GRACE_S
        return await ref.ask(MeasureLinks(peers, seconds, bytes_max), timeout=within_s)


def _forecast(
    measured: Sequence[LinkMeasured], parameters: int, members: int, codec: str, gather_codec: str
) -> Forecast | None:
    """Return the round over links that are all as the narrowest one measured."""
    from prime.trainer.swarm.forecast import forecast

    whole = [one for one in measured if not one.error and one.up_bytes_s > 0 and one.down_bytes_s > 0]
    if not whole:
        return None
    up, down = (min(getattr(one, way) for one in whole) for way in ("up_bytes_s", "down_bytes_s"))
    rtt_s = max(one.rtt_s for one in whole)
    return forecast(parameters, members, codec, gather_codec, up_bytes_s=up, down_bytes_s=down, rtt_s=rtt_s)


def _plain(measured: Sequence[LinkMeasured], ahead: Forecast | None) -> dict[str, Any]:
    from attrs import asdict

    links = [asdict(one) for one in measured]  # type: ignore[arg-type]  # a @record is an attrs class
    return {"links": links, "round": asdict(ahead) if ahead is not None else None}


def _words(measured: Sequence[LinkMeasured], ahead: Forecast | None) -> Iterator[str]:
    yield f"{'link':<11}{'rtt, ms':>9}{'at best':>9}{'lost':>6}{'up':>14}{'down':>14}"
    for one in measured:
        yield _row(one)
        if one.error:
            yield f"  not measured: {one.error}"
    if ahead is not None:
        yield from _ahead(ahead)


def _row(one: LinkMeasured) -> str:
    relayed = "  relayed" if one.relayed else ""
    lost = f"{one.lost}/{one.pings}" if one.pings else "-"
    times = f"{one.rtt_s * 1e3:>9.2f}{one.rtt_min_s * 1e3:>9.2f}"
    return f"…{one.peer[-PEER_SHOWN:]:<10}{times}{lost:>6}{_rate(one.up_bytes_s):>14}{_rate(one.down_bytes_s):>14}{relayed}"


def _ahead(ahead: Forecast) -> Iterator[str]:
    from prime.trainer.track.report import size

    codecs = ahead.codec if ahead.gather_codec in ("auto", ahead.codec) else f"{ahead.codec}, {ahead.gather_codec} back"
    yield f"a round of {ahead.parameters:,} parameters among {ahead.members} nodes with links like the narrowest:"
    yield f"  {codecs:<16} {_time(ahead.seconds):>12}, {size(ahead.sent_bytes)} sent by each"
    yield f"  {'float32':<16} {_time(ahead.float32_seconds):>12}, {size(ahead.float32_bytes)}"
    if ahead.narrow == "rtt":
        yield "  the times there and back decide: more bandwidth would change little"
    else:
        yield f"  what decides is the way {ahead.narrow}; inner steps that last as long hide it (overlap_steps)"


def _time(seconds: float) -> str:
    from prime.trainer.track.report import duration

    return f"{seconds * 1e3:.0f} ms" if seconds < 1 else f"{seconds:.1f} s" if seconds < 60 else duration(seconds)


def _rate(bytes_s: float) -> str:
    """Return a goodput as people name links: in bits."""
    if not bytes_s:
        return "-"
    bits = bytes_s * 8
    return f"{bits / 1e9:.2f} Gbit/s" if bits >= 1e9 else f"{bits / 1e6:.1f} Mbit/s"
