"""Trackers beside a run: all are told, and none can stop it."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from prime.errors import ConfigError, MissingExtraError
from prime.trainer.facts import Evaluated, Fact, RunBegan, RunEnded, TrackerDropped
from prime.trainer.job import Job
from prime.trainer.job import Tracking as TrackingOptions
from prime.trainer.track import jsonl, tracking
from prime.trainer.track.files import CURVES, REPORT
from prime.trainer.track.jsonl import read_events
from prime.trainer.track.tracking import Beside, open_tracking

BEGAN = RunBegan(name="r", folder="/r", steps=3, batch_size=1, world=1)
ENDED = RunEnded(outcome="done", step=3, loss=1.0)

MODULE = """
import threading

TOLD = []
GATE = threading.Event()


class Kept:
    def __init__(self, job, folder):
        TOLD.append(("made", job.name, folder.name, threading.current_thread().name))

    def event(self, fact):
        TOLD.append(type(fact).__name__)

    def close(self):
        TOLD.append("closed")


class Failing(Kept):
    def event(self, fact):
        raise ValueError("no such metric")


class Leaving(Kept):
    def event(self, fact):
        raise SystemExit(3)


class Waiting(Kept):
    def event(self, fact):
        GATE.wait(30)


def unmade(job, folder):
    raise OSError("no route to the server")
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Put a module of trackers on the path."""
    (tmp_path / "their_trackers.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    import importlib

    found = importlib.import_module("their_trackers")
    yield found
    found.GATE.set()
    del sys.modules["their_trackers"]


def job(*names: str, tensorboard: bool = False) -> Job:
    trackers = tuple(f"their_trackers:{name}" for name in names)
    return Job(name="r", tracking=TrackingOptions(trackers=trackers, tensorboard=tensorboard))


async def told(given: Job, folder: Path, *facts: Fact) -> list[Fact]:
    """Run `facts` through a job's trackers and return what the file has after."""
    async with open_tracking(given, folder) as tracking:
        for fact in facts:
            tracking.tell(fact)
            await trio.to_thread.run_sync(lambda: None)
    return [fact for fact, _ in read_events(folder)]


def drops(facts: list[Fact]) -> list[tuple[str, str]]:
    return [(fact.tracker, fact.error) for fact in facts if isinstance(fact, TrackerDropped)]


async def test_a_tracker_is_made_told_and_closed_in_a_thread_of_its_own(module: Any, tmp_path: Path) -> None:
    await told(job("Kept"), tmp_path / "r", BEGAN, ENDED)
    made, *rest = module.TOLD
    assert made == ("made", "r", "r", "tracker their_trackers:Kept")
    assert rest == ["RunBegan", "RunEnded", "closed"]


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("Failing", "ValueError: no such metric"),
        ("Leaving", "RunFailedError: SystemExit: 3"),
        ("unmade", "OSError: no route to the server"),
    ],
)
async def test_one_that_fails_is_dropped_and_told_once(module: Any, tmp_path: Path, name: str, error: str) -> None:
    facts = await told(
        job(name, "Kept"), tmp_path / "r", BEGAN, *[Evaluated(step=1, generation=0, loss=1.0)] * 3, ENDED
    )
    assert drops(facts) == [(f"their_trackers:{name}", error)]
    assert facts[0] == BEGAN
    assert ENDED in facts
    assert module.TOLD.count("Evaluated") == 3  # the other one went on
    assert json.loads((tmp_path / "r" / REPORT).read_text())["trackers_dropped"] != []


async def test_one_that_falls_behind_is_dropped_and_holds_up_nobody(
    module: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "WAITING_MAX", 5)
    facts = await told(job("Waiting"), tmp_path / "r", BEGAN, *[Evaluated(step=1, generation=0, loss=1.0)] * 10, ENDED)
    (dropped,) = drops(facts)
    assert "5 facts wait for it" in dropped[1]
    assert facts[-1] == ENDED


async def test_one_that_does_not_close_is_left_behind(
    module: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "CLOSE_S", 0.2)
    facts = await told(job("Waiting"), tmp_path / "r", BEGAN, ENDED)
    (dropped,) = drops(facts)
    assert "did not close" in dropped[1]


async def test_an_observer_is_told_what_trackers_are_and_which_one_was_dropped(module: Any, tmp_path: Path) -> None:
    seen: list[Fact] = []
    dropped = trio.Event()

    def observe(fact: Fact) -> None:
        seen.append(fact)
        if isinstance(fact, TrackerDropped):
            dropped.set()

    async with open_tracking(job("Failing"), tmp_path / "r", [observe]) as found:
        found.tell(BEGAN)
        with trio.fail_after(10):
            while not dropped.is_set():
                found.tell(Evaluated(step=1, generation=0, loss=1.0))
                await trio.sleep(0.01)
    assert seen[0] == BEGAN


@pytest.mark.parametrize("name", ["their_trackers:Missing", "no_such_module:f", "justaword"])
async def test_one_that_is_not_there_is_refused_before_the_run(module: Any, tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=name.replace(":", ".")[:12]):
        async with open_tracking(Job(tracking=TrackingOptions(trackers=(name,))), tmp_path / "r"):
            pass
    assert not (tmp_path / "r" / jsonl.FILE).exists()


async def test_tensorboard_without_its_package_names_the_extra(
    module: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match="tensorboard") as caught:
        async with open_tracking(job(tensorboard=True), tmp_path / "r"):
            pass
    assert "[observe]" in caught.value.hint


async def test_a_full_disk_ends_the_events_and_not_the_run(
    module: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_self: object, _fact: Fact) -> None:
        raise OSError(28, "No space left on device")

    async with open_tracking(job("Kept"), tmp_path / "r") as found:
        monkeypatch.setattr(jsonl.Jsonl, "event", full)
        found.tell(BEGAN)
        found.tell(ENDED)
        assert [one.tracker for one in found.course.dropped] == ["Jsonl"]
    assert "RunEnded" in module.TOLD


async def test_events_that_cannot_be_written_are_refused_before_the_run(module: Any, tmp_path: Path) -> None:
    (tmp_path / "events.jsonl").mkdir()
    with pytest.raises(ConfigError, match="events.jsonl: the run's events cannot be written"):
        async with open_tracking(job("Kept"), tmp_path):
            pass


async def test_the_report_is_that_of_all_sessions(module: Any, tmp_path: Path) -> None:
    stopped = RunEnded(outcome="stopped", step=1, loss=1.0)
    await told(job(), tmp_path / "r", BEGAN, stopped)
    assert json.loads((tmp_path / "r" / REPORT).read_text())["outcome"] == "stopped"
    await told(job(), tmp_path / "r", BEGAN, ENDED)
    found = json.loads((tmp_path / "r" / REPORT).read_text())
    assert (found["outcome"], found["sessions"]) == ("done", 2)
    assert (tmp_path / "r" / CURVES).read_bytes().startswith(b"\x89PNG")
    assert found["files"]["curves"] == CURVES


async def test_a_run_that_was_cancelled_closes_its_trackers_and_has_no_report(module: Any, tmp_path: Path) -> None:
    with trio.move_on_after(0.2):
        async with open_tracking(job("Kept"), tmp_path / "r") as found:
            found.tell(BEGAN)
            await trio.sleep_forever()
    assert module.TOLD[-1] == "closed"
    assert not (tmp_path / "r" / REPORT).exists()


def test_a_thread_beside_ends_with_its_tracker(module: Any) -> None:
    beside = Beside("kept", lambda: module.Kept(Job(name="r"), Path("r")))
    beside.close_within(10)
    assert not [thread for thread in threading.enumerate() if thread.name == "tracker kept"]
