"""Each public name stands on a page of the reference."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import prime
import prime.testing

REFERENCE = Path(__file__).parents[2] / "docs" / "reference"
PAGES = "\n".join(page.read_text(encoding="utf-8") for page in sorted(REFERENCE.glob("*.md")))
ELSEWHERE = {"__version__", "open_trainer", "PrimeError"}
"""The example about training shows `open_trainer`; the page of errors lists all of them."""


@pytest.mark.parametrize("name", [*sorted(set(prime.__all__) - ELSEWHERE), *prime.testing.__all__])
def test_each_public_name_is_there(name: str) -> None:
    assert re.search(rf"auto\w+:: prime[\w.]*\.{name}$|`prime\.{name}`", PAGES, re.MULTILINE)
