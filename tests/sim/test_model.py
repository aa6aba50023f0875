"""The Promela model of a round's decision, explored by Spin: every schedule within its bounds, and every planted bug found.

The short searches belong to every run and are left out, loudly, where Spin or a compiler is missing; the long ones have
the mark `model`, and the nox session of that name, which fails without Spin, runs them all.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import attrs
import pytest

from prime.sim.decision import RULES

MODEL = Path(__file__).parents[2] / "spec" / "model" / "round.pml"
MISSING = [tool for tool in ("spin", "gcc") if shutil.which(tool) is None]
DEPTH_MAX = 10_000
MEMORY_MIB_MAX = 8_000

needs_spin = pytest.mark.skipif(
    bool(MISSING), reason=f"the model is NOT checked: no {' and no '.join(MISSING)} here (apt-get install spin gcc)"
)
pytestmark = needs_spin


@attrs.frozen
class Search:
    """What Spin says of one exploration; `rule` is the first that broke."""

    states: int
    complete: bool
    rule: str
    unreached: tuple[str, ...]

    @property
    def clean(self) -> bool:
        """Tell whether all was explored and nothing found."""
        return self.complete and not self.rule


def run(command: list[str], folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}"
    return done.stdout


def explore(folder: Path, *defines: str, speed: str = "-O1") -> Search:
    """Explore the model with these definitions."""
    shutil.copy(MODEL, folder)
    flags = [f"-D{define}" for define in defines]
    run(["spin", "-a", *flags, MODEL.name], folder)
    # no partial order reduction: all that the members do is seen by all, so there is nothing to reduce
    options = ["-w", "-DSAFETY", "-DNOREDUCE", f"-DMEMLIM={MEMORY_MIB_MAX}"]
    run(["gcc", speed, *options, "-o", "pan", "pan.c"], folder)
    out = run(["./pan", "-E", f"-m{DEPTH_MAX}", "-w22"], folder)  # -E: a run may end anywhere
    return read(out, replay(folder, flags) if "assertion violated" in out else "")


def replay(folder: Path, flags: list[str]) -> str:
    """Return the name of the rule that broke at the end of the trail."""
    told = run(["spin", "-t", *flags, MODEL.name], folder)
    return re.findall(r"rule broken: (\w+)", told)[-1]


def read(out: str, rule: str) -> Search:
    states = re.search(r"^\s*(\d+) states, stored", out, re.MULTILINE)
    errors = re.search(r"errors: (\d+)", out)
    assert states is not None, out
    assert errors is not None, out
    assert (errors[1] == "0") == (not rule), out
    complete = "assertion violated" not in out and not re.search(
        r"max search depth too small|out of memory|Search not completed", out
    )
    unreached = re.findall(r"^\t\S*round\.pml:\d+, state \d+, (.*)$", out, re.MULTILINE)
    return Search(int(states[1]), complete, rule, tuple(text for text in unreached if text != '"-end-"'))


# ------------------------------------------------------------------------------------------------------ no rule breaks


def test_no_schedule_of_three_members_breaks_a_rule_and_every_step_is_taken(tmp_path: Path) -> None:
    found = explore(tmp_path, "N=3", "BALLOTS=3")
    assert found.clean, found
    assert found.states >= 500_000, "the model lost some of its behaviour"
    assert found.unreached == ()


def test_no_schedule_of_four_members_breaks_a_rule(tmp_path: Path) -> None:
    found = explore(tmp_path, "N=4", "BALLOTS=2")
    assert found.clean, found
    assert found.states >= 100_000, "the model lost some of its behaviour"


@pytest.mark.model
@pytest.mark.parametrize("value", ["VALUE", "ABORT"])
def test_the_last_ballot_may_decide_either_value(tmp_path: Path, value: str) -> None:
    assert explore(tmp_path, "N=3", "BALLOTS=3", f"WITNESS={value}").rule == "witness"


def test_where_the_last_leader_and_a_majority_of_disks_stay_every_run_decides(tmp_path: Path) -> None:
    assert explore(tmp_path, "N=3", "BALLOTS=3", "QUIET").clean


def test_a_leader_that_dies_after_the_last_ballot_leaves_a_run_undecided(tmp_path: Path) -> None:
    assert (
        explore(tmp_path, "N=3", "BALLOTS=3", "QUIET", "BUG_LAST_LEADER_DIES", speed="-O0").rule == "every_run_decides"
    )


@pytest.mark.model
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("members", "ballots", "states_min"), [(4, 3, 6_000_000), (3, 4, 16_000_000)])
def test_no_schedule_with_more_ballots_breaks_a_rule(
    tmp_path: Path, members: int, ballots: int, states_min: int
) -> None:
    found = explore(tmp_path, f"N={members}", f"BALLOTS={ballots}", speed="-O2")
    assert found.clean, found
    assert found.states >= states_min, "the model lost some of its behaviour"


@pytest.mark.model
@pytest.mark.timeout(1800)
def test_every_run_of_four_members_decides_too(tmp_path: Path) -> None:
    assert explore(tmp_path, "N=4", "BALLOTS=3", "QUIET", speed="-O2").clean


# --------------------------------------------------------------------------------------------------- every bug is found

BUGS = {
    "BUG_SKIP_PHASE_ONE": "a ballot above the first proposes what it likes",
    "BUG_CARRY_ANY": "a ballot carries on any vote that is reported, not the highest",
    "BUG_ANY_MINORITY": "so few votes decide that a majority may miss them all",
    "BUG_BELOW_PROMISE": "a vote is given below the promise",
    "BUG_FORGET_PROMISE": "a promise is not written",
    "BUG_FORGET_READY": "a vote is not written",
    "BUG_EARLY_READY": "a vote is given before it is written",
    "BUG_FORGET_BALLOT": "the number of a ballot is not written before it is used",
    "BUG_LEAD_AGAIN": "a leader goes on with its first ballot after a restart",
    "BUG_LOST_DISK_VOTES": "a member without its disk votes on",
}
"""Planted bugs, each of which lets a round decide two values."""


@pytest.mark.parametrize("bug", BUGS)
def test_a_planted_bug_leads_to_two_decisions(tmp_path: Path, bug: str) -> None:
    assert explore(tmp_path, "N=3", "BALLOTS=3", "AGREEMENT_ONLY", bug, speed="-O0").rule == "one_decision"


@pytest.mark.model
@pytest.mark.parametrize("bug", [*BUGS, "BUG_FORGET_BYTES"])
def test_a_planted_bug_breaks_a_rule_of_the_traces_too(tmp_path: Path, bug: str) -> None:
    expected = {
        "BUG_BELOW_PROMISE": "promise_kept",
        "BUG_FORGET_PROMISE": "promise_kept",
        "BUG_FORGET_BYTES": "bytes_on_disk",
    }
    rule = explore(tmp_path, "N=3", "BALLOTS=3", bug, speed="-O0").rule
    assert rule in RULES
    assert rule == expected.get(bug, rule)


@pytest.mark.model
@pytest.mark.parametrize("bug", BUGS)
def test_a_planted_bug_leads_to_two_decisions_among_four(tmp_path: Path, bug: str) -> None:
    assert explore(tmp_path, "N=4", "BALLOTS=3", "AGREEMENT_ONLY", bug).rule == "one_decision"


def test_the_rules_of_the_model_are_those_of_the_traces() -> None:
    names = re.findall(r"RULE\((\w+),", MODEL.read_text(encoding="utf-8"))
    assert set(names) - {"name", "witness", "every_run_decides"} <= set(RULES)
    assert len(set(names)) > 5
