"""Bugs planted into the round: each is found, and by what it breaks. A check that cannot fail would be none."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from prime import sim
from prime.sim.plan import Crash, Partition, Pause, Plan
from prime.sim.scenarios.round import (
    training_round,
    training_round_ends,
    training_round_feedback,
    training_round_fragments,
)
from prime.trainer.round import commands as cmd
from prime.trainer.round import leading, outcome
from prime.trainer.round import messages as msg
from prime.trainer.round.records import write_record
from prime.trainer.round.view import View
from prime.trainer.swarm.aggregator import Aggregator
from prime.trainer.swarm.carry import Ledger
from prime.trainer.swarm.recorder import Recorder
from prime.trainer.swarm.reduction import Reduction
from prime.trainer.swarm.rounds import Rounds
from prime.trainer.swarm.spooler import Spooler

SEEDS = 30


def found_by_drawing(plan: Plan | None = None, scenario: Any = training_round, start: int = 0) -> str:
    """Return what the first failing seed says, from `start` on: one near a seed that fails saves the runs before it."""
    for seed in range(start, start + SEEDS):
        outcome = sim.run(seed, scenario, plan)
        if not outcome.ok:
            return outcome.error
    return "nothing"


def test_a_vote_before_its_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = Aggregator._do

    async def do(self: Any, command: cmd.Command) -> None:
        if isinstance(command, cmd.Persist) and isinstance(command.record, msg.Accepted):
            self.ctx.start_soon(honest, self, command)
        else:
            await honest(self, command)

    monkeypatch.setattr(Aggregator, "_do", do)
    assert found_by_drawing().split(":")[0] in ("ready_on_disk", "majority_ready")


def test_a_vote_without_its_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    async def entry(_self: Any, _stock: Any, record: msg.Accepted, _payloads: Any) -> bytes:
        return write_record(record, [])

    monkeypatch.setattr(Spooler, "entry", entry)
    assert found_by_drawing().split(":")[0] == "bytes_on_disk"


def test_a_vote_whose_bytes_are_left_out_when_the_journal_is_written_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = Recorder._compacted

    def compacted(self: Any, decided: msg.Decided, stock: Any) -> list[Any]:
        vote, _ = self._vote
        if vote is not None:
            self._vote = (vote, write_record(vote, []))
        return honest(self, decided, stock)

    monkeypatch.setattr(Recorder, "_compacted", compacted)
    assert found_by_drawing().split(":")[0] == "bytes_on_disk"


def test_a_contribution_that_is_carried_though_it_was_added(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = Ledger.commit

    def commit(self: Ledger[Any], round_: int, *, included: bool, residual: Any = None) -> None:
        frozen = self.frozen
        honest(self, round_, included=included, residual=residual)
        if frozen is not None and included:
            self.carry, self.carry_weight = frozen.delta, frozen.delta_weight

    monkeypatch.setattr(Ledger, "commit", commit)
    assert "once" in found_by_drawing()


def test_a_residual_that_moves_though_its_round_left_the_member_out(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = Ledger.commit

    def commit(self: Ledger[Any], round_: int, *, included: bool, residual: Any = None) -> None:
        frozen = self.frozen
        honest(self, round_, included=included, residual=residual)
        if frozen is not None and not included:
            self.residual = frozen.y * 0.5

    monkeypatch.setattr(Ledger, "commit", commit)
    assert found_by_drawing(scenario=training_round_feedback).split(":")[0] == "fed_back"


def test_a_residual_that_an_abort_forgets(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = Ledger.abort

    def abort(self: Ledger[Any], round_: int) -> None:
        honest(self, round_)
        self.residual = None

    monkeypatch.setattr(Ledger, "abort", abort)
    assert found_by_drawing(scenario=training_round_feedback).split(":")[0] == "fed_back"


def test_a_carried_delta_that_comes_with_another_fragment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Rounds, "fragment_of", lambda _self, _round: 0)
    assert found_by_drawing(scenario=training_round_fragments).split(":")[0] == "one_fragment"


def test_an_end_that_nobody_is_told_of_who_missed_it(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = outcome.send_commit

    def send_commit(desk: Any, to: str, round_: int) -> None:
        if not desk.over:
            honest(desk, to, round_)

    monkeypatch.setattr(outcome, "send_commit", send_commit)
    assert found_by_drawing(scenario=training_round_ends).split(":")[0] == "ended"


def test_half_of_the_members_for_a_majority(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(View, "majority", lambda self: max(len(self.members) // 2, 1))
    halves = Plan(actions=(Partition(("n1", "n2"), 4.0, 6.0),), storm_s=12.0, params={"size": 4, "leaver": 0})
    found = [sim.run(seed, training_round, halves).error for seed in range(3)]
    assert {error.split(":")[0] for error in found} <= {"carried_on", "majority_ready", "one_decision"}, found


PAUSES = (Pause("n2", 3.1, 3.2), Pause("n1", 5.2, 3.4))
CRASHES = (Crash("n3", 8.1, 0.2), Crash("n2", 8.6, 0.2), Crash("n1", 9.3, 0.1))
LATE = Plan(actions=PAUSES + CRASHES, storm_s=12.0, params={"leaver": 0})
"""A member pauses until its contribution comes too late for its round."""


def test_a_late_contribution_that_nobody_keeps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Aggregator, "_missed", lambda _self, _core, _m: None)
    assert "conserved" in found_by_drawing(LATE, start=8)


OPTIMIZED = """
import sys
sys.path.insert(0, sys.argv[1])
from prime import sim
from prime.errors import UsageError
from prime.trainer.swarm.aggregator import Aggregator
from test_planted_round import LATE, found_by_drawing

assert False, "this Python has assertions"
Aggregator._missed = lambda _self, _core, _m: None
print(found_by_drawing(LATE, start=8))

@sim.scenario(nodes=1)
async def body(world):
    assert False

try:
    print(sim.run(0, body).ok)
except UsageError as error:
    print(error)
"""


def test_without_assertions_what_is_shipped_still_fails_and_what_a_user_wrote_is_refused() -> None:
    command = [sys.executable, "-O", "-c", OPTIMIZED, str(Path(__file__).parent)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert "conserved" in lines[0]
    assert lines[-1].startswith("this Python leaves out assertions, by which __main__:body may say what must hold")


def test_an_owner_that_forgets_how_its_contributions_were_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = Reduction._reduced

    def reduced(self: Any, stock: Any, ahead: Any, key: Any, inputs: Any, weights: Any, batch: Any) -> Any:
        return honest(self, stock, ahead, key, inputs, [1.0 + i for i in range(len(weights))], batch)

    monkeypatch.setattr(Reduction, "_reduced", reduced)
    judged = Plan(storm_s=8.0, params={"rule": 1, "leaver": 0, "rates": 0})
    assert found_by_drawing(judged).split(":")[0] == "exact_sum"


def test_a_leader_that_nobody_takes_over_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leading, "_open_ballot", lambda _desk, _seat: None)
    crashes = tuple(Crash(f"n{i}", 3.0 + i, 20.0) for i in (1, 2))
    plan = Plan(actions=crashes, storm_s=24.0, params={"size": 5, "leaver": 0, "rule": 0, "rates": 0})
    assert found_by_drawing(plan).split(":")[0] == "in_time"
