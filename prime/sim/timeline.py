"""A run as a person reads it in a terminal: one lane for each node, time downwards, messages across (pure).

::

        time s  n1                n2                n3
         0.000  ● starts          │                 │
         1.004  ├─Add────────────▶◆ sum             │                  +0.004 s
         4.500  │                 ✖ crashes         │          process, disk kept

A message stands in one row, where it was handled, with the time since it was sent; one that was never handled has a row
where it was sent. An actor is shown by the last part of its path.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import attrs
from rich.text import Text

from prime.errors import UsageError
from prime.sim import history as h
from prime.sim.history import Event

LANE_CHARS = 24
LANE_CHARS_MIN = 12
LANE_CHARS_WITH_DETAIL = 14
_DETAIL_CHARS = 24
_TIME_CHARS = 11
_MARKS = {
    h.STARTS: "●",
    h.CRASHES: "✖",
    h.PAUSES: "‖",
    h.GOES_ON: "▸",
    h.SKEWS: "◷",
    h.CUT_OFF: "⊗",
    h.REACHES: "┼",
    h.PARTS: "⊗",
    h.JOINS: "┼",
    h.LOSES: "⊗",
    h.READS_SLOWLY: "▿",
    h.DISK_FULL: "▦",
    h.DISK_GONE: "⊘",
    h.DISK_NOT_FULL: "▸",
    h.DISK_NOT_GONE: "▸",
    h.FLIPS: "≠",
    h.VIOLATES: "✖",
    h.CALMS: "═",
    h.REPORTS: "·",
    h.SENDS: "○",
    h.HANDLES: "◆",
}
_FAULT = "red"
_STYLES = {
    **dict.fromkeys(h.FAULTS, _FAULT),
    **dict.fromkeys((h.STARTS, h.GOES_ON, h.REACHES, h.JOINS, h.DISK_NOT_FULL, h.DISK_NOT_GONE), "green"),
    h.CALMS: "bold green",
    h.REPORTS: "dim",
    h.SENDS: "yellow",
    h.HANDLES: "cyan",
    h.VIOLATES: "bold red",
}
_ALWAYS = h.FAULTS | {h.STARTS, h.CALMS}
"""What no choice of an actor hides."""


@attrs.frozen
class Row:
    """One line: what happened in lane `lane` (-1: in the world), and for a message, from which lane it came."""

    at_s: float
    lane: int
    kind: str
    text: str
    detail: str = ""
    subject: str = ""
    origin: int | None = None
    label: str = ""


def rows(
    events: Iterable[Event], nodes: Sequence[str], *, actor: str = "", node: str = "", kinds: Iterable[str] = ()
) -> list[Row]:
    """Return the lines of a run. Only what concerns `actor` (a part of its path), `node`, or one of `kinds`, if given.

    What goes wrong stays in, whatever the actor: a filter must not hide why. Raises `UsageError` for a node that is not there.
    """
    if node and node not in nodes:
        raise UsageError(f"no node is called {node}", hint=f"nodes: {', '.join(nodes)}")
    made = _Rows(nodes).of(list(events))
    wanted = frozenset(kinds)
    lane = list(nodes).index(node) if node else None

    def shows(row: Row) -> bool:
        if wanted and row.kind not in wanted:
            return False
        if lane is not None and lane not in {row.lane, row.origin} and row.lane >= 0:
            return False
        return not actor or actor in row.subject or row.kind in _ALWAYS

    return [row for row in made if shows(row)]


def as_plain(row: Row, nodes: Sequence[str]) -> dict[str, object]:
    """Return a line for a tool: `node` is empty for the world, `from` is where a message came from."""
    came = nodes[row.origin] if row.origin is not None else None
    what = {"at_s": row.at_s, "node": nodes[row.lane] if row.lane >= 0 else "", "kind": row.kind}
    message = {"from": came, "message": row.label} if came is not None else {}
    return {**what, "subject": row.subject, "text": row.text, "detail": row.detail, **message}


class _Rows:
    def __init__(self, nodes: Sequence[str]) -> None:
        self._lanes = {name: index for index, name in enumerate(nodes)}

    def of(self, events: list[Event]) -> list[Row]:
        handled = {event.detail.rpartition(" ")[2] for event in events if event.kind == h.HANDLES}
        sent: dict[str, Event] = {}
        made = []
        for event in events:
            name, _, number = event.detail.rpartition(" ")
            if event.kind == h.SENDS:
                sent[number] = event
                if number not in handled:
                    made.append(self._row(event, f"{name} → {event.subject.rpartition('/')[2]}", "never handled"))
            elif event.kind == h.HANDLES:
                made.append(self._handled(event, name or event.detail, sent.get(number)))
            else:
                verb = "" if event.kind == h.REPORTS else event.kind
                made.append(self._row(event, f"{verb} {event.subject}".strip(), event.detail))
        return made

    def _row(self, event: Event, text: str, detail: str) -> Row:
        return Row(event.at_s, self._lanes.get(event.node, -1), event.kind, text, detail, event.subject)

    def _handled(self, event: Event, name: str, sent: Event | None) -> Row:
        lane = self._lanes.get(event.node, -1)
        origin = self._lanes.get(sent.node) if sent is not None else None
        waited = f"+{event.at_s - sent.at_s:.3f} s" if sent is not None else ""
        actor = event.subject.rpartition("/")[2]
        if origin is None or origin == lane:
            return Row(event.at_s, lane, event.kind, f"{name} → {actor}", waited, event.subject)
        return Row(event.at_s, lane, event.kind, actor, waited, event.subject, origin, name)


def drawn(lines: Sequence[Row], nodes: Sequence[str], width: int = 120) -> list[Text]:
    """Return the lines as they are printed, a head first; `width` is that of the terminal, in characters."""
    lane, detail = _shares(len(nodes), width)
    head = Text(f"{'time s':>{_TIME_CHARS - 2}}  " + "".join(f"{name:<{lane}}"[:lane] for name in nodes), style="bold")
    return [head, *(_line(row, len(nodes), lane, detail, width) for row in lines)]


def _shares(count: int, width: int) -> tuple[int, int]:
    """Return how wide a lane is and the column of details, which goes before lanes get narrow."""
    left = max(width - _TIME_CHARS, 0)
    lane = min(LANE_CHARS, (left - _DETAIL_CHARS) // max(count, 1))
    if lane >= LANE_CHARS_WITH_DETAIL:
        return lane, left - count * lane
    return max(LANE_CHARS_MIN, min(LANE_CHARS, left // max(count, 1))), 0


def _line(row: Row, count: int, lane: int, detail: int, width: int) -> Text:
    cells = ["│" + " " * (lane - 1) for _ in range(count)]
    style = _STYLES.get(row.kind, "")
    line = Text(f"{row.at_s:>{_TIME_CHARS - 2}.3f}  ", style="dim")
    if row.lane < 0:
        said = f"{_MARKS.get(row.kind, '◇')} {row.text} {row.detail}".rstrip()
        return line.append(said[: width - _TIME_CHARS], style=style)
    cells[row.lane] = _clipped(f"{_MARKS.get(row.kind, '◇')} {row.text}", lane)
    if row.origin is not None:
        _draw_arrow(cells, row, lane)
    first, last = sorted((row.lane, row.lane if row.origin is None else row.origin))
    for index, cell in enumerate(cells):
        line.append(cell, style=style if first <= index <= last else "dim")
    return line.append(row.detail[:detail], style="dim")


def _draw_arrow(cells: list[str], row: Row, lane: int) -> None:
    """Draw a message across the lanes between the one it came from and the one where it was handled."""
    origin = row.origin if row.origin is not None else row.lane
    if origin < row.lane:
        span = lane * (row.lane - origin)
        body = f"├─{row.label}"[: span - 1]
        arrow = body + "─" * (span - 1 - len(body)) + "▶"
        cells[origin : row.lane] = [arrow[i : i + lane] for i in range(0, span, lane)]
        return
    text = cells[row.lane].rstrip()
    span = lane * (origin - row.lane)
    label = f"─{row.label}─"
    text = text[: max(span - len(label) - 2, 1)]
    arrow = text + " ◀" + "─" * max(span - len(text) - 2 - len(label), 0) + label
    cells[row.lane : origin] = [arrow[:span][i : i + lane] for i in range(0, span, lane)]
    cells[origin] = "┤" + " " * (lane - 1)


def _clipped(text: str, lane: int) -> str:
    return f"{text if len(text) < lane else text[: lane - 2] + '…':<{lane}}"
