"""`prime sim`, as a user runs it: what it prints, its exit status, and nothing left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from prime.cli.main import run
from prime.cli.sim_view import FAILURES_SHOWN, Tally, difference, event_line, faults, up_to_failure
from prime.sim import Event, Outcome
from prime.sim import plan as p
from prime.testing.nodes import lives, until

SEARCHED = Path(__file__).parents[1] / "sim" / "testdata"


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Be in the folder of the scenarios: modules there are found without a word."""
    monkeypatch.chdir(SEARCHED)
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place != str(SEARCHED)])
    monkeypatch.delitem(sys.modules, "searched", raising=False)


def last(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found.pop("schema") == 1
    return found  # type: ignore[no-any-return]


def sim(*words: object) -> int:
    return run(["sim", *map(str, words)])


def test_a_run_that_holds_is_one_object_and_status_0(capsys: pytest.CaptureFixture[str]) -> None:
    assert sim("run", "--seed", 4, "--scenario", "searched:holds", "--json") == 0
    found = last(capsys)
    assert list(found) == ["seed", "scenario", "events", "trace", "ok"]
    assert (found["seed"], found["scenario"], found["ok"]) == (4, "searched:holds", True)
    assert len(found["trace"]) == 32
    assert sim("run", "--seed", 5, "--scenario", "searched:holds", "--json") == 0
    assert last(capsys)["trace"] != found["trace"]


def test_what_a_scenario_prints_is_not_in_the_result(capsys: pytest.CaptureFixture[str]) -> None:
    assert sim("run", "--scenario", "searched:holds") == 0
    told = capsys.readouterr()
    assert told.out.startswith("ok: searched:holds, seed 0: ")
    assert "a scenario may print" in told.err


def test_a_run_that_fails_is_status_1_and_says_what_when_and_how_to_see_it_again(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert sim("run", "--seed", 7, "--scenario", "searched:fails_on_7") == 1
    told = capsys.readouterr().out
    assert "violated at 1.5 s: AssertionError: sevens are unlucky" in told
    assert "again: prime sim replay 7 --scenario searched:fails_on_7\n" in told
    assert sim("run", "--seed", 7, "--scenario", "searched:fails_on_7", "--json") == 1
    found = last(capsys)
    assert (found["ok"], found["at_s"]) == (False, 1.5)
    assert found["violated"].startswith("AssertionError at searched.py:")


def test_a_plan_is_read_from_a_file_and_named_in_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = tmp_path / "a plan.json"
    plan.write_text('{"actions": [{"kind": "Pause", "node": "n1", "at_s": 0.5, "for_s": 1}], "storm_s": 5}')
    assert sim("run", "--seed", 7, "--scenario", "searched:fails_on_7", "--plan", plan) == 1
    told = capsys.readouterr().out
    assert "  faults:\n    pause of n1 at 0.5 s\n" in told
    assert f"replay 7 --scenario searched:fails_on_7 --plan '{plan}'" in told


@pytest.mark.parametrize(
    ("words", "status", "told"),
    [
        (("run", "--scenario", "searched:none"), 2, "searched has searched:holds"),
        (("run", "--scenario", "searched"), 2, "module:name"),
        (("run", "--scenario", "nowhere:it"), 2, "there is no module nowhere"),
        (("run", "--scenario", "searched:NOT_ONE"), 2, "is no scenario"),
        (("run", "--scenario", "searched:holds", "--seed", "-1"), 2, "--seed"),
        (("run", "--scenario", "searched:holds", "--plan", "none.json"), 6, "none.json"),
        (("run", "--scenario", "searched:holds", "--plan", "searched.py"), 2, "is no JSON"),
        (("replay", "-3", "--scenario", "searched:holds"), 2, "-3"),
        (("search", "--scenario", "searched:holds", "--seeds", "0"), 2, "--seeds"),
        (("search", "--scenario", "searched:holds", "--jobs", "0"), 2, "--jobs"),
        (("search", "--scenario", "searched:none"), 2, "there is no scenario"),
        (("timeline", "4", "--scenario", "searched:holds", "--node", "bogus"), 2, "nodes: n1, n2"),
        (("list", "nowhere"), 2, "there is no module nowhere"),
    ],
)
def test_what_cannot_be_is_refused(
    words: tuple[str, ...], status: int, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sim(*words) == status
    assert told in capsys.readouterr().err


@pytest.mark.parametrize(("text", "told"), [("def (", "SyntaxError"), ("raise KeyError('x')", "KeyError: 'x'")])
def test_a_module_that_cannot_be_imported_is_said(
    text: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cannot_be.py").write_text(text)
    assert sim("run", "--scenario", "cannot_be:it") == 2
    shown = capsys.readouterr().err
    assert told in shown
    assert "Traceback" not in shown


def test_a_replay_runs_twice_and_shows_the_last_events(capsys: pytest.CaptureFixture[str]) -> None:
    assert sim("replay", 7, "--scenario", "searched:fails_on_7") == 1
    told = capsys.readouterr().out
    assert "1.5000 s  (world)    violates AssertionError" in told
    assert "repeatable: both runs have this trace" in told
    assert sim("replay", 7, "--scenario", "searched:fails_on_7", "--json") == 1
    found = last(capsys)
    assert found["repeatable"]
    assert found["traces"] == [found["trace"]] * 2
    assert found["history"][-1]["kind"] == "violates"


def test_a_replay_of_what_holds_is_status_0(capsys: pytest.CaptureFixture[str]) -> None:
    assert sim("replay", 3, "--scenario", "searched:holds") == 0
    assert "repeatable" in capsys.readouterr().out


def test_a_replay_says_where_two_runs_part(capsys: pytest.CaptureFixture[str]) -> None:
    assert sim("replay", 3, "--scenario", "searched:follows_the_hash") == 1
    told = capsys.readouterr().out
    assert "NOT repeatable" in told
    assert "first difference:\n      0.0000 s  (world)    draws  order=" in told


def test_a_search_prints_each_failure_as_the_command_that_replays_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert sim("search", "--seeds", 20, "--jobs", 2, "--scenario", "searched:fails_on_7") == 1
    told = sorted(capsys.readouterr().out.splitlines())
    assert told[0].startswith("20 seeds: 2 failed: AssertionError at ")
    assert told[1].endswith("at 1.5 s: prime sim replay 17 --scenario searched:fails_on_7")
    assert told[2].endswith("at 1.5 s: prime sim replay 7 --scenario searched:fails_on_7")


def test_a_search_ends_with_the_first_failure_if_asked(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("search", "--seeds", 10**9, "--from", 5, "--first", "--jobs", 1)
    assert sim(*words, "--scenario", "searched:fails_on_7", "--json") == 1
    found = last(capsys)
    assert [failure["seed"] for failure in found["failed"]] == [7]
    assert (found["seeds"], found["ended_by"], found["ok"]) == (3, "first", False)


def test_a_search_that_finds_nothing_is_status_0(capsys: pytest.CaptureFixture[str]) -> None:
    assert sim("search", "--seeds", 3, "--jobs", 1, "--scenario", "searched:holds", "--json") == 0
    found = last(capsys)
    assert (found["seeds"], found["failures"], found["ok"]) == (3, 0, True)
    assert found["seeds_per_min"] > 0


def test_lost_processes_are_failures_with_their_seeds(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--seeds", 5, "--jobs", 1, "--json")
    assert sim("search", *words, "--scenario", "searched:kills_itself") == 1
    assert [(one["seed"], one["violated"]) for one in last(capsys)["failed"]] == [(3, "its process lives")]
    assert sim("search", *words, "--scenario", "searched:hangs", "--deadline-s", 5) == 1
    assert [(one["seed"], one["violated"]) for one in last(capsys)["failed"]] == [(2, "it ends")]


def workers(folder: Path, search: subprocess.Popen[Any]) -> list[int]:
    """Return the processes of a search that have imported its scenario."""
    return [process for file in folder.iterdir() if (process := int(file.name)) != search.pid]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_search_at_once_with_a_summary_and_no_process_left(
    number: signal.Signals, tmp_path: Path
) -> None:
    words = ("search", "--seeds", "1000", "--jobs", "2", "--scenario", "searched_apart:hangs", "--json")
    with subprocess.Popen(
        [sys.executable, "-m", "prime", "sim", *words],
        env={**os.environ, "SEARCHED_FOLDER": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as running:
        until(lambda: len(workers(tmp_path, running)) == 2, 60, "two processes at work")
        running.send_signal(number)
        out, err = running.communicate(timeout=30)
    found = json.loads(out.splitlines()[-1])
    assert (running.returncode, found["ended_by"], found["seeds"]) == (128 + number, number.name, 0)
    assert "Traceback" not in err
    assert not any(lives(process) for process in workers(tmp_path, running))


def test_a_search_that_is_killed_leaves_no_process(tmp_path: Path) -> None:
    words = ("search", "--seeds", "1000", "--jobs", "1", "--scenario", "searched_apart:hangs")
    with subprocess.Popen(
        [sys.executable, "-m", "prime", "sim", *words], env={**os.environ, "SEARCHED_FOLDER": str(tmp_path)}
    ) as running:
        until(lambda: workers(tmp_path, running), 60, "a process at work")
        running.kill()
    (worker,) = workers(tmp_path, running)
    until(lambda: not lives(worker), 10, "the end of the process")


def test_a_reader_that_leaves_ends_a_search_without_a_word() -> None:
    words = ("search", "--seeds", "1000", "--jobs", "1", "--scenario", "searched:fails_on_7")
    command = [sys.executable, "-m", "prime", "sim", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        assert "replay 7" in running.stdout.readline()
        running.stdout.close()
        assert (running.wait(60), running.stderr.read()) == (0, "")


def test_a_terminal_has_a_bar_and_a_file_has_the_failures() -> None:
    ours, theirs = os.openpty()
    words = ("search", "--seeds", "20", "--jobs", "1", "--scenario", "searched:fails_on_7")
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120"}
    environment.pop("NO_COLOR", None)
    command = [sys.executable, "-m", "prime", "sim", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=theirs, env=environment, text=True) as running:
        os.close(theirs)
        shown = b"".join(iter(lambda: read(ours), b"")).decode()
        out, _ = running.communicate(timeout=60)
    os.close(ours)
    assert running.returncode == 1
    assert "seeds a minute" in shown
    assert "20/20" in shown
    assert [line.split(":")[0] for line in out.splitlines()] == ["seed 7", "seed 17", "20 seeds"]


def read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 4096)
    except OSError:  # Linux says so when the other end is closed
        return b""


def test_a_list_says_what_each_scenario_is_about(capsys: pytest.CaptureFixture[str]) -> None:
    assert sim("list", "searched") == 0
    assert "searched:hangs\n  Run on and on without an await, on seed 2." in capsys.readouterr().out
    assert sim("list", "searched", "--json") == 0
    assert last(capsys)["scenarios"]["searched:holds"] == "Note a number now and then, whatever happens."


def test_a_failure_is_made_smaller_and_printed_as_a_test(capsys: pytest.CaptureFixture[str]) -> None:
    assert sim("shrink", 26, "--scenario", "searched:stumbles") == 0
    told = capsys.readouterr()
    assert "def test_nobody_stumbles_with_seed_26() -> None:" in told.out
    assert 'Pause(node="n2", at_s=0.0' in told.out
    assert "runs: 1 action, 0 settings of network and disk, 2 nodes left out" in told.err
    assert sim("shrink", 26, "--scenario", "searched:stumbles", "--runs", 5, "--json") == 0
    found = last(capsys)
    assert (found["runs"], found["violated"]) == (5, "nobody stumbles")


def test_the_plan_of_a_shrunk_failure_can_be_given_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sim("shrink", 26, "--scenario", "searched:stumbles", "--json") == 0
    found = last(capsys)
    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps(found["plan"]))
    assert sim("run", "--seed", 26, "--scenario", "searched:stumbles", "--plan", plan, "--json") == 1
    assert last(capsys)["trace"] == found["trace"]


@pytest.mark.parametrize(
    ("seed", "scenario", "status", "told"),
    [(1, "holds", 2, "there is nothing to shrink"), (3, "kills_itself", 8, "cannot be shrunk")],
)
def test_what_cannot_be_shrunk_is_said(
    seed: int, scenario: str, status: int, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sim("shrink", seed, "--scenario", f"searched:{scenario}") == status
    assert told in capsys.readouterr().err


def test_an_interrupted_shrinking_prints_the_best_so_far(capsys: pytest.CaptureFixture[str]) -> None:
    assert sim("shrink", 1, "--scenario", "searched:interrupts") == 130
    assert "def test_never_with_seed_1()" in capsys.readouterr().out


# ---- the texts


def test_failures_are_counted_beyond_those_shown() -> None:
    tally = Tally(100, "m:s", seconds=60.0)
    for seed in range(50):
        tally.add(Outcome(seed, "m:s", 1, "t", ok=False, error="e", violated=f"rule {seed}"))
    assert (len(tally.shown), len(tally.kinds), tally.failures) == (FAILURES_SHOWN, FAILURES_SHOWN, 50)
    assert "50 of 100 seeds: 50 failed" in tally.text()
    assert "50 seeds a minute" in tally.text()


def test_faults_are_said_in_words() -> None:
    actions = (p.Crash("n1", 1.0), p.SlowReader("n2", 2.0, 1.0), p.Cut("n1", "n2", 3.0, 1.0), p.Pause("n1", 9.0, 1.0))
    network = p.NetworkFaults(loss=0.12345, jitter_s=0.5, duplication=0.2, reordering=0.1)  # two are of datagrams
    plan = p.Plan(network, p.DiskFaults(torn=True), actions, without=("n3",))
    assert list(faults(plan, 5.0)) == [
        "jitter (s) 0.5",
        "loss 0.123",
        "disk torn",
        "without n3",
        "crash of n1 at 1 s",
        "slow reader of n2 at 2 s",
        "cut of n1+n2 at 3 s",
    ]


def test_what_led_to_a_failure_ends_with_it() -> None:
    before, failure, after = Event(1.0, "n1", "sends"), Event(1.0, "", "violates"), Event(1.0, "n1", "reports")
    assert up_to_failure((before, failure, after)) == (before, failure)
    note = Event(0.5, "", "fails", "a scenario's own")
    assert up_to_failure((note, before, failure, after)) == (note, before, failure)
    assert up_to_failure((before, after)) == (before, after)


def test_two_histories_part_where_they_differ() -> None:
    a, b = Event(1.0, "n1", "sends", "/x"), Event(1.0, "n1", "sends", "/y")
    assert difference((a, a), (a, b)) == f"first difference:\n  {event_line(a)}\n  {event_line(b)}"
    assert "one goes on" in difference((a,), (a, b))
    assert "the same" in difference((a,), (a,))
    assert len(event_line(Event(0.0, "", "says", "x" * 1000))) < 300


# --------------------------------------------------------------------------------------------------------- timelines


def test_a_timeline_is_drawn_and_ends_with_the_outcome(capsys: pytest.CaptureFixture[str]) -> None:
    assert sim("timeline", 4, "--scenario", "searched:holds") == 0
    told = capsys.readouterr().out.splitlines()
    assert told[0].split()[:2] == ["time", "s"]
    assert any("draws number=" in line for line in told)
    assert any(line.startswith("ok: searched:holds, seed 4") for line in told)


def test_a_timeline_for_tools_is_an_object_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert sim("timeline", 4, "--scenario", "searched:holds", "--json", "--kind", "draws", "--last", 1) == 0
    *rows, outcome = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(rows) == 1
    assert (rows[0]["kind"], rows[0]["node"]) == ("draws", "")
    assert outcome["ok"] is True
