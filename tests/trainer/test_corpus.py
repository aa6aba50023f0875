"""Text to train on: the alphabet, the split, batches by counter, and files that are no training text."""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prime.errors import DataError
from prime.trainer.corpus import (
    OTHER,
    SYMBOLS,
    Corpus,
    decode_text,
    encode_text,
    load_corpus,
    standard_library_files,
)

PROSE = "All work and no play makes Jack a dull boy.\n" * 100


def corpus(size: int = 5_000, context: int = 16, batch_size: int = 4) -> Corpus:
    symbols = np.random.default_rng(0).integers(0, SYMBOLS, size).astype(np.uint8)
    return Corpus(symbols, symbols[: size // 4], context, batch_size)


def test_the_alphabet_has_97_symbols() -> None:
    text = "\n" + "".join(map(chr, range(32, 127))) + "\t"
    assert encode_text(text).tolist() == list(range(97))
    assert SYMBOLS == 97


@given(st.text())
def test_a_character_is_one_symbol(text: str) -> None:
    plain = text.replace("\r\n", "\n")
    symbols = encode_text(text)
    assert symbols.size == len(plain)
    back = decode_text(symbols)
    assert all(b == a or (b == "\ufffd" and s == OTHER) for a, b, s in zip(plain, back, symbols, strict=True))


@given(st.integers(0, 2**63 - 1), st.integers(0, 2**40), st.integers(0, 2**48 - 1))
def test_a_batch_is_a_function_of_seed_step_and_rank(seed: int, step: int, rank: int) -> None:
    text = corpus()
    batch = text.batch(seed, step, rank)
    assert (batch.shape, batch.dtype) == ((4, 17), np.int64)
    text.batch(seed, step + 1, rank)
    assert np.array_equal(batch, corpus().batch(seed, step, rank))
    for other in ((seed + 1, step, rank), (seed, step + 1, rank), (seed, step, rank + 1)):
        assert not np.array_equal(batch, text.batch(*other))


def test_batches_are_windows_of_the_text() -> None:
    text = corpus(size=300, context=16)
    whole = text.training.tobytes()
    assert all(row.astype(np.uint8).tobytes() in whole for step in range(20) for row in text.batch(1, step, 0))


def test_held_out_batches_are_fixed_and_of_one_size() -> None:
    first, again = (list(corpus().held_out_batches()) for _ in range(2))
    assert len({batch.shape for batch in first}) == 1
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))


def test_the_unigram_baseline_is_an_entropy() -> None:
    even = np.tile(np.arange(SYMBOLS, dtype=np.uint8), 50)
    assert Corpus(even, even, 8, 4).unigram_nats() == pytest.approx(math.log(97))
    coin = np.tile(np.array([1, 2], np.uint8), 50_000)
    assert Corpus(coin, coin, 8, 4).unigram_nats() == pytest.approx(math.log(2), abs=2e-3)
    unseen = np.full(100, 5, np.uint8)
    assert math.isfinite(Corpus(coin, unseen, 8, 4).unigram_nats())


# ------------------------------------------------------------------------------------------------- where text comes from


def test_the_standard_library_is_the_default() -> None:
    files = standard_library_files()
    assert files == sorted(files, key=lambda path: path.as_posix())
    names = {path.name for path in files}
    assert {"argparse.py", "decoder.py"} <= names
    folders = {part for path in files for part in path.parts[:-1]}
    assert not folders & {"test", "tests", "idlelib", "site-packages"}
    text = load_corpus("", 64, 8)
    assert text.training.size > 3_000_000
    assert 0.02 < text.held_out.size / (text.training.size + text.held_out.size) < 0.1
    assert 3.0 < text.unigram_nats() < 3.6  # English and code, far from ln 97


def test_of_twenty_files_one_is_held_out(tmp_path: Path) -> None:
    for i in range(40):
        (tmp_path / f"{i:02}.txt").write_text(chr(ord("A") + i // 20) * 50 if i % 20 == 19 else "x" * 50)
    text = load_corpus(str(tmp_path), 16, 4)
    assert decode_text(text.held_out) == "A" * 50 + "B" * 50
    assert decode_text(text.training) == "x" * 50 * 38


def test_of_a_single_file_the_last_twentieth_is_held_out(tmp_path: Path) -> None:
    file = tmp_path / "prose.txt"
    file.write_text("a" * 1900 + "b" * 100)
    text = load_corpus(str(file), 16, 4)
    assert (decode_text(text.training), decode_text(text.held_out)) == ("a" * 1900, "b" * 100)


def test_a_folder_passes_over_what_is_hidden_or_binary(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "prose.md").write_text(PROSE)
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "config").write_text("zzz" * 1000)
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\r\n\x1a\n\0\0\0" * 100)
    text = load_corpus(str(tmp_path), 16, 4)
    assert text.training.size + text.held_out.size == len(PROSE)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b" \n\n ", "is empty"),
        (b"GIF89a\0\0" * 100, "is binary"),
        (bytes(range(1, 256)) * 100, "is binary"),
        ("ünï".encode("utf-16") * 100, "is binary"),
        (b"too short", "too few"),
    ],
)
def test_what_is_no_text_is_said(tmp_path: Path, content: bytes, said: str) -> None:
    file = tmp_path / "data"
    file.write_bytes(content)
    with pytest.raises(DataError, match=said) as caught:
        load_corpus(str(file), 64, 4)
    assert caught.value.hint


def test_what_cannot_be_read_is_said(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    empty = tmp_path / "empty"
    empty.mkdir()
    cases = {tmp_path / "nowhere": "no such file", pipe: "neither a file", empty: "no files"}
    for path, said in cases.items():
        with pytest.raises(DataError, match=said):
            load_corpus(str(path), 64, 4)
