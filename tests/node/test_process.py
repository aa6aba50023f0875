"""Process actors, with real processes: the same ref, and every way in which a process can end."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

import prime
from prime import Ref, Restart, Supervisor, System
from prime.actor import ActorFailed, DeadLetter
from prime.errors import (
    ActorCrashedError,
    LocalProtocolError,
    NoSuchActorError,
)
from prime.node.process_output import ProcessPrinted

WAIT_S = 30
"""For a busy machine; what is meant is far below a second."""
OFTEN = Restart(max=20, within=60, backoff=(0.01, 0.05))


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))


def actors() -> Any:
    """Return the module of the actors, as a child imports it."""
    import process_actors  # type: ignore[import-not-found]

    return process_actors


class Facts:
    """Every fact of a system, and a way to wait for one."""

    def __init__(self, system: System) -> None:
        self.seen: list[Any] = []
        self._news = trio.Event()
        system.subscribe(self._hear)

    def _hear(self, fact: Any) -> None:
        self.seen.append(fact)
        self._news.set()

    def of(self, kind: type) -> list[Any]:
        """Return the facts of one class."""
        return [fact for fact in self.seen if isinstance(fact, kind)]

    async def until(self, found: Callable[[], Any]) -> Any:
        """Wait until `found()` is true, looking after each fact."""
        while not (result := found()):
            self._news = trio.Event()
            await self._news.wait()
        return result


@asynccontextmanager
async def pool(*, restart: Restart = OFTEN, **options: Any) -> AsyncIterator[tuple[Supervisor, Facts]]:
    """Yield a supervisor, and see to it that nothing of its processes is left."""
    before = open_files()
    with trio.fail_after(WAIT_S):
        async with prime.open_system(**options) as system:
            facts = Facts(system)
            async with system.supervisor("pool", restart=restart) as sup:
                yield sup, facts
            assert children() == []
    assert open_files() == before


def open_files() -> int:
    """Count this process's open file descriptors."""
    return len(list(Path("/proc/self/fd").iterdir()))


def children() -> list[int]:
    """Return this process's children, zombies included."""
    return [int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]


def runs(pid: int) -> bool:
    """Tell whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


async def test_a_process_actor_is_the_same_ref_and_keeps_the_order() -> None:
    a = actors()
    async with pool() as (sup, _):
        ref: Ref[Any] = await sup.spawn_process("process_actors:Counter", "counter", args=(1, 2))
        pid = await ref.ask(a.GetPid(), timeout=WAIT_S)
        assert pid != os.getpid()
        assert children() == [pid]
        for number in range(1000):
            await ref.tell(a.Add(number))
        assert await ref.ask(a.Total(), timeout=WAIT_S) == (1, 2, *range(1000))
        assert not runs(pid) or sup.children[0].cell.state == "running"


async def test_a_crash_in_a_handler_is_the_actors_failure_with_its_traceback_and_cause() -> None:
    a = actors()
    async with pool() as (sup, facts):
        ref = await sup.spawn_process(a.Counter, "counter", args=(7,))
        await ref.tell(a.Add(1))
        first = await ref.ask(a.GetPid(), timeout=WAIT_S)
        with pytest.raises(ActorCrashedError, match="ValueError: made up") as caught:
            await ref.ask(a.Boom("made up"), timeout=WAIT_S)
        assert "raise ValueError(m.text) from cause" in caught.value.remote_traceback
        assert "KeyError: 'the cause'" in caught.value.remote_traceback
        assert await ref.ask(a.Total(), timeout=WAIT_S) == (7,)  # a fresh one, from the same arguments
        assert await ref.ask(a.GetPid(), timeout=WAIT_S) != first
        assert not runs(first)
        (failed,) = facts.of(ActorFailed)
        assert "ValueError: made up" in failed.error
        assert "KeyError: 'the cause'" in failed.traceback


async def test_messages_that_were_not_begun_survive_a_crash_and_none_runs_twice() -> None:
    a = actors()
    async with pool() as (sup, facts):
        ref = await sup.spawn_process(a.Counter, "counter")
        await ref.tell(a.Add(-1))
        await ref.tell(a.Boom("once"))
        for number in range(1000):
            await ref.tell(a.Add(number))
        assert await ref.ask(a.Total(), timeout=WAIT_S) == tuple(range(1000))
        assert not facts.of(DeadLetter)
        assert len(facts.of(ActorFailed)) == 1


@pytest.mark.parametrize(("status", "words"), [(3, "exit status 3"), (0, "exit status 0"), (-15, "signal SIGTERM")])
async def test_a_process_that_leaves_is_a_failure_that_says_how(status: int, words: str) -> None:
    a = actors()
    async with pool() as (sup, facts):
        ref = await sup.spawn_process(a.Counter, "counter", kind="temporary", output="facts")
        heard: list[str] = []
        sup.system.watch(ref, heard.append)
        with pytest.raises(ActorCrashedError, match=words) as caught:
            await ref.ask(a.Leave(status), timeout=WAIT_S)
        assert "last words" in str(caught.value)
        await facts.until(lambda: heard)
        assert len(heard) == 1
        assert words in heard[0]
        assert "last words" in heard[0]
        assert [fact.line for fact in facts.of(ProcessPrinted)] == ["last words"]


async def test_a_killed_process_fails_its_asks_and_what_waits_is_kept() -> None:
    a = actors()
    outcomes: list[str] = []

    async def nap(ref: Ref[Any]) -> None:
        with pytest.raises(ActorCrashedError, match="SIGKILL"):
            await ref.ask(a.Nap(60), timeout=WAIT_S)
        outcomes.append("failed")

    async with pool() as (sup, facts):
        ref = await sup.spawn_process(a.Counter, "counter")
        pid = await ref.ask(a.GetPid(), timeout=WAIT_S)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(nap, ref)
            await trio.testing.wait_all_tasks_blocked()
            for number in range(1000):
                await ref.tell(a.Add(number))
            os.kill(pid, signal.SIGKILL)
        assert outcomes == ["failed"]
        total = await ref.ask(a.Total(), timeout=WAIT_S)
        lost = [fact for fact in facts.of(DeadLetter) if fact.kind == "Add"]
        assert len(total) + len(lost) == 1000
        assert total == tuple(range(len(lost), 1000))  # the window's worth is in doubt; what waited is kept, in order
        assert 0 < len(lost) <= 512
        assert "SIGKILL" in lost[0].reason


async def test_a_stop_is_in_order_and_a_stopped_process_is_killed_in_time() -> None:
    a = actors()
    async with pool() as (sup, _):
        ref = await sup.spawn_process(a.Counter, "counter", shutdown=0.5)
        pid = await ref.ask(a.GetPid(), timeout=WAIT_S)
        os.kill(pid, signal.SIGSTOP)
        await sup.stop(ref)
        assert not runs(pid)


async def test_an_actor_that_stops_itself_ends_its_process_in_order() -> None:
    a = actors()
    async with pool() as (sup, facts):
        ref = await sup.spawn_process(a.Counter, "counter", kind="transient")
        heard: list[str] = []
        sup.system.watch(ref, heard.append)
        await ref.tell(a.StopYourself())
        await facts.until(lambda: heard)
        assert heard == ["it ended in order"]
        assert children() == []
        with pytest.raises(NoSuchActorError):
            await ref.ask(a.Total(), timeout=WAIT_S)


async def test_a_message_without_a_tag_cannot_leave() -> None:
    a = actors()
    async with pool() as (sup, facts):
        ref: Ref[Any] = await sup.spawn_process(a.Counter, "counter")
        with pytest.raises(LocalProtocolError, match="Private"):
            await ref.ask(a.Private(), timeout=WAIT_S)
        await ref.tell(a.Private())
        await facts.until(lambda: len(facts.of(DeadLetter)) == 2)
        assert "no tag" in facts.of(DeadLetter)[1].reason
        assert await ref.ask(a.Total(), timeout=WAIT_S) == ()
