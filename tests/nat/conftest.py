"""Tests in here get an internet of namespaces, or are skipped with the reason why there can be none."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from nets import Internet, why_not  # type: ignore[import-not-found]  # beside this file


@pytest.fixture
def internet() -> Iterator[Internet]:
    """A public network with nobody in it yet."""
    if reason := why_not():
        pytest.skip(reason)
    with Internet() as net:
        yield net
