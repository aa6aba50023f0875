"""A run's checkpoints: the one class through which they are saved, loaded, listed, verified and rolled back.

What reads and moves folders needs no torch; `save`, `load` and `export` load it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from prime.errors import ConflictError, NotFoundError
from prime.store.files import Files, SystemFiles, Work, finish
from prime.trainer.checkpoint import folders, retention
from prime.trainer.checkpoint.faults import damaged, refused
from prime.trainer.checkpoint.folders import Checkpoint, Damage
from prime.trainer.checkpoint.manifest import About, Manifest
from prime.trainer.checkpoint.retention import Retention

if TYPE_CHECKING:
    from prime.trainer.checkpoint.saving import Loaded, Saving

T = TypeVar("T")
LOCK_NAME = "writer.lock"


class Checkpoints:
    """The folder of a run's checkpoints.

    One run writes to a folder at a time. `save` and `load` are called by every rank alike, in the thread that trains;
    the other calls by anyone. `clock` gives seconds since 1970. All raise `WorldError` where the disk refuses.
    """

    def __init__(
        self,
        folder: Path,
        rules: Retention | None = None,
        *,
        files: Files | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.folder = folder
        self.retention = Retention() if rules is None else rules
        self.files = SystemFiles() if files is None else files
        self.clock = clock
        self.copies: dict[str, Any] = {}
        """The host's copy of the last state that was saved in the background: the next one takes its place."""
        self._saving: Saving | None = None
        self._lock: int | None = None
        self._group: Any = None

    def look(self) -> Sequence[Checkpoint]:
        """Return every folder, by step: also the damaged ones, drafts, and what was moved aside."""
        return self._do(lambda: folders.look(self.files, self.folder))

    def list(self) -> Sequence[Checkpoint]:
        """Return the run's checkpoints by step, the damaged ones too (`is_whole` tells)."""
        return folders.counting(self.look())

    def newest_whole(self, *, verify: bool = False) -> Checkpoint | None:
        """Return the newest checkpoint whose about file is sound and whose files have their lengths; `None` if none.

        With `verify` the bytes of all its files must have their hashes too, which takes a pass over them, else an older
        one is taken. A load checks the hashes anyway, of what it reads.
        """
        for one in reversed(self.list()):
            if one.is_whole and not (verify and self._damages(one)):
                return one
        return None

    def verify(self, step: int) -> Sequence[Damage]:
        """Read all files of a checkpoint and return what is wrong with them; raises `NotFoundError`."""
        return self._damages(self.at(step))

    def at(self, step: int | None = None) -> Checkpoint:
        """Return the checkpoint of a step, damaged or not, or the newest whole one; raises `NotFoundError`."""
        there = self.list()
        if step is None:
            found = next((one for one in reversed(there) if one.is_whole), None)
        else:
            found = next((one for one in there if one.step == step), None)
        if found is None:
            raise NotFoundError(
                f"{self.folder}: " + ("no checkpoint is whole" if step is None else f"no step {step}"),
                hint=f"these are there: {', '.join(str(one.step) for one in there) or 'none'}",
            )
        return found

    def roll_back(self, step: int) -> Sequence[int]:
        """Make an older checkpoint the newest: the later ones are moved aside. Return their steps.

        Raises `NotFoundError` and `CorruptedError` unless that one is whole, every byte of it, and `ConflictError`
        while a run writes here.
        """
        with self._alone():
            if damages := self.verify(step):
                raise damaged(self.at(step).path, damages)
            return self._do(lambda: folders.roll_back(self.files, self.folder, step))

    def undo_roll_back(self) -> Sequence[int]:
        """Put back what the last roll back moved aside, and return its steps.

        Raises `NotFoundError` where nothing is aside, and `ConflictError` where the run has saved those steps again.
        """
        with self._alone():
            return self._do(lambda: folders.undo(self.files, self.folder))

    def save(self, step: int, state: dict[str, Any], about: About, *, wait: bool = True) -> Saving:
        """Save the state of all ranks after a step; every rank calls this alike.

        `state`: dictionaries and lists of tensors (DTensors too), numbers and text; what is under "model" is what
        `export` gives away, what is under "rank" (dictionaries of text keys) is each rank's own. With `wait` the checkpoint counts when this
        returns. Without, the state is copied to the host and written beside the training: one save is in flight at a
        time, so this waits for the one before. Raises `WorldError` (disk full: the last good checkpoint stays), on all
        ranks alike; of a save in flight, in the next call of `save` or `settle`.
        """
        from prime.trainer.checkpoint import saving

        self.settle()
        current = saving.begin(self, step, state, about, in_background=not wait)
        self._saving = current
        if wait:
            self.settle()
        return current

    def settle(self) -> None:
        """Wait until no save is in flight, and raise what the last one failed with."""
        current, self._saving = self._saving, None
        if current is not None:
            current.result()

    def load(self, step: int, state: dict[str, Any], *, verify: bool = True) -> Loaded:
        """Put a checkpoint into a state of the same form, in place, on any number of ranks; every rank calls this.

        What is under "rank" is as this rank saved it, on the host, whatever stood there before; on another number of
        ranks than at the save it stays as it is, and `Loaded.dropped` says what was not loaded.
        With `verify`, each rank checks the hashes of the files that it reads before it takes anything out of them.
        Raises `NotFoundError`, `CorruptedError`, and `ConfigError` for the state of another model, on all ranks alike.
        """
        from prime.trainer.checkpoint import saving

        return saving.load(self, step, state, verify=verify)

    def export(self, step: int | None, path: Path) -> Manifest:
        """Write the model of a checkpoint (the newest whole one for `None`) to one safetensors file, and JSON beside it.

        Raises `NotFoundError`, `CorruptedError`.
        """
        from prime.trainer.checkpoint import exchange

        with self._errors():
            return exchange.export(self.at(step), path, self.files)

    def apply_retention(self) -> Sequence[int]:
        """Delete what no rule holds, oldest first, and return those steps."""
        whole = {one.step: one for one in self.list() if one.manifest is not None}
        saved = [retention.Saved(step, one.manifest.saved_at_s) for step, one in whole.items() if one.manifest]
        decisions = retention.decide(saved, self.retention, self.clock())
        gone = sorted(command.step for command in decisions if isinstance(command, retention.Delete))
        for step in gone:
            self._do(partial(folders.discard, self.files, whole[step].path))
        return gone

    def group(self, make: Callable[[], T]) -> T:
        """Return what saves and loads meet over, made once: over the group that trains they would disturb it."""
        if self._group is None:
            self._group = make()
        group: T = self._group
        return group

    def hold(self) -> None:
        """Keep other processes' writers out of the folder until `close`, or the end of this one.

        Raises `ConflictError` where another one holds it.
        """
        if self._lock is not None:
            return
        with self._errors():
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            handle = os.open(self.folder / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)  # not flock: a forked loader of data would keep it
            except (BlockingIOError, PermissionError) as error:
                os.close(handle)
                raise ConflictError(
                    f"{self.folder}: a run writes its checkpoints here", hint="stop that run first, or wait for its end"
                ) from error
        self._lock = handle

    def close(self) -> None:
        """Wait for a save in flight, raise what it failed with, and let other writers in."""
        try:
            self.settle()
        finally:
            self.copies = {}
            handle, self._lock = self._lock, None
            if handle is not None:
                os.close(handle)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        is_new = self._lock is None
        self.hold()
        try:
            yield
        finally:
            if is_new:
                self.close()

    def _damages(self, one: Checkpoint) -> Sequence[Damage]:
        return self._do(lambda: folders.verify(self.files, one.path))

    def _do(self, start: Callable[[], Work[T]]) -> T:
        with self._errors():
            return finish(start)

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise refused(self.folder, error) from error
