"""How a run looks, fed with the facts of one that loses a rank."""

from __future__ import annotations

import io
import json
import math
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import attrs
import pytest
from rich.console import Console

from prime.cli import train_view
from prime.cli.train_view import JsonLines, Lines, Screen, ViewThread, chart, frame, view_of, words
from prime.trainer.facts import (
    Evaluated,
    Fact,
    GenerationBegan,
    RankLost,
    RankStarted,
    RunBegan,
    RunStopping,
    StepMade,
    TrackerDropped,
)
from prime.trainer.track.course import Course
from prime.trainer.track.jsonl import read_events

STORY = Path(__file__).parents[1] / "trainer" / "track" / "testdata" / "charlm"


@pytest.fixture(scope="module")
def story() -> list[tuple[Fact, float]]:
    return list(read_events(STORY))


def told(story: list[tuple[Fact, float]], until: type | None = None) -> tuple[Course, float]:
    """Return the course of a story up to the first fact of a kind, and the time then."""
    course, at_s = Course(), 0.0
    for fact, at_s in story:
        course.take(fact, at_s)
        if until is not None and isinstance(fact, until):
            break
    return course, at_s


def shown(course: Course, now_s: float, height: int = 40, *, color: bool = False) -> str:
    """Return a frame as a terminal of 100 columns has it."""
    output = io.StringIO()
    screen = Console(file=output, width=100, force_terminal=color, color_system="standard" if color else None)
    screen.print(frame(course, now_s, height, ["rank 1 was lost"]))
    return output.getvalue()


def test_the_screen_has_what_a_run_is_judged_by(story: list[tuple[Fact, float]]) -> None:
    text = shown(*told(story))
    for part in (
        "charlm", "step 120/120", "done", "loss 2.", "held out 2.", "without a model 3.1000", "tokens/s",
        "learning rate", "gradient norm", "compute", "reduce", "recovery", "as int8", "(4.00x)", "checkpoint  step 100",
        "9.3 MiB", "generation  1, 1 restart", "rank 1 died after step 70", "! rank 1 was lost", "ready to stand in",
    ):  # fmt: skip
        assert part in text, part


def test_a_lost_rank_is_seen_at_once(story: list[tuple[Fact, float]]) -> None:
    text = shown(*told(story, RankLost))
    assert "recovering" in text
    assert "back to the newest checkpoint" in text
    assert any("4001" in line and "lost" in line for line in text.splitlines())


def test_before_the_first_step_there_is_a_screen_too(story: list[tuple[Fact, float]]) -> None:
    for until in (RunBegan, RankStarted, GenerationBegan):
        assert "no step made yet" in shown(*told(story, until))
    assert "starting" in shown(Course(), 1.0)


@pytest.mark.parametrize("height", [8, 24, 60])
def test_every_line_fits_the_terminal(story: list[tuple[Fact, float]], height: int) -> None:
    text = shown(*told(story), height)
    assert max(len(line) for line in text.splitlines()) <= 100
    assert len(text.splitlines()) <= 24 or height > 24


@pytest.mark.parametrize("width", [60, 80, 200])
def test_the_chart_fits_the_width(story: list[tuple[Fact, float]], width: int) -> None:
    course, at_s = told(story)
    output = io.StringIO()
    Console(file=output, width=width, color_system=None).print(frame(course, at_s, width=width))
    rows = [line for line in output.getvalue().splitlines() if line.startswith("│")]
    assert len(rows) == 6  # none of them was broken in two
    assert all(len(row) <= width for row in rows)


def test_many_ranks_are_counted_and_the_lost_ones_shown() -> None:
    course = Course()
    course.take(RunBegan(name="r", folder="/r", steps=9, batch_size=64, world=64), 1.0)
    course.take(GenerationBegan(generation=0, step=0, world=64), 1.0)
    course.take(RankLost(rank=63, process=7, generation=0, step=1, cause="silent"), 1.0)
    text = shown(course, 1.0)
    assert "and 56 ranks more" in text
    assert any(line.split()[:1] == ["63"] and "lost" in line for line in text.splitlines())


def test_color_is_there_only_where_it_is_wanted(story: list[tuple[Fact, float]]) -> None:
    assert "\x1b[" in shown(*told(story), color=True)
    assert "\x1b[" not in shown(*told(story))


@pytest.mark.parametrize("value", [2.0, 0.0, -3.0])
def test_a_flat_curve_is_drawn(value: float) -> None:
    rows = chart([value] * 5, 3)
    assert len(rows) == 3
    assert f"{value:.3f}" in rows[0]


def test_a_falling_curve_falls() -> None:
    rows = chart([4.0, 3.0, 2.0, 1.0], 4)
    filled = ["".join(row[8:12]).rstrip() for row in rows]
    assert [len(row) for row in filled] == sorted(len(row) for row in filled)
    assert filled[0].startswith("█")


# --------------------------------------------------------------------------------------------------------- as lines


def lines(story: list[tuple[Fact, float]], clock: Iterator[float], capsys: pytest.CaptureFixture[str]) -> list[str]:
    course = Course()
    with Lines(course, clock=lambda: next(clock)) as view:
        for fact, at_s in story:
            course.take(fact, at_s)
            view.take(fact)
            view.tick()
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err.splitlines()


def test_off_a_terminal_what_happens_is_a_line_and_steps_are_told_at_a_bounded_rate(
    story: list[tuple[Fact, float]], capsys: pytest.CaptureFixture[str]
) -> None:
    seconds = (0.5 * i for i in range(10_000))  # a fact each half second
    said = lines(story, seconds, capsys)
    steps = [line for line in said if "] step " in line]
    assert 5 <= len(steps) <= len(story) * 0.5 / 10 + 1
    assert "run charlm: 120 steps on 2 ranks and 1 spare" in said[0]
    assert any("generation 0: 2 ranks on cpu, fsdp over gloo, from step 0" in line for line in said)
    assert any("rank 1 was lost after step 70: died (killed by SIGKILL)" in line for line in said)
    assert any("held-out loss" in line for line in said)
    assert any("checkpoint of step 100: 9.3 MiB" in line for line in said)
    assert all(line.isascii() for line in said)


def test_a_run_of_fast_steps_writes_no_flood(
    story: list[tuple[Fact, float]], capsys: pytest.CaptureFixture[str]
) -> None:
    said = lines(story, iter([0.0] * 10_000), capsys)
    assert len([line for line in said if "] step " in line]) == 1


def test_what_stops_a_run_and_what_it_lost_are_sentences() -> None:
    course = Course()
    assert "once more stops at once" in words(RunStopping(reason="SIGINT", step=3), course)
    dropped = words(TrackerDropped(tracker="a:b", error="ValueError: \x1b[2Jno"), course)
    assert dropped == "tracker a:b was dropped: ValueError: ?[2Jno"
    lost = RankLost(rank=0, process=1, generation=0, step=3, cause="died", text="one\ntwo\x07")
    assert words(lost, course).endswith("died (two?); the gang starts again")
    assert words(RankStarted(rank=0, process=1, generation=0), course) == ""
    assert words(StepMade(step=1, generation=0, loss=math.nan, learning_rate=0, samples=1, step_s=0), course)


# ---------------------------------------------------------------------------------------------------------- as JSON


def test_for_tools_each_fact_is_a_line_of_json(
    story: list[tuple[Fact, float]], capsys: pytest.CaptureFixture[str]
) -> None:
    with JsonLines() as view:
        for fact, _ in story:
            view.take(fact)
            view.tick()
    captured = capsys.readouterr()
    events = [json.loads(line) for line in captured.out.splitlines()]
    assert captured.err == ""
    assert len(events) == len(story)
    assert {event["schema"] for event in events} == {1}
    assert events[0]["event"] == "train.run_began"
    assert events[-1]["event"] == "train.run_ended"


# ----------------------------------------------------------------------------------------------------- which of them


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> _Terminal:
    """Let the console find a terminal."""
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    output = _Terminal()
    monkeypatch.setattr("prime.cli.train_view.console", lambda *, error: Console(file=output, highlight=error))
    return output


def test_a_terminal_gets_the_screen_and_gives_itself_back(terminal: _Terminal, story: list[tuple[Fact, float]]) -> None:
    course = Course()
    with view_of(course, as_json=False) as view:
        assert isinstance(view, Screen)
        for fact, at_s in story[:40]:
            course.take(fact, at_s)
            view.take(fact)
    assert "\x1b[?25h" in terminal.getvalue()  # the cursor is back


@pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_a_terminal_that_wants_no_tricks_gets_lines(
    terminal: _Terminal, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    assert isinstance(view_of(Course(), as_json=False), Lines)


def test_a_pipe_gets_lines_and_a_tool_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert isinstance(view_of(Course(), as_json=False), Lines)
    assert isinstance(view_of(Course(), as_json=True), JsonLines)


def test_the_screen_is_not_drawn_more_often_than_it_can_be_read(
    terminal: _Terminal, story: list[tuple[Fact, float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    course = Course()
    step = StepMade(step=1, generation=0, loss=1.0, learning_rate=0.1, samples=1, step_s=0.1)
    with view_of(course, as_json=False) as view:
        for number in range(1, 2000):
            course.take(attrs.evolve(step, step=number), number / 100)
            view.take(step)
    assert terminal.getvalue().count("speed") < 200


# ------------------------------------------------------------------------------------------------ in a thread of its own


class _Recorded:
    """A view that may be made to wait or to fail."""

    def __init__(self, fault: BaseException | None = None) -> None:
        self.seen: list[Fact] = []
        self.ticks = 0
        self.gate = threading.Event()
        self.gate.set()
        self.fault = fault

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def take(self, fact: Fact) -> None:
        self.gate.wait(30)
        if self.fault is not None:
            raise self.fault
        self.seen.append(fact)

    def tick(self) -> None:
        self.ticks += 1


EVALUATED = Evaluated(step=1, generation=0, loss=1.0)


def test_what_comes_is_shown_before_the_thread_ends() -> None:
    view, course = _Recorded(), Course()
    with ViewThread(view, course, on_gone=lambda: None) as thread:
        for _ in range(500):
            thread.take(EVALUATED, 1.0)
    assert len(view.seen) == 500
    assert list(course.held_out) == [(1, 1.0)]


def test_a_terminal_that_takes_nothing_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_view, "CLOSE_S", 0.1)
    view = _Recorded()
    view.gate.clear()
    with ViewThread(view, Course(), on_gone=lambda: None) as thread:
        for _ in range(500):
            thread.take(EVALUATED, 1.0)
    assert view.seen == []
    view.gate.set()


def test_a_reader_that_went_away_is_told_once() -> None:
    gone: list[bool] = []
    with ViewThread(_Recorded(BrokenPipeError()), Course(), on_gone=lambda: gone.append(True)) as thread:
        for _ in range(5):
            thread.take(EVALUATED, 1.0)
    assert gone == [True]


def test_a_terminal_that_is_gone_ends_the_view_alone() -> None:
    with ViewThread(_Recorded(OSError(5, "Input/output error")), Course(), on_gone=lambda: None) as thread:
        thread.take(EVALUATED, 1.0)


def test_a_bug_in_a_view_is_told_at_the_end() -> None:
    with (
        pytest.raises(ZeroDivisionError),
        ViewThread(_Recorded(ZeroDivisionError()), Course(), on_gone=lambda: None) as thread,
    ):
        thread.take(EVALUATED, 1.0)


def test_a_tool_that_reads_nothing_stops_the_run_rather_than_miss_a_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(train_view, "FACTS_MAX", 3)
    gone, gate = [], threading.Event()

    class Slow(JsonLines):
        def take(self, fact: Fact) -> None:
            gate.wait(30)

    with ViewThread(Slow(), Course(), on_gone=lambda: gone.append(True)) as thread:
        for _ in range(10):
            thread.take(EVALUATED, 1.0)
        assert gone
        gate.set()


def test_time_goes_on_while_nothing_happens() -> None:
    view = _Recorded()
    with ViewThread(view, Course(), on_gone=lambda: None):
        deadline = time.monotonic() + 10
        while view.ticks < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
    assert view.ticks >= 2
