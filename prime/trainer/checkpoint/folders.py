"""What is done to the folders of checkpoints, as work on a disk: any call may be the last one before a crash.

The order that everything rests on: shards are written and synced in a draft, then the about file, then the draft's
names; from here it counts, and at last it takes its name. What goes is renamed before it is emptied. All names lie in
one folder, so that each step from one state to the next is one rename.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterable, Sequence
from pathlib import Path

import attrs

from prime.errors import ConfigError, ConflictError, CorruptedError, NotFoundError
from prime.store.files import Files, Work, make_folders, write_file
from prime.trainer.checkpoint.manifest import Manifest, Shard, decoded, encoded
from prime.trainer.checkpoint.names import ABOUT_NAME, FolderName, aside_number, parsed
from prime.trainer.checkpoint.shard import hash_of


@attrs.frozen
class Checkpoint:
    """A folder that is there. `manifest` is `None` and `complaint` says why where it does not count."""

    name: FolderName
    path: Path
    manifest: Manifest | None
    complaint: str = ""

    @property
    def step(self) -> int:
        """Return the step after which it was saved."""
        return self.name.step

    @property
    def is_whole(self) -> bool:
        """Tell whether the about file is sound and every file has its length; `verify` reads the bytes too."""
        return self.manifest is not None


@attrs.frozen
class Damage:
    """A file of a checkpoint that is not as it was written, and what is wrong with it."""

    file: str
    complaint: str


def look(files: Files, folder: Path) -> Work[list[Checkpoint]]:
    """Return every folder of checkpoints, by step: whole and damaged ones, drafts, and what was moved aside."""
    names = sorted(filter(None, map(parsed, files.names(folder))))
    found = []
    for name in names:
        found += [(yield from examine(files, folder, name))]
    return found


def counting(found: Iterable[Checkpoint]) -> list[Checkpoint]:
    """Return the checkpoints of the run, by step: a draft that a crash kept from its name stands in for it."""
    best: dict[int, Checkpoint] = {}
    for one in found:
        if one.name.state == "" or (one.name.state == "draft" and one.is_whole):
            known = best.get(one.step)
            if known is None or (one.is_whole and not known.is_whole):
                best[one.step] = one
    return [best[step] for step in sorted(best)]


def examine(files: Files, folder: Path, name: FolderName) -> Work[Checkpoint]:
    """Return one folder and whether it is whole."""
    path = folder / str(name)
    yield
    try:
        manifest = decoded(files.read(path / ABOUT_NAME), str(path / ABOUT_NAME))
        if manifest.step != name.step:
            return Checkpoint(name, path, None, f"its {ABOUT_NAME} is that of step {manifest.step}")
        for file in manifest.files:
            yield
            size_bytes = files.size_bytes(path / file.name)
            if size_bytes != file.size_bytes:
                return Checkpoint(name, path, None, f"{file.name}: {_length(size_bytes, file.size_bytes)}")
    except CorruptedError as error:
        complaint = str(error) if files.has(path / ABOUT_NAME) else f"it has no {ABOUT_NAME}"
        return Checkpoint(name, path, None, complaint)
    except OSError as error:
        return Checkpoint(name, path, None, _unreadable(error))
    return Checkpoint(name, path, manifest)


def verify(files: Files, path: Path, only: Iterable[str] | None = None) -> Work[list[Damage]]:
    """Read a checkpoint's files, or those named, and return what is wrong with them; nothing if all are as written."""
    yield
    try:
        manifest = decoded(files.read(path / ABOUT_NAME), str(path / ABOUT_NAME))
    except CorruptedError as error:
        there = files.has(path / ABOUT_NAME)
        return [Damage(ABOUT_NAME, str(error).partition(f"{ABOUT_NAME}: ")[2] if there else "it is missing")]
    except OSError as error:
        return [Damage(ABOUT_NAME, _unreadable(error))]
    found = []
    for shard in manifest.files:
        if only is None or shard.name in only:
            found.extend((yield from _checked(files, path, shard)))
    return found


def _checked(files: Files, path: Path, shard: Shard) -> Work[list[Damage]]:
    size_bytes = files.size_bytes(path / shard.name)
    if size_bytes != shard.size_bytes:
        return [Damage(shard.name, _length(size_bytes, shard.size_bytes))]
    try:
        sha256 = yield from hash_of(files, path / shard.name)
    except OSError as error:
        return [Damage(shard.name, _unreadable(error))]
    if sha256 != shard.sha256:
        return [Damage(shard.name, f"its SHA-256 is {sha256[:12]}…, not {shard.sha256[:12]}…")]
    return []


def _unreadable(error: OSError) -> str:
    """Return what is wrong with a file by itself, such as a bad sector below it; raise what any other may meet as well."""
    if error.errno not in (errno.EIO, errno.EISDIR, errno.ENOTDIR, errno.ELOOP):
        raise error
    return f"it cannot be read ({error.strerror})"


def _length(found: int | None, wanted: int) -> str:
    return "it is missing" if found is None else f"it has {found} bytes, not {wanted}"


def begin(files: Files, folder: Path, draft: FolderName) -> Work[Path]:
    """Make the folder of a draft, after what earlier ones left is away; one save at a time is in a folder."""
    yield from make_folders(files, folder)
    with contextlib.suppress(OSError):  # what cannot be put away takes room, no more
        yield from tidy(files, folder)
    path = folder / str(draft)
    yield
    files.make_folder(path)
    yield
    files.sync_folder(folder)
    return path


def publish(files: Files, draft: Path, manifest: Manifest) -> Work[Path]:
    """Make a draft count: its shards are on the disk. Return the folder under its name.

    Raises `ConfigError` where a rank wrote to another folder than this one.

    A checkpoint that stands in its place goes once the draft counts, so that one of the two always does.
    """
    for shard in manifest.files:
        yield
        if files.size_bytes(draft / shard.name) != shard.size_bytes:
            raise ConfigError(
                f"{draft / shard.name} is not there as its rank wrote it",
                hint="all ranks must see one folder: on several hosts, put the run's folder on a shared file system",
            )
    yield
    files.sync_folder(draft)
    try:
        yield from write_file(files, draft / ABOUT_NAME, encoded(manifest))
        yield
        files.sync_folder(draft)
    except OSError:
        with contextlib.suppress(OSError):  # what did not come to the disk may look whole from here
            files.remove(draft / ABOUT_NAME)
        raise
    return (yield from _take_place(files, draft.parent, FolderName(manifest.step), draft))


def _take_place(files: Files, folder: Path, name: FolderName, draft: Path) -> Work[Path]:
    target = folder / str(name)
    gone = folder / str(_gone(files, folder, name.step))
    if files.has(target):
        yield
        files.replace(target, gone)
    yield
    files.replace(draft, target)
    yield
    files.sync_folder(folder)
    yield from discard(files, gone)
    return target


def discard(files: Files, path: Path) -> Work[None]:
    """Delete a folder. It loses its name first, so that a crash leaves no checkpoint with half of its files."""
    name = parsed(path.name)
    yield
    if name is None or not files.has(path):
        return
    gone = path if name.state == "gone" else path.with_name(str(_gone(files, path.parent, name.step)))
    if gone != path:
        yield
        files.replace(path, gone)
        yield
        files.sync_folder(path.parent)
    for inside in files.names(gone):
        yield
        files.remove(gone / inside)
    yield
    files.remove_folder(gone)


def discard_draft(files: Files, path: Path) -> Work[None]:
    """Delete a draft that came to nothing; one that counts stays, whatever failed after that: it gets its name later."""
    name = parsed(path.name)
    if name is not None and name.state == "draft" and not (yield from examine(files, path.parent, name)).is_whole:
        yield from discard(files, path)


def tidy(files: Files, folder: Path) -> Work[None]:
    """Put away what crashes left: a draft that counts takes its name, one that does not goes, and so does the rest."""
    for one in (yield from look(files, folder)):
        if one.name.state == "gone" or (one.name.state == "draft" and not one.is_whole):
            yield from discard(files, one.path)
        elif one.name.state == "draft":
            yield from _sync(files, one.path)  # who wrote it may have ended before it could do this
            yield from _take_place(files, folder, FolderName(one.step), one.path)


def _sync(files: Files, path: Path) -> Work[None]:
    for name in files.names(path):
        handle = files.open(path / name)
        try:
            yield
            files.sync(handle)
        finally:
            files.close(handle)
    yield
    files.sync_folder(path)


def roll_back(files: Files, folder: Path, step: int) -> Work[list[int]]:
    """Move what is newer than a step aside, newest first, and return those steps; raises `NotFoundError`.

    A crash in between leaves a newest one between the two; the same call goes on from there.
    """
    there = counting((yield from look(files, folder)))
    wanted = [one for one in there if one.step == step]
    if not wanted or not wanted[0].is_whole:
        raise NotFoundError(f"{folder}: {_not_whole(wanted, step)}", hint=_choice(there))
    yield from tidy(files, folder)
    mark = _next_mark(files, folder)
    later = [one.step for one in there if one.step > step]
    for one in reversed(later):
        yield
        files.replace(folder / str(FolderName(one)), folder / str(FolderName(one, "aside", mark)))
        yield
        files.sync_folder(folder)
    return later


def undo(files: Files, folder: Path) -> Work[list[int]]:
    """Put back what the last roll back moved aside, oldest first, and return those steps.

    Raises `NotFoundError` where nothing is aside, `ConflictError` where checkpoints were saved since in their place.
    """
    names = [name for name in map(parsed, files.names(folder)) if name is not None]
    last = max(map(aside_number, names), default=0)
    if not last:
        raise NotFoundError(f"{folder}: nothing was moved aside", hint="`prime model list` shows what is there")
    moved = sorted(name for name in names if aside_number(name) == last)
    taken = [name.step for name in moved if FolderName(name.step) in names]
    if taken:
        raise ConflictError(
            f"{folder}: steps {_steps(taken)} were saved again since they were moved aside",
            hint=f"roll back to a step before {taken[0]} first: that moves the new ones aside",
        )
    for name in moved:
        yield
        files.replace(folder / str(name), folder / str(FolderName(name.step)))
        yield
        files.sync_folder(folder)
    return [name.step for name in moved]


def _not_whole(wanted: Sequence[Checkpoint], step: int) -> str:
    return f"the checkpoint of step {step} is not whole ({wanted[0].complaint})" if wanted else f"no step {step}"


def _choice(there: Iterable[Checkpoint]) -> str:
    whole = [one.step for one in there if one.is_whole]
    return f"these are whole: {_steps(whole)}" if whole else "no checkpoint is whole"


def _steps(steps: Sequence[int]) -> str:
    return ", ".join(map(str, steps))


def _next_mark(files: Files, folder: Path) -> str:
    names = [name for name in map(parsed, files.names(folder)) if name is not None]
    return f"{max(map(aside_number, names), default=0) + 1:04d}"


def _gone(files: Files, folder: Path, step: int) -> FolderName:
    """Return a free name for what is being deleted."""
    taken = set(files.names(folder))
    return next(
        name
        for name in (FolderName(step, "gone", str(number)) for number in range(len(taken) + 1))
        if str(name) not in taken
    )
