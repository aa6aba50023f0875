"""A swarm's run in words: what stands there, in 80 columns, and what a hostile name cannot do to a terminal."""

from __future__ import annotations

import io
import json
from typing import Any

import attrs
import pytest
from rich.console import Console

from prime.cli import swarm_view
from prime.observe.messages import MemberStatus, NodeStatus, RoundStatus, RunStatus
from prime.trainer.metadata import TrainingConfig
from prime.trainer.runs.messages import RunMember, RunNotice, RunsKnown, Standing

PEERS = {name: f"12D3KooW{name * 36}{name.upper() * 8}" for name in "abc"}


def member(which: str, standing: Standing = "member", **rest: Any) -> RunMember:
    plain = RunMember(PEERS[which], f"node-{which}", (), standing, "", 7, 1)
    return attrs.evolve(plain, **rest)  # type: ignore[misc]  # a @record is an attrs class


def run_status(**rest: Any) -> RunStatus:
    members = tuple(
        MemberStatus(PEERS[n], n != "c", 1.0, held, 4, done, awaited)
        for n, held, done, awaited in (("a", 4, 7, ""), ("b", 2, 6, "its contribution"), ("c", 0, 5, ""))
    )
    plain = RunStatus(
        phase="training", round=7, rounds=20, epoch=3, step=700, round_step=80, inner_steps=100, tokens_per_s=14203.0,
        members=members, waiting_for=(f"{PEERS['b']}: its contribution",), stalled="", hint="", state_hash="00" * 32,
        wire_bytes=10 * 2**20, float32_bytes=39 * 2**20, state_bytes=0, loss_first=4.6, loss_last=None, unigram=3.1,
        text_first="", text_last="", history=(), run="demo@0123456789ab", round_phase="gathering", ballot="1.0",
        leader=PEERS["a"], contributors=(), results_held=3, results_expected=12, committed=7, aborted=0,
        parameters=10**6, every_step_bytes=3900 * 2**20, spent_s=(("compute", 61.0), ("send", 30.0), ("vote", 0.01)),
        loss=2.5, held_out=2.4,
    )  # fmt: skip
    return attrs.evolve(plain, **rest)  # type: ignore[misc]  # as above


def node_status(run: RunStatus | None) -> NodeStatus:
    return NodeStatus(PEERS["a"], "node-a", "0", 1, "tcp", (), (), 1.0, 1, 0, (), run)


def known(*members: RunMember, taking: bool = True) -> RunsKnown:
    notice = RunNotice("demo@0123456789ab", PEERS["a"], "00", TrainingConfig(rounds=20, nodes_min=2), members)
    return RunsKnown(PEERS["a"], notice.run if taking else "", (notice,), "/state/runs")


ALL = known(member("a"), member("b"), member("c", age_s=1.0))


def test_a_round_under_way_says_who_is_waited_for_and_why() -> None:
    text = "\n".join(swarm_view.lines(node_status(run_status()), ALL))
    assert "run demo@0123456789ab" in text
    assert "round 7 of 20 is decided, loss 2.500, held out 2.400" in text
    assert "now contributions are gathered: step 80 of 100, 14,203 tokens/s" in text
    assert "ballot 1.0 led by node-a" in text
    assert "node-b          …BBBBBBBB       7        6 of 7  █████····· 2/4" in text
    assert "waits for node-b (…BBBBBBBB): its contribution" in text
    assert "sent 10.0 MiB in rounds, float32 3.90 times as much, in each step 390 times" in text
    assert "time compute 67 %, send 33 %" in text
    (silent,) = [line for line in text.splitlines() if line.strip().startswith("node-c")]
    assert silent.endswith("silent")


@pytest.mark.parametrize("phase", ["gathering", "voting", "training"])
def test_each_line_of_a_usual_run_fits_80_columns(phase: str) -> None:
    lines = list(swarm_view.lines(node_status(run_status(round_phase=phase)), ALL))
    assert [line for line in lines if len(line) > 80] == []


def test_a_stalled_run_has_its_hint() -> None:
    stalled = run_status(stalled=f"1 of 2: {PEERS['b']} is silent", hint=f"start {PEERS['b']} again")
    text = "\n".join(swarm_view.lines(node_status(stalled), ALL))
    assert "stalled: 1 of 2: node-b (…BBBBBBBB) is silent" in text
    assert "hint: start node-b (…BBBBBBBB) again" in text


def test_why_a_node_cannot_take_part_stands_beside_it() -> None:
    told = known(member("a"), member("b", "cannot", why="its model, mine:build, is no preset"))
    text = "\n".join(swarm_view.lines(node_status(run_status()), told))
    assert "cannot take part: its model, mine:build, is no preset" in text


def test_runs_that_this_node_takes_no_part_in_are_shown_too() -> None:
    text = "\n".join(swarm_view.lines(node_status(None), known(member("b", age_s=90.0), taking=False)))
    assert "run demo@0123456789ab, in which this node takes no part now" in text
    assert "silent for 1 min 30 s" in text


def test_without_runs_the_next_step_is_said() -> None:
    lines = list(swarm_view.lines(node_status(None), RunsKnown(PEERS["a"], "", ())))
    assert lines == ["no run is known here; `prime train submit` founds one"]


def test_no_control_character_of_another_node_reaches_the_terminal() -> None:
    hostile = known(member("a"), member("b", "cannot", name="\x1b[2J", why="\x1b]0;title\x07\nrun forged"))
    for line in swarm_view.lines(node_status(run_status(stalled="\x1b[31m", hint="\x07")), hostile):
        assert line.isprintable()


def test_json_has_the_times_by_name_and_not_every_round() -> None:
    plain = swarm_view.as_plain(node_status(run_status()), ALL)
    json.dumps(plain)
    assert plain["run"]["spent_s"]["compute"] == 61.0
    assert "history" not in plain["run"]
    assert plain["runs"][0]["settings"]["rounds"] == 20


def test_a_fact_of_the_log_is_one_line() -> None:
    fact = {
        "at_s": 0.0,
        "event": "RoundDecided",
        "round": 3,
        "committed": True,
        "contributors": list(PEERS.values()),
        "loss": 2.34567,
    }
    assert swarm_view.fact_words(fact, {PEERS["b"]: "bert"}).endswith(
        "round 3 decided, loss 2.346, of …AAAAAAAA bert …CCCCCCCC"
    )
    lost = {"at_s": 0.0, "event": "RoundDecided", "round": 3, "committed": False, "contributors": [], "loss": None}
    assert "round 3 ended without a result" in swarm_view.fact_words(lost)
    assert swarm_view.fact_words({"event": "RunDone", "at_s": 0}).endswith("run done")
    assert swarm_view.fact_words({"event": "X", "text": "\x1b[2J"}).isprintable()


def test_the_screen_is_drawn_in_one_place() -> None:
    out = io.StringIO()
    screen = swarm_view.RunScreen(Console(file=out, force_terminal=True, width=80, height=30))
    with screen:
        screen.show(node_status(run_status()), ALL.runs[0], ALL)
        screen.show(node_status(run_status(round=8)), ALL.runs[0], ALL)
    assert "round 7 of 20" in out.getvalue()
    assert "round 8 of 20" in out.getvalue()
    assert "\x1b[1A" in out.getvalue()


def test_off_a_terminal_a_line_is_said_for_each_change(capsys: pytest.CaptureFixture[str]) -> None:
    words = swarm_view.RunWords()
    with words:
        for run in (run_status(), run_status(round_step=90), run_status(round=8, stalled="1 of 3")):
            words.show(node_status(run), ALL.runs[0], ALL)
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2
    assert said[0].endswith("round 7 of 20, 3 members, loss 2.500, held out 2.400")
    assert said[1].endswith("round 8 of 20, 3 members, loss 2.500, held out 2.400; 1 of 3")


def test_off_a_terminal_a_line_comes_once_and_says_who_is_out_and_why(capsys: pytest.CaptureFixture[str]) -> None:
    words, lost = swarm_view.RunWords(), known(member("a"), member("b", "cannot", why="no such data"))
    with words:
        for seen in (ALL, known(member("a", why="news"), member("b")), lost, lost):
            words.show(node_status(run_status()), seen.runs[0], seen)
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2
    assert said[1].endswith("held out 2.400; node-b cannot take part: no such data")


def test_events_are_one_line_for_a_round_and_one_for_a_change(capsys: pytest.CaptureFixture[str]) -> None:
    rounds = [RoundStatus(n, 1, True, (PEERS["a"],), 2.0, None, 0.0) for n in (6, 7)]
    with swarm_view.RunEvents() as events:
        for run in (run_status(history=(rounds[0],)), run_status(history=tuple(rounds)), run_status()):
            events.show(node_status(run), ALL.runs[0], ALL)
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [one["event"] for one in told] == ["run.round", "run.status", "run.round"]
    assert [one["round"] for one in told if one["event"] == "run.round"] == [6, 7]
    assert all(one["schema"] == 1 and one["run"] == "demo@0123456789ab" for one in told)


def test_whose_contribution_was_left_out_is_said_with_the_reason_and_others_with_their_score() -> None:
    run = run_status()
    a, b, c = run.members
    reason = "its norm per token is 33.0 times the median: the gate is 3"
    judged = (attrs.evolve(a, score=1.04), attrs.evolve(b, score=40.0, left_out=reason), c)  # type: ignore[misc]
    lines = list(swarm_view.lines(node_status(attrs.evolve(run, members=judged)), ALL))  # type: ignore[misc]
    assert any("node-a" in line and line.endswith("score 1.0") for line in lines)
    assert any("node-b" in line and line.endswith(f"left out: {reason}") for line in lines)


def test_steps_beyond_a_round_are_those_of_the_next_and_a_small_ratio_is_no_zero() -> None:
    run = run_status(round_step=26, inner_steps=20, wire_bytes=100, float32_bytes=50, every_step_bytes=30)
    text = "\n".join(swarm_view.lines(node_status(run), known(member("b"))))
    assert "step 20 of 20 and 6 of the next" in text
    assert "float32 0.50 times as much, in each step 0.3 times" in text
