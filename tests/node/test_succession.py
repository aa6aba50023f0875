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
from prime.trainer.round.names import base_name, lineage
from prime.trainer.round.records import is_untrained, read_record, run_of, write_record
from prime.trainer.round.view import Member, Value, View, recovered

ME = Member("me", (), 1.0, 7)
ONE, OTHER = "main~1-00c0ffee", "main~1-0decade0"
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
    [
        ("main", ("main", 0)),
        ("main~2-00c0ffee", ("main", 2)),
        ("hello@0a94e94131d5~1-00c0ffee", ("hello@0a94e94131d5", 1)),
        ("main~2", ("main~2", 0)),
        ("main~2-short", ("main~2-short", 0)),
        ("a~b~1-00c0ffee", ("a~b", 1)),
        ("~", ("~", 0)),
    ],
)
def test_a_run_and_its_successors_have_one_name(run: str, found: tuple[str, int]) -> None:
    assert lineage(run) == found


@pytest.mark.parametrize("new", ["main", "other~1-00c0ffee", "main~0-00c0ffee", "main~1", ""])
def test_only_a_successor_is_joined_as_new(new: str) -> None:
    with pytest.raises(UsageError, match="does not succeed") as caught:
        check_successor("main", new)
    assert "main~1-" in caught.value.hint
    check_successor("main", ONE)
    check_successor(ONE, "main~4-00c0ffee")
    check_successor(ONE, OTHER)
    with pytest.raises(UsageError, match="does not succeed"):
        check_successor(ONE, ONE)


def test_what_a_user_calls_a_run_is_its_name_alone() -> None:
    assert [base_name(run) for run in ("main", ONE, "hello@0a94e94131d5", "hello@0a94e94131d5~2-00c0ffee")] == [
        *("main", "main", "hello", "hello")
    ]


async def test_of_two_successors_of_one_number_the_one_that_was_named_last_is_joined(tmp_path: Path) -> None:
    await write(tmp_path, msg.Born(ME), msg.Entered(6, View(ONE, 4, (ME,)), 4))
    assert await settled_run(tmp_path, "main") == ONE
    await succeed(tmp_path, JoinSuccessor(OTHER))
    assert await settled_run(tmp_path, "main") == OTHER
    assert (tmp_path / f"{JOURNAL}.{ONE}").exists()


async def test_a_survivor_goes_on_in_the_successor_that_it_founded(tmp_path: Path) -> None:
    await write(tmp_path, msg.Born(ME), decided())
    assert await settled_run(tmp_path, "main") == "main"
    view = recovered(VIEW, [ME])
    assert (lineage(view.run), view.epoch, view.peers()) == (("main", 1), 4, ("me",))
    await succeed(tmp_path, FoundSuccessor(view.run, (msg.Born(ME), msg.Entered(6, view, 4))))
    assert await settled_run(tmp_path, "main") == view.run
    records = await read(tmp_path)
    assert [type(read_record(data)[0]) for data in records] == [msg.Born, msg.Entered]
    assert run_of(records) == view.run
    assert not is_untrained(records), "its founder does not begin anew"
    assert is_untrained([write_record(msg.Born(ME), [])])


async def test_a_member_that_joins_the_successor_as_new_sets_aside_what_it_had(tmp_path: Path) -> None:
    await write(tmp_path, msg.Born(ME), decided())
    (tmp_path / "states").mkdir()
    await succeed(tmp_path, JoinSuccessor(ONE))
    for _ in range(2):
        assert await settled_run(tmp_path, "main") == ONE
        assert await read(tmp_path) == []
        assert not (tmp_path / "states").exists()
    assert (tmp_path / "states.main").is_dir()
    assert (tmp_path / f"{JOURNAL}.main").exists()
    await write(tmp_path, msg.Born(ME), decided(View(ONE, 4, (ME,))))
    assert await settled_run(tmp_path, "main") == ONE
    assert run_of(await read(tmp_path)) == ONE


async def test_another_run_takes_no_folder_that_is_not_its_own(tmp_path: Path) -> None:
    await write(tmp_path, msg.Born(ME), decided())
    assert await settled_run(tmp_path, "other") == "other"
    assert run_of(await read(tmp_path)) == "main"  # the round's core refuses it, and says what to do
