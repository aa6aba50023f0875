"""The timeline: what a person sees of a run."""

from __future__ import annotations

import pytest
import trio

from prime import sim
from prime.errors import ActorUsageError, UsageError
from prime.sim import history as h
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
    long = [Event(1.0, "n3", "notes", "x" * 300, "y" * 300), Event(1.0, "", "violates", "z" * 300)]
    for width in (80, 100, 160):
        assert all(len(line) <= width for line in drawn(rows(long, NODES), NODES, width))


@sim.scenario(nodes=2)
async def stormy(world: sim.World) -> None:
    async def main(node: sim.Node) -> None:
        if node.lives == 1:
            await (await node.disk.journal("log")).append(b"x" * 64)
        await trio.sleep_forever()

    world.start(main)
    world.note("fails", "a scenario's own")
    await world.storm()
    raise ValueError("the end")


def test_every_fault_of_a_real_run_is_red_and_stays_whatever_the_actor() -> None:
    plan = sim.Plan(
        actions=(
            sim.DiskFull("n1", 1.0, 0.5),
            sim.DiskGone("n1", 2.0, 0.5),
            sim.BitFlip("n1", 3.0),
            sim.SlowReader("n2", 4.0, 0.5),
            sim.Skew("n2", 5.0, 1.0),
            sim.Cut("n1", "n2", 6.0, 0.5),
            sim.Partition(("n1",), 7.0, 0.5),
            sim.Pause("n2", 8.0, 0.5),
            sim.Crash("n2", 9.0),
        ),
        storm_s=12.0,
    )
    outcome = sim.run(0, stormy, plan)
    shown = rows(outcome.history, ("n1", "n2"), actor="nobody")
    red = [
        row.kind for row, line in zip(shown, drawn(shown, ("n1", "n2"))[1:], strict=True) if "red" in str(line.spans)
    ]
    assert red == [
        "disk is full",
        "disk is gone",
        "flips a bit",
        "reads slowly",
        "skews",
        "cut off from",
        "parts",
        "pauses",
        "crashes",
        "violates",
    ]
    assert frozenset(red) == h.FAULTS - {h.LOSES}
    assert not any("◇" in line.plain for line in drawn(shown, ("n1", "n2")))
    assert "fails" in {event.kind for event in outcome.history} - {row.kind for row in shown}


def test_the_verdict_is_no_note() -> None:
    @sim.scenario(nodes=1)
    async def judges(world: sim.World) -> None:
        with pytest.raises(ActorUsageError, match="violates"):
            world.note("violates", "a rule")
        with pytest.raises(ActorUsageError, match="violates"):
            world.node("n1").note("violates", "a rule")

    assert sim.run(0, judges).ok


def test_a_node_that_is_not_there_is_refused() -> None:
    with pytest.raises(UsageError, match="no node is called bogus") as caught:
        rows(EVENTS, NODES, node="bogus")
    assert caught.value.hint == "nodes: n1, n2, n3"


def test_many_lanes_leave_no_room_for_details() -> None:
    five = tuple(f"node{number}" for number in range(1, 6))
    head, line = (line.plain for line in drawn(rows([Event(1.0, "node5", "crashes", "", "process")], five), five, 80))
    assert head.index("node2") - head.index("node1") == 13
    assert line.rstrip().endswith("✖ crashes")
    assert len(line) <= 80
