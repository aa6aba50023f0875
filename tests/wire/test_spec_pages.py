"""The protocol pages: their paragraphs are numbered without gaps, and what cites one cites one that is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from prime.transport.identity import KeyPair
from prime.transport.links import Links
from prime.transport.memory import Memory

ROOT = Path(__file__).parents[2]
PAGES = {page.stem: page.read_text(encoding="utf-8") for page in sorted((ROOT / "spec" / "protocols").glob("*.md"))}
NUMBERED = sorted(PAGES.keys() - {"round"})  # which is told as a story
SECTION = re.compile(r"^## (\d+)\. ", re.MULTILINE)
PARAGRAPH = re.compile(r"^(\d+)\.(\d+)\. ", re.MULTILINE)
LINKED = re.compile(r"\[[^\]]+\]\((\w+)\.md\)(?:\s+(\d+(?:\.\d+)?))?")
NAMED = re.compile(r"spec/protocols/(\w+)\.md(?:`)?(?:,?\s+(?:section\s+)?(\d+(?:\.\d+)?)\b)?")


def places(text: str) -> set[str]:
    """Return what may be cited of a page: `2` and `2.7`."""
    return {match[1] for match in SECTION.finditer(text)} | {f"{m[1]}.{m[2]}" for m in PARAGRAPH.finditer(text)}


@pytest.mark.parametrize("name", NUMBERED)
def test_sections_and_paragraphs_are_numbered_without_gaps(name: str) -> None:
    sections = [int(match[1]) for match in SECTION.finditer(PAGES[name])]
    assert sections == list(range(1, len(sections) + 1)) != []
    found = [(int(match[1]), int(match[2])) for match in PARAGRAPH.finditer(PAGES[name])]
    for section in sections:
        numbers = [number for of, number in found if of == section]
        assert numbers == list(range(1, len(numbers) + 1)), f"section {section}"
    assert found == sorted(found)


def cited(pattern: re.Pattern[str], text: str) -> list[tuple[str, str]]:
    return [(match[1], match[2] or "") for match in pattern.finditer(text)]


def wrong(citations: list[tuple[str, str]]) -> list[tuple[str, str]]:
    return [
        (page, place)
        for page, place in citations
        if page not in PAGES or (place and page in NUMBERED and place not in places(PAGES[page]))
    ]


def test_a_wrong_citation_is_seen() -> None:
    assert wrong(cited(LINKED, "as [link](link.md) 99.1 says")) == [("link", "99.1")]
    assert wrong(cited(NAMED, "Source: spec/protocols/nowhere.md.")) == [("nowhere", "")]
    assert wrong(cited(NAMED, "spec/protocols/versions.md 5. And")) == []


@pytest.mark.parametrize("name", PAGES)
def test_pages_cite_each_other_rightly(name: str) -> None:
    assert wrong(cited(LINKED, PAGES[name])) == []


def test_code_tests_and_docs_cite_them_rightly() -> None:
    files = [path for folder in ("prime", "tests", "docs") for path in (ROOT / folder).rglob("*.*")]
    texts = {path: path.read_text(encoding="utf-8") for path in files if path.suffix in {".py", ".md"}}
    texts.pop(Path(__file__))
    found = {path: wrong(cited(NAMED, text)) for path, text in texts.items()}
    assert {str(path): bad for path, bad in found.items() if bad} == {}


def test_every_page_is_in_the_list() -> None:
    readme = (ROOT / "spec" / "README.md").read_text(encoding="utf-8")
    assert [name for name in PAGES if f"[{name}](protocols/{name}.md)" not in readme] == []


def test_every_feature_that_a_node_says_is_explained() -> None:
    said = Links(Memory(), KeyPair.from_seed(bytes(32)))._features
    rows = re.findall(r"^\| `([a-z0-9._-]+)` \|", PAGES["versions"], re.MULTILINE)
    assert set(said) <= set(rows) and rows == sorted(rows)
