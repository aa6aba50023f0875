"""The successor of a run: the operator's only way on when a majority of the members is gone for good.

`main~1-5f0c1a9b` succeeds `main`. A survivor founds it, alone, from the state that it holds, under a new view epoch; members of
`main` refuse it, and it them, until they join it as new members. Nobody guesses it: a partition looks the same as a death.

A node's folder is of one run at a time, whatever its configuration calls it: what is there of an earlier one is set aside.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Final
from urllib.parse import quote

import attrs
import trio

from prime.errors import UsageError
from prime.store.files import disk_errors, put_text
from prime.store.journal import FileJournal, spool_of
from prime.trainer.round import messages as msg
from prime.trainer.round.names import lineage
from prime.trainer.round.records import run_of, write_record
from prime.trainer.swarm.saved import STATES_FOLDER

JOURNAL: Final = "rounds.journal"
_CHOSEN: Final = "successor"
"""The file that names the successor which this node was told to join as new, until its journal does."""


@attrs.frozen
class FoundSuccessor:
    """Found a run's successor from here: what the new journal begins with."""

    run: str
    records: Sequence[msg.Record]


@attrs.frozen
class JoinSuccessor:
    """Join a run's successor as a new member."""

    run: str


Succession = FoundSuccessor | JoinSuccessor


def check_successor(old: str, new: str) -> None:
    """Raise `UsageError` unless `new` succeeds what `old` does: a later run, or another survivor's of the same number."""
    name, number = lineage(old)
    if new == old or lineage(new)[0] != name or lineage(new)[1] < max(number, 1):
        raise UsageError(
            f"{new!r} does not succeed the run {old!r}, which this node is in",
            hint=f"a successor is called {name}~{number + 1}-… or higher; `prime train status` on a node that is in it says",
        )


async def succeed(folder: Path, order: Succession) -> None:
    """Make a node's folder one of a run's successor; no process may use it meanwhile."""
    if isinstance(order, JoinSuccessor):
        await trio.to_thread.run_sync(_choose, folder, order.run)
        return
    journal = await FileJournal.open(folder / JOURNAL)
    with contextlib.closing(journal):
        await journal.replace([write_record(record, []) for record in order.records])


async def settled_run(folder: Path, run: str) -> str:
    """Return the run that a node's folder is of: `run`, or a successor that it founded or was told to join.

    What is there of an earlier run of the same name is set aside. Raises `CorruptedError` and `WorldError` for a journal
    that cannot be read.
    """
    journal = await FileJournal.open(folder / JOURNAL)
    with contextlib.closing(journal):
        known = run_of(journal.records())
    chosen = await trio.to_thread.run_sync(_chosen, folder)
    own = lineage(run)[0]
    # of several with one number the one that this node was told of last: by an order, by its configuration, by its journal
    fitting = (each for each in (chosen, run, known) if each and lineage(each)[0] == own)
    newest = max(fitting, key=lambda each: lineage(each)[1], default=run)
    if known and known != newest and lineage(known)[0] == own:
        await trio.to_thread.run_sync(_set_aside, folder, known)
    return newest


def _choose(folder: Path, run: str) -> None:
    with disk_errors(folder, "node.state_dir names a folder of your own"):
        put_text(folder / _CHOSEN, run)


def _chosen(folder: Path) -> str:
    try:
        return (folder / _CHOSEN).read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return ""


def _set_aside(folder: Path, run: str) -> None:
    """Rename what an earlier run left: its states first, as they count only beside its journal."""
    with disk_errors(folder, "node.state_dir names a folder of your own"):
        if (folder / STATES_FOLDER).exists():
            (folder / STATES_FOLDER).rename(_free(folder / f"{STATES_FOLDER}.{quote(run, safe='~@')}"))
        if (folder / JOURNAL).exists():
            aside = _free(folder / f"{JOURNAL}.{quote(run, safe='~@')}")
            (folder / JOURNAL).rename(aside)
            if spool_of(folder / JOURNAL).exists():
                spool_of(folder / JOURNAL).rename(_free(spool_of(aside)))


def _free(path: Path) -> Path:
    names = itertools.chain([path], (path.with_name(f"{path.name}.{number}") for number in itertools.count(2)))
    return next(each for each in names if not each.exists())
