"""The page about testing: its examples are one file of tests, and pass."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]
PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "testing.md"
CONFTEST = 'pytest_plugins = ["prime.testing.fixtures"]\n'


def test_the_examples_of_the_page_are_tests_that_pass(pytester: pytest.Pytester) -> None:
    blocks: list[str] = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert CONFTEST in blocks
    pytester.makeini("[pytest]\ntrio_mode = true\nfilterwarnings = error\n")
    pytester.makeconftest(CONFTEST)
    program = "\n\n".join(block for block in blocks if block != CONFTEST)
    pytester.path.joinpath("test_hall.py").write_text(program)
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider", timeout=150)
    result.assert_outcomes(passed=len(re.findall(r"^(?:async )?def test_|^Test\w+ = ", program, re.MULTILINE)))
