"""Process actors, with real processes: the same ref, and every way in which a process can end."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

import prime
from prime import Actor, Mailbox, Ref, Restart, Supervisor, System
from prime.actor import ActorFailed, ActorStarted, DeadLetter
from prime.errors import (
    ActorCrashedError,
    ActorUsageError,
    ConfigError,
    DeadlineError,
    LocalProtocolError,
    NoSuchActorError,
)
from prime.process.output import ProcessPrinted

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
async def pool(
    *, restart: Restart = OFTEN, within_s: float = WAIT_S, **options: Any
) -> AsyncIterator[tuple[Supervisor, Facts]]:
    """Yield a supervisor, and see to it that nothing of its processes is left."""
    before = open_files()
    with trio.fail_after(within_s):
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
        assert failed.last_message == "Boom"
        assert failed.causes == ("KeyError: 'the cause'",)


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


@prime.message(tag=0x71F0)
class Unknown:
    """A message whose class the child never imports."""


async def test_what_the_child_cannot_read_is_a_dead_letter_and_puts_nothing_out_of_step() -> None:
    a = actors()
    async with pool() as (sup, facts):
        ref: Ref[Any] = await sup.spawn_process(a.Counter, "counter")
        await ref.tell(a.Nap(0.1))
        await ref.tell(a.Add(-1))
        for _n in range(3):
            await ref.tell(Unknown())
        await ref.tell(a.Boom("once"))
        for number in range(10):
            await ref.tell(a.Add(number))
        assert await ref.ask(a.Total(), timeout=WAIT_S) == tuple(range(10))
        await facts.until(lambda: len(facts.of(DeadLetter)) == 3)
        assert {fact.path for fact in facts.of(DeadLetter)} == {"/pool/counter"}


@pytest.mark.parametrize("window", [1, 512])
async def test_what_is_stashed_when_the_actor_crashes_is_kept(window: int) -> None:
    a = actors()
    async with pool() as (sup, facts):
        ref: Ref[Any] = await sup.spawn_process(a.Patient, "patient", window=window)
        for number in (1, 100, 2):
            await ref.tell(a.Add(number))
        with pytest.raises(ActorCrashedError):
            await ref.ask(a.Boom("now"), timeout=WAIT_S)
        await ref.ask(a.Total(), timeout=WAIT_S)  # the fresh one stashes both anew, and takes them back
        assert await ref.ask(a.Total(), timeout=WAIT_S) == (1, 2)
        assert not facts.of(DeadLetter)


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


async def test_with_a_window_of_one_a_killed_process_leaves_one_message_in_doubt() -> None:
    a = actors()

    async def nap(ref: Ref[Any], results: list[str]) -> None:
        try:
            await ref.ask(a.Nap(0.3), timeout=WAIT_S)
            results.append("answered")
        except ActorCrashedError:
            results.append("in doubt")

    async with pool() as (sup, _):
        with pytest.raises(ActorUsageError, match="impossible window: 0"):
            sup.system.in_process(a.Counter, window=0)
        ref = await sup.spawn_process(a.Counter, "counter", window=1)
        results: list[str] = []
        async with trio.open_nursery() as nursery:
            for _n in range(4):
                nursery.start_soon(nap, ref, results)
            await trio.testing.wait_all_tasks_blocked(0.05)
            os.kill(children()[0], signal.SIGKILL)
        assert sorted(results) == ["answered"] * 3 + ["in doubt"]


async def test_a_stop_is_in_order_and_a_stopped_process_is_killed_in_time() -> None:
    a = actors()
    async with pool() as (sup, _):
        ref = await sup.spawn_process(a.Counter, "counter", shutdown=0.5)
        pid = await ref.ask(a.GetPid(), timeout=WAIT_S)
        os.kill(pid, signal.SIGSTOP)
        await sup.stop(ref)
        assert not runs(pid)


async def test_without_process_descriptors_a_thread_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on macOS."""
    monkeypatch.delattr(os, "pidfd_open")
    a = actors()
    async with pool() as (sup, _):
        ref = await sup.spawn_process(a.Counter, "counter")
        first = await ref.ask(a.GetPid(), timeout=WAIT_S)
        with pytest.raises(ActorCrashedError, match="exit status 4"):
            await ref.ask(a.Leave(4), timeout=WAIT_S)
        assert await ref.ask(a.GetPid(), timeout=WAIT_S) != first
        assert not runs(first)


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


async def test_a_timer_of_the_actor_may_fire_while_messages_wait_for_it() -> None:
    a = actors()
    async with pool() as (sup, _):
        ref = await sup.spawn_process(a.Ticking, "ticking")
        for number in range(20, 30):
            assert await ref.ask(a.Nap(0.02), timeout=WAIT_S) == 0.02
            await ref.tell(a.Add(number))
        total = await ref.ask(a.Total(), timeout=WAIT_S)
        assert [number for number in total if number > 1] == list(range(20, 30))
        assert total.count(1) > 10


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


# --------------------------------------------------------------------------------------------------------- starting


async def test_a_failure_in_started_is_the_spawns_with_its_traceback() -> None:
    a = actors()
    async with pool() as (sup, _):
        with pytest.raises(ActorCrashedError, match="ZeroDivisionError: not today") as caught:
            await sup.spawn_process(a.Refuses, "refuses", args=(False,), kind="temporary")
        assert 'raise ZeroDivisionError("not today")' in caught.value.remote_traceback
        assert sup.children == ()


async def test_an_error_of_primes_own_keeps_its_class_so_that_a_restart_can_be_called_hopeless() -> None:
    a = actors()
    with pytest.raises(ConfigError, match="no such file") as caught:
        async with pool(restart=Restart(hopeless=(ConfigError,))) as (sup, _):
            await sup.spawn_process(a.Refuses, "refuses", args=(True,))
    assert caught.value.hint == "look again"


async def test_a_factory_that_is_not_there_is_a_failure_that_names_it() -> None:
    async with pool() as (sup, _):
        with pytest.raises(ActorCrashedError, match="no_such_module"):
            await sup.spawn_process("no_such_module:Counter", "a", kind="temporary")
        with pytest.raises(ActorCrashedError, match="process_actors has no Missing"):
            await sup.spawn_process("process_actors:Missing", "b", kind="temporary")


def _makes_a_counter() -> Any:
    def make() -> Any:
        return actors().Counter()

    return make


async def test_what_no_child_could_import_or_be_sent_is_refused_at_once() -> None:
    a = actors()

    class Local(Actor[Any]):
        pass

    async with pool() as (sup, facts):
        for bad in ("no_colon", ":factory", "module:", Local, _makes_a_counter()):
            with pytest.raises(ActorUsageError, match="names no actor|no other process"):
                await sup.spawn_process(bad, "bad")  # type: ignore[call-overload]
        for value in (object(), len, {1: object()}, a.Private()):
            with pytest.raises(ActorUsageError, match="cannot be sent"):
                await sup.spawn_process(a.Counter, "bad", args=(value,))
        assert children() == []
        assert not facts.of(ActorStarted)


async def test_an_option_that_does_not_exist_is_refused() -> None:
    async with pool() as (sup, _):
        with pytest.raises(ActorUsageError, match="no option kwargs"):
            await sup.spawn_process(actors().Counter, "counter", kwargs={"start": 1})


async def test_a_system_made_by_hand_says_who_can_start_processes() -> None:
    system = System()
    with pytest.raises(ActorUsageError, match="cannot start processes") as caught:
        system.in_process("module:Actor")
    assert "open_system" in caught.value.hint


async def test_a_start_that_takes_too_long_ends_with_what_it_printed() -> None:
    a = actors()
    async with pool() as (sup, _):
        for starting in (1.0, 4.0, 16.0):  # a busy machine's process does not print within the first
            with pytest.raises(ActorCrashedError, match="did not start") as caught:
                await sup.spawn_process(a.Slow, "slow", kind="temporary", starting=starting, shutdown=0.2)
            assert isinstance(caught.value.__cause__, DeadlineError)
            if "almost there" in str(caught.value):
                return
        pytest.fail(f"nothing of what it printed: {caught.value}")


async def test_a_spawn_that_is_cancelled_leaves_no_process() -> None:
    a = actors()
    async with pool() as (sup, facts):
        async with trio.open_nursery() as nursery:

            async def spawn() -> None:
                await sup.spawn_process(a.Slow, "slow", shutdown=0.1)

            nursery.start_soon(spawn)
            await facts.until(lambda: facts.of(ProcessPrinted))
            assert len(children()) == 1
            nursery.cancel_scope.cancel()
        assert children() == []


# ----------------------------------------------------------------------------------------------------------- ending


async def test_the_actor_says_goodbye_within_the_shutdown_time(tmp_path: Path) -> None:
    a = actors()
    async with pool() as (sup, _):
        await sup.spawn_process(a.Goodbye, "goodbye", args=(str(tmp_path / "said"),))
    assert (tmp_path / "said").read_text() == "goodbye"


async def test_programs_that_the_child_started_go_with_it() -> None:
    a = actors()
    async with pool() as (sup, _):
        ref = await sup.spawn_process(a.Wide, "wide")
        program = await ref.ask(a.StartProgram(), timeout=WAIT_S)
        assert runs(program)
        await sup.stop(ref)
        with trio.fail_after(WAIT_S):
            while runs(program):  # noqa: ASYNC110 - it is killed; when it is gone is the kernel's business
                await trio.sleep(0.01)


async def test_a_silent_process_is_killed_and_the_reason_says_so() -> None:
    a = actors()
    async with pool() as (sup, facts):
        ref = await sup.spawn_process(a.Counter, "counter", kind="temporary", silent=0.6, shutdown=0.2)
        pid = await ref.ask(a.GetPid(), timeout=WAIT_S)
        os.kill(pid, signal.SIGSTOP)
        await facts.until(lambda: facts.of(ActorFailed))
        assert "killed because of its link: nothing was heard for 0.6 s" in facts.of(ActorFailed)[0].error
        assert not runs(pid)


async def test_a_flood_of_output_neither_blocks_the_child_nor_grows_here(capsys: pytest.CaptureFixture[str]) -> None:
    a = actors()
    async with pool() as (sup, facts):
        ref = await sup.spawn_process(a.Wide, "wide", kind="temporary")
        heard: list[str] = []
        sup.system.watch(ref, heard.append)
        assert await ref.ask(a.Flood(50_000), timeout=WAIT_S) == 50_000
        os.kill(children()[0], signal.SIGKILL)
        await facts.until(lambda: heard)
        assert len(facts.of(ProcessPrinted)) < 5_000
        assert 4_000 < len(heard[0]) < 5_000
    assert capsys.readouterr().err.startswith("line 0 ")


# ------------------------------------------------------------------------------------------------------ reaching out


async def test_refs_reach_both_ways_and_watches_too() -> None:
    a = actors()
    async with pool() as (sup, facts):
        here = await sup.spawn(lambda: a.Counter(1), "here")
        ref = await sup.spawn_process(a.Wide, "wide")
        assert await ref.ask(a.AskParent("/pool/here"), timeout=WAIT_S) == (1, 99)
        await ref.ask(a.WatchParent("/pool/here"), timeout=WAIT_S)
        await sup.stop(here)
        assert await ref.ask(a.Heard(), timeout=WAIT_S) == "/pool/here"
        path = await ref.ask(a.StartInner(), timeout=WAIT_S)
        (process,) = sup.system.network.processes  # type: ignore[union-attr]
        inner = sup.system.ref(process, path, a.Counter)
        assert await inner.ask(a.Total(), timeout=WAIT_S) == (5,)
        downs: list[str] = []
        sup.system.watch(inner, downs.append)
        await sup.stop(ref)
        await facts.until(lambda: downs)
        assert len(downs) == 1


async def test_refs_travel_in_messages_both_ways() -> None:
    a = actors()
    async with pool() as (sup, _):
        here = await sup.spawn(lambda: a.Counter(1), "here")
        ref = await sup.spawn_process(a.Swapper, "swapper")
        back = await ref.ask(a.Swap(here), timeout=WAIT_S)
        assert await here.ask(a.Total(), timeout=WAIT_S) == (1, 5)
        assert await back.ask(a.WhoAsks(), timeout=WAIT_S) == "swapper"


@pytest.mark.parametrize("way", ["p", "bp", "pq", "bpq"])
async def test_a_cycle_of_asks_through_a_process_is_found(way: str) -> None:
    """From a, here, by others here (b) and in processes (p, q), back to a: each time as long as it takes to say so."""
    a = actors()
    async with pool() as (sup, _):
        refs = {name: await sup.spawn(a.Rounder, name) for name in "ab"}
        refs |= {name: await sup.spawn_process(a.Rounder, name) for name in "pq" if name in way}
        there = [refs[name] for name in way]
        assert await refs["a"].ask(a.GoRound(there), timeout=WAIT_S) == "end"
        found = await refs["a"].ask(a.GoRound([*there, refs["a"]]), timeout=WAIT_S)
        assert found.startswith("/pool/a on …")
        assert f"{' -> /pool/a'}: it would wait for ever" in found
        assert [found.index(f"/pool/{name}") for name in way] == sorted(found.index(f"/pool/{name}") for name in way)


async def test_dead_letters_of_the_child_are_heard_of_here_and_its_process_is_in_the_tree() -> None:
    a = actors()
    async with pool() as (sup, facts):
        ref: Ref[Any] = await sup.spawn_process(a.Counter, "counter")
        await ref.tell(a.WhoAsks())
        await facts.until(lambda: facts.of(DeadLetter))
        assert facts.of(DeadLetter)[0] == DeadLetter("/pool/counter", "WhoAsks", "the actor has no handler for WhoAsks")
        assert await ref.ask(a.Total(), timeout=WAIT_S) == ()
        (info,) = sup.system.tree()[0].children
        assert [info.process] == children()
        assert info.actor == "Counter"
        assert 0 < info.p50_s <= info.p99_s < WAIT_S


async def test_the_sender_is_the_far_node_and_nobody_for_a_local_one() -> None:
    a = actors()
    hub = prime.Memory()
    async with pool(transport=hub) as (sup, _), prime.open_system(transport=hub) as far:
        ref = await sup.spawn_process(a.Wide, "wide")
        assert await ref.ask(a.WhoAsks(), timeout=WAIT_S) == "somebody here"
        assert far.network is not None
        peer = await far.network.dial(sup.system.addresses[0])
        assert peer == sup.system.peer
        assert await far.ref(peer, "/pool/wide", a.Wide).ask(a.WhoAsks(), timeout=WAIT_S) == far.peer


async def test_what_is_signed_passes_into_a_process_with_its_signer_and_comes_out_as_the_nodes_own() -> None:
    a, memory = actors(), prime.Memory()
    async with prime.open_system(transport=memory) as far, pool(transport=memory) as (sup, _):
        here = sup.system
        far.learn(here.peer, here.addresses)
        await sup.spawn(a.Court, "court")
        child = await sup.spawn(here.in_process(a.Court), "child")
        assert await child.ask(a.Sworn("mine"), timeout=WAIT_S) == here.peer
        beyond = far.ref(here.peer, "/pool/child", a.Court)
        assert await beyond.ask(a.Sworn("far"), timeout=WAIT_S) == far.peer
        answer = await beyond.ask(a.Affidavit("/pool/court"), timeout=WAIT_S)
        assert answer == a.Affidavit(here.peer)
        assert prime.signed(answer).signer == here.peer
        near = await child.ask(a.Affidavit("/pool/court"), timeout=WAIT_S)
        assert here.signed(near).signer == here.peer


async def test_bulk_passes_whole() -> None:
    a = actors()
    async with pool() as (sup, _):
        ref = await sup.spawn_process(a.Wide, "wide", args=(a.Add(3),))
        assert bytes(await ref.ask(a.Echo(memoryview(b"abc")), timeout=WAIT_S)) == b"cba"
        bulk = memoryview(bytearray(120 * 2**20))
        assert bytes(await ref.ask(a.Echo(bulk), timeout=WAIT_S)) == b"125829120"


async def test_two_processes_compute_at_once() -> None:
    a = actors()
    async with pool() as (sup, _):
        pools: Ref[Any] = await sup.spawn_pool(sup.system.in_process(a.Wide), "workers", size=2)
        seconds = 0.4
        started = trio.current_time()
        async with trio.open_nursery() as nursery:
            for _n in range(2):
                nursery.start_soon(_compute, pools, a.Compute(seconds))
        assert len(children()) == 2
        if len(os.sched_getaffinity(0)) > 1 and os.getloadavg()[0] < 1:
            assert trio.current_time() - started < 1.9 * seconds


async def _compute(ref: Ref[Any], message: Any) -> None:
    assert await ref.ask(message, timeout=WAIT_S) > 0


# ---------------------------------------------------------------------------------------------- killed at any moment


async def _keep_the_books(path: Path, rounds: int, seed: int) -> None:
    """Kill a process again and again under tells and asks; then check that nothing is unaccounted for or ran twice."""
    a = actors()
    moments = random.Random(seed)
    asked = {"answered": 0, "failed": 0}
    sent = 0
    over = trio.Event()

    async def ask(ref: Ref[Any]) -> None:
        while not over.is_set():
            try:
                await ref.ask(a.Total(), timeout=WAIT_S)
                asked["answered"] += 1
            except ActorCrashedError:
                asked["failed"] += 1

    async def tell(ref: Ref[Any]) -> None:
        nonlocal sent
        while not over.is_set():
            await ref.tell(a.Add(sent))
            sent += 1

    restart = Restart(max=10_000, backoff=(0.001, 0.002))
    async with pool(restart=restart, within_s=WAIT_S + rounds) as (sup, facts):
        ref = await sup.spawn_process(a.Ledger, "ledger", args=(str(path),), mailbox=Mailbox(256))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(tell, ref)
            nursery.start_soon(ask, ref)
            for _round in range(rounds):
                await trio.sleep(moments.uniform(0.0, 0.4))  # what happens at that moment is the point, and it is any
                for pid in children():
                    os.kill(pid, signal.SIGKILL)
            over.set()
        await ref.ask(a.Total(), timeout=WAIT_S)
        handled = [int(line) for line in (await trio.Path(path).read_text()).split()]
        lost = [fact for fact in facts.of(DeadLetter) if fact.kind == "Add"]
        assert handled == sorted(set(handled))
        assert sent - len(handled) <= len(lost) <= 512 * rounds
        assert asked["answered"]


async def test_nothing_runs_twice_and_all_is_accounted_for_when_processes_are_killed_at_any_moment(
    tmp_path: Path,
) -> None:
    await _keep_the_books(tmp_path / "ledger", 3, 5)


@pytest.mark.nightly
@pytest.mark.parametrize("seed", range(5))
async def test_the_same_with_many_kills(tmp_path: Path, seed: int) -> None:
    await _keep_the_books(tmp_path / "ledger", 60, seed)
