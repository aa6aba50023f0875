"""How runs are called: `NAME`, `NAME@DIGEST` where one was submitted, and `~NUMBER-MARK` behind it for a successor (pure)."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from typing import Final

MARK_CHARACTERS: Final = 8
_SUCCESSOR: Final = re.compile(rf"(.+)~([0-9]{{1,9}})-[0-9a-f]{{{MARK_CHARACTERS}}}", re.DOTALL)


def lineage(run: str) -> tuple[str, int]:
    """Return the name that a run has in common with its successors, and the how manieth of them it is.

    `main~2-5f0c1a9b` is a second successor of `main`, which is ("main", 0).
    """
    found = _SUCCESSOR.fullmatch(run)
    return (found[1], int(found[2])) if found else (run, 0)


def base_name(run: str) -> str:
    """Return what its user calls a run: `hello` of `hello@0a94e94131d5` and of its successors."""
    return lineage(run)[0].partition("@")[0]


def successor(run: str, founders: Iterable[str]) -> str:
    """Return the name of the run that succeeds another one, whose founders these texts tell apart from all others.

    Two survivors that cannot reach each other may each found one: their marks differ, so neither is taken for the other.
    """
    name, number = lineage(run)
    mark = hashlib.sha256("\n".join([run, *founders]).encode()).hexdigest()[:MARK_CHARACTERS]
    return f"{name}~{number + 1}-{mark}"
