"""Which text, which alphabet, which part is held out, which batch; and text that cannot be trained on."""

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

LINE = "The quick brown fox jumps over the lazy dog.\n"


def numbered(text: str) -> Corpus:
    symbols = encode_text(text)
    return Corpus(symbols, symbols, 8, 4)


def test_the_alphabet_is_newline_printable_ascii_and_other() -> None:
    assert encode_text("\n ~!").tolist() == [0, 1, 95, 2]
    assert encode_text("\t\x00\x7f\u00e9\U0001f600").tolist() == [OTHER] * 5
    assert encode_text("a\r\nb").tolist() == encode_text("a\nb").tolist()
    assert OTHER + 1 == SYMBOLS == 97


@given(st.text(st.sampled_from("\n" + "".join(map(chr, range(32, 127))))))
def test_text_of_the_alphabet_comes_back(text: str) -> None:
    assert decode_text(encode_text(text)) == text


@given(st.text())
def test_a_character_is_one_symbol(text: str) -> None:
    assert encode_text(text).size == len(text.replace("\r\n", "\n"))


def test_other_is_shown_as_a_replacement_character() -> None:
    assert decode_text(encode_text("a\u00e9b")) == "a\ufffdb"


@given(st.integers(0, 2**63 - 1), st.integers(0, 2**40), st.integers(0, 2**48))
def test_a_batch_is_a_function_of_seed_step_and_rank(seed: int, step: int, rank: int) -> None:
    corpus = numbered(LINE * 50)
    batch = corpus.batch(seed, step, rank)
    assert (batch.shape, batch.dtype) == ((4, 9), np.int64)
    assert np.array_equal(batch, numbered(LINE * 50).batch(seed, step, rank))
    for other in ((seed + 1, step, rank), (seed, step + 1, rank), (seed, step, rank + 1)):
        # Four places drawn among 2 242: all four alike by chance is one in 10**13.
        assert not np.array_equal(_places(corpus, *other), _places(corpus, seed, step, rank))


def _places(corpus: Corpus, seed: int, step: int, rank: int) -> np.ndarray:
    """Where the windows of a batch start: the symbols are made to say so."""
    ramp = Corpus(np.arange(corpus.training.size, dtype=np.uint32), corpus.held_out, 8, 4)  # type: ignore[arg-type]
    return ramp.batch(seed, step, rank)[:, 0]


def test_golden_batch() -> None:
    """The stream is part of a run's identity: a change of numpy must not change it."""
    assert _places(numbered(LINE * 50), 1, 2, 3).tolist() == [880, 1119, 967, 1955]


def test_windows_reach_both_ends_of_the_text_and_not_beyond() -> None:
    ramp = Corpus(np.arange(10, dtype=np.uint8), np.arange(10, dtype=np.uint8), 8, 64)
    starts = {int(row[0]) for step in range(4) for row in ramp.batch(0, step, 0)}
    assert starts == {0, 1}
    assert all(row.tolist() == list(range(row[0], row[0] + 9)) for row in ramp.batch(0, 0, 0))


def test_held_out_windows_are_the_same_each_time_and_spread_over_the_text() -> None:
    corpus = Corpus(np.zeros(100, np.uint8), (np.arange(100_000) % 97).astype(np.uint8), 128, 16)
    first, again = (np.concatenate(list(corpus.held_out_batches())) for _ in range(2))
    assert np.array_equal(first, again)
    assert first.shape == (128, 129)
    assert len({len(batch) for batch in corpus.held_out_batches()}) == 1


def test_the_shortest_held_out_text_gives_one_window() -> None:
    corpus = Corpus(np.zeros(9, np.uint8), np.arange(9, dtype=np.uint8), 8, 16)
    assert [batch.tolist() for batch in corpus.held_out_batches()] == [[list(range(9))]]


def test_the_unigram_baseline_is_the_cross_entropy_of_smoothed_counts() -> None:
    corpus = Corpus(encode_text("aab"), encode_text("ab"), 1, 1)
    wanted = -(math.log(3 / 100) + math.log(2 / 100)) / 2  # counts 2 + 1 and 1 + 1 of 3 + 97
    assert corpus.unigram_nats() == pytest.approx(wanted)


def test_the_standard_library_without_tests_idlelib_and_packages() -> None:
    files = standard_library_files()
    assert files == sorted(files, key=lambda path: path.as_posix())
    assert {"abc.py", "decoder.py"} <= {path.name for path in files}
    assert not {part for path in files for part in path.parts[-4:]} & {"test", "tests", "idlelib", "site-packages"}
    corpus = load_corpus("", 128, 16)
    assert 0.02 < corpus.held_out.size / corpus.training.size < 0.1
    assert 2.5 < corpus.unigram_nats() < 4


def test_every_twentieth_file_is_held_out(tmp_path: Path) -> None:
    for i in range(40):
        (tmp_path / f"{i:02}.txt").write_text(chr(65 + i) * 10)
    corpus = load_corpus(str(tmp_path), 8, 4)
    assert decode_text(corpus.held_out) == chr(65 + 19) * 10 + chr(65 + 39) * 10
    assert decode_text(corpus.training).startswith("A" * 10 + "B" * 10)
    assert corpus.training.size == 380


def test_of_few_files_the_last_twentieth_of_each_is_held_out(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a" * 200)
    (tmp_path / "b").write_text("b" * 400)
    corpus = load_corpus(str(tmp_path), 8, 4)
    assert decode_text(corpus.held_out) == "a" * 10 + "b" * 20


def test_a_folder_passes_over_binary_hidden_and_empty_files(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "text").write_text("x" * 400)
    (tmp_path / "image").write_bytes(b"\x89PNG\0\0")
    (tmp_path / "empty").touch()
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "config").write_text("hidden" * 100)
    corpus = load_corpus(str(tmp_path), 8, 4)
    assert corpus.training.size + corpus.held_out.size == 400


def missing(path: Path) -> str:
    return str(path / "nowhere.txt")


def empty(path: Path) -> str:
    (path / "empty.txt").write_text(" \n")
    return str(path / "empty.txt")


def with_a_nul(path: Path) -> str:
    (path / "nul.bin").write_bytes(b"text\0" * 1000)
    return str(path / "nul.bin")


def not_utf8(path: Path) -> str:
    (path / "latin").write_bytes(b"caf\xe9 " * 1000)
    return str(path / "latin")


def too_short(path: Path) -> str:
    (path / "short.txt").write_text("x" * 1000)
    return str(path / "short.txt")


def utf16(path: Path) -> str:
    (path / "wide.txt").write_text("text " * 1000, encoding="utf-16")
    return str(path / "wide.txt")


def fifo(path: Path) -> str:
    os.mkfifo(path / "fifo")  # to read it would wait for ever
    return str(path / "fifo")


def empty_folder(path: Path) -> str:
    return str(path)


def binary_folder(path: Path) -> str:
    with_a_nul(path)
    return str(path)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (missing, "no such file or folder"),
        (empty, "is empty"),
        (with_a_nul, "binary"),
        (not_utf8, "binary"),
        (utf16, "binary"),
        (fifo, "neither a file nor a folder"),
        (too_short, "950 characters to train on and 50 held out are too few"),
        (empty_folder, "it has no files"),
        (binary_folder, "none of its 1 files is text"),
        (lambda _: "/dev/null", "neither a file nor a folder"),
    ],
)
def test_data_that_cannot_be_trained_on(tmp_path: Path, make: object, said: str) -> None:
    with pytest.raises(DataError, match=said) as caught:
        load_corpus(make(tmp_path), 128, 4)  # type: ignore[operator]
    assert caught.value.hint


def test_data_that_does_not_fit_into_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prime.trainer.corpus.TEXT_SIZE_BYTES_MAX", 2**20)
    with (tmp_path / "big").open("wb") as file:
        file.truncate(2**20 + 1)
    with pytest.raises(DataError, match="more than 1 MiB"):
        load_corpus(str(tmp_path / "big"), 128, 4)
    with pytest.raises(DataError, match="more than 1 MiB"):
        load_corpus(str(tmp_path), 128, 4)
