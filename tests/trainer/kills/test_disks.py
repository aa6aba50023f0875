"""A member whose disk is full while it votes: the others go on without it, and it goes on with them once there is room."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

import pytest
import trio

sys.path.insert(0, str(Path(__file__).parent))
from disks import fill, needs_mounts, small_disk  # type: ignore[import-not-found]
from swarm import TRIES_MAX, Swarm, running  # type: ignore[import-not-found]

from prime.store.journal import FileJournal
from prime.trainer.round import messages as msg
from prime.trainer.round.records import read_record

pytestmark = needs_mounts
DISK_BYTES = 64 << 20
FULL = 2


def votes(journal: Path) -> dict[int, msg.Accepted]:
    """Read all of a journal, staged bytes too, and return the votes in it by round."""

    async def read() -> list[bytes]:
        found = await FileJournal.open(journal)
        try:
            return found.records()
        finally:
            found.close()

    records = [read_record(data)[0] for data in trio.run(read)]
    return {record.round: record for record in records if isinstance(record, msg.Accepted)}


def refused(swarm: Swarm) -> None:
    """Run rounds that the others end until the disk of one refuses its vote, which it must say.

    The others may end one before it came to vote, and what a decision takes may still fit on its last page.
    """
    full = swarm.members[FULL]
    for _ in range(TRIES_MAX):
        swarm.until(lambda: len(swarm.ready()) >= 2)
        swarm.contribute(swarm.ready())
        assert swarm.decided(swarm.alive(FULL))[0]["committed"]
        with contextlib.suppress(AssertionError):
            swarm.until(lambda: full.last("stalled") is not None, 2.0)
        if (told := full.last("stalled")) is not None:
            assert "No space left on device" in told["reason"] and "free space" in told["hint"]
            assert full.last("voted", round=told["round"]) is None
            return
    raise AssertionError(f"the disk refused nothing in {TRIES_MAX} rounds\n{swarm.story()}")


def check_votes(swarm: Swarm, disk: Path) -> None:
    """All that the member voted for is in its journal, and nothing there is damaged."""
    member = swarm.members[FULL]
    member.end()
    told = {told["round"] for told in member.told if told["kind"] == "voted"}
    assert told <= votes(disk / "journal").keys()


def test_a_full_disk_costs_its_member_no_vote_and_the_others_nothing(tmp_path: Path) -> None:
    with small_disk(tmp_path / str(FULL), DISK_BYTES) as disk, running(tmp_path, 3, spooled=True) as swarm:
        filler = fill(disk)
        refused(swarm)
        swarm.run_round()
        filler.unlink()
        swarm.heard(FULL, "resumed")
        swarm.all_in()
        assert len(swarm.states()) == 1
        check_votes(swarm, disk)


@pytest.mark.nightly
@pytest.mark.parametrize("spooled", [False, True], ids=["in one go", "staged"])
def test_who_is_killed_with_a_full_disk_comes_back_with_its_word(tmp_path: Path, spooled: bool) -> None:
    with small_disk(tmp_path / str(FULL), DISK_BYTES) as disk, running(tmp_path, 3, spooled=spooled) as swarm:
        filler = fill(disk)
        refused(swarm)
        swarm.restart(FULL)
        refused(swarm)
        filler.unlink()
        swarm.heard(FULL, "resumed")
        swarm.all_in()
        assert len(swarm.states()) == 1
        check_votes(swarm, disk)
