"""`events.jsonl`: what is in it, and what a crash leaves of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from prime.trainer.facts import Evaluated
from prime.trainer.track.jsonl import FILE, Jsonl, read_events


def evaluated(step: int) -> Evaluated:
    return Evaluated(step=step, generation=0, loss=1.0 / step)


def test_what_was_told_is_read_back_with_its_time(tmp_path: Path) -> None:
    times = iter((10.0, 11.5))
    tracker = Jsonl(None, tmp_path / "runs" / "r", clock=lambda: next(times))
    tracker.event(evaluated(1))
    tracker.event(evaluated(2))
    tracker.close()
    assert list(read_events(tmp_path / "runs" / "r")) == [(evaluated(1), 10.0), (evaluated(2), 11.5)]


def test_a_line_is_in_the_file_as_soon_as_it_is_told(tmp_path: Path) -> None:
    tracker = Jsonl(None, tmp_path)
    tracker.event(evaluated(1))
    assert [fact for fact, _ in read_events(tmp_path)] == [evaluated(1)]
    tracker.close()


def test_a_resumed_run_appends(tmp_path: Path) -> None:
    for step in (1, 2):
        tracker = Jsonl(None, tmp_path)
        tracker.event(evaluated(step))
        tracker.close()
    assert [fact for fact, _ in read_events(tmp_path)] == [evaluated(1), evaluated(2)]


@pytest.mark.parametrize("cut", [1, 2, 30])
def test_a_torn_last_line_costs_that_line_alone(tmp_path: Path, cut: int) -> None:
    tracker = Jsonl(None, tmp_path)
    tracker.event(evaluated(1))
    tracker.event(evaluated(2))
    tracker.close()
    file = tmp_path / FILE
    file.write_bytes(file.read_bytes()[:-cut])
    kept = [evaluated(1), evaluated(2)] if cut == 1 else [evaluated(1)]  # cut by its line feed only, it is whole
    assert [fact for fact, _ in read_events(tmp_path)] == kept
    again = Jsonl(None, tmp_path)
    again.event(evaluated(3))
    again.close()
    assert [fact for fact, _ in read_events(tmp_path)] == [*kept, evaluated(3)]


def test_bytes_that_are_no_text_are_passed_over(tmp_path: Path) -> None:
    deep, large = b"[" * 100_000, b'{"event": "train.step_made", "time": 1' + b"0" * 400 + b"}"
    (tmp_path / FILE).write_bytes(b"\xff\xfe\x00\n" + deep + b"\n" + large + b"\n")
    assert list(read_events(tmp_path)) == []


def test_no_file_has_no_facts(tmp_path: Path) -> None:
    assert list(read_events(tmp_path)) == []
    (tmp_path / "file").write_text("")
    (tmp_path / "loop").symlink_to("loop")
    assert list(read_events(tmp_path / "file")) == list(read_events(tmp_path / "loop")) == []


def test_a_folder_that_cannot_be_is_an_error_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        Jsonl(None, tmp_path / "file" / "runs")
