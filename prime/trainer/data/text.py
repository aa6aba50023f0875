"""Text to train on: which text, which part is held out, and its samples: windows that see the next symbol.

The default text is Python's own standard library: it is on every machine, and the same for all who run the same
Python. Sample i is the window that starts at symbol i · stride. With the default stride of 1 each place of the text is
a start, and a run sees windows at places of which none comes twice in a pass; with a stride of `context` a pass is
one reading of the text.
"""

from __future__ import annotations

import math
import os
import sysconfig
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Self

import attrs
import numpy as np
import numpy.typing as npt

from prime.errors import DataError
from prime.trainer.data.contract import Indices, Request
from prime.trainer.data.fingerprint import fingerprint, spread
from prime.trainer.data.options import Options
from prime.trainer.data.symbols import ALPHABETS, ASCII, BYTES, Alphabet, Symbols

CONTEXT: Final = 128
HELD_OUT_EVERY: Final = 20
TEXT_SIZE_BYTES_MAX: Final = 512 * 2**20
"""What is read into memory; a single file of bytes is mapped and may be of any size."""
EVALUATION_SYMBOLS: Final = 16_384
"""How many held-out predictions one evaluation makes, about: few enough to cost a fraction of a second."""

Windows = npt.NDArray[np.int64]
"""Symbols [batch, context + 1]: inputs are all but the last of a row, targets all but the first."""

_SKIPPED: Final = frozenset({"test", "tests", "idlelib", "idle_test", "site-packages", "dist-packages"})
_HINT: Final = "name a text file, or a folder with text files, of some 100 kB and more"


@attrs.frozen
class TextSettings:
    """How text becomes samples: the options `context`, `stride` and `symbols`, and the rows of a held-out batch."""

    context: int = CONTEXT
    alphabet: Alphabet = ASCII
    stride: int = 1
    batch_size: int = 32

    @classmethod
    def taken(cls, options: Options, request: Request) -> Self:
        """Take the options; in a swarm the context is the configuration's."""
        return cls(
            context=options.integer("context", getattr(request, "context", CONTEXT), at_least=2),
            alphabet=ALPHABETS[options.one_of("symbols", list(ALPHABETS))],
            stride=options.integer("stride", 1, at_least=1),
            batch_size=request.batch_size,
        )

    @classmethod
    def of(cls, request: Request) -> Self:
        """Return the settings of a run whose data is text, for a model of that text."""
        return cls.taken(Options(request.data_options, "data_options", "text"), request)


@attrs.frozen(eq=False)
class TextDataset:
    """Symbols to learn from and symbols held out, as windows of `context + 1`."""

    training: Symbols
    reserved: Symbols
    settings: TextSettings
    fingerprint: str = ""
    file: Path | None = None
    """The file that the symbols are mapped from, if they are."""

    @property
    def tokens_per_sample(self) -> int:
        """Return how many predictions one sample holds."""
        return self.settings.context

    @property
    def baseline(self) -> float | None:
        """Return what a guess by frequency alone costs on the held-out text, in nats a symbol.

        Frequencies are those of the training text, with one added to each symbol's count (Laplace).
        """
        count = _counts(self.training, self.settings.alphabet.size) + 1
        seen = _counts(self.reserved, self.settings.alphabet.size)
        return -float((np.log(count / count.sum()) * seen).sum() / seen.sum())

    def __len__(self) -> int:
        """Return how many windows there are."""
        return (self.training.size - self.settings.context - 1) // self.settings.stride + 1

    @property
    def samples_of_a_pass(self) -> int:
        """Return how many windows see as many symbols as the text has: with a stride below the context they overlap."""
        return min(len(self), -(-self.training.size // self.settings.context))

    def batch(self, indices: Indices) -> Windows:
        """Return windows, int64[n, context + 1]. Raises `DataError` where the file below them has changed its size."""
        if self.file is not None:
            _require_whole(self.file, self.training.size + self.reserved.size)
        return _windows(self.training, indices * self.settings.stride, self.settings.context)

    def held_out(self, count: int) -> list[Windows]:
        """Return at most `count` batches of the held-out text, the same each time, spread evenly over it."""
        context = self.settings.context
        room = self.reserved.size - context
        rows = min(self.settings.batch_size, room)
        batches = max(1, min(EVALUATION_SYMBOLS // context, room) // rows)
        starts = np.split(np.linspace(0, room - 1, rows * batches).astype(np.int64), batches)
        return [_windows(self.reserved, part, context) for part in starts[:: max(1, batches // count)][:count]]


def open_text(request: Request) -> TextDataset:
    """Read the text that a run names: a file, a folder of files, or the standard library's sources ("" or "stdlib").

    Every 20th file is held out; fewer than 20 files are each cut, and the last twentieth of each is held out.
    Raises `DataError` for text that is missing, empty, too short or binary.
    """
    options = Options(request.data_options, "data_options", "text")
    settings = TextSettings.taken(options, request)
    options.end()
    if request.data in ("", "stdlib"):
        return text_dataset(_standard_library(), "the standard library", settings)
    path = Path(request.data).expanduser()
    if settings.alphabet is BYTES and path.is_file():
        return _mapped(path, settings)
    return text_dataset(_read(path), request.data, settings)


def text_dataset(
    texts: Sequence[str], name: str, settings: TextSettings, held_out: Sequence[str] | None = None
) -> TextDataset:
    """Make a dataset of texts, each a file or a document. Raises `DataError` where they are too short.

    `held_out` are texts that nobody trains on; without them a part of `texts` is kept back.
    """
    training = [settings.alphabet.encode(text) for text in texts]
    if held_out is None:
        training, reserved = _split(training)
    else:
        reserved = [settings.alphabet.encode(text) for text in held_out]
    return _dataset(np.concatenate(training), np.concatenate(reserved), name, settings)


def standard_library_files() -> list[Path]:
    """Return the standard library's *.py without tests, idlelib and installed packages, in one order everywhere."""
    root = Path(sysconfig.get_paths()["stdlib"])
    found = []
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if name not in _SKIPPED]
        found += [Path(folder, name).relative_to(root) for name in names if name.endswith(".py")]
    return [root / path for path in sorted(found, key=lambda path: path.as_posix())]


def require_size(name: object, size_bytes: int) -> None:
    """Refuse text that is too large to be read into memory."""
    if size_bytes > TEXT_SIZE_BYTES_MAX:
        raise DataError(
            f"{name} holds more than {TEXT_SIZE_BYTES_MAX // 2**20} MiB, which is read into memory",
            hint='pass part of it; or one file with data_options.symbols = "bytes", which is mapped; or a dataset of '
            'your own as data = "module:function"',
        )


def _dataset(
    training: Symbols, reserved: Symbols, name: str, settings: TextSettings, file: Path | None = None
) -> TextDataset:
    if min(training.size, reserved.size) <= settings.context:
        raise DataError(
            f"{name}: {training.size} characters to train on and {reserved.size} held out "
            f"are too few for windows of {settings.context + 1}",
            hint=f"{_HINT}, or set a smaller context",
        )
    return TextDataset(training, reserved, settings, fingerprint((training, reserved), settings.alphabet.name), file)


def _mapped(path: Path, settings: TextSettings) -> TextDataset:
    """Map a file: its bytes are its symbols, and only those that a step sees are ever read."""
    try:
        size_bytes = path.stat().st_size
        if not size_bytes:
            raise DataError(f"{path} is empty", hint=_HINT)
        symbols = np.asarray(np.memmap(path, np.uint8, mode="r"))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}", hint="check its permissions") from error
    ((training,), (reserved,)) = _split([symbols])
    return _dataset(training, reserved, str(path), settings, path)


def _require_whole(path: Path, size_bytes: int) -> None:
    """Notice a file that was cut short: reading a mapping beyond its end ends the process, without an error."""
    try:
        found = path.stat().st_size
    except OSError:
        return  # its name is gone; what is mapped is still there
    if found != size_bytes:
        raise DataError(
            f"{path} has {found} bytes, and had {size_bytes} when it was opened", hint="train on a file that rests"
        )


def _standard_library() -> list[str]:
    texts = [path.read_bytes().decode("utf-8", "replace") for path in standard_library_files()]
    if len(texts) < HELD_OUT_EVERY:
        raise DataError(
            f"this Python has {len(texts)} source files in {sysconfig.get_paths()['stdlib']}, too few to train on",
            hint="name a text of your own as the data",
        )
    return texts


def _read(path: Path) -> list[str]:
    if not path.exists():
        raise DataError(f"{path}: no such file or folder", hint=_HINT)
    if path.is_dir():
        return _read_folder(path)
    text = _text_of(path)
    if text is None:
        raise DataError(
            f"{path} is binary, not text",
            hint='convert it to UTF-8 first, or take its bytes as they are: data_options.symbols = "bytes"',
        )
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
        require_size(path, size_bytes)
        if text and text.strip():
            texts.append(text)
    if not texts:
        what = f"none of its {len(files)} files is text" if files else "it has no files"
        raise DataError(f"{path}: {what}", hint=_HINT)
    return texts


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _text_of(path: Path) -> str | None:
    """Return a file's text, or None where it is binary: a NUL in it, or not UTF-8."""
    try:
        if not path.is_file():
            raise DataError(f"{path} is neither a file nor a folder", hint=_HINT)
        require_size(path, path.stat().st_size)
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}", hint="check its permissions") from error
    try:
        return None if b"\0" in content else content.decode("utf-8")
    except UnicodeDecodeError:
        return None


def _split(files: list[Symbols]) -> tuple[list[Symbols], list[Symbols]]:
    """Return what is trained on and what is held out, piece by piece; views, no copies."""
    if len(files) >= HELD_OUT_EVERY:
        training = [file for i, file in enumerate(files, 1) if i % HELD_OUT_EVERY]
        return training, files[HELD_OUT_EVERY - 1 :: HELD_OUT_EVERY]
    cuts = [math.ceil(file.size * (HELD_OUT_EVERY - 1) / HELD_OUT_EVERY) for file in files]
    training = [file[:cut] for file, cut in zip(files, cuts, strict=True)]
    return training, [file[cut:] for file, cut in zip(files, cuts, strict=True)]


def _counts(symbols: Symbols, size: int) -> npt.NDArray[np.int64]:
    found = np.zeros(size, np.int64)
    for block in spread(symbols):
        for part in np.array_split(block, max(1, block.size // 2**20)):  # bincount makes int64 of what it counts
            found += np.bincount(part, minlength=size)
    return found


def _windows(symbols: Symbols, starts_B: Indices, context: int) -> Windows:  # noqa: N803 - B batch
    return symbols[starts_B[:, None] + np.arange(context + 1)].astype(np.int64)
