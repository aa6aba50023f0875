"""The reference pages that are written from the code: every configuration key, and the tree of errors."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from prime import errors
from prime.config.derived import FORMULAS
from prime.config.schema import SECTIONS, Key, section_keys
from prime.config.values import shown


def write(folder: Path) -> None:
    """Write the generated pages into a folder."""
    _replace(folder / "configuration_keys.md", "\n".join(configuration()))
    _replace(folder / "error_classes.md", "\n".join(error_classes()))


def _replace(file: Path, text: str) -> None:
    """Write a page only if it changed: the builder reads again what is newer than its last run."""
    if not file.exists() or file.read_text(encoding="utf-8") != text:
        file.write_text(text, encoding="utf-8")


def configuration() -> Iterator[str]:
    """Yield the lines of the page of keys: a table for each section."""
    for section, owner in SECTIONS.items():
        yield f"# `[{section}]`\n"
        yield f"{owner.__doc__}\n"
        yield "| key | default | range | meaning |"
        yield "|---|---|---|---|"
        yield from (_row(key) for key in section_keys(section))
        yield ""
    yield "# Waits that follow\n"
    yield from (f"- `{name}` is {words}." for name, (_, words) in FORMULAS.items())
    yield ""


def _row(key: Key) -> str:
    return f"| `{key.field}` | `{shown(key.default)}` | {key.rule.range_text()} | {key.rule.doc} |"


def error_classes() -> Iterator[str]:
    """Yield the lines of the table of errors: class, exit status, meaning."""
    yield "| class | exit status | meaning |"
    yield "|---|---|---|"
    for name, found in vars(errors).items():
        if isinstance(found, type) and issubclass(found, errors.PrimeError):
            summary = (found.__doc__ or "").strip().splitlines()[0]
            yield f"| `{name}` | {found.exit_code} | {summary} |"
    yield ""
