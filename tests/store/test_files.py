"""A small text that has to be on the disk: whole, the new one or the old one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from prime.store.files import put_text


def test_a_text_takes_the_place_of_another_and_leaves_no_draft(tmp_path: Path) -> None:
    for text in ("one\n", "zwei ü"):
        put_text(tmp_path / "note", text)
        assert (tmp_path / "note").read_text(encoding="utf-8") == text
    assert [file.name for file in tmp_path.iterdir()] == ["note"]


def test_a_disk_that_does_not_sync_a_text_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_text(tmp_path / "note", "old")

    def refuse(_: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OSError, match="Input/output error"):
        put_text(tmp_path / "note", "new")
    assert (tmp_path / "note").read_text(encoding="utf-8") == "old"
