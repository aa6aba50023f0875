"""The simulator finds bugs: one small program for each kind of bug, with the bug planted, and the same program mended.

The programs are in `planted/`. They give the simulator no hint, and nothing in them waits for the sake of the bug.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from prime import sim
from prime.sim.run import load

HERE = Path(__file__).parent
SEEDS_MAX = 1000
"""Within how many seeds each bug is found; a hundred or fewer is usual."""
MENDED_SEEDS = 30

PLANTED = {
    "lost_wakeup": "every job is printed: not within 40 s",
    "double_apply": "nothing is paid in twice",
    "split_brain": "a term has one leader",
    "ack_before_fsync": "acknowledged and not in the log",
    "stale_lease": "not linearizable: key 'counter'",
    "leaked_ask": "no ask is kept past its deadline",
}
"""Each bug, and what the run that finds it says."""

REPLAY = """
import json, sys
from prime import sim
from prime.sim.run import load
outcome = sim.run(int(sys.argv[2]), load(sys.argv[1]))
print(json.dumps([outcome.trace, outcome.error]))
"""


@pytest.fixture(autouse=True)
def planted_on_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(HERE)


def first_failure(scenario: sim.Scenario) -> sim.Outcome:
    outcomes = (sim.run(seed, scenario) for seed in range(SEEDS_MAX))
    found = next((outcome for outcome in outcomes if not outcome.ok), None)
    assert found is not None, f"no failure within {SEEDS_MAX} seeds"
    return found


def replayed_elsewhere(name: str, seed: int) -> tuple[str, str]:
    """Run a seed in a fresh process, with another order of sets and without pytest; return its trace and its error."""
    paths = os.pathsep.join([str(HERE), str(HERE.parent.parent)])
    done = subprocess.run(
        [sys.executable, "-c", REPLAY, name, str(seed)],
        env={**os.environ, "PYTHONPATH": paths, "PYTHONHASHSEED": "4711"},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    trace, error = json.loads(done.stdout.splitlines()[-1])
    return trace, error


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_bug_is_found_and_its_seed_replays_it(name: str, record_property: pytest.RecordProperty) -> None:
    scenario = load(f"planted.{name}:broken")
    found = first_failure(scenario)
    record_property("seed", found.seed)
    print(f"{name}: {found.command}: {found.error.splitlines()[0]}")
    assert PLANTED[name] in found.error
    again = sim.run(found.seed, scenario)
    assert (again.trace, again.error, again.at_s) == (found.trace, found.error, found.at_s)
    assert sim.run(found.seed, load(f"planted.{name}:mended")).ok
    assert replayed_elsewhere(found.scenario, found.seed) == (found.trace, found.error)


@pytest.mark.parametrize("name", PLANTED)
def test_the_mended_program_survives_the_same_storms(name: str) -> None:
    scenario = load(f"planted.{name}:mended")
    errors = {seed: outcome.error for seed in range(MENDED_SEEDS) if not (outcome := sim.run(seed, scenario)).ok}
    assert errors == {}
