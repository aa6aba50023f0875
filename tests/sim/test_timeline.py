"""The timeline: what a person sees of a run."""

from __future__ import annotations

from prime.sim.history import Event
from prime.sim.timeline import drawn, rows

NODES = ("n1", "n2", "n3")
EVENTS = [
    Event(0.0, "n1", "starts", "", "life 1"),
    Event(1.0, "n1", "sends", "/app/sum", "Add n1.1.1"),
    Event(1.25, "n3", "handles", "/app/sum", "Add n1.1.1"),
    Event(1.5, "n3", "sends", "/app/log", "Note n3.1.1"),
    Event(1.75, "n1", "handles", "/app/log", "Note n3.1.1"),
    Event(2.0, "n2", "sends", "/app/sum", "Add n2.1.1"),
    Event(2.5, "n2", "crashes", "process", "disk kept"),
    Event(3.0, "n3", "sends", "/app/sum", "Get n3.1.2"),
    Event(3.0, "n3", "handles", "/app/sum", "Get n3.1.2"),
    Event(4.0, "", "parts", "n1 | n2 n3", "for 1 s"),
]


def printed(width: int = 120, **only: str) -> list[str]:
    return [line.plain.rstrip() for line in drawn(rows(EVENTS, NODES, **only), NODES, width)]


def test_a_run_is_drawn_in_lanes() -> None:
    assert printed() == [
        "   time s  n1                      n2                      n3",
        "    0.000  ● starts                │                       │                       life 1",
        "    1.250  ├─Add──────────────────────────────────────────▶◆ sum                   +0.250 s",
        "    1.750  ◆ log ◀────────────────────────────────────Note─┤                       +0.250 s",
        "    2.000  │                       ○ Add → sum             │                       never handled",
        "    2.500  │                       ✖ crashes process       │                       disk kept",
        "    3.000  │                       │                       ◆ Get → sum             +0.000 s",
        "    4.000  ⊗ parts n1 | n2 n3 for 1 s",
    ]


def test_every_lane_begins_where_its_head_stands() -> None:
    head, *lines = printed(80)
    for name in NODES:
        column = head.index(name)
        assert all(line[column] != " " for line in lines[:-1]), name


def test_a_filter_keeps_the_actor_and_what_went_wrong() -> None:
    shown = printed(actor="/app/log")
    assert [line.split()[0] for line in shown[1:]] == ["0.000", "1.750", "2.500", "4.000"]
    assert [line.split()[0] for line in printed(node="n2")[1:]] == ["2.000", "2.500", "4.000"]
    assert len(rows(EVENTS, NODES, kinds=["handles"])) == 3


def test_no_line_is_wider_than_the_terminal() -> None:
    long = [Event(1.0, "n3", "notes", "x" * 300, "y" * 300), Event(1.0, "", "fails", "z" * 300)]
    for width in (80, 100, 160):
        assert all(len(line) <= width for line in drawn(rows(long, NODES), NODES, width))
