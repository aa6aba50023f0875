"""Which text, which alphabet, which part is held out, which windows; and text that cannot be trained on."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prime.errors import ConfigError, DataError
from prime.trainer.data import fingerprint as fingerprint_module
from prime.trainer.data import text as text_module
from prime.trainer.data.symbols import ASCII, BYTES, OTHER
from prime.trainer.data.text import TextDataset, TextSettings, open_text, standard_library_files
from prime.trainer.job import Job

LINE = "The quick brown fox jumps over the lazy dog.\n"
encode_text, decode_text = ASCII.encode, ASCII.decode


def opened(path: object, **options: Any) -> TextDataset:
    return open_text(Job(data=str(path), data_options=options))


def made(training: np.ndarray, reserved: np.ndarray, context: int = 8, batch_size: int = 4) -> TextDataset:
    return TextDataset(training, reserved, TextSettings(context, ASCII, 1, batch_size))


def test_a_pass_sees_a_text_once_however_much_its_windows_overlap() -> None:
    text, reserved = np.zeros(1000, np.uint8), np.zeros(100, np.uint8)
    assert len(made(text, reserved)) == 992
    assert made(text, reserved).samples_of_a_pass == 125
    spread = TextDataset(text, reserved, TextSettings(8, ASCII, 16, 4))
    assert spread.samples_of_a_pass == len(spread) == 62


def test_the_alphabet_is_newline_printable_ascii_and_other() -> None:
    assert encode_text("\n ~!").tolist() == [0, 1, 95, 2]
    assert encode_text("\t\x00\x7f\u00e9\U0001f600").tolist() == [OTHER] * 5
    assert encode_text("a\r\nb").tolist() == encode_text("a\nb").tolist()
    assert OTHER + 1 == ASCII.size == 97


@given(st.text(st.sampled_from("\n" + "".join(map(chr, range(32, 127))))))
def test_text_of_the_alphabet_comes_back(text: str) -> None:
    assert decode_text(encode_text(text)) == text


@given(st.text())
def test_a_character_is_one_symbol(text: str) -> None:
    assert encode_text(text).size == len(text.replace("\r\n", "\n"))


def test_other_is_shown_as_a_replacement_character() -> None:
    assert decode_text(encode_text("a\u00e9b")) == "a\ufffdb"


@given(st.text())
def test_bytes_lose_nothing(text: str) -> None:
    assert BYTES.decode(BYTES.encode(text)) == text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")
    assert BYTES.encode(text).size == len(text.encode("utf-8", "surrogatepass"))


def test_a_sample_is_the_window_that_starts_at_its_number() -> None:
    ramp = made(np.arange(50, dtype=np.uint8), np.arange(20, dtype=np.uint8))
    assert len(ramp) == 42
    batch = ramp.batch(np.array([0, 41, 7]))
    assert (batch.shape, batch.dtype) == ((3, 9), np.int64)
    assert batch.tolist() == [list(range(start, start + 9)) for start in (0, 41, 7)]


@given(st.integers(1, 30), st.integers(2, 20), st.integers(0, 60))
def test_windows_reach_the_end_of_the_text_and_not_beyond(stride: int, context: int, more: int) -> None:
    symbols = np.arange(context + 1 + more, dtype=np.uint8)
    text = TextDataset(symbols, symbols, TextSettings(context, ASCII, stride, 4))
    last = text.batch(np.array([len(text) - 1]))[0]
    assert 0 <= symbols.size - 1 - last[-1] < stride
    with pytest.raises(IndexError):
        text.batch(np.array([len(text)]))


def test_held_out_windows_are_the_same_each_time_and_spread_over_the_text() -> None:
    text = made(np.zeros(500, np.uint8), (np.arange(100_000) % 97).astype(np.uint8), 128, 16)
    first, again = (np.concatenate(text.held_out(100)) for _ in range(2))
    assert np.array_equal(first, again)
    assert first.shape == (128, 129)
    assert {len(batch) for batch in text.held_out(100)} == {16}
    few = text.held_out(2)
    assert len(few) == 2
    assert np.array_equal(few[0], first[:16])
    assert np.array_equal(few[1], first[64:80])


def test_the_shortest_held_out_text_gives_one_window() -> None:
    text = made(np.zeros(9, np.uint8), np.arange(9, dtype=np.uint8), 8, 16)
    assert [batch.tolist() for batch in text.held_out(5)] == [[list(range(9))]]


def test_the_baseline_is_the_cross_entropy_of_smoothed_counts() -> None:
    text = made(encode_text("aab"), encode_text("ab"), 1, 1)
    wanted = -(math.log(3 / 100) + math.log(2 / 100)) / 2  # counts 2 + 1 and 1 + 1 of 3 + 97
    assert text.baseline == pytest.approx(wanted)


def test_the_standard_library_without_tests_idlelib_and_packages() -> None:
    files = standard_library_files()
    assert files == sorted(files, key=lambda path: path.as_posix())
    assert {"abc.py", "decoder.py"} <= {path.name for path in files}
    assert not {part for path in files for part in path.parts[-4:]} & {"test", "tests", "idlelib", "site-packages"}
    text = open_text(Job())
    assert 0.02 < text.reserved.size / text.training.size < 0.1
    assert 2.5 < text.baseline < 4
    assert text.fingerprint == open_text(Job(data="stdlib")).fingerprint


def test_every_twentieth_file_is_held_out(tmp_path: Path) -> None:
    for i in range(40):
        (tmp_path / f"{i:02}.txt").write_text(chr(65 + i) * 10)
    text = opened(tmp_path, context=8)
    assert decode_text(text.reserved) == chr(65 + 19) * 10 + chr(65 + 39) * 10
    assert decode_text(text.training).startswith("A" * 10 + "B" * 10)
    assert text.training.size == 380


def test_of_few_files_the_last_twentieth_of_each_is_held_out(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a" * 200)
    (tmp_path / "b").write_text("b" * 400)
    text = opened(tmp_path, context=8)
    assert decode_text(text.reserved) == "a" * 10 + "b" * 20


def test_a_folder_passes_over_binary_hidden_and_empty_files(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "text").write_text("x" * 400)
    (tmp_path / "image").write_bytes(b"\x89PNG\0\0")
    (tmp_path / "empty").touch()
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "config").write_text("hidden" * 100)
    text = opened(tmp_path, context=8)
    assert text.training.size + text.reserved.size == 400


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
        opened(make(tmp_path))  # type: ignore[operator]
    assert caught.value.hint


def test_data_that_does_not_fit_into_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_module, "TEXT_SIZE_BYTES_MAX", 2**20)
    with (tmp_path / "big").open("wb") as file:
        file.truncate(2**20 + 1)
    with pytest.raises(DataError, match="more than 1 MiB"):
        opened(tmp_path / "big")
    with pytest.raises(DataError, match="more than 1 MiB"):
        opened(tmp_path)


def test_bytes_of_a_file_are_mapped_whatever_its_size_and_encoding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_module, "TEXT_SIZE_BYTES_MAX", 2**10)
    path = tmp_path / "latin.txt"
    path.write_bytes(("caf\xe9 " * 2000).encode("latin-1"))
    text = opened(path, symbols="bytes", context=8)
    assert (text.training.size, text.reserved.size) == (9500, 500)
    assert text.batch(np.array([3])).tolist() == [[0xE9, 32, 99, 97, 102, 0xE9, 32, 99, 97]]
    assert not text.training.flags.owndata
    assert text.baseline == pytest.approx(math.log(5), abs=0.1)
    with path.open("ab") as file:
        file.truncate(5000)  # to read the mapping beyond would end the process with SIGBUS
    with pytest.raises(DataError, match="has 5000 bytes, and had 10000") as caught:
        text.batch(np.array([9000]))
    assert caught.value.hint


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"symbols": "words"}, "symbols is 'words', not one of ascii, bytes"),
        ({"context": "8"}, "context is '8', not an integer"),
        ({"stride": 0}, "stride is 0, not an integer of at least 1"),
        ({"contxt": 8}, "contxt: text has no such option"),
    ],
)
def test_options_that_cannot_be_are_said(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        opened("stdlib", **options)
    assert caught.value.hint


def test_an_empty_file_of_bytes(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    with pytest.raises(DataError, match="is empty"):
        opened(tmp_path / "empty", symbols="bytes")


def test_the_fingerprint_is_the_texts_and_the_alphabets(tmp_path: Path) -> None:
    (tmp_path / "one").write_text(LINE * 200)
    (tmp_path / "same").write_text(LINE * 200)
    (tmp_path / "other").write_text(LINE * 100 + LINE.upper() + LINE * 99)
    found = [opened(tmp_path / name).fingerprint for name in ("one", "same", "other")]
    assert found[0] == found[1] != found[2]
    assert opened(tmp_path / "one", symbols="bytes").fingerprint != found[0]
    fingerprint_module.require_same(found[0], found[1], "rank 1")
    fingerprint_module.require_same(found[0], "", "a checkpoint without one")
    with pytest.raises(DataError, match="not that of the checkpoint of step 300") as caught:
        fingerprint_module.require_same(found[0], found[2], "the checkpoint of step 300")
    assert caught.value.hint


def test_of_a_big_array_blocks_are_read_and_both_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fingerprint_module, "WHOLE_BYTES", 6400)
    array = np.zeros(1_000_000, np.uint8)
    whole = fingerprint_module.fingerprint([array])
    for place in (0, 999_999):
        changed = array.copy()
        changed[place] = 1
        assert fingerprint_module.fingerprint([changed]) != whole
    assert fingerprint_module.fingerprint([array[:-1]]) != whole
    assert fingerprint_module.fingerprint([array], "bytes") != whole
