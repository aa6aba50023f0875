"""`prime status`: what the node on this machine is doing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from prime.cli.dht_view import dht_lines
from prime.cli.node import status_of
from prime.cli.options import AsJson, AskedNode, ConfigFile
from prime.cli.output import console, emit

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prime.observe.messages import ActorStatus, NodeStatus, RunStatus, SupervisorStatus


_FILE_WIDTH: Final = 10_000


def status(
    config: ConfigFile = None,
    node: AskedNode = None,
    watch: Annotated[bool, typer.Option("--watch", help="Print it again every second until Ctrl-C.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show the node on this machine: its addresses, its run, its actors."""
    import time

    while True:
        show(status_of(config, node), as_json=as_json)
        if not watch:
            return
        time.sleep(1)


def show(found: NodeStatus, *, as_json: bool) -> None:
    """Print one status."""
    from attrs import asdict

    if as_json:
        emit(asdict(found), "", as_json=True)  # type: ignore[arg-type]  # a @record is an attrs class
        return
    screen = console()
    if not screen.is_terminal:
        screen.width = _FILE_WIDTH
    for line in lines(found):
        screen.print(line, soft_wrap=isinstance(line, str))  # a tree breaks its own long lines


def lines(found: NodeStatus) -> Iterator[Any]:
    """Yield the status as text for a person."""
    yield f"[bold]{_plain(found.name)}[/]  {found.peer}"
    yield f"  prime {found.version}, process {found.process}, up {found.uptime_s:.0f} s, {found.memory_bytes / 2**20:.0f} MiB"
    yield f"  {found.transport}: {', '.join(found.addresses)}"
    yield f"  reachability: {found.reachability} ({_plain(found.reachability_why)})"
    links = (f"{peer} (relayed)" if peer in found.relayed else peer for peer in found.links)
    yield f"  links: {', '.join(links) or 'none'}; dead letters: {found.dead_letters}{_turned_away(found)}"
    if found.run is not None:
        yield from _run_lines(found.run)
    if found.dht is not None:
        yield from dht_lines(found.dht)
    for supervisor in found.supervisors:
        yield tree(supervisor)


def _turned_away(found: NodeStatus) -> str:
    return f"; callers turned away: {found.turned_away}" if found.turned_away else ""


def _run_lines(run: RunStatus) -> Iterator[str]:
    yield f"  run: round {run.round} of {run.rounds} ({run.phase}), view {run.epoch} of {len(run.members)} members"
    yield (
        f"       step {run.step} ({run.round_step} of {run.inner_steps} for this round), "
        f"{run.tokens_per_s:.0f} tokens/s, {run.wire_bytes / 2**20:.1f} MiB of rounds sent"
    )
    decided = [r for r in run.history if r.held_out is not None]
    if decided:
        yield f"       held-out loss {decided[-1].held_out:.3f} nats a character after round {decided[-1].round}"
    for waited in run.waiting_for:
        yield f"       waits for {_plain(waited)}"
    if run.stalled:
        yield f"  [yellow]{_plain(run.stalled)}[/]"
        yield f"  [yellow]{_plain(run.hint)}[/]"


def _plain(text: str) -> str:
    """Return a text from elsewhere so that its brackets are shown and not read as markup."""
    from rich.markup import escape

    return escape(text)


def tree(supervisor: SupervisorStatus) -> Any:
    """Return a supervisor and its actors as a rich tree."""
    from rich.tree import Tree

    root = Tree(f"{supervisor.path} [dim]{supervisor.strategy}, {supervisor.restarts_left} restarts left[/]")
    for child in supervisor.children:
        root.add(_actor_line(child))
    return root


def _actor_line(child: ActorStatus) -> str:
    waited = f" (the oldest {child.oldest_s:.1f} s)" if child.oldest_s else ""
    dropped = f", dropped {child.dropped}" if child.dropped else ""
    asks = f", waits for {_plain(child.waits_for)}" if child.waits_for else ""
    failed = f"  [red]{_plain(child.last_failure)}[/]" if child.last_failure else ""
    process = f" in process {child.process}" if child.process else ""
    return (
        f"{_plain(child.path.rpartition('/')[2])} [dim]{_plain(child.actor)}{process}[/] {child.state}, "
        f"mailbox {child.mailbox}{waited}, handled {child.handled} ({child.rate_per_s:.1f}/s, "
        f"p99 {_duration(child.p99_s)}){dropped}{asks}, restarts {child.restarts}{failed}"
    )


def _duration(seconds: float) -> str:
    """Return a time in the unit that suits it."""
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds / 1e-6:.0f} µs"
