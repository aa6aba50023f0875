"""The record by which a node that is started again goes on in its run."""

from __future__ import annotations

from pathlib import Path

import attrs

from prime.node.run_record import RECORD, RunRecord
from prime.trainer.metadata import TrainingConfig
from prime.trainer.runs.messages import RunMember, RunNotice


def member(peer: str, address: str, stamp_ms: int = 1) -> RunMember:
    return RunMember(peer, "", (address,), "member", "", 0, stamp_ms)


NOTICE = RunNotice("run@0a", "F", "00", TrainingConfig(), (member("me", "/me"), member("a", "/a1")))


def moved(address: str) -> list[RunMember]:
    return [member("a", address, 2)]


def record_in(folder: Path, complaints: list[str] | None = None) -> RunRecord:
    return RunRecord("me", folder, ([] if complaints is None else complaints).append)


async def test_a_node_goes_on_in_the_run_with_the_members_that_were_heard_last(tmp_path: Path) -> None:
    record = record_in(tmp_path)
    assert record.newest() is None
    await record.open(NOTICE)
    assert record_in(tmp_path).newest() == NOTICE
    await record.refresh(NOTICE, moved("/a2"))
    found = record_in(tmp_path).newest()
    assert found is not None
    assert [each.addresses for each in found.members] == [("/a2",)]
    await record.end(NOTICE)
    assert record_in(tmp_path).newest() is None


async def test_a_file_is_written_again_only_where_somebody_moved(tmp_path: Path) -> None:
    record = record_in(tmp_path)
    await record.open(NOTICE)
    file = tmp_path / NOTICE.run / RECORD
    file.unlink()
    await record.refresh(NOTICE, moved("/a1"))
    await record.refresh(NOTICE, [])  # nobody is heard: the record has them
    assert not file.exists()
    await record.refresh(NOTICE, moved("/a2"))
    assert file.exists()


async def test_what_is_over_is_not_brought_back_by_news_of_a_member(tmp_path: Path) -> None:
    record = record_in(tmp_path)
    await record.open(NOTICE)
    record.close()
    await record.end(NOTICE)
    await record.refresh(NOTICE, moved("/a2"))
    assert record.newest() is None
    assert record.members([]) == []


async def test_a_successor_takes_the_place_of_its_run(tmp_path: Path) -> None:
    record = record_in(tmp_path)
    await record.open(NOTICE)
    successor = attrs.evolve(NOTICE, run="run@0a~1-0123abcd", members=())  # type: ignore[misc]  # a @record
    await record.succeed(successor)
    assert record.newest() == successor
    assert record.run == successor.run


async def test_a_disk_that_refuses_later_is_told_of_and_a_broken_record_is_none(tmp_path: Path) -> None:
    complaints: list[str] = []
    record = record_in(tmp_path, complaints)
    await record.open(NOTICE)
    folder = tmp_path / NOTICE.run
    (folder / RECORD).write_text("{")
    assert record.newest() is None
    (folder / RECORD).unlink()
    folder.rmdir()
    folder.write_text("a file, where the folder should be")
    await record.end(NOTICE)
    assert len(complaints) == 1
    assert "cannot be written" in complaints[0]
