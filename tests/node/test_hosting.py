"""What a node does about runs: where its own disk is in the way, nobody answers, and while a run begins."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio
import trio.testing

from prime.actor import Actor, Mailbox, on
from prime.config import Config
from prime.errors import ConfigError
from prime.node import notices, training
from prime.node.ending import WISH, is_wished
from prime.node.hosted import HostedRun
from prime.node.hosting import RunHost
from prime.node.run_record import RunRecord
from prime.node.succession import JOURNAL
from prime.node.system import open_system
from prime.node.training import Training
from prime.store.journal import MemoryJournal
from prime.trainer.metadata import TrainingConfig
from prime.trainer.round.timing import Timing
from prime.trainer.round.view import Member
from prime.trainer.runs.messages import RunMember, RunNotice, run_name
from prime.trainer.swarm.membership import SwarmPlan
from prime.trainer.swarm.plans import EndSwarm
from prime.trainer.swarm.saved import STATES_FOLDER
from prime.trainer.swarm.trainer import RunDone
from prime.transport.memory import Memory


@contextlib.asynccontextmanager
async def hosting(state: Path, said: list[str], hub: Memory | None = None) -> AsyncIterator[tuple[RunHost, str]]:
    """Serve runs at a node whose folder is `state`, and which says to its person what then is in `said`; yield its peer too."""
    found: Any = SimpleNamespace(state=state)
    async with open_system(transport=hub or Memory()) as system, trio.open_nursery() as nursery:
        host = RunHost(system, Config(), found, said.append, trio.Event())
        nursery.start_soon(lambda: host.serve(own=False, contacts=()))
        await trio.testing.wait_all_tasks_blocked()
        yield host, system.peer
        nursery.cancel_scope.cancel()


async def notice_of_one_gone(hub: Memory) -> RunNotice:
    """Return what a node that is there no more would have told of its run."""
    settings = TrainingConfig(nodes_min=2)
    async with open_system(transport=hub) as gone:
        member = RunMember(gone.peer, "gone", tuple(gone.addresses), "member", "", 0, 1)
        return RunNotice(run_name("run", gone.peer, "00", settings), gone.peer, "00", settings, (member,))


async def test_a_disk_that_takes_no_record_keeps_the_node_from_the_run_and_ends_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file, where the folder should be")
    said: list[str] = []
    async with hosting(tmp_path / "state", said) as (host, _):
        run = host.submit("one", TrainingConfig(nodes_min=1)).run
        with trio.fail_after(10):
            while host.taking or not said[1:]:  # noqa: ASYNC110 - a board is looked at
                await trio.sleep(0.01)
        assert said[1].startswith(f"cannot take part in {run}: ")
        assert "cannot be written" in said[1]
        assert host.submit("two", TrainingConfig(nodes_min=1)).run.startswith("two@")


async def test_a_run_can_be_left_and_called_off_before_it_has_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def open_slowly(*_: Any) -> None:
        await trio.sleep_forever()

    monkeypatch.setattr(RunRecord, "open", open_slowly)
    async with hosting(tmp_path, []) as (host, _):
        run = host.submit("one", TrainingConfig(nodes_min=1)).run
        await trio.testing.wait_all_tasks_blocked()
        assert host.training is None
        assert host.leave("one") == run
        ending = await host.end("one")
        assert (ending.run, ending.called_off) == (run, True)


async def test_a_run_whose_members_did_not_answer_is_gone_on_with_at_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "DIAL_DEADLINE_S", 0.0)
    hub, said = Memory(), list[str]()
    notice = await notice_of_one_gone(hub)
    async with hosting(tmp_path, said, hub) as (host, peer):
        host.hear(notice.founder, notice)
        with trio.fail_after(20):
            while host.taking or not said[1:]:  # noqa: ASYNC110 - a board is looked at
                await trio.sleep(0.01)
    assert said[1].startswith(f"cannot take part in {notice.run}: ")
    newest = RunRecord(peer, tmp_path / "runs", said.append).newest()
    assert newest is not None
    assert newest.run == notice.run


async def test_a_run_that_is_left_while_its_members_are_looked_for_is_not_taken_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "DIAL_DEADLINE_S", 0.5)
    hub, said = Memory(), list[str]()
    notice = await notice_of_one_gone(hub)
    async with hosting(tmp_path, said, hub) as (host, peer):
        host.hear(notice.founder, notice)
        with trio.fail_after(20):
            while host.training is None and not said:  # noqa: ASYNC110 - a board is looked at
                await trio.sleep(0.01)
            assert host.leave("run") == notice.run
            while host.taking:  # noqa: ASYNC110 - as above
                await trio.sleep(0.01)
        own = next(m for each in host.known().runs for m in each.members if m.peer == peer)
    assert (own.standing, said) == ("left", [f"takes part in the run {notice.run}"])
    assert RunRecord(peer, tmp_path / "runs", said.append).newest() is None


async def test_what_is_heard_of_runs_when_the_node_has_stopped_is_told_to_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notices, "linked_peers", lambda _: ("another",))
    hub = Memory()
    notice = await notice_of_one_gone(hub)
    async with hosting(tmp_path, [], hub) as (host, _):
        pass
    host.hear(notice.founder, notice)
    assert [known.run for known in host.known().runs] == [notice.run]


@pytest.mark.parametrize("takes", [True, False], ids=["noted", "refused"])
async def test_a_run_that_is_done_is_over_also_for_a_node_that_stops_while_others_need_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, takes: bool
) -> None:
    async def train(hosted: Any, _: Any, stop: trio.Event) -> None:
        if takes:
            await hosted._record.open(hosted._notice)
        hosted._stand("done", "", 3)
        stop.set()

    async def refuse(*_: Any, **__: Any) -> None:
        raise ConfigError("the disk is full")

    monkeypatch.setattr(HostedRun, "train", train)
    monkeypatch.setattr(RunRecord, "_keep", RunRecord._keep if takes else refuse)
    found: Any = SimpleNamespace(state=tmp_path)
    async with open_system(transport=Memory()) as system, trio.open_nursery() as nursery:
        host = RunHost(system, Config(), found, lambda _: None, trio.Event())
        with trio.fail_after(20):
            nursery.start_soon(lambda: host.serve(own=False, contacts=()))
            await trio.testing.wait_all_tasks_blocked()
            run = host.submit("one", TrainingConfig(nodes_min=1)).run
            kept = [
                tmp_path / "runs" / run / name for name in (JOURNAL, f"{JOURNAL}.spool/1", f"{STATES_FOLDER}/1", WISH)
            ]
            for file in kept:
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text("")
            while host.taking:  # noqa: ASYNC110 - a board is looked at
                await trio.sleep(0.01)
    assert RunRecord("me", tmp_path / "runs", lambda _: None).newest() is None
    assert [file.exists() for file in kept] == 4 * [not takes]


async def test_a_wish_for_the_end_is_forgotten_once_the_run_has_ended(tmp_path: Path) -> None:
    async with open_system(transport=Memory()) as system, trio.open_nursery() as nursery:
        plan = SwarmPlan("main", Member(system.peer, (), 1.0, 1), True, (), 1, Timing())
        subject = Training(system, TrainingConfig(), plan, MemoryJournal(), tmp_path)
        nursery.start_soon(subject.forget_wish)
        await subject.end()
        assert is_wished(tmp_path, "main")
        subject.observe(RunDone(3, 1.0, ""))
        with trio.fail_after(10):
            while is_wished(tmp_path, "main"):  # noqa: ASYNC110 - a disk is looked at
                await trio.sleep(0.01)
        await subject.end()
        assert not is_wished(tmp_path, "main")


async def test_a_run_of_which_no_member_can_be_reached_is_not_founded_a_second_time(tmp_path: Path) -> None:
    settings, said = TrainingConfig(nodes_min=1), list[str]()
    run = run_name("run", "F", "00", settings)
    notice = RunNotice(run, "F", "00", settings, (RunMember("F", "hidden", (), "member", "", 0, 1),))
    found: Any = SimpleNamespace(state=tmp_path)
    async with open_system(transport=Memory()) as system, trio.open_nursery() as nursery:
        host = RunHost(system, Config(), found, said.append, trio.Event())
        nursery.start_soon(lambda: host.serve(own=False, contacts=()))
        await trio.testing.wait_all_tasks_blocked()
        host.hear("who passes it on", notice)
        with trio.fail_after(20):
            while host.taking:
                assert host.training is None
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
    assert said[1].startswith(f"cannot take part in {run}: no member of {run} says an address")


class Waiting(Actor[EndSwarm]):
    """In the place of an aggregator that waits for its disk."""

    @on(EndSwarm)
    async def end(self, _: EndSwarm) -> None:
        await trio.sleep_forever()


async def test_a_wish_for_the_end_is_kept_also_where_the_aggregator_takes_no_more_messages(tmp_path: Path) -> None:
    async with open_system(transport=Memory()) as system, system.supervisor("train") as sup:
        await sup.spawn(Waiting, "aggregator", mailbox=Mailbox(1), shutdown=0.0)
        plan = SwarmPlan("main", Member(system.peer, (), 1.0, 1), True, (), 1, Timing())
        subject = Training(system, TrainingConfig(), plan, MemoryJournal(), tmp_path)
        for _ in range(3):
            (tmp_path / WISH).unlink(missing_ok=True)
            await subject.end()
            assert is_wished(tmp_path, "main")
