"""How the demo looks: a live screen for a terminal, one line an event for tools, and a summary in words."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Final, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from prime.cli.output import console, json_line
from prime.cli.status import tree

if TYPE_CHECKING:
    from prime.node.demo import Demo
    from prime.node.swarm import LocalNode

PLOT_WIDTH: Final = 64
PLOT_HEIGHT: Final = 10


def json_events(demo: Demo, what: str) -> None:
    """Print one line of JSON for each event; the clock's ticks are none."""
    if what in ("tick", "done"):
        return
    event: dict[str, Any] = {"event": f"demo.{what}", "elapsed_s": round(demo.elapsed_s, 2), "round": demo.round}
    if what == "round":
        decided = demo.rounds[demo.round]
        event |= {"contributors": list(decided.contributors), "loss": decided.loss, "held_out": decided.held_out}
    if what == "measured":
        event |= {"round": demo.measured, "held_out": demo.rounds[demo.measured].held_out}
    if what in ("killed", "restarted", "rejoined"):
        event |= {"node": demo.victim.name, "peer": demo.victim.peer}
    print(json_line(event), flush=True)  # noqa: T201 - the result, line by line


class Screen:
    """Redraws the demo on a terminal; elsewhere it prints a line for each thing that happens."""

    def __init__(self) -> None:
        self._console: Console = console()
        self._live: Live | None = None

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live = Live(console=self._console, auto_refresh=False, transient=True, screen=False)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def __call__(self, demo: Demo, what: str) -> None:
        """Show what happened."""
        if self._live is not None:
            self._live.update(frame(demo, self._console.height), refresh=True)
        elif what not in ("tick", "measured"):
            print(plain(demo, what), file=sys.stderr, flush=True)  # noqa: T201 - progress, off a terminal


def plain(demo: Demo, what: str) -> str:
    """Return one line about one event."""
    head = f"[{demo.elapsed_s:5.1f} s]"
    if what == "round":
        decided = demo.rounds[demo.round]
        return (
            f"{head} round {demo.round}/{demo.options.rounds} committed by {len(decided.contributors)} nodes, "
            f"loss {_nats(decided.loss)}"
        )
    texts = {
        "start": f"starting {demo.options.nodes} nodes",
        "killed": f"{demo.victim.name} killed with SIGKILL after round {demo.killed_round}",
        "restarted": f"{demo.victim.name} started again; it asks to join and fetches the state from its peers",
        "rejoined": f"{demo.victim.name} is back: it contributed to round {demo.rejoined_round}",
        "done": "every node is done",
    }
    return f"{head} {texts.get(what, what)}"


def frame(demo: Demo, height: int) -> RenderableType:
    """Return the whole screen."""
    parts: list[RenderableType] = [
        _header(demo),
        _nodes(demo),
        Panel(Text(chart(demo)), title="held-out loss", expand=False),
    ]
    parts.append(_bytes(demo))
    founder = demo.swarm.nodes[0]
    if founder.status is not None and height > 38:
        supervisors = [tree(supervisor) for supervisor in founder.status.supervisors]
        parts.append(Panel(Group(*supervisors), title=f"supervision tree of {founder.name}", expand=False))
    first = demo.first
    if first is not None and first.text_first and height > 46 and demo.round < 3:
        parts.append(Panel(Text(_clip(first.text_first, 3)), title="what it writes before training", expand=False))
    return Group(*parts)


def _header(demo: Demo) -> RenderableType:
    eta = demo.eta_s()
    left = "working out the time left" if eta is None else f"about {eta:.0f} s left"
    if demo.stage == "starting":
        left = "loading torch in each worker takes most of the start"
    row = Table.grid(padding=(0, 2))
    row.add_row(
        Text("prime demo", style="bold"),
        Text(f"round {demo.round}/{demo.options.rounds}"),
        ProgressBar(total=demo.options.rounds, completed=demo.round, width=30),
        Text(demo.stage, style="bold red" if "killed" in demo.stage else "cyan"),
        Text(f"{demo.elapsed_s:.0f} s, {left}", style="dim"),
    )
    return row


def _nodes(demo: Demo) -> RenderableType:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("node", "peer", "state", "round", "step", "tokens/s", "links", "sent MiB"):
        table.add_column(column, justify="left" if column in ("node", "peer", "state") else "right")
    for node in demo.swarm.nodes:
        table.add_row(*_row(demo, node))
    return table


def _row(demo: Demo, node: LocalNode) -> list[Text]:
    run, status = demo.run_of(node), node.status
    peer = f"…{node.peer[-8:]}" if node.peer else ""
    if not node.alive:
        state = (
            Text("killed", style="bold red") if demo.killed_at is not None and node is demo.victim else Text("starting")
        )
        return [Text(node.name), Text(peer), state, *(Text("") for _ in range(5))]
    if run is None or status is None:
        return [Text(node.name), Text(peer), Text("starting", style="dim"), *(Text("") for _ in range(5))]
    style = {"training": "green", "done": "bold green", "fetching": "yellow", "joining": "yellow"}.get(run.phase, "")
    state = Text("stalled" if run.stalled else run.phase, style="yellow" if run.stalled else style)
    figures = (run.round, run.step, f"{run.tokens_per_s:.0f}", len(status.links), f"{run.wire_bytes / 2**20:.1f}")
    return [Text(node.name), Text(peer), state, *(Text(str(figure)) for figure in figures)]


def _bytes(demo: Demo) -> RenderableType:
    wire, float32, state = demo.totals()
    if not wire:
        return Text("")
    return Text(
        f"rounds on the wire: {wire / 2**20:.1f} MiB as int8, the same in float32 {float32 / 2**20:.1f} MiB "
        f"({float32 / wire:.2f}x less); state sent to joiners: {state / 2**20:.1f} MiB",
        style="dim",
    )


def chart(demo: Demo) -> str:
    """Draw the held-out loss by round, against the unigram baseline, in characters."""
    points = _points(demo)
    if not points:
        return "no round decided yet".ljust(PLOT_WIDTH)
    unigram = demo.first.unigram if demo.first is not None else None
    values = [loss for _, loss in points] + ([unigram] if unigram else [])
    top, bottom = max(values) + 0.05, min(values) - 0.05
    rows = [[" "] * PLOT_WIDTH for _ in range(PLOT_HEIGHT)]
    if unigram:
        rows[_place(unigram, top, bottom)] = ["┄"] * PLOT_WIDTH
    for round_, loss in points:
        column = round(round_ * (PLOT_WIDTH - 1) / max(demo.options.rounds, points[-1][0]))
        rows[_place(loss, top, bottom)][column] = "●"
    labels = [f"{top - (top - bottom) * i / (PLOT_HEIGHT - 1):5.2f} │" for i in range(PLOT_HEIGHT)]
    lines = [label + "".join(row) for label, row in zip(labels, rows, strict=True)]
    note = f"nats a character by round; now {points[-1][1]:.3f}"
    if unigram:
        note += f", ┄ guessing by letter frequency alone: {unigram:.3f}"
    return "\n".join([*lines, "      └" + "─" * PLOT_WIDTH, "       " + note])


def _points(demo: Demo) -> list[tuple[int, float]]:
    first = demo.first.loss_first if demo.first is not None else None
    points = [(0, first)] if first is not None else []
    points += [(r, decided.held_out) for r, decided in sorted(demo.rounds.items()) if decided.held_out is not None]
    return points


def _place(value: float, top: float, bottom: float) -> int:
    return min(PLOT_HEIGHT - 1, max(0, round((top - value) / (top - bottom) * (PLOT_HEIGHT - 1))))


def summary(demo: Demo) -> str:
    """Return what happened, in words, from the run's own numbers."""
    result = demo.result()
    wire, float32 = result["wire_bytes"], result["float32_bytes"]
    lines = [
        f"{result['nodes']} nodes trained {result['rounds']} rounds over {result['transport']} in {result['elapsed_s']:.0f} s.",
        f"Loss on held-out text: {_nats(result['loss_first'])} -> {_nats(result['loss_last'])} nats a character"
        + (f" (letter frequencies alone: {_nats(result['unigram'])})." if result["unigram"] else "."),
    ]
    if result["killed"]:
        back = (
            f"{result['rejoin_s']:.1f} s later it contributed again" if result["rejoined"] else "it did not come back"
        )
        lines.append(f"{demo.victim.name} was killed with SIGKILL after round {demo.killed_round}; {back}.")
    alike = "the same parameters, bit for bit" if result["identical"] else "DIFFERENT parameters: this is a bug"
    lines.append(f"After round {demo.common_round} all living nodes hold {alike}.")
    if wire:
        lines.append(
            f"Rounds took {wire / 2**20:.1f} MiB on the wire; the same exchanges in float32 are {float32 / 2**20:.1f} MiB, "
            f"{float32 / wire:.2f} times as much."
        )
    lines += _texts(demo)
    return "\n".join(lines)


def _texts(demo: Demo) -> list[str]:
    runs = [run for node in demo.swarm.nodes if (run := demo.run_of(node)) is not None]
    before = next((run.text_first for run in runs if run.text_first), "")
    after = next((run.text_last for run in runs if run.text_last), "")
    if not before or not after:
        return []
    return ["", "What it wrote before training:", _clip(before, 4), "", "and after:", _clip(after, 12)]


def _clip(text: str, lines: int) -> str:
    shown = "".join(c if c.isprintable() or c == "\n" else "?" for c in text)
    return "\n".join("  | " + line[:100] for line in shown.splitlines()[:lines])


def _nats(value: float | None) -> str:
    return "?" if value is None else f"{value:.3f}"
