"""What a node does about runs: where its own disk is in the way, nobody answers, and while a run begins."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio
import trio.testing

from prime.config import Config
from prime.node import training
from prime.node.hosting import RunHost
from prime.node.run_record import RunRecord
from prime.node.system import open_system
from prime.trainer.metadata import TrainingConfig
from prime.trainer.runs.messages import RunMember, RunNotice, run_name
from prime.transport.memory import Memory


async def test_a_disk_that_takes_no_record_keeps_the_node_from_the_run_and_ends_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file, where the folder should be")
    said: list[str] = []
    found: Any = SimpleNamespace(state=tmp_path / "state")
    async with open_system(transport=Memory()) as system, trio.open_nursery() as nursery:
        host = RunHost(system, Config(), found, said.append, trio.Event())
        nursery.start_soon(lambda: host.serve(own=False, contacts=()))
        await trio.testing.wait_all_tasks_blocked()
        run = host.submit("one", TrainingConfig(nodes_min=1)).run
        with trio.fail_after(10):
            while host.taking or not said[1:]:  # noqa: ASYNC110 - a board is looked at
                await trio.sleep(0.01)
        assert said[1].startswith(f"cannot take part in {run}: ")
        assert "cannot be written" in said[1]
        assert host.submit("two", TrainingConfig(nodes_min=1)).run.startswith("two@")
        nursery.cancel_scope.cancel()


async def test_a_run_can_be_left_and_called_off_before_it_has_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def open_slowly(*_: Any) -> None:
        await trio.sleep_forever()

    monkeypatch.setattr(RunRecord, "open", open_slowly)
    found: Any = SimpleNamespace(state=tmp_path)
    async with open_system(transport=Memory()) as system, trio.open_nursery() as nursery:
        host = RunHost(system, Config(), found, lambda _: None, trio.Event())
        nursery.start_soon(lambda: host.serve(own=False, contacts=()))
        await trio.testing.wait_all_tasks_blocked()
        run = host.submit("one", TrainingConfig(nodes_min=1)).run
        await trio.testing.wait_all_tasks_blocked()
        assert host.training is None
        assert host.leave("one") == run
        ending = await host.end("one")
        assert (ending.run, ending.called_off) == (run, True)
        nursery.cancel_scope.cancel()


async def test_a_run_whose_members_did_not_answer_is_gone_on_with_at_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "DIAL_DEADLINE_S", 0.0)
    settings, hub, said = TrainingConfig(nodes_min=2), Memory(), list[str]()
    async with open_system(transport=hub) as gone:
        member = RunMember(gone.peer, "gone", tuple(gone.addresses), "member", "", 0, 1)
    run = run_name("run", gone.peer, "00", settings)
    found: Any = SimpleNamespace(state=tmp_path)
    async with open_system(transport=hub) as system, trio.open_nursery() as nursery:
        host = RunHost(system, Config(), found, said.append, trio.Event())
        nursery.start_soon(lambda: host.serve(own=False, contacts=()))
        await trio.testing.wait_all_tasks_blocked()
        host.hear(gone.peer, RunNotice(run, gone.peer, "00", settings, (member,)))
        with trio.fail_after(20):
            while host.taking or not said[1:]:  # noqa: ASYNC110 - a board is looked at
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
    assert said[1].startswith(f"cannot take part in {run}: ")
    newest = RunRecord(system.peer, tmp_path / "runs", said.append).newest()
    assert newest is not None
    assert newest.run == run
