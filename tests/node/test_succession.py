"""What a node's folder is of when a run has a successor."""

from __future__ import annotations

from pathlib import Path

import pytest

from prime.errors import UsageError
from prime.node.succession import (
    JOURNAL,
    FoundSuccessor,
    JoinSuccessor,
    check_successor,
    settled_run,
    succeed,
)
from prime.store.journal import FileJournal
from prime.trainer.round import messages as msg
from prime.trainer.round.records import is_untrained, read_record, run_of, write_record
from prime.trainer.round.view import Member, Value, View, lineage, recovered

ME = Member("me", (), 1.0, 7)
VIEW = View("main", 3, (ME, Member("other", (), 1.0, 8)))


async def write(folder: Path, *records: msg.Record) -> None:
    journal = await FileJournal.open(folder / JOURNAL)
    await journal.replace([write_record(record, []) for record in records])
    journal.close()


async def read(folder: Path) -> list[bytes]:
    journal = await FileJournal.open(folder / JOURNAL)
    journal.close()
    return journal.records()


def decided(view: View = VIEW) -> msg.Decided:
    return msg.Decided(Value(5, 3, b"", (), (), view, 4))


@pytest.mark.parametrize(
    ("run", "found"),
    [("main", ("main", 0)), ("main~2", ("main", 2)), ("a~b", ("a~b", 0)), ("a~b~1", ("a~b", 1)), ("~", ("~", 0))],
)
def test_a_run_and_its_successors_have_one_name(run: str, found: tuple[str, int]) -> None:
    assert lineage(run) == found


@pytest.mark.parametrize("new", ["main", "other~1", "main~0", ""])
def test_only_a_successor_is_joined_as_new(new: str) -> None:
    with pytest.raises(UsageError, match="does not succeed") as caught:
        check_successor("main", new)
    assert "main~1" in caught.value.hint
    check_successor("main", "main~1")
    check_successor("main~1", "main~4")


async def test_a_survivor_goes_on_in_the_successor_that_it_founded(tmp_path: Path) -> None:
    await write(tmp_path, msg.Born(ME), decided())
    assert await settled_run(tmp_path, "main") == "main"
    view = recovered(VIEW, [ME])
    assert (view.run, view.epoch, view.peers()) == ("main~1", 4, ("me",))
    await succeed(tmp_path, FoundSuccessor(view.run, (msg.Born(ME), msg.Entered(6, view, 4))))
    assert await settled_run(tmp_path, "main") == "main~1"
    records = await read(tmp_path)
    assert [type(read_record(data)[0]) for data in records] == [msg.Born, msg.Entered]
    assert run_of(records) == "main~1"
    assert not is_untrained(records), "its founder does not begin anew"
    assert is_untrained([write_record(msg.Born(ME), [])])


async def test_a_member_that_joins_the_successor_as_new_sets_aside_what_it_had(tmp_path: Path) -> None:
    await write(tmp_path, msg.Born(ME), decided())
    (tmp_path / "states").mkdir()
    await succeed(tmp_path, JoinSuccessor("main~1"))
    for _ in range(2):
        assert await settled_run(tmp_path, "main") == "main~1"
        assert await read(tmp_path) == []
        assert not (tmp_path / "states").exists()
    assert (tmp_path / "states.main").is_dir()
    assert (tmp_path / f"{JOURNAL}.main").exists()
    await write(tmp_path, msg.Born(ME), decided(recovered(VIEW, [ME])))
    assert await settled_run(tmp_path, "main") == "main~1"
    assert run_of(await read(tmp_path)) == "main~1"


async def test_another_run_takes_no_folder_that_is_not_its_own(tmp_path: Path) -> None:
    await write(tmp_path, msg.Born(ME), decided())
    assert await settled_run(tmp_path, "other") == "other"
    assert run_of(await read(tmp_path)) == "main"  # the round's core refuses it, and says what to do
