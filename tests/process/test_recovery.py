"""A persistent actor in a process of its own: SIGKILL takes the process, and the next one knows all it answered for."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import trio

import prime
from prime import Restart
from prime.errors import PrimeError


async def test_a_killed_process_comes_back_with_its_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    import process_ledger  # type: ignore[import-not-found]

    answered: list[int] = []
    seen: set[int] = set()
    restart = Restart(max=20, within=60, backoff=(0.01, 0.05))
    with trio.fail_after(90):
        async with prime.open_system() as system, system.supervisor("pool", restart=restart) as pool:
            ledger: Any = await pool.spawn_process(process_ledger.Ledger, "ledger", args=(str(tmp_path / "ledger.db"),))
            for number in range(9):
                try:
                    count, process = await ledger.ask(process_ledger.Enter(number), timeout=60)
                except PrimeError:
                    continue  # it died under this one: whether it was stored shows below
                answered.append(number)
                seen.add(process)
                assert len(answered) <= count <= number + 1
                if number in {2, 5}:
                    os.kill(process, signal.SIGKILL)
    assert len(seen) == 3
    async with await prime.SqliteEventStore.open(tmp_path / "ledger.db") as store:
        from prime.actor.persistent import decoded

        stored = [decoded(body).number for body in await store.events("ledger", 0)]
    assert set(answered) <= set(stored)
    assert stored == sorted(set(stored))
    assert len(answered) >= 7
