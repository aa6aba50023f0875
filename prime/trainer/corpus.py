"""Text to train on: Python's own standard library, or a user's file or folder; characters, no tokenizer, no download.

The alphabet is newline, printable ASCII and one "other": 97 symbols. Every 20th file is held out; of a single file the
last 20th. Batches are a pure function of (seed, rank, step), so a replayed step sees the same text.
"""

from __future__ import annotations

import sysconfig
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import attrs
import numpy as np
import numpy.typing as npt

from prime.errors import DataError

ALPHABET: Final = "\n" + "".join(map(chr, range(32, 127)))
OTHER: Final = len(ALPHABET)
SYMBOLS: Final = OTHER + 1
HELD_OUT_EVERY: Final = 20
CHARACTERS_MIN: Final = 20_000
FILE_BYTES_MAX: Final = 1 << 30
_SKIPPED: Final = frozenset({"test", "tests", "idlelib", "site-packages", "dist-packages", "__pycache__"})
_PROBE_BYTES: Final = 8192
_HINT: Final = "name a text file, or a folder of them (UTF-8), with --data PATH"

Symbols = npt.NDArray[np.uint8]


@attrs.frozen(eq=False)
class Corpus:
    """Training and held-out text as symbols (uint8, under 97)."""

    name: str
    train: Symbols
    held_out: Symbols

    def unigram_nats(self) -> float:
        """Return the loss on held-out text of guessing by the training text's letter frequencies (nats a character)."""
        counts = np.bincount(self.train, minlength=SYMBOLS) + 1.0  # Laplace: a letter never seen is not impossible
        share = np.bincount(self.held_out, minlength=SYMBOLS) / self.held_out.size
        return float(-(share * np.log(counts / counts.sum())).sum())

    def batch(self, seed: int, rank: int, step: int, size: int, context: int) -> Symbols:
        """Return the batch of one step, uint8[size, context + 1]: inputs and, one further, targets."""
        generator = np.random.Generator(np.random.Philox(key=[seed, rank], counter=[0, 0, 0, step]))
        starts = generator.integers(0, self.train.size - context, size=size)
        return self._rows(self.train, starts, context)

    def held_out_batches(self, count: int, size: int, context: int) -> list[Symbols]:
        """Return `count` fixed batches spread evenly over the held-out text, the same ones for everybody."""
        starts = np.linspace(0, self.held_out.size - context - 1, count * size).astype(np.int64)
        return [self._rows(self.held_out, starts[i::count], context) for i in range(count)]

    @staticmethod
    def _rows(text: Symbols, starts: npt.NDArray[np.int64], context: int) -> Symbols:
        rows: Symbols = text[starts[:, None] + np.arange(context + 1)]
        return rows


def encode(text: bytes) -> Symbols:
    """Return the symbols of a text; every byte outside the alphabet is "other"."""
    return _TABLE[np.frombuffer(text, np.uint8)]


def decode(symbols: Sequence[int] | Symbols) -> str:
    """Return the text of symbols; "other" shows as a replacement character."""
    return "".join(ALPHABET[s] if s < OTHER else "\N{REPLACEMENT CHARACTER}" for s in symbols)


def load_corpus(data: str = "") -> Corpus:
    """Read the text to train on: a file, a folder, or (empty) Python's standard library.

    Raises `DataError` for text that is missing, unreadable, empty, too short or binary.
    """
    if not data:
        return _split("Python's standard library", list(_standard_library()))
    path = Path(data).expanduser()
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_file() and not file.name.startswith("."))
        texts = [text for file in files if (text := _read(file, skip_binary=True)) is not None]
        return _split(str(path), texts)
    if not path.exists():
        raise DataError(f"{path}: there is no such file or folder", hint=_HINT)
    text = _read(path, skip_binary=False) or b""
    cut = len(text) - len(text) // HELD_OUT_EVERY
    return _made(str(path), text[:cut], text[cut:])


def _standard_library() -> Iterator[bytes]:
    root = Path(sysconfig.get_path("stdlib"))
    for file in sorted(root.rglob("*.py")):
        if not _SKIPPED.intersection(file.relative_to(root).parts) and file.is_file():
            yield file.read_bytes()


def _split(name: str, texts: list[bytes]) -> Corpus:
    if not texts:
        raise DataError(f"{name}: there is no text in it", hint=_HINT)
    if len(texts) < HELD_OUT_EVERY:
        whole = b"\n".join(texts)
        cut = len(whole) - len(whole) // HELD_OUT_EVERY
        return _made(name, whole[:cut], whole[cut:])
    held_out = texts[HELD_OUT_EVERY - 1 :: HELD_OUT_EVERY]
    train = [text for i, text in enumerate(texts) if i % HELD_OUT_EVERY != HELD_OUT_EVERY - 1]
    return _made(name, b"\n".join(train), b"\n".join(held_out))


def _made(name: str, train: bytes, held_out: bytes) -> Corpus:
    if not train:
        raise DataError(f"{name} is empty", hint=_HINT)
    if len(train) + len(held_out) < CHARACTERS_MIN:
        raise DataError(
            f"{name} has {len(train) + len(held_out)} characters; at least {CHARACTERS_MIN} are needed to train and "
            "to measure",
            hint=_HINT,
        )
    return Corpus(name, encode(train), encode(held_out))


def _read(file: Path, *, skip_binary: bool) -> bytes | None:
    try:
        if file.stat().st_size > FILE_BYTES_MAX:
            raise DataError(f"{file} is over {FILE_BYTES_MAX >> 30} GiB", hint="cut it into several files")
        data = file.read_bytes()
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror})", hint=_HINT) from error
    if _is_text(data):
        return data
    if skip_binary:
        return None
    raise DataError(f"{file} is binary, not text", hint=_HINT)


def _is_text(data: bytes) -> bool:
    probe = data[:_PROBE_BYTES]
    if b"\0" in probe:
        return False
    control = sum(byte < 32 and byte not in b"\t\n\r\f\x1b" for byte in probe)
    return control * 20 <= len(probe)


def _table() -> Symbols:
    table = np.full(256, OTHER, np.uint8)
    for symbol, character in enumerate(ALPHABET):
        table[ord(character)] = symbol
    return table


_TABLE: Final = _table()
