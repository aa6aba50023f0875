"""What a node keeps on its disk of the run that it is in, so that it goes on in it when it is started again.

The record names the run, its settings, and where its members were when they were last heard: whoever comes back has to find
one of them.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

import attrs
import trio

from prime.errors import ConfigError, PrimeError
from prime.node.ending import drop_wish
from prime.node.run_files import RECORD, run_folder
from prime.node.succession import JOURNAL
from prime.store.files import put_text
from prime.store.journal import spool_of
from prime.trainer.metadata import TrainingConfig
from prime.trainer.runs.members import within_reach
from prime.trainer.runs.messages import RunMember, RunNotice
from prime.trainer.swarm.saved import STATES_FOLDER


class RunRecord:
    """The record of one run at a time that the node `peer` is in, among the folders of all runs in `folder`.

    A disk that does not take a record keeps the node from a run that it has not begun; later it is told of by `complain`,
    and ends nothing.
    """

    def __init__(self, peer: str, folder: Path, complain: Callable[[str], None]) -> None:
        self.run = ""
        """The run that is recorded now, or an empty text."""
        self._peer = peer
        self._folder = folder
        self._complain = complain
        self._members: dict[str, RunMember] = {}
        self._disk = trio.Lock()

    def newest(self) -> RunNotice | None:
        """Return the run that this node was in when it was last stopped, if it was in one."""
        files = sorted(self._folder.glob(f"*/{RECORD}"), key=lambda file: -file.stat().st_mtime)
        return next((notice for notice in map(_read, files) if notice is not None), None)

    def members(self, others: Iterable[RunMember]) -> list[RunMember]:
        """Return the members that can be dialled: `others` as they are heard now, the rest as the record has them."""
        return within_reach({**self._members, **{member.peer: member for member in others}}.values())

    async def open(self, notice: RunNotice) -> None:
        """Note that this node is in a run. Raises `ConfigError` where the disk does not take it."""
        self.run = notice.run
        self._members = {member.peer: member for member in notice.members if member.peer != self._peer}
        await self._keep(notice, over=False)

    async def refresh(self, notice: RunNotice, others: Iterable[RunMember]) -> None:
        """Note where the members of the recorded run are now, if any has moved."""
        found = {member.peer: member for member in self.members(others)}
        if notice.run == self.run and _places(found) != _places(self._members):
            self._members = found
            await self._try_to_keep(attrs.evolve(notice, members=tuple(found.values())), over=False)  # type: ignore[misc]  # a @record

    async def succeed(self, notice: RunNotice) -> None:
        """Note that this node goes on in the recorded run's successor."""
        self.run, self._members = notice.run, {}
        await self._try_to_keep(notice, over=False)

    def close(self) -> None:
        """Refresh no more: this node is out of the run."""
        self.run, self._members = "", {}

    async def end(self, notice: RunNotice) -> bool:
        """Note that this node does not go on in a run; tell whether the disk took that."""
        return await self._try_to_keep(notice, over=True)

    async def _try_to_keep(self, notice: RunNotice, *, over: bool) -> bool:
        try:
            await self._keep(notice, over=over)
        except ConfigError as error:
            self._complain(str(error))
            return False
        return True

    async def _keep(self, notice: RunNotice, *, over: bool) -> None:
        contacts = [attrs.asdict(member) for member in notice.members]  # type: ignore[arg-type]  # a @record
        found = {"peer": self._peer, "run": notice.run, "founder": notice.founder, "nonce": notice.nonce, "over": over}
        settings = attrs.asdict(notice.settings)  # type: ignore[arg-type]  # as above
        text = json.dumps({**found, "settings": settings, "members": contacts}, indent=2)
        async with self._disk:
            if over or self.run == notice.run:
                await trio.to_thread.run_sync(_write, run_folder(self._folder, notice.run), text)


def remove_working_files(folder: Path) -> None:
    """Remove what a member needs as long as a run goes on: its journal, its states, a wish for its end. Blocks."""
    with contextlib.suppress(OSError):
        (folder / JOURNAL).unlink(missing_ok=True)
    drop_wish(folder)
    for each in (spool_of(folder / JOURNAL), folder / STATES_FOLDER):
        shutil.rmtree(each, ignore_errors=True)


def _places(members: dict[str, RunMember]) -> dict[str, tuple[str, ...]]:
    return {peer: member.addresses for peer, member in members.items()}


def _write(folder: Path, text: str) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        put_text(folder / RECORD, text + "\n")
    except OSError as error:
        raise ConfigError(
            f"{folder}: cannot be written ({error.strerror})",
            hint="node.state_dir names a folder that you may write to",
        ) from error


def _read(file: Path) -> RunNotice | None:
    """Return the run of a record, unless it is over, or the record is none."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        if found["over"]:
            return None
        members = tuple(RunMember(**{**member, "addresses": tuple(member["addresses"])}) for member in found["members"])
        settings = TrainingConfig(**found["settings"])
        return RunNotice(found["run"], found["founder"], found["nonce"], settings, members)
    except (OSError, ValueError, LookupError, TypeError, PrimeError):
        return None
