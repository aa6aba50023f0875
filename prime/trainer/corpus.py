"""Characters to train on: which text, which alphabet, which part is held out, and which batch at which step.

The default text is Python's own standard library: it is on every machine, and the same for all who run the same
Python. The alphabet has 97 symbols: newline, the 95 printable ASCII characters, and one "other" for everything else.
A batch is a function of (seed, step, rank) alone, so a step that is repeated sees the same characters.
"""

from __future__ import annotations

import math
import os
import sysconfig
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import attrs
import numpy as np
import numpy.typing as npt

from prime.errors import DataError

SYMBOLS: Final = 97
"""Size of the alphabet; ln 97 = 4.57 nats is what knowing nothing costs."""
OTHER: Final = SYMBOLS - 1
HELD_OUT_EVERY: Final = 20
TEXT_SIZE_BYTES_MAX: Final = 512 * 2**20
EVALUATION_CHARACTERS: Final = 16_384
"""How many held-out predictions one evaluation makes, about: few enough to cost a fraction of a second."""

Symbols = npt.NDArray[np.uint8]
"""Text as symbols 0..96."""
Windows = npt.NDArray[np.int64]
"""Symbols [batch, context + 1]: inputs are all but the last of a row, targets all but the first."""

_SKIPPED: Final = frozenset({"test", "tests", "idlelib", "idle_test", "site-packages", "dist-packages"})
_HINT: Final = "name a text file, or a folder with text files, of some 100 kB and more"


def encode_text(text: str) -> Symbols:
    """Return the text as symbols: newline 0, printable ASCII 1..95, everything else 96. CR LF counts as newline."""
    points = np.frombuffer(text.replace("\r\n", "\n").encode("utf-32-le", "surrogatepass"), np.dtype("<u4"))
    symbols = np.where((points >= 32) & (points < 127), points - 31, OTHER)
    return np.where(points == 10, 0, symbols).astype(np.uint8)


def decode_text(symbols: Sequence[int] | Symbols) -> str:
    """Return symbols as text; "other" is shown as U+FFFD."""
    return "".join("\n" if s == 0 else "\ufffd" if s == OTHER else chr(int(s) + 31) for s in symbols)


@attrs.frozen(eq=False)
class Corpus:
    """Text to learn from and text held out, and batches of both. `context` characters see the next one."""

    training: Symbols
    held_out: Symbols
    context: int
    batch_size: int

    @property
    def tokens_per_batch(self) -> int:
        """How many predictions one training batch holds."""
        return self.batch_size * self.context

    def batch(self, seed: int, step: int, rank: int) -> Windows:
        """Return the training batch of that step and rank: windows at random places, drawn by a counter.

        The generator is Philox4x64 (Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", 2011) keyed by the
        seed, with step and rank in its counter, so no state is carried from one step to the next.
        """
        source = np.random.Philox(key=seed, counter=[0, step, rank, 0])
        starts = source.random_raw(self.batch_size) % np.uint64(self.training.size - self.context)
        return _windows(self.training, starts.astype(np.int64), self.context)

    def held_out_batches(self) -> Iterator[Windows]:
        """Yield the same windows each time, spread evenly over the held-out text, in batches of one size."""
        room = self.held_out.size - self.context
        rows = min(self.batch_size, room)
        batches = max(1, min(EVALUATION_CHARACTERS // self.context, room) // rows)
        starts = np.linspace(0, room - 1, rows * batches).astype(np.int64)
        for part in np.split(starts, batches):
            yield _windows(self.held_out, part, self.context)

    def unigram_nats(self) -> float:
        """Return what a guess by frequency alone costs on held-out text, in nats a character.

        Frequencies are those of the training text, with one added to each symbol's count (Laplace).
        """
        count = np.bincount(self.training, minlength=SYMBOLS) + 1
        log_p = np.log(count / count.sum())
        return -float(log_p[self.held_out].mean())


def load_corpus(path: str, context: int, batch_size: int) -> Corpus:
    """Read the text at `path` (a file, or a folder of files), or the standard library's sources where it is empty.

    Every 20th file is held out; fewer than 20 files are each cut, and the last twentieth of each is held out.
    Raises DataError for text that is missing, empty, too short or binary.
    """
    texts = _standard_library() if not path else _read(Path(path).expanduser())
    training, held_out = _split([encode_text(text) for text in texts])
    if min(training.size, held_out.size) <= context:
        raise DataError(
            f"{path or 'the standard library'}: {training.size} characters to train on and {held_out.size} held out "
            f"are too few for windows of {context + 1}",
            hint=_HINT,
        )
    return Corpus(training, held_out, context, batch_size)


def standard_library_files() -> list[Path]:
    """Return the standard library's *.py without tests, idlelib and installed packages, in one order everywhere."""
    root = Path(sysconfig.get_paths()["stdlib"])
    found = []
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if name not in _SKIPPED]
        found += [Path(folder, name).relative_to(root) for name in names if name.endswith(".py")]
    return [root / path for path in sorted(found, key=lambda path: path.as_posix())]


def _standard_library() -> list[str]:
    texts = [path.read_bytes().decode("utf-8", "replace") for path in standard_library_files()]
    if len(texts) < HELD_OUT_EVERY:
        raise DataError(
            f"this Python has {len(texts)} source files in {sysconfig.get_paths()['stdlib']}, too few to train on",
            hint="pass a text of your own with --data PATH",
        )
    return texts


def _read(path: Path) -> list[str]:
    if not path.exists():
        raise DataError(f"{path}: no such file or folder", hint=_HINT)
    if path.is_dir():
        return _read_folder(path)
    text = _text_of(path)
    if text is None:
        raise DataError(f"{path} is binary, not text", hint="training data is UTF-8 text; convert it first")
    if not text.strip():
        raise DataError(f"{path} is empty", hint=_HINT)
    return [text]


def _read_folder(path: Path) -> list[str]:
    """Read the text files of a folder and the folders in it; binary, empty and hidden ones are passed over."""
    files = sorted(p for p in path.rglob("*") if p.is_file() and not _is_hidden(p.relative_to(path)))
    texts, size_bytes = [], 0
    for file in files:
        text = _text_of(file)
        size_bytes += len(text or "")
        _require_size(path, size_bytes)
        if text and text.strip():
            texts.append(text)
    if not texts:
        what = f"none of its {len(files)} files is text" if files else "it has no files"
        raise DataError(f"{path}: {what}", hint=_HINT)
    return texts


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _require_size(path: Path, size_bytes: int) -> None:
    if size_bytes > TEXT_SIZE_BYTES_MAX:
        raise DataError(
            f"{path} holds more than {TEXT_SIZE_BYTES_MAX // 2**20} MiB, which is read into memory",
            hint='pass part of it, or a loader of your own as data = "module:function"',
        )


def _text_of(path: Path) -> str | None:
    """Return a file's text, or None where it is binary: a NUL in it, or not UTF-8."""
    try:
        if not path.is_file():
            raise DataError(f"{path} is neither a file nor a folder", hint=_HINT)
        _require_size(path, path.stat().st_size)
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}", hint="check its permissions") from error
    try:
        return None if b"\0" in content else content.decode("utf-8")
    except UnicodeDecodeError:
        return None


def _split(files: list[Symbols]) -> tuple[Symbols, Symbols]:
    if len(files) >= HELD_OUT_EVERY:
        held_out = files[HELD_OUT_EVERY - 1 :: HELD_OUT_EVERY]
        training = [file for i, file in enumerate(files, 1) if i % HELD_OUT_EVERY]
    else:
        cuts = [math.ceil(file.size * (HELD_OUT_EVERY - 1) / HELD_OUT_EVERY) for file in files]
        training = [file[:cut] for file, cut in zip(files, cuts, strict=True)]
        held_out = [file[cut:] for file, cut in zip(files, cuts, strict=True)]
    return np.concatenate(training), np.concatenate(held_out)


def _windows(symbols: Symbols, starts_B: npt.NDArray[np.int64], context: int) -> Windows:  # noqa: N803 - shape
    return symbols[starts_B[:, None] + np.arange(context + 1)].astype(np.int64)
