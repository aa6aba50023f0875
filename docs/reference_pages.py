"""The reference pages that are written from the code: configuration keys, the tree of errors, the public names."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, get_args, get_origin

import prime
from prime import errors
from prime.config.derived import FORMULAS
from prime.config.keys import Key
from prime.config.schema import NODE
from prime.config.values import shown
from prime.trainer.job import JOB


def write(folder: Path) -> None:
    """Write the generated pages into a folder."""
    _replace(folder / "configuration_keys.md", "\n".join(configuration()))
    _replace(folder / "job_keys.md", "\n".join(job()))
    _replace(folder / "error_classes.md", "\n".join(error_classes()))
    _replace(folder / "actor_names.md", "\n".join(actor_names()))


def _replace(file: Path, text: str) -> None:
    """Write a page only if it changed: the builder reads again what is newer than its last run."""
    if not file.exists() or file.read_text(encoding="utf-8") != text:
        file.write_text(text, encoding="utf-8")


def configuration() -> Iterator[str]:
    """Yield the lines of the page of keys: a table for each section."""
    for section, owner in NODE.sections.items():
        yield from _section(f"`[{section}]`", str(owner.__doc__), NODE.section_keys(section))
    yield "# Waits that follow\n"
    yield from (f"- `{name}` is {words}." for name, (_, words) in FORMULAS.items())
    yield ""


def job() -> Iterator[str]:
    """Yield the lines of the page of a job's keys: those at the top of the file, then a table for each section."""
    yield from _section("At the top", "What is trained, on what, and for how long.", JOB.section_keys(""))
    for section, owner in JOB.sections.items():
        yield from _section(f"`[{section}]`", str(owner.__doc__), JOB.section_keys(section))


def _section(title: str, meaning: str, keys: Iterable[Key]) -> Iterator[str]:
    yield f"# {title}\n"
    yield f"{meaning}\n"
    yield "| key | default | range | meaning |"
    yield "|---|---|---|---|"
    yield from (_row(key) for key in keys)
    yield ""


def _row(key: Key) -> str:
    return f"| `{key.field}` | `{shown(key.default)}` | {key.range} | {key.rule.doc} |"


def error_classes() -> Iterator[str]:
    """Yield the lines of the table of errors: class, exit status, meaning."""
    yield "| class | exit status | meaning |"
    yield "|---|---|---|"
    for name, found in vars(errors).items():
        if isinstance(found, type) and issubclass(found, errors.PrimeError):
            summary = (found.__doc__ or "").strip().splitlines()[0]
            yield f"| `{name}` | {found.exit_code} | {summary} |"
    yield ""


APART = ("Blobs", "Dht", "ModelMetadata", "TrainingConfig", "open_blobs", "open_dht", "open_trainer")
"""Public names that have nothing to do with actors."""


def actor_names() -> Iterator[str]:
    """Yield the lines of the table of public names: each with the first sentence of its docstring."""
    yield "| name | what it is |"
    yield "|---|---|"
    for name in sorted(prime.__all__, key=str.lower):
        if name not in APART and name != "__version__":
            yield f"| `{name}` | {_summary(getattr(prime, name))} |"
    yield ""


def _summary(value: object) -> str:
    """Return the first line of a docstring; an alias, which can have none, says what it stands for."""
    if get_origin(value) is Annotated:
        return f"A type of a message's field: `{get_args(value)[0].__name__}`, as bytes that travel beside its header."
    line = (value.__doc__ or "").strip().splitlines()[0]
    return line.replace("|", "\\|")
