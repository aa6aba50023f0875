"""The trainer with real rank processes: whatever is done to them, the run ends as the undisturbed one does."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import attrs
import pytest
import trio

pytest.importorskip("torch")

import prime
from prime.errors import ActorUsageError, ConfigError, ConflictError, RunFailedError, WorldError
from prime.trainer import facts
from prime.trainer.data.order import share, step_indices
from prime.trainer.gang.lock import sole_trainer
from prime.trainer.gang.ranks import MEETINGS, variables_of
from prime.trainer.gang.result import Result
from prime.trainer.gang.trainer import Trainer
from prime.trainer.job import Job, job_of

TASK = Path(__file__).with_name("gang_task.py")
STEPS = 40
SAMPLES = 512
BATCH = 16
WAIT_S = 300
"""For a busy machine; what is meant is a second or two for each start."""


def job(folder: Path, **tables: Any) -> Job:
    """Return the job under test: two ranks, a checkpoint every 8 steps."""
    supervision = {"silent_s": 4.0, **tables.pop("supervision", {})}
    return job_of(
        {
            "name": "gang",
            "model": f"{TASK}:model",
            "data": f"{TASK}:data",
            "steps": STEPS,
            "batch_size": BATCH,
            "folder": str(folder),
            "parallel": {"ranks": 2, "device": "cpu"},
            "checkpoint": {"every_steps": 8},
            "evaluation": {"every_steps": 0, "batches": 2},
            "supervision": supervision,
            **tables,
        }
    )


def first_sample(step: int, rank: int) -> int:
    """Return the sample with which a rank begins a step (counted from 1)."""
    indices = step_indices(0, step - 1, BATCH, SAMPLES)
    return int(share(indices, rank, 2, 0, 1)[0])


@attrs.define
class Watched:
    """One run: its facts, its losses by step, and what is done to its ranks. A step that differs when replayed fails it."""

    trainer: Trainer
    at: Mapping[int, Callable[[Watched], None]] = attrs.field(factory=dict)
    facts: list[facts.Fact] = attrs.field(factory=list)
    losses: dict[int, float] = attrs.field(factory=dict)
    differing: list[int] = attrs.field(factory=list)
    processes: dict[int, int] = attrs.field(factory=dict)
    all_processes: set[int] = attrs.field(factory=set)
    done: set[int] = attrs.field(factory=set)

    def __attrs_post_init__(self) -> None:
        self.trainer.subscribe(self.take)

    def take(self, fact: facts.Fact) -> None:
        self.facts.append(fact)
        if isinstance(fact, facts.RankStarted):
            self.processes[fact.rank] = fact.process
            self.all_processes.add(fact.process)
        elif isinstance(fact, facts.StepMade):
            if self.losses.setdefault(fact.step, fact.loss) != fact.loss:
                self.differing.append(fact.step)
            if fact.step in self.at and fact.step not in self.done:
                self.done.add(fact.step)
                with contextlib.suppress(ProcessLookupError):  # it died a moment ago
                    self.at[fact.step](self)

    def of(self, kind: type) -> list[Any]:
        return [fact for fact in self.facts if isinstance(fact, kind)]

    def gone(self) -> bool:
        return not any(Path(f"/proc/{process}").exists() for process in self.all_processes)

    async def train(self) -> Result:
        with trio.fail_after(WAIT_S):
            return await self.trainer.train()


def send(number: int, rank: int) -> Callable[[Watched], None]:
    """Return what sends a signal to a rank's process."""
    return lambda run: os.kill(run.processes[rank], number)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Result, dict[int, float]]:
    """Return the result and the losses of the run to which nothing happens."""
    run = Watched(Trainer(job(tmp_path_factory.mktemp("undisturbed"))))
    return trio.run(run.train), run.losses


async def test_killed_and_stopped_ranks_do_not_change_what_comes_of_a_run(
    tmp_path: Path, undisturbed: tuple[Result, dict[int, float]]
) -> None:
    faults = {13: send(signal.SIGKILL, 1), 27: send(signal.SIGSTOP, 0)}
    run = Watched(Trainer(job(tmp_path, supervision={"spares": 1})), faults)
    result = await run.train()
    expected, losses = undisturbed
    assert run.differing == []
    assert run.losses == losses
    assert (result.outcome, result.loss, result.held_out) == ("done", expected.loss, expected.held_out)
    assert [(each.rank, each.cause) for each in run.of(facts.RankLost)] == [(1, "died"), (0, "silent")]
    assert [each.generation for each in run.of(facts.GenerationBegan)] == [0, 1, 2]
    assert result.restarts == 2
    assert run.gone()


async def test_a_stuck_rank_is_noticed_by_its_steps_and_a_cancelled_run_leaves_no_process(tmp_path: Path) -> None:
    options = {"at": first_sample(11, 1), "mood": "sleep", "once": str(tmp_path / "slept")}
    scope = trio.CancelScope()
    run = Watched(
        Trainer(job(tmp_path / "run", model_options=options, supervision={"step_s": 3.0})),
        {12: lambda _: scope.cancel()},
    )
    async with prime.open_system() as system:
        with scope, trio.fail_after(WAIT_S):
            await run.trainer.train(system)
        assert run.gone()
    assert scope.cancelled_caught
    assert [each.cause for each in run.of(facts.RankLost)] == ["stuck"]
    assert run.gone()
    assert isinstance(run.facts[-1], facts.RunEnded)


def test_a_stop_is_after_a_checkpoint_and_the_next_trainer_goes_on_from_there(
    tmp_path: Path, undisturbed: tuple[Result, dict[int, float]]
) -> None:
    run = Watched(Trainer(job(tmp_path)), {11: lambda _: os.kill(os.getpid(), signal.SIGINT)})
    result = run.trainer.run()
    assert result.outcome == "stopped"
    assert 11 <= result.step < STEPS
    assert result.checkpoint_step == result.step
    again = Watched(Trainer(job(tmp_path)))
    done = trio.run(again.train)
    assert [each.reason for each in run.of(facts.RunStopping)] == ["SIGINT"]
    assert again.of(facts.GenerationBegan)[0].step == result.step
    assert {**run.losses, **again.losses} == undisturbed[1]
    assert (done.outcome, done.held_out) == ("done", undisturbed[0].held_out)


async def test_a_model_that_raises_at_the_same_step_again_ends_the_run_with_its_file_and_line(tmp_path: Path) -> None:
    options = {"at": first_sample(3, 0), "mood": "raise"}
    run = Watched(Trainer(job(tmp_path, model_options=options)))
    with pytest.raises(
        RunFailedError, match=r"a rank failed twice after step 2.*ValueError: made up \(.*gang_task\.py:\d+\)"
    ):
        await run.train()
    assert len(run.of(facts.RankLost)) == 1
    assert run.of(facts.RunEnded)[0].outcome == "failed"
    assert run.gone()


async def test_an_error_that_cannot_say_what_it_is_ends_the_run_all_the_same(tmp_path: Path) -> None:
    run = Watched(Trainer(job(tmp_path, model_options={"at": first_sample(3, 0), "mood": "mute"})))
    with pytest.raises(RunFailedError, match="MuteError"):
        await run.train()
    assert [each.cause for each in run.of(facts.RankLost)] == ["failed"]


async def test_a_folder_in_which_the_ranks_cannot_meet_ends_the_run(tmp_path: Path) -> None:
    run = Watched(Trainer(job(tmp_path)))
    run.trainer.subscribe(lambda fact: block(fact, tmp_path / MEETINGS))
    with pytest.raises(WorldError, match=MEETINGS):
        await run.train()
    assert [(each.outcome, MEETINGS in each.error) for each in run.of(facts.RunEnded)] == [("failed", True)]
    assert run.gone()


def block(fact: facts.Fact, folder: Path) -> None:
    """Put a file where the ranks would meet, as soon as the first of them is there."""
    if isinstance(fact, facts.RankStarted) and not folder.exists():
        folder.touch()


async def test_a_model_that_cannot_be_had_is_no_loss_but_an_error_at_once(tmp_path: Path) -> None:
    run = Watched(Trainer(attrs.evolve(job(tmp_path), model=f"{TASK}:nothing")))
    with pytest.raises(ConfigError, match="nothing"):
        await run.train()
    assert run.of(facts.RankLost) == []


async def test_a_second_trainer_in_a_runs_folder_is_refused(tmp_path: Path) -> None:
    with sole_trainer(tmp_path), pytest.raises(ConflictError, match=str(tmp_path)):
        await Trainer(job(tmp_path)).train()


async def test_whoever_reads_the_facts_of_a_run_that_is_refused_is_let_go(tmp_path: Path) -> None:
    trainer = Trainer(job(tmp_path))
    reader = trainer.facts()
    with sole_trainer(tmp_path), pytest.raises(ConflictError):
        await trainer.train()
    with trio.fail_after(5):
        assert [fact async for fact in reader] == []


async def test_run_within_a_program_on_trio_says_what_to_call_instead(tmp_path: Path) -> None:
    with pytest.raises(ActorUsageError, match="within a program on Trio"):
        Trainer(job(tmp_path)).run()


@pytest.mark.parametrize(("users", "taken"), [("eth7", "eth7"), ("", "lo")])
def test_the_interface_that_a_user_names_is_kept(users: str, taken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", users)
    assert variables_of(job(Path("nowhere")), None)["GLOO_SOCKET_IFNAME"] == taken


@pytest.fixture
def cellar() -> Iterator[Path | None]:
    """Return a memory group in which nobody has room, or nothing where groups cannot be made: it takes root."""
    for root, limit in (
        (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"),
        (Path("/sys/fs/cgroup"), "memory.max"),
    ):
        group = root / f"prime-test-{os.getpid()}"
        try:
            group.mkdir()
            (group / limit).write_text(str(1 << 20))
        except OSError:
            continue
        try:
            yield group
        finally:
            group.rmdir()
        return
    yield None


def starve(group: Path, rank: int) -> Callable[[Watched], None]:
    """Return what lets the kernel's OOM killer end a rank: it may have no more memory."""
    return lambda run: bool((group / "cgroup.procs").write_text(str(run.processes[rank])))


@pytest.mark.nightly
async def test_copies_of_a_sharded_model_come_to_the_same_when_a_rank_is_killed(tmp_path: Path) -> None:
    """Two replicas of one shard each."""
    parallel = {"ranks": 2, "device": "cpu", "strategy": "fsdp", "replicas": 2}
    calm = Watched(Trainer(job(tmp_path / "calm", parallel=parallel)))
    expected = await calm.train()
    run = Watched(Trainer(job(tmp_path / "run", parallel=parallel)), {13: send(signal.SIGKILL, 1)})
    result = await run.train()
    assert [each.strategy for each in run.of(facts.GenerationBegan)] == ["fsdp", "fsdp"]
    assert [(each.rank, each.cause) for each in run.of(facts.RankLost)] == [(1, "died")]
    assert run.differing == []
    assert run.losses == calm.losses
    assert (result.outcome, result.loss, result.held_out) == ("done", expected.loss, expected.held_out)
    assert run.gone()


@pytest.mark.nightly
@pytest.mark.parametrize("seed", range(5))
async def test_fifty_faults_at_random_steps(
    seed: int, tmp_path: Path, undisturbed: tuple[Result, dict[int, float]], cellar: Path | None
) -> None:
    random = Random(seed)
    ways = [partial(send, signal.SIGKILL), partial(send, signal.SIGSTOP)]
    if cellar is None:
        print("no memory group can be made here: ranks are not starved")  # as warnings are errors
    else:
        ways.append(partial(starve, cellar))
    faults = {step: random.choice(ways)(random.randrange(2)) for step in random.sample(range(2, STEPS), 10)}
    supervision = {"spares": random.randrange(3), "restarts_max": 100, "silent_s": 10.0}
    run = Watched(Trainer(job(tmp_path, supervision=supervision)), faults)
    with trio.fail_after(1800):
        result = await run.trainer.train()
    assert run.differing == []
    assert run.losses == undisturbed[1]
    assert (result.outcome, result.held_out) == ("done", undisturbed[0].held_out)
    assert len(run.done) == 10
    assert run.gone()
