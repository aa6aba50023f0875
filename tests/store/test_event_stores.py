"""Event stores: one set of promises, run over each implementation, and a state machine of each against a dict."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from prime.actor.contract import EventStore, SavedSnapshot
from prime.errors import ActorUsageError, ConflictError, NotFoundError, PrimeError
from prime.sim.disk import Disk
from prime.sim.plan import DiskFaults
from prime.sim.streams import Streams
from prime.store import MemoryEventStore, SqliteEventStore
from prime.store.head import KEY_SIZE_BYTES_MAX


@pytest.fixture(params=["memory", "sqlite", "simulated disk"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[EventStore]:
    if request.param == "memory":
        yield MemoryEventStore()
    elif request.param == "simulated disk":
        async with Disk("a", Streams(1)).event_store() as made:
            yield made
    else:
        async with await SqliteEventStore.open(tmp_path / "deep" / "events.db") as opened:
            yield opened


async def everything(store: EventStore, key: str, after: int = 0, **bounds: int) -> list[bytes]:
    found: list[bytes] = []
    while page := await store.events(key, after + len(found), **bounds):
        found.extend(page)
    return found


async def test_events_come_back_in_order_and_keys_are_apart(store: EventStore) -> None:
    assert await store.append("a", 0, [b"one", b"two"]) == 2
    assert await store.append("b", 0, [b""]) == 1
    assert await store.append("a", 2, [b"three"]) == 3
    assert await everything(store, "a") == [b"one", b"two", b"three"]
    assert await everything(store, "a", 2) == [b"three"]
    assert await everything(store, "b") == [b""]
    assert [await store.last(key) for key in ("a", "b", "c")] == [3, 1, 0]
    assert await everything(store, "c") == []


async def test_pages_are_bounded_in_events_and_in_bytes_and_never_empty_before_the_end(store: EventStore) -> None:
    bodies = [bytes([n]) * 100 for n in range(10)]
    await store.append("a", 0, bodies)
    assert [len(await store.events("a", after, count_max=4)) for after in (0, 4, 8, 10)] == [4, 4, 2, 0]
    assert [len(await store.events("a", after, size_bytes_max=250)) for after in (0, 9)] == [2, 1]
    assert len(await store.events("a", 0, size_bytes_max=1)) == 1
    assert len(await store.events("a", 0, count_max=0)) == 1
    for bounds in ({"count_max": 3}, {"size_bytes_max": 299}, {"count_max": 10}, {"count_max": 2, "size_bytes_max": 1}):
        assert await everything(store, "a", **bounds) == bodies


async def test_a_stale_writer_is_refused_and_nothing_of_it_is_kept(store: EventStore) -> None:
    await store.append("a", 0, [b"one"])
    await store.append("a", 1, [b"two"])
    for expected in (0, 1, 3, -1):
        with pytest.raises(ConflictError, match="its last event is number 2") as caught:
            await store.append("a", expected, [b"stale"])
        assert "'a'" in str(caught.value)
        assert caught.value.hint
    with pytest.raises(ConflictError):
        await store.append("never written", 5, [b"stale"])
    assert await everything(store, "a") == [b"one", b"two"]
    assert await store.last("never written") == 0


async def test_a_batch_of_none_still_checks_its_writer(store: EventStore) -> None:
    assert await store.append("a", 0, []) == 0
    await store.append("a", 0, [b"one"])
    assert await store.append("a", 1, []) == 1
    with pytest.raises(ConflictError):
        await store.append("a", 0, [])


async def test_what_is_stored_is_a_copy(store: EventStore) -> None:
    body = bytearray(b"before")
    await store.append("a", 0, [memoryview(body)])  # type: ignore[list-item] - any buffer does
    await store.save_snapshot("a", 1, memoryview(body))  # type: ignore[arg-type]
    body[:] = b"behind"
    assert await everything(store, "a") == [b"before"]
    assert await store.snapshot("a") == SavedSnapshot(1, b"before")


async def test_snapshots_move_forward_only_and_never_past_the_events(store: EventStore) -> None:
    assert await store.snapshot("a") is None
    for sequence in (0, 1):
        with pytest.raises(ConflictError, match="cannot be the latest"):
            await store.save_snapshot("a", sequence, b"too early")
    await store.append("a", 0, [b"e"] * 5)
    await store.save_snapshot("a", 3, b"three")
    await store.save_snapshot("a", 3, b"three again")
    for sequence in (2, 6, 0, -1):
        with pytest.raises(ConflictError, match="cannot be the latest"):
            await store.save_snapshot("a", sequence, b"no")
    assert await store.snapshot("a") == SavedSnapshot(3, b"three again")
    await store.save_snapshot("a", 5, b"")
    assert await store.snapshot("a") == SavedSnapshot(5, b"")


async def test_only_what_a_snapshot_holds_is_deleted_and_the_numbers_go_on(store: EventStore) -> None:
    await store.append("a", 0, [b"1", b"2", b"3", b"4"])
    with pytest.raises(ActorUsageError, match="are in no snapshot"):
        await store.delete_events("a", 1)
    await store.save_snapshot("a", 3, b"s")
    with pytest.raises(ActorUsageError, match="are in no snapshot"):
        await store.delete_events("a", 4)
    await store.delete_events("a", 2)
    await store.delete_events("a", 1)  # gone already
    await store.delete_events("a", 0)
    assert await everything(store, "a", 2) == [b"3", b"4"]
    for after in (0, 1, -1):
        with pytest.raises(NotFoundError, match="up to number 2 were deleted") as caught:
            await store.events("a", after)
        assert caught.value.hint
    with pytest.raises(ConflictError, match="nothing can come behind 5"):
        await store.events("a", 5)
    await store.delete_events("a", 3)
    assert await store.append("a", 4, [b"5"]) == 5
    assert await everything(store, "a", 3) == [b"4", b"5"]


async def test_a_forgotten_key_begins_anew(store: EventStore) -> None:
    await store.append("a", 0, [b"1", b"2"])
    await store.save_snapshot("a", 2, b"s")
    await store.delete_events("a", 2)
    await store.append("b", 0, [b"kept"])
    await store.forget("a")
    await store.forget("never there")
    assert (await store.last("a"), await store.snapshot("a"), await everything(store, "a")) == (0, None, [])
    assert await store.append("a", 0, [b"new"]) == 1
    assert await everything(store, "b") == [b"kept"]


@pytest.mark.parametrize("key", ["", "x" * (KEY_SIZE_BYTES_MAX + 1), "\udc80", "é" * KEY_SIZE_BYTES_MAX, 7])
async def test_impossible_keys_are_refused(store: EventStore, key: Any) -> None:
    for call in (store.append(key, 0, [b"e"]), store.last(key), store.forget(key)):
        with pytest.raises(ActorUsageError, match="cannot be a key"):
            await call


@pytest.mark.parametrize("key", ["x" * KEY_SIZE_BYTES_MAX, "a\x00b", "'; DROP TABLE events", "Ключ", "A", "a", "a "])
async def test_any_other_text_is_a_key_of_its_own(store: EventStore, key: str) -> None:
    await store.append("a\x00", 0, [b"other"])
    await store.append(key, 0, [b"mine"])
    assert await everything(store, key) == [b"mine"]


async def test_what_is_cancelled_before_its_turn_has_not_happened(store: EventStore) -> None:
    with trio.CancelScope() as scope:
        scope.cancel()
        await store.append("a", 0, [b"one"])
    assert scope.cancelled_caught
    assert await store.last("a") == 0


async def test_calls_from_many_tasks_are_whole_each(store: EventStore) -> None:
    """Of the writers that race for a number one wins, and what it wrote is there once."""
    won: list[bytes] = []

    async def writer(name: int) -> None:
        for turn in range(5):
            body = b"%d/%d" % (name, turn)
            try:
                expected = await store.last("a")
                await store.append("a", expected, [body, body])
            except ConflictError:
                continue
            won.append(body)

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            for name in range(6):
                nursery.start_soon(writer, name)
    found = await everything(store, "a")
    assert found[::2] == found[1::2]
    assert sorted(found[::2]) == sorted(won)
    assert won


# ------------------------------------------------------------------------------------------------- state machines


class Model:
    """What a store promises, in the plainest way: a list of all events ever, and two numbers."""

    def __init__(self) -> None:
        self.events: list[bytes] = []
        self.deleted = 0
        self.saved: tuple[int, bytes] | None = None

    def append(self, expected: int, bodies: list[bytes]) -> type[PrimeError] | None:
        if expected != len(self.events):
            return ConflictError
        self.events += bodies
        return None

    def save(self, sequence: int, body: bytes) -> type[PrimeError] | None:
        if sequence < 1 or sequence > len(self.events) or (self.saved and sequence < self.saved[0]):
            return ConflictError
        self.saved = (sequence, body)
        return None

    def delete(self, up_to: int) -> type[PrimeError] | None:
        if up_to > (self.saved[0] if self.saved else 0):
            return ActorUsageError
        self.deleted = max(self.deleted, up_to)
        return None


KEYS = st.sampled_from(["a", "b"])
BODIES = st.binary(max_size=9)
NUMBERS = st.integers(-1, 8)


class MemoryMachine(RuleBasedStateMachine):
    """Any calls in any order, right and wrong ones, over two keys."""

    def __init__(self) -> None:
        super().__init__()
        self.models = {"a": Model(), "b": Model()}
        self.store: EventStore = MemoryEventStore()

    def run(self, call: Callable[[], Awaitable[Any]]) -> Any:
        async def once() -> Any:
            return await call()

        return trio.run(once)

    def same(self, expected: type[PrimeError] | None, call: Callable[[], Awaitable[Any]]) -> None:
        found: type[PrimeError] | None = None
        try:
            self.run(call)
        except PrimeError as error:
            found = type(error)
        assert found is expected

    @rule(key=KEYS, off=st.sampled_from([0, 0, 0, -1, 1]), bodies=st.lists(BODIES, max_size=3))
    def append(self, key: str, off: int, bodies: list[bytes]) -> None:
        expected = len(self.models[key].events) + off
        self.same(self.models[key].append(expected, bodies), lambda: self.store.append(key, expected, bodies))

    @rule(key=KEYS, sequence=NUMBERS, body=BODIES)
    def save_snapshot(self, key: str, sequence: int, body: bytes) -> None:
        self.same(self.models[key].save(sequence, body), lambda: self.store.save_snapshot(key, sequence, body))

    @rule(key=KEYS, up_to=NUMBERS)
    def delete_events(self, key: str, up_to: int) -> None:
        self.same(self.models[key].delete(up_to), lambda: self.store.delete_events(key, up_to))

    @rule(key=KEYS)
    def forget(self, key: str) -> None:
        self.models[key] = Model()
        self.same(None, lambda: self.store.forget(key))

    @rule(key=KEYS, after=NUMBERS, count_max=st.integers(1, 4), size_bytes_max=st.integers(1, 20))
    def read(self, key: str, after: int, count_max: int, size_bytes_max: int) -> None:
        model = self.models[key]

        def call() -> Awaitable[Any]:
            return self.store.events(key, after, count_max=count_max, size_bytes_max=size_bytes_max)

        if after < model.deleted:
            self.same(NotFoundError, call)
        elif after > len(model.events):
            self.same(ConflictError, call)
        else:
            page = list(self.run(call))
            rest = model.events[after:]
            assert page == rest[: len(page)]
            assert (len(page) > 0) == (len(rest) > 0)
            full = page and len(page) < min(count_max, len(rest))
            assert not full or sum(map(len, rest[: len(page) + 1])) > size_bytes_max
            assert len(page) <= count_max
            assert len(page) <= 1 or sum(map(len, page)) <= size_bytes_max

    @invariant()
    def numbers_and_snapshots_agree(self) -> None:
        for key, model in self.models.items():
            assert self.run(lambda key=key: self.store.last(key)) == len(model.events)  # type: ignore[misc]
            saved = self.run(lambda key=key: self.store.snapshot(key))  # type: ignore[misc]
            assert (saved and (saved.sequence, saved.body)) == model.saved


class SqliteMachine(MemoryMachine):
    """The same over a file, which is closed and opened again now and then."""

    @initialize()
    def make(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "events.db"
        self.store = self.run(lambda: SqliteEventStore.open(self.path))

    @invariant()
    def numbers_and_snapshots_agree(self) -> None:
        if hasattr(self, "path"):
            super().numbers_and_snapshots_agree()

    @rule()
    def reopen(self) -> None:
        self.run(self.store.aclose)  # type: ignore[attr-defined]
        self.store = self.run(lambda: SqliteEventStore.open(self.path))

    def teardown(self) -> None:
        if hasattr(self, "path"):
            self.run(self.store.aclose)  # type: ignore[attr-defined]
            self.folder.cleanup()


class SimulatedMachine(MemoryMachine):
    """The same over a simulated disk, whose node crashes now and then."""

    def __init__(self) -> None:
        super().__init__()
        self.disk = Disk("a", Streams(1), DiskFaults(unsynced=True, torn=True))
        self.store = self.disk.event_store()

    @rule()
    def crash(self) -> None:
        self.disk.crash()
        self.store = self.disk.event_store()


TestMemoryMachine = MemoryMachine.TestCase
TestMemoryMachine.settings = settings(stateful_step_count=30)
TestSqliteMachine = SqliteMachine.TestCase
TestSqliteMachine.settings = settings(max_examples=25, stateful_step_count=20)
TestSimulatedMachine = SimulatedMachine.TestCase
TestSimulatedMachine.settings = settings(max_examples=25, stateful_step_count=20)
