"""A run of real processes that many tests share: it goes on from one to the next as long as none of them fails."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
from swarm import Swarm, running  # type: ignore[import-not-found]


class Stage:
    """One run for many tests, ended after one that failed: the next begins another."""

    def __init__(self, folders: pytest.TempPathFactory, **options: Any) -> None:
        self._folders = folders
        self._options = options
        self._open = contextlib.ExitStack()
        self._swarm: Swarm | None = None

    @contextlib.contextmanager
    def swarm(self) -> Iterator[Swarm]:
        """Give the run to a test; all must be in again at its end, with one state."""
        if self._swarm is None:
            self._swarm = self._open.enter_context(running(self._folders.mktemp("run"), **self._options))
        try:
            yield self._swarm
            self._swarm.all_in()
            assert len(self._swarm.states()) == 1, self._swarm.story()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End the run, if one is under way."""
        self._swarm = None
        self._open.close()
