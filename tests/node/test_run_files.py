"""What a run leaves in its folder: facts a line each, bounded, and readable whatever else stands there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from prime.node import run_files
from prime.node.run_files import EARLIER, EVENTS, RECORD, RunLog, read_log, read_names
from prime.trainer.swarm.trainer import RoundDecided, RunDone
from prime.transport.facts import LinkUp


def test_facts_of_training_are_kept_and_others_are_not(tmp_path: Path) -> None:
    log = RunLog(tmp_path / "new")
    log(RoundDecided(3, True, ("a", "b"), 2.5))
    log(LinkUp("a", "", "tcp"))
    log(RunDone(3, 2.25, "ab"))
    log.close()
    log(RunDone(4, 2.0, "ac"))  # too late: nothing to write to
    found = list(read_log(tmp_path / "new"))
    assert [one["event"] for one in found] == ["RoundDecided", "RunDone"]
    assert found[0]["contributors"] == ["a", "b"]
    assert found[0]["at_s"] > 1e9


def test_a_log_goes_on_where_it_ended_and_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_files, "EVENTS_BYTES_MAX", 2000)
    for life in range(3):
        log = RunLog(tmp_path)
        for round_ in range(20):
            log(RoundDecided(100 * life + round_, True, ("a",), None))
        log.close()
    assert (tmp_path / EVENTS).stat().st_size <= 2200
    assert (tmp_path / EARLIER).stat().st_size <= 2200
    rounds = [one["round"] for one in read_log(tmp_path)]
    assert rounds == sorted(rounds)
    assert rounds[-1] == 219


def test_a_torn_or_foreign_line_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / EVENTS).write_bytes(b'{"event": "A"}\n[1]\n\xff\xfe\n{"event": "B"}\n{"eve')
    assert [one["event"] for one in read_log(tmp_path)] == ["A", "B"]
    assert list(read_log(tmp_path / "none")) == []


def test_where_nothing_can_be_written_nothing_is(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    log = RunLog(tmp_path / "file" / "below")
    log(RunDone(3, 2.25, "ab"))
    log.close()


def test_who_took_part_is_known_by_name_while_a_run_goes_on_and_after_its_end(tmp_path: Path) -> None:
    assert read_names(tmp_path, "anna") == {}
    members = [{"peer": "B", "name": "bert"}, {"peer": "C", "name": ""}]
    (tmp_path / RECORD).write_text(json.dumps({"peer": "A", "members": members}))
    assert read_names(tmp_path, "anna") == {"A": "anna", "B": "bert"}
    (tmp_path / "report.json").write_text(json.dumps({"contributors": [{"peer": "C", "name": "carl", "rounds": 1}]}))
    assert read_names(tmp_path, "anna") == {"A": "anna", "B": "bert", "C": "carl"}
    (tmp_path / RECORD).write_text("[]")
    assert read_names(tmp_path, "anna") == {"C": "carl"}
