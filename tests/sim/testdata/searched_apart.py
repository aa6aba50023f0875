"""A scenario that hangs for ever, in a module that leaves the id of each process that imports it in a folder."""

from __future__ import annotations

import os
from pathlib import Path

from prime import sim

Path(os.environ["SEARCHED_FOLDER"], str(os.getpid())).touch()


@sim.scenario(nodes=1, kinds=frozenset())
async def hangs(world: sim.World) -> None:
    """Run on and on without an await."""
    while True:
        pass
