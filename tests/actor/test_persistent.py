"""Persistent actors: what was stored is the state, whatever dies in between; what was not stored never was."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from prime.actor import ActorFailed, Persistent, Restart, SnapshotFailed, StateRecovered, applies, on
from prime.actor.contract import SavedSnapshot
from prime.actor.persistent import decoded, encoded
from prime.errors import (
    ActorCrashedError,
    ActorUsageError,
    ConflictError,
    CorruptedError,
    DecodeError,
    LocalProtocolError,
    MessageError,
    WorldError,
)
from prime.node.system import open_system
from prime.store import MemoryEventStore, SqliteEventStore
from prime.wire import Ask, Limits, Payload, message


@message(tag=0x7C01)
class Deposited:
    amount: int


@message(tag=0x7C02)
class Noted:
    text: str
    data: Payload


@message(tag=0x7C03)
class State:
    total: int
    notes: list[str]


@message(tag=0x7C04)
class Unheard:
    pass


@message
class Deposit(Ask[int]):
    amounts: tuple[int, ...]


@message
class Note(Ask[int]):
    text: str


@message
class Look(Ask[tuple[int, tuple[str, ...], int]]):
    pass


@message
class Die:
    pass


@message
class Within(Ask[bool]):
    """Deposit 1, but give up after so many seconds; the answer tells whether it was given up."""

    seconds: float


@message
class Swallow(Ask[str]):
    """Deposit 1 and catch whatever the store says."""


class Account(Persistent[Deposit | Note | Look | Die | Within | Swallow, Deposited | Noted]):
    def __init__(self, store: Any, key: str = "acct", **settings: Any) -> None:
        super().__init__(store, key, **settings)
        self.total, self.notes, self.applied = 0, list[str](), 0

    def snapshot(self) -> State:
        return State(self.total, self.notes)

    def restore(self, snapshot: State) -> None:
        self.total, self.notes = snapshot.total, snapshot.notes

    @on(Deposit)
    async def deposit(self, m: Deposit) -> int:
        await self.persist(*(Deposited(amount) for amount in m.amounts))
        return self.total

    @on(Note)
    async def note(self, m: Note) -> int:
        await self.persist(Noted(m.text, memoryview(m.text.encode())))
        return len(self.notes)

    @on(Look)
    def look(self, _: Look) -> tuple[int, tuple[str, ...], int]:
        return self.total, tuple(self.notes), self.sequence

    @on(Die)
    def die(self, _: Die) -> None:
        raise ValueError("killed")

    @on(Within)
    async def within(self, m: Within) -> bool:
        with trio.move_on_after(m.seconds) as scope:
            await self.persist(Deposited(1))
        return scope.cancelled_caught

    @on(Swallow)
    async def swallow(self, _: Swallow) -> str:
        try:
            await self.persist(Deposited(1))
        except WorldError as error:
            await trio.sleep(1)
            return f"never mind: {error}"
        return "stored"

    @applies(Deposited)
    def deposited(self, event: Deposited) -> None:
        if event.amount == 666:
            raise ArithmeticError("an event that cannot be applied")
        self.total += event.amount
        self.applied += 1

    @applies(Noted)
    def noted(self, event: Noted) -> None:
        assert bytes(event.data) == event.text.encode()
        self.notes.append(event.text)
        self.applied += 1


RESTART = Restart(max=50, within=1000, backoff=(0.01, 0.1))


# --------------------------------------------------------------------------------------------------------- recovery


async def test_a_restarted_actor_has_what_it_had(autojump_clock: trio.testing.MockClock) -> None:
    facts: list[Any] = []
    store = MemoryEventStore()
    async with open_system(seed=0) as system, system.supervisor("bank", restart=RESTART) as bank:
        system.subscribe(facts.append)
        account = await bank.spawn(lambda: Account(store), "account")
        assert await account.ask(Deposit((1, 2)), timeout=5) == 3
        assert await account.ask(Note("hello"), timeout=5) == 1
        await account.tell(Die())
        assert await account.ask(Look(), timeout=5) == (3, ("hello",), 3)
        assert await account.ask(Deposit((4,)), timeout=5) == 7
    assert [fact for fact in facts if isinstance(fact, StateRecovered)] == [
        StateRecovered("/bank/account", "acct", 0, 0),
        StateRecovered("/bank/account", "acct", 0, 3),
    ]
    assert await store.last("acct") == 4


async def test_it_survives_its_program_in_a_file(tmp_path: Path) -> None:
    for expected in (1, 2, 3):
        async with (
            await SqliteEventStore.open(tmp_path / "bank.db") as store,
            open_system() as system,
            system.supervisor("bank") as bank,
        ):
            account = await bank.spawn(lambda store=store: Account(store, snapshot_every=2), "account")  # type: ignore[misc]
            assert await account.ask(Deposit((1,)), timeout=60) == expected


@pytest.mark.parametrize(("events_kept", "left"), [(None, 10), (0, 2), (3, 5)])
async def test_snapshots_shorten_recovery_and_what_they_hold_is_deleted_by_choice(
    autojump_clock: trio.testing.MockClock, events_kept: int | None, left: int
) -> None:
    facts: list[Any] = []
    store = MemoryEventStore()
    settings = {"snapshot_every": 4, "events_kept": events_kept}
    async with open_system(seed=0) as system, system.supervisor("bank", restart=RESTART) as bank:
        system.subscribe(facts.append)
        account = await bank.spawn(lambda: Account(store, **settings), "account")
        for number in range(1, 11):
            assert await account.ask(Deposit((1,)), timeout=5) == number
            await trio.sleep(1)
        saved = await store.snapshot("acct")
        assert saved is not None
        assert (saved.sequence, decoded(saved.body)) == (8, State(8, []))
        assert len(await store.events("acct", 10 - left)) == left
        await account.tell(Die())
        assert await account.ask(Look(), timeout=5) == (10, (), 10)
    assert facts[-1 - [type(f) for f in facts[::-1]].index(StateRecovered)] == StateRecovered(
        "/bank/account", "acct", 8, 2
    )


async def test_recovery_reads_in_pages(autojump_clock: trio.testing.MockClock) -> None:
    pages: list[int] = []

    class Watched(MemoryEventStore):
        async def events(self, key: str, after: int, **_: Any) -> Sequence[bytes]:
            page = await super().events(key, after, count_max=100)
            pages.append(len(page))
            return page

    store = Watched()
    await store.append("acct", 0, [encoded(Deposited(1))] * 250)
    async with open_system(seed=0) as system, system.supervisor("bank") as bank:
        account = await bank.spawn(lambda: Account(store), "account")
        assert await account.ask(Look(), timeout=5) == (250, (), 250)
    assert pages == [100, 100, 50, 0]


async def test_recovered_runs_with_the_state_before_any_message_and_may_persist(
    autojump_clock: trio.testing.MockClock,
) -> None:
    class Counting(Account):
        async def recovered(self) -> None:
            await self.persist(Noted(f"run {len(self.notes)}", memoryview(b"run %d" % len(self.notes))))

    store = MemoryEventStore()
    async with open_system(seed=0) as system, system.supervisor("bank", restart=RESTART) as bank:
        account = await bank.spawn(lambda: Counting(store), "account")
        await account.tell(Die())
        assert await account.ask(Look(), timeout=5) == (0, ("run 0", "run 1"), 2)


async def test_an_idle_one_leaves_memory_and_comes_back_with_its_state(autojump_clock: trio.testing.MockClock) -> None:
    made: list[Account] = []

    def make() -> Account:
        made.append(Account(store))
        return made[-1]

    store = MemoryEventStore()
    async with open_system(seed=0) as system, system.supervisor("bank", restart=RESTART) as bank:
        account = await bank.spawn(make, "account", passivate=60)
        for number in range(1, 4):
            assert await account.ask(Deposit((1,)), timeout=5) == number
            await trio.sleep(200)
    assert [(each.total, each.applied) for each in made] == [(1, 1), (2, 2), (3, 3)]


# ---------------------------------------------------------------------------------------------------------- damage


async def failure_of(store: Any, actor: Any = Account, key: str = "acct", **settings: Any) -> BaseException:
    """Return what a spawn fails with under a supervisor that calls damage hopeless."""
    with trio.fail_after(60), pytest.raises(CorruptedError) as caught:
        async with open_system(seed=0) as system:
            restart = Restart(max=50, within=1e6, hopeless=(CorruptedError,))
            async with system.supervisor("bank", restart=restart) as bank:
                await bank.spawn(lambda: actor(store, key, **settings), "account")
    return caught.value


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"", "not exactly one frame"),
        (b"rubbish that is long enough to be a prefix", "limit"),
        (encoded(Deposited(1))[:-1], "not exactly one frame"),
        (encoded(Deposited(1)) + b"\0", "not exactly one frame"),
        (encoded(Deposited(1)) * 2, "not exactly one frame"),
        (encoded(Deposited(1)).replace(b"\x7c\x01", b"\x7c\x7f"), "unknown message: the tag 0x7c7f"),
        (encoded(Unheard()), "Account does not apply Unheard"),
    ],
)
async def test_an_event_that_cannot_be_read_is_named_and_hopeless(body: bytes, why: str) -> None:
    store = MemoryEventStore()
    await store.append("acct", 0, [encoded(Deposited(1)), body, encoded(Deposited(1))])
    error = await failure_of(store)
    assert why in str(error)
    assert "'acct': event number 2 cannot be read" in str(error)
    assert isinstance(error, CorruptedError)
    assert error.hint


async def test_a_snapshot_that_cannot_be_read_is_named() -> None:
    store = MemoryEventStore()
    await store.append("acct", 0, [encoded(Deposited(1))])
    await store.save_snapshot("acct", 1, b"rubbish")
    error = await failure_of(store)
    assert "the snapshot at number 1 cannot be read" in str(error)


async def test_what_is_over_the_limits_is_refused_before_it_is_stored(autojump_clock: trio.testing.MockClock) -> None:
    store = MemoryEventStore()
    limits = Limits(payload_size_bytes_max=10)
    async with open_system(seed=0) as system, system.supervisor("bank", restart=RESTART) as bank:
        account = await bank.spawn(lambda: Account(store, limits=limits), "account")
        with pytest.raises(ActorCrashedError, match="a payload of 11 bytes"):
            await account.ask(Note("x" * 11), timeout=5)
        assert await account.ask(Note("x" * 10), timeout=5) == 1
    error = await failure_of(store, limits=Limits(payload_size_bytes_max=9))
    assert "event number 1 cannot be read: a payload of 10 bytes" in str(error)


async def test_a_snapshot_without_restore_is_said_so(autojump_clock: trio.testing.MockClock) -> None:
    class Plain(Persistent[Look, Deposited]):
        @on(Look)
        def look(self, _: Look) -> Any:
            return self.sequence

        @applies(Deposited)
        def deposited(self, event: Deposited) -> None:
            pass

    store = MemoryEventStore()
    await store.append("k", 0, [encoded(Deposited(1))])
    await store.save_snapshot("k", 1, encoded(State(1, [])))
    async with open_system(seed=0) as system, system.supervisor("bank") as bank:
        with pytest.raises(ActorCrashedError, match="has a snapshot, and Plain no restore"):
            await bank.spawn(lambda: Plain(store, "k"), "account", kind="temporary")


async def test_an_event_that_cannot_be_applied_names_itself(autojump_clock: trio.testing.MockClock) -> None:
    store = MemoryEventStore()
    notices: list[ActorFailed] = []
    async with open_system(seed=0) as system, system.supervisor("bank") as bank:
        system.subscribe(lambda fact: notices.append(fact) if isinstance(fact, ActorFailed) else None)
        account = await bank.spawn(lambda: Account(store), "account", kind="temporary")
        with pytest.raises(ActorCrashedError, match="cannot be applied") as caught:
            await account.ask(Deposit((1, 666, 1)), timeout=5)
        assert "while applying event number 2 of 'acct', a Deposited" in caught.value.remote_traceback
        with pytest.raises(ActorCrashedError, match="cannot be applied"):
            await bank.spawn(lambda: Account(store), "again", kind="temporary")


# --------------------------------------------------------------------------------------------------- failing stores


class FailingStore(MemoryEventStore):
    """Fails when it is told to: before it stored, or after."""

    def __init__(self) -> None:
        super().__init__()
        self.fail_before: list[str] = []
        self.fail_after: list[str] = []
        self.slow_s = 0.0
        self.snapshot_error: WorldError | None = None

    async def append(self, key: str, expected: int, events: Sequence[bytes]) -> int:
        if self.fail_before:
            raise WorldError(self.fail_before.pop(), hint="free space")
        if self.slow_s:
            await trio.sleep(self.slow_s)
        last = await super().append(key, expected, events)
        if self.fail_after:
            raise WorldError(self.fail_after.pop(), hint="free space")
        if self.slow_s:
            await trio.sleep(self.slow_s)
        return last

    async def save_snapshot(self, key: str, sequence: int, body: bytes) -> None:
        error, self.snapshot_error = self.snapshot_error, None
        if error is not None:
            raise error
        await super().save_snapshot(key, sequence, body)


@pytest.mark.parametrize("kept", [False, True])
async def test_a_failed_append_ends_the_incarnation_and_the_next_knows_what_was_stored(
    autojump_clock: trio.testing.MockClock, kept: bool
) -> None:
    store = FailingStore()
    async with open_system(seed=0) as system, system.supervisor("bank", restart=RESTART) as bank:
        account = await bank.spawn(lambda: Account(store), "account")
        assert await account.ask(Deposit((1,)), timeout=5) == 1
        (store.fail_after if kept else store.fail_before).append("the disk is full")
        with pytest.raises(ActorCrashedError, match="WorldError: the disk is full"):
            await account.ask(Deposit((1, 1)), timeout=5)
        expected = 3 if kept else 1
        assert await account.ask(Look(), timeout=5) == (expected, (), expected)


@pytest.mark.parametrize("kept", [False, True])
async def test_a_handler_that_catches_a_failed_append_does_not_live_on(
    autojump_clock: trio.testing.MockClock, kept: bool
) -> None:
    store = FailingStore()
    async with open_system(seed=0) as system, system.supervisor("bank", restart=RESTART) as bank:
        account = await bank.spawn(lambda: Account(store), "account")
        (store.fail_after if kept else store.fail_before).append("the disk is full")
        with pytest.raises(ActorCrashedError, match="the disk is full"):
            await account.ask(Swallow(), timeout=5)
        assert await account.ask(Look(), timeout=5) == ((1, (), 1) if kept else (0, (), 0))
        (info,) = system.tree()[0].children
        assert info.restarts == 1


async def test_a_second_writer_of_the_key_fails_and_recovers(autojump_clock: trio.testing.MockClock) -> None:
    store = MemoryEventStore()
    async with open_system(seed=0) as system, system.supervisor("bank", restart=RESTART) as bank:
        one = await bank.spawn(lambda: Account(store), "one")
        two = await bank.spawn(lambda: Account(store), "two")
        assert await one.ask(Deposit((1,)), timeout=5) == 1
        with pytest.raises(ActorCrashedError, match="ConflictError: .*another writer was there"):
            await two.ask(Deposit((5,)), timeout=5)
        assert await two.ask(Deposit((5,)), timeout=5) == 6
    assert [decoded(body) for body in await store.events("acct", 0)] == [Deposited(1), Deposited(5)]


async def test_a_failed_snapshot_is_a_fact_and_the_next_one_is_tried(autojump_clock: trio.testing.MockClock) -> None:
    store = FailingStore()
    store.snapshot_error = WorldError("the disk is full", hint="free space")
    facts: list[SnapshotFailed] = []
    async with open_system(seed=0) as system, system.supervisor("bank", restart=RESTART) as bank:
        system.subscribe(lambda fact: facts.append(fact) if isinstance(fact, SnapshotFailed) else None)
        account = await bank.spawn(lambda: Account(store, snapshot_every=2, events_kept=0), "account")
        for _ in range(2):
            await account.ask(Deposit((1,)), timeout=5)
        await trio.sleep(1)
        assert facts == [SnapshotFailed("/bank/account", "acct", 2, "WorldError: the disk is full")]
        await account.ask(Deposit((1,)), timeout=5)
        await trio.sleep(1)
        assert await store.snapshot("acct") is None
        await account.ask(Deposit((1,)), timeout=5)
        await trio.sleep(1)
        assert await store.snapshot("acct") == SavedSnapshot(4, encoded(State(4, [])))
        (info,) = system.tree()[0].children
        assert info.restarts == 0


async def test_one_snapshot_at_a_time_and_never_in_the_way_of_a_reply(autojump_clock: trio.testing.MockClock) -> None:
    class Slow(MemoryEventStore):
        saving = most = 0

        async def save_snapshot(self, key: str, sequence: int, body: bytes) -> None:
            self.saving += 1
            self.most = max(self.most, self.saving)
            await trio.sleep(10)
            await super().save_snapshot(key, sequence, body)
            self.saving -= 1

    store = Slow()
    async with open_system(seed=0) as system, system.supervisor("bank", restart=RESTART) as bank:
        account = await bank.spawn(lambda: Account(store, snapshot_every=1), "account")
        for number in range(1, 5):
            assert await account.ask(Deposit((1,)), timeout=1) == number
        await trio.sleep(11)
        assert await store.snapshot("acct") == SavedSnapshot(1, encoded(State(1, [])))
        assert await account.ask(Deposit((1,)), timeout=1) == 5
        await trio.sleep(11)
        assert await store.snapshot("acct") == SavedSnapshot(5, encoded(State(5, [])))
    assert store.most == 1


@pytest.mark.parametrize("error", [ConflictError("a later snapshot"), CorruptedError("its head was lost")])
async def test_a_snapshot_that_shows_a_second_writer_or_damage_ends_the_incarnation(
    autojump_clock: trio.testing.MockClock, error: WorldError
) -> None:
    store = FailingStore()
    store.snapshot_error = error
    async with open_system(seed=0) as system, system.supervisor("bank", restart=RESTART) as bank:
        account = await bank.spawn(lambda: Account(store, snapshot_every=2), "account")
        await account.ask(Deposit((1, 1)), timeout=5)
        await trio.sleep(1)
        (info,) = system.tree()[0].children
        assert (info.restarts, info.last_failure) == (1, f"{type(error).__name__}: {error}")
        assert await account.ask(Look(), timeout=5) == (2, (), 2)


# ----------------------------------------------------------------------------------------------------- cancellation


@pytest.mark.parametrize(
    ("seconds", "given_up", "stored"),
    [(0.0, True, 0), (0.5, True, 0), (1.5, True, 1), (2.5, False, 1)],  # the store works a second, acknowledges in one
)
async def test_a_cancelled_persist_applies_nothing_and_the_next_one_knows_what_the_store_has(
    autojump_clock: trio.testing.MockClock, seconds: float, given_up: bool, stored: int
) -> None:
    store = FailingStore()
    store.slow_s = 1.0
    async with open_system(seed=0) as system, system.supervisor("bank", restart=RESTART) as bank:
        account = await bank.spawn(lambda: Account(store), "account")
        assert await account.ask(Within(seconds), timeout=5) is given_up
        assert await store.last("acct") == stored
        unsure = given_up and stored
        known = 0 if given_up else 1
        assert await account.ask(Look(), timeout=5) == (known, (), known)
        if unsure:
            with pytest.raises(ActorCrashedError, match="ConflictError"):
                await account.ask(Deposit((10,)), timeout=5)
        assert await account.ask(Deposit((10,)), timeout=5) == stored + 10


async def test_a_persist_that_waits_for_another_may_be_cancelled_and_keeps_their_order(
    autojump_clock: trio.testing.MockClock,
) -> None:
    class Beside(Account):
        async def recovered(self) -> None:
            self.ctx.start_soon(self.persist, Noted("beside", memoryview(b"beside")))

    store = FailingStore()
    store.slow_s = 1.0
    async with open_system(seed=0) as system, system.supervisor("bank", restart=RESTART) as bank:
        account = await bank.spawn(lambda: Beside(store), "account")
        await trio.sleep(0.1)
        assert await account.ask(Within(0.5), timeout=5) is True
        assert await account.ask(Note("after"), timeout=9) == 2
        assert await account.ask(Look(), timeout=5) == (0, ("beside", "after"), 2)


# ---------------------------------------------------------------------------------------------- random crash schedules


class Ledger(FailingStore):
    """Keeps every event that was ever stored, whatever is deleted; its calls take the time they are told to."""

    def __init__(self, random: Random) -> None:
        super().__init__()
        self.random = random
        self.all: list[bytes] = []

    async def append(self, key: str, expected: int, events: Sequence[bytes]) -> int:
        await trio.sleep(self.random.choice([0, 0.1, 0.3]))
        last = await MemoryEventStore.append(self, key, expected, events)
        self.all += events
        match self.random.randrange(8):
            case 0:
                raise WorldError("stored, and then the disk failed")
            case 1:
                await trio.sleep(0.3)
        return last

    async def events(self, key: str, after: int, **_: Any) -> Sequence[bytes]:
        await trio.sleep(self.random.choice([0, 0.1]))
        return await super().events(key, after, count_max=self.random.randint(1, 4))

    async def save_snapshot(self, key: str, sequence: int, body: bytes) -> None:
        await trio.sleep(self.random.choice([0, 0.1, 1]))
        if self.random.random() < 0.2:
            raise WorldError("no room for a snapshot")
        await super().save_snapshot(key, sequence, body)


async def live_and_die(seed: int, settings: dict[str, Any]) -> tuple[Ledger, list[int], tuple[Any, ...]]:
    """Run an account through deposits, crashes, and stops that cancel it anywhere; return what it says at the end."""
    random = Random(seed)
    store = Ledger(random)
    acknowledged: list[int] = []
    restart = Restart(max=10_000, within=1, backoff=(0.01, 0.1))
    async with open_system(seed=seed) as system, system.supervisor("bank", restart=restart) as bank:
        account = await bank.spawn(lambda: Account(store, **settings), "account", shutdown=0.05)
        for number in range(30):
            amounts = (2**number,) if random.random() < 0.7 else (2**number, 0)
            with suppress(WorldError):
                if random.random() < 0.3:
                    await account.tell(Die())
                async with trio.open_nursery() as nursery:
                    if random.random() < 0.4:

                        async def stop() -> None:
                            await trio.sleep(random.random() / 2)
                            await bank.stop(account)  # noqa: B023 - the nursery ends within the turn

                        nursery.start_soon(stop)
                    try:
                        await account.ask(Deposit(amounts), timeout=random.choice([0.2, 2]))
                        acknowledged.append(number)
                    except WorldError:
                        pass
            if system.whereis("/bank/account") is None:
                account = await bank.spawn(lambda: Account(store, **settings), "account", shutdown=0.05)
        await trio.sleep(5)  # what timed out is over
        return store, acknowledged, await account.ask(Look(), timeout=20)


def never_crashed(bodies: Sequence[bytes]) -> tuple[int, tuple[str, ...], int]:
    plain = Account(MemoryEventStore())
    for body in bodies:
        plain.deposited(decoded(body))
    return plain.total, tuple(plain.notes), len(bodies)


@given(
    st.integers(0, 2**32),
    st.sampled_from([{}, {"snapshot_every": 1, "events_kept": 0}, {"snapshot_every": 3, "events_kept": 2}]),
)
def test_any_schedule_of_crashes_leaves_the_state_of_an_actor_that_never_crashed(
    seed: int, settings: dict[str, Any]
) -> None:
    clock = trio.testing.MockClock(autojump_threshold=0)
    store, acknowledged, found = trio.run(live_and_die, seed, settings, clock=clock)
    assert found == never_crashed(store.all)
    amounts = [decoded(body).amount for body in store.all]
    assert [n for n in range(30) if 2**n in amounts] == [n for n in range(30) if found[0] >> n & 1]
    assert set(acknowledged) <= {n for n in range(30) if found[0] >> n & 1}
    assert len([a for a in amounts if a]) == len({a for a in amounts if a})  # each once


def test_the_schedules_do_crash_it() -> None:
    """A pair to the property above: its schedules lose some deposits, restart, and take snapshots."""
    for seed in (0, 7):
        clock = trio.testing.MockClock(autojump_threshold=0)
        store, acknowledged, (total, _, sequence) = trio.run(live_and_die, seed, {"snapshot_every": 3}, clock=clock)
        assert 5 < len(acknowledged) < total.bit_count() < 30
        assert sequence == len(store.all)
        assert trio.run(store.snapshot, "acct") is not None


# -------------------------------------------------------------------------------------------------- the class's checks


def test_two_methods_for_one_event_are_refused() -> None:
    with pytest.raises(MessageError, match="applies Deposited twice: one and two"):

        class Twice(Persistent[Die, Deposited]):
            @on(Die)
            def die(self, _: Die) -> None: ...

            @applies(Deposited)
            def one(self, _: Deposited) -> None: ...

            @applies(Deposited)
            def two(self, _: Deposited) -> None: ...


def test_an_event_without_its_method_is_refused() -> None:
    with pytest.raises(MessageError, match="promises Noted among its events but has no @applies method"):

        class Missing(Persistent[Die, Deposited | Noted]):
            @on(Die)
            def die(self, _: Die) -> None: ...

            @applies(Deposited)
            def one(self, _: Deposited) -> None: ...


def test_a_message_without_its_handler_is_refused() -> None:
    with pytest.raises(MessageError, match="promises Die in its protocol but has no @on handler"):

        class Missing(Persistent[Die, Deposited]):
            @applies(Deposited)
            def one(self, _: Deposited) -> None: ...


def test_an_event_without_a_tag_is_refused() -> None:
    with pytest.raises(MessageError, match="Untagged stores Die: .* has no tag"):

        class Untagged(Persistent[Die, Die]):
            @on(Die)
            def die(self, _: Die) -> None: ...

            @applies(Die)
            def died(self, _: Die) -> None: ...


def test_an_async_applies_is_refused() -> None:
    with pytest.raises(MessageError, match="Waits.one applies Deposited and is async"):

        class Waits(Persistent[Die, Deposited]):
            @on(Die)
            def die(self, _: Die) -> None: ...

            @applies(Deposited)
            async def one(self, _: Deposited) -> None: ...


def test_overriding_started_is_refused() -> None:
    with pytest.raises(MessageError, match="overrides started"):

        class Starts(Account):
            async def started(self) -> None: ...


def test_a_subclass_may_apply_an_event_anew() -> None:
    class Double(Account):
        @applies(Deposited)
        def doubled(self, event: Deposited) -> None:
            self.total += 2 * event.amount

    assert Double.__prime_appliers__[Deposited] is Double.doubled
    assert Double.__prime_appliers__[Noted] is Account.noted


@pytest.mark.parametrize(
    "settings",
    [{"snapshot_every": 0}, {"snapshot_every": -1}, {"events_kept": 3}, {"snapshot_every": 2, "events_kept": -1}],
)
def test_impossible_settings_are_refused(settings: dict[str, int]) -> None:
    with pytest.raises(ActorUsageError, match="Account cannot have") as caught:
        Account(MemoryEventStore(), **settings)
    assert caught.value.hint


async def test_misuse_is_named(autojump_clock: trio.testing.MockClock) -> None:
    class Careless(Account):
        def __init__(self, store: Any) -> None:
            pass

    class Foreign(Account):
        async def recovered(self) -> None:
            await self.persist(Unheard())  # type: ignore[arg-type]

    store = MemoryEventStore()
    with pytest.raises(ActorUsageError, match="before it has recovered"):
        await Account(store).persist(Deposited(1))
    async with open_system(seed=0) as system, system.supervisor("bank") as bank:
        with pytest.raises(ActorCrashedError, match="has no store"):
            await bank.spawn(lambda: Careless(store), "careless", kind="temporary")
        with pytest.raises(ActorCrashedError, match="does not apply Unheard, so it cannot store one"):
            await bank.spawn(lambda: Foreign(store), "foreign", kind="temporary")
    assert await store.last("acct") == 0


def test_bytes_of_events_are_exactly_one_message_within_the_limits() -> None:
    event = Noted("x", memoryview(b"payload"))
    assert bytes(decoded(encoded(event)).data) == b"payload"
    with pytest.raises(LocalProtocolError, match="no tag"):
        encoded(Die())
    with pytest.raises(DecodeError, match="a payload of 7 bytes"):
        decoded(encoded(event), Limits(payload_size_bytes_max=6))
