"""The ranges of tags: that they are what the spec's table says, and that each of Prime's messages keeps to its own."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest

from prime.wire import tag_of
from prime.wire.cddl import room_messages
from prime.wire.tags import GROUPS, PRIME_TAG_END, group_of, table

ROOT = Path(__file__).parents[2]


def tags_in(source: str) -> list[int]:
    """Return the tags that a module gives to its messages, as they stand in `@message(tag=…)`."""
    return [
        ast.literal_eval(keyword.value)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "message"
        for keyword in node.keywords
        if keyword.arg == "tag"
    ]


def test_the_reading_of_tags_sees_them() -> None:
    assert tags_in("@message(tag=0x7E58, signed=True)\nclass A: ...\n@message\nclass B: ...") == [0x7E58]


SOURCES = {path: tags_in(path.read_text(encoding="utf-8")) for path in sorted((ROOT / "prime").rglob("*.py"))}
TAGGED = [(path.relative_to(ROOT / "prime"), tag) for path, tags in SOURCES.items() for tag in tags]


@pytest.mark.parametrize(("path", "tag"), TAGGED, ids=lambda each: f"{each:#05x}" if isinstance(each, int) else None)
def test_each_of_primes_messages_has_a_tag_of_its_rooms_range(path: Path, tag: int) -> None:
    group = group_of(tag)
    assert group is not None and group.room == path.parts[0]


def test_no_two_of_primes_messages_have_one_tag() -> None:
    tags = [tag for _, tag in TAGGED]
    assert sorted(tags) == sorted(set(tags))
    assert len(tags) > 50


def test_no_two_messages_of_the_tests_and_the_pages_have_one_tag() -> None:
    """Two that do work apart, and fail as soon as one process happens to import both."""
    pages = [page for room in ("tests", "docs", "examples") for page in (ROOT / room).rglob("*.[pm][yd]")]
    written = [tag for page in pages for tag in re.findall(r"tag=(0x[0-9A-Fa-f]+)", page.read_text(encoding="utf-8"))]
    assert [tag for tag, count in Counter(int(tag, 16) for tag in written).items() if count > 1] == []
    assert len(written) > 200


def test_the_ranges_ascend_without_overlap_and_end_where_the_programs_begin() -> None:
    bounds = [bound for group in GROUPS for bound in (group.first, group.last)]
    assert all(here < there for here, there in pairwise(bounds))
    assert bounds[0] > 0 and bounds[-1] < PRIME_TAG_END
    assert [group_of(bound) for bound in bounds[::2]] == [group_of(bound) for bound in bounds[1::2]] == list(GROUPS)
    assert group_of(0) is group_of(PRIME_TAG_END) is None


def test_no_group_is_there_twice() -> None:
    assert len({group.name for group in GROUPS}) == len(GROUPS)


def test_the_table_of_the_spec_is_the_printed_one() -> None:
    printed = subprocess.run(
        [sys.executable, "-m", "prime.wire.cddl", "tags"], capture_output=True, text=True, check=True, timeout=60
    ).stdout
    assert printed == table(map(tag_of, room_messages()))
    assert printed in (ROOT / "spec" / "README.md").read_text(encoding="utf-8")
