"""What a tracker is: an object that is told every fact of a run.

`[tracking] trackers = ["module:function"]` names functions that make one. Each is called with the job and the run's
folder, in a thread of its own, where all calls to its tracker happen, one after the other: it may take its time and
block. It lives in the process that supervises the ranks, so it does well not to load torch.

An error in a tracker never stops a run. It is told once, and the tracker gets no more facts. The same happens to one
that falls too far behind.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from prime.trainer.facts import Fact


class Tracker(Protocol):
    """Takes the facts of one run, from `RunBegan` to `RunEnded`; which are left out is its own choice."""

    def event(self, fact: Fact) -> None:
        """Take one fact."""
        ...

    def close(self) -> None:
        """Write what is left. Nothing is told after it."""
        ...


TrackerFactory = Callable[[Any, Path], Tracker]
"""Called with the job (`prime.trainer.Job`) and the run's folder."""
