"""Routers: who gets what, who waits for whom, and what is left when routees go."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from prime.actor import (
    Actor,
    Broadcast,
    ConsistentHash,
    DeadLetter,
    LeastLoaded,
    Mailbox,
    Ref,
    Restart,
    RoundRobin,
    Route,
    Routees,
    Router,
    Supervisor,
    System,
    on,
)
from prime.errors import (
    ActorCrashedError,
    ActorUsageError,
    AskCycleError,
    DeadlineError,
    MailboxFullError,
    NoSuchActorError,
    RefusedError,
)
from prime.node.system import open_system
from prime.transport.memory import Memory
from prime.wire import Ask, message

Clock = trio.testing.MockClock


@message(tag=0x7F01)
class Who(Ask[str]):
    user: str = ""


@message(tag=0x7F02)
class Note:
    text: str


@message(tag=0x7F03)
class Notes(Ask[list[str]]):
    pass


@message(tag=0x7F04)
class Nap(Ask[str]):
    seconds: float


@message(tag=0x7F05)
class Crash(Ask[None]):
    pass


Protocol = Who | Note | Notes | Nap | Crash


class Worker(Actor[Who | Note | Notes | Nap | Crash]):
    def __init__(self) -> None:
        self.notes: list[str] = []

    @on(Who)
    def who(self, _: Who) -> str:
        return self.ctx.path

    @on(Note)
    def note(self, m: Note) -> None:
        self.notes.append(m.text)

    @on(Notes)
    def tell_notes(self, _: Notes) -> list[str]:
        return self.notes

    @on(Nap)
    async def nap(self, m: Nap) -> str:
        await trio.sleep(m.seconds)
        return self.ctx.path

    @on(Crash)
    def crash(self, _: Crash) -> None:
        raise ValueError("boom")


@asynccontextmanager
async def routed(
    count: int = 3, *, route: Route | None = None, mailbox: Mailbox | None = None, **options: Any
) -> AsyncIterator[tuple[System, Supervisor, Ref[Protocol], list[Ref[Protocol]]]]:
    async with open_system(seed=0) as system, system.supervisor("p", restart=Restart(max=5)) as sup:
        refs: list[Ref[Protocol]] = [
            await sup.spawn(Worker, f"w{i}", mailbox=mailbox or Mailbox()) for i in range(count)
        ]
        router = await sup.spawn(lambda: Router(refs, route=route or RoundRobin(), **options), "router")
        yield system, sup, router, refs


def letters(system: System) -> list[DeadLetter]:
    found: list[DeadLetter] = []
    system.subscribe(lambda fact: found.append(fact) if isinstance(fact, DeadLetter) else None)
    return found


async def busy(nursery: trio.Nursery, *refs: Ref[Protocol], seconds: float = 10) -> None:
    for ref in refs:
        nursery.start_soon(lambda ref=ref: ref.ask(Nap(seconds), timeout=100))
    await trio.testing.wait_all_tasks_blocked()


# ---------------------------------------------------------------------------------------------------------- choosing


async def test_round_robin_answers_straight_from_each_in_turn(autojump_clock: Clock) -> None:
    async with routed() as (system, _, router, refs):
        answers = [await router.ask(Who(), timeout=1) for _ in range(6)]
        assert answers == [ref.path for ref in refs] * 2
        for i in range(6):
            await router.tell(Note(str(i)))
        await trio.testing.wait_all_tasks_blocked()  # order holds for a pair: an ask of ours may overtake the router
        notes = [await ref.ask(Notes(), timeout=1) for ref in refs]
        assert notes == [["0", "3"], ["1", "4"], ["2", "5"]]
        assert len(system.deadlines) == 0


async def test_the_answer_does_not_wait_for_the_router(autojump_clock: Clock) -> None:
    """A routee that takes its time holds up neither the router nor the other routees."""
    async with routed() as (_, _, router, refs), trio.open_nursery() as nursery:
        nursery.start_soon(lambda: router.ask(Nap(50), timeout=100))
        await trio.testing.wait_all_tasks_blocked()
        assert await router.ask(Who(), timeout=1) == refs[1].path
        assert await router.ask(Who(), timeout=1) == refs[2].path
        nursery.cancel_scope.cancel()


async def test_a_full_routee_is_passed_over_and_when_all_are_full_the_router_waits(autojump_clock: Clock) -> None:
    async with routed(2, mailbox=Mailbox(1)) as (_, _, router, refs), trio.open_nursery() as nursery:
        await busy(nursery, refs[0], seconds=60)
        await busy(nursery, refs[1], seconds=10)
        for text in "ab":  # fills both mailboxes
            await router.tell(Note(text))
        await trio.testing.wait_all_tasks_blocked()
        started = trio.current_time()
        assert await router.ask(Who(), timeout=30) == refs[1].path  # not the one that stays stuck
        assert 9 < trio.current_time() - started < 11
        assert await refs[1].ask(Notes(), timeout=1) == ["b"]


class Gated(Worker):
    """Naps until its gate opens, and then until the next one opens."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = trio.Event()

    @on(Nap)
    async def nap(self, m: Nap) -> str:
        if m.seconds:
            await self.gate.wait()
        return self.ctx.path


@asynccontextmanager
async def gated(
    count: int = 2, capacity: int = 1, **options: Any
) -> AsyncIterator[tuple[Supervisor, Ref[Protocol], list[Any], list[Gated]]]:
    """Yield a router in front of workers that are all stuck and full."""
    workers = [Gated() for _ in range(count)]
    async with open_system(seed=0) as system, system.supervisor("p", restart=Restart(max=5)) as sup:
        box = Mailbox(capacity)
        refs: list[Any] = [await sup.spawn(lambda w=w: w, f"w{i}", mailbox=box) for i, w in enumerate(workers)]
        router = await sup.spawn(lambda: Router(refs, **options), "router", mailbox=Mailbox(64))
        for ref in refs:
            await ref.tell(Nap(1))
        await trio.testing.wait_all_tasks_blocked()
        for number in range(count * capacity):
            await router.tell(Note(f"fill {number}"))
        yield sup, router, refs, workers


def in_line(refs: list[Any]) -> int:
    """Count the entries that wait for room anywhere."""
    return sum(len(ref.cell.waiting or ()) for ref in refs)


async def test_who_waits_for_the_first_room_gets_it_at_that_moment(autojump_clock: Clock) -> None:
    for first in (0, 1):
        async with gated() as (_, router, refs, workers):
            started = trio.current_time()
            await router.tell(Note("late"))
            await trio.testing.wait_all_tasks_blocked()
            assert in_line(refs) == 2  # one entry, in both lines
            workers[first].gate.set()
            await trio.testing.wait_all_tasks_blocked()
            assert workers[first].notes == [f"fill {first}", "late"]
            assert in_line(refs) == 0
            assert trio.current_time() == started  # nobody looked again and again


async def test_room_in_all_mailboxes_at_once_takes_an_entry_once(autojump_clock: Clock) -> None:
    async with gated(3) as (_, router, refs, workers):
        for number in range(20):
            await router.tell(Note(f"late {number}"))
        await trio.testing.wait_all_tasks_blocked()
        for worker in workers:
            worker.gate.set()
        await trio.testing.wait_all_tasks_blocked()
        told = [note for worker in workers for note in worker.notes if note.startswith("late")]
        assert sorted(told) == sorted(f"late {number}" for number in range(20))
        assert in_line(refs) == 0


async def test_who_gives_up_waiting_for_room_leaves_every_line(autojump_clock: Clock) -> None:
    async with gated() as (sup, router, refs, workers):
        found = letters(sup.system)
        with pytest.raises(DeadlineError):
            await router.ask(Who(), timeout=2)
        await trio.testing.wait_all_tasks_blocked()
        assert in_line(refs) == 0
        await router.tell(Note("kept"))
        await trio.testing.wait_all_tasks_blocked()
        workers[1].gate.set()
        assert await refs[1].ask(Notes(), timeout=1) == ["fill 1", "kept"]
        assert [letter.kind for letter in found] == ["Who"]


async def test_a_routee_that_ends_while_all_are_full_is_waited_for_no_more(autojump_clock: Clock) -> None:
    async with gated() as (sup, router, refs, workers):
        found = letters(sup.system)
        await router.tell(Note("late"))
        await trio.testing.wait_all_tasks_blocked()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sup.stop, refs[0])
            await trio.testing.wait_all_tasks_blocked()
            workers[0].gate.set()
        await trio.testing.wait_all_tasks_blocked()
        assert in_line(refs) == 1
        workers[1].gate.set()
        await trio.testing.wait_all_tasks_blocked()
        assert workers[1].notes == ["fill 1", "late"]
        assert [letter.path for letter in found] == [refs[0].path]  # what filled its mailbox


async def test_a_newcomer_of_the_group_gets_what_waits_for_its_full_members(autojump_clock: Clock) -> None:
    class Joins(Gated):
        async def started(self) -> None:
            self.ctx.join("workers")

    async with open_system(seed=0) as system, system.supervisor("p") as sup:
        full = await sup.spawn(Joins, "full", mailbox=Mailbox(1))
        router: Ref[Any] = await sup.spawn(lambda: Router(group="workers"), "router")
        await full.tell(Nap(1))
        await trio.testing.wait_all_tasks_blocked()
        await full.tell(Note("fill"))
        started = trio.current_time()
        async with trio.open_nursery() as nursery:
            answers: list[str] = []

            async def ask() -> None:
                answers.append(await router.ask(Who(), timeout=9))

            nursery.start_soon(ask)
            await trio.testing.wait_all_tasks_blocked()
            await sup.spawn(Joins, "fresh")
        assert answers == ["/p/fresh"]
        assert trio.current_time() == started
        assert in_line([full]) == 0


async def test_a_message_for_a_routee_with_room_is_there_at_once(autojump_clock: Clock) -> None:
    async with routed(2) as (_, _, router, refs):
        for _ in range(3):
            router.tell_nowait(Note("now"))
            assert [len(ref.cell.queue) for ref in refs] == [1, 0]  # type: ignore[attr-defined]
            assert await refs[0].ask(Notes(), timeout=1)
            router.tell_nowait(Note("now"))
            assert [len(ref.cell.queue) for ref in refs] == [0, 1]  # type: ignore[attr-defined]
            assert await refs[1].ask(Notes(), timeout=1)


async def test_each_sender_s_messages_keep_their_order_through_full_and_empty_times(autojump_clock: Clock) -> None:
    for capacity in (1, 2, 5):
        async with routed(3, mailbox=Mailbox(capacity)) as (_, _, router, refs):

            async def send(sender: int, router: Ref[Protocol] = router) -> None:
                for number in range(150):
                    await router.tell(Note(f"{sender}:{number:03}"))
                    if number % 17 == sender:
                        await router.tell(Nap(0.1))
                    if number % 40 == 0:
                        await trio.testing.wait_all_tasks_blocked()

            async with trio.open_nursery() as nursery:
                for sender in range(3):
                    nursery.start_soon(send, sender)
            await trio.sleep(10)
            notes = [await ref.ask(Notes(), timeout=10) for ref in refs]
            assert len(notes[0]) + len(notes[1]) + len(notes[2]) == 450
            for sender in "012":
                for heard in notes:
                    own = [note for note in heard if note.startswith(sender)]
                    assert own == sorted(set(own))


async def test_two_routers_of_each_other_go_round_without_recursion(autojump_clock: Clock) -> None:
    async with open_system(seed=0) as system, system.supervisor("p") as sup:
        worker = await sup.spawn(Worker, "w")
        one: Ref[Any] = await sup.spawn(Router, "one")
        two: Ref[Any] = await sup.spawn(lambda: Router([one]), "two")
        await one.ask(Routees((two,)), timeout=1)
        one.tell_nowait(Note("round"))
        await one.ask(Routees((worker,)), timeout=1)
        await trio.testing.wait_all_tasks_blocked()
        assert await worker.ask(Notes(), timeout=1) == ["round"]


async def test_a_route_may_leave_the_choice_to_whoever_has_room(autojump_clock: Clock) -> None:
    class Anybody:
        def chooser(self) -> Anybody:
            return self

        def choose(self, message: Any, routees: Any, *, asks: bool) -> Any:
            return "any"

    async with routed(2, route=Anybody(), mailbox=Mailbox(1)) as (_, _, router, refs):
        assert await router.ask(Who(), timeout=1) == refs[0].path
        await refs[0].tell(Nap(5))
        await trio.testing.wait_all_tasks_blocked()
        await refs[0].tell(Note("fill"))
        assert await router.ask(Who(), timeout=1) == refs[1].path


async def test_an_idle_router_passivates_and_comes_back(autojump_clock: Clock) -> None:
    async with routed(2) as (_, sup, _, refs):
        router: Any = await sup.spawn(lambda: Router(refs), "brief", passivate=5)
        assert await router.ask(Who(), timeout=1) == refs[0].path
        await trio.sleep(20)
        assert router.cell.state == "passive"
        router.tell_nowait(Note("after"))
        await trio.testing.wait_all_tasks_blocked()
        assert await refs[0].ask(Notes(), timeout=1) == ["after"]


async def test_a_routee_that_tells_its_own_full_router_hears_when_that_could_never_end(autojump_clock: Clock) -> None:
    outcomes: list[str] = []

    class Talker(Actor[Note | Who]):
        router: Ref[Note]

        @on(Note)
        async def note(self, m: Note) -> None:
            if m.text != "echo":
                try:
                    for _ in range(int(m.text)):
                        await self.router.tell(Note("echo"))
                except AskCycleError as error:
                    outcomes.append(str(error))

        @on(Who)
        def who(self, _: Who) -> str:
            return "done"

    async with open_system(seed=0) as system, system.supervisor("p") as sup:
        found = letters(system)
        talker = await sup.spawn(Talker, "talker", mailbox=Mailbox(1))
        Talker.router = await sup.spawn(lambda: Router([talker]), "router", mailbox=Mailbox(1))
        await talker.tell(Note("3"))  # one in each mailbox, one in the router's hands
        await trio.testing.wait_all_tasks_blocked()
        assert await talker.ask(Who(), timeout=9) == "done"
        assert outcomes == []
        await talker.tell(Note("9"))
        await trio.testing.wait_all_tasks_blocked()
        assert await talker.ask(Who(), timeout=9) == "done"
        assert len(outcomes) == 1
        assert "/p/talker asks itself through" in outcomes[0]
        assert found == []


async def test_an_ask_that_finds_no_room_in_time_is_never_run(autojump_clock: Clock) -> None:
    async with routed(1, mailbox=Mailbox(1)) as (system, _, router, refs), trio.open_nursery() as nursery:
        found = letters(system)
        await busy(nursery, refs[0])
        await router.tell(Note("a"))
        with pytest.raises(DeadlineError):
            await router.ask(Crash(), timeout=2)
        assert await router.ask(Who(), timeout=20) == refs[0].path
        assert [letter.kind for letter in found] == ["Crash"]


async def test_least_loaded_counts_what_waits_and_what_is_in_hand(autojump_clock: Clock) -> None:
    async with routed(3, route=LeastLoaded()) as (_, _, router, refs), trio.open_nursery() as nursery:
        await busy(nursery, refs[0], refs[2])
        await refs[2].tell(Note("x"))
        assert [await router.ask(Who(), timeout=1) for _ in range(3)] == [refs[1].path] * 3
        await busy(nursery, refs[1])
        await refs[1].tell(Note("x"))  # now w0 has one in hand, the others one more each
        await router.tell(Note("lightest"))
        await trio.testing.wait_all_tasks_blocked()
        assert "lightest" in await refs[0].ask(Notes(), timeout=20)


async def test_consistent_hash_keeps_a_user_at_one_routee_and_the_others_do_not_wait(autojump_clock: Clock) -> None:
    route = ConsistentHash(key=lambda m: getattr(m, "user", None) or getattr(m, "text", ""))
    async with routed(3, route=route, mailbox=Mailbox(1)) as (_, _, router, refs), trio.open_nursery() as nursery:
        places = {user: await router.ask(Who(user), timeout=1) for user in "abcdefgh"}
        assert set(places.values()) == {ref.path for ref in refs}
        assert {user: await router.ask(Who(user), timeout=1) for user in "hgfedcba"} == places
        stuck = next(ref for ref in refs if ref.path == places["a"])
        await busy(nursery, stuck)
        for _ in range(5):  # more than its mailbox holds: they wait in its lane
            await router.tell(Note("a"))
        others = [user for user in places if places[user] != stuck.path]
        assert len(others) > 1
        for user in others:
            assert await router.ask(Who(user), timeout=1) == places[user]
        assert await router.ask(Who("a"), timeout=20) == stuck.path
        assert await stuck.ask(Notes(), timeout=1) == ["a"] * 5  # and the ask did not overtake them


async def test_a_lane_is_bounded_and_its_fullness_reaches_the_sender(autojump_clock: Clock) -> None:
    route = ConsistentHash(key=lambda _: 1)
    async with (
        open_system(seed=0) as system,
        system.supervisor("p") as sup,
        trio.open_nursery() as nursery,
    ):
        ref = await sup.spawn(Worker, "w", mailbox=Mailbox(2))
        router = await sup.spawn(lambda: Router([ref], route=route, backlog=3), "router", mailbox=Mailbox(4))
        await busy(nursery, ref, seconds=60)
        sent = 0
        with trio.move_on_after(50):
            for i in range(100):
                await router.tell(Note(str(i)))
                sent = i + 1
        assert (
            sent == 2 + 3 + 1 + 1 + 4
        )  # mailbox, lane, the one its task holds, the one in the router's hand, its mailbox
        await trio.sleep(60)  # the nap is over; what was cancelled in its wait was never sent
        assert await ref.ask(Notes(), timeout=100) == [str(i) for i in range(sent)]


async def test_broadcast_reaches_all_and_refuses_an_ask(autojump_clock: Clock) -> None:
    async with routed(3, route=Broadcast()) as (_, _, router, refs):
        for text in "ab":
            await router.tell(Note(text))
        with pytest.raises(RefusedError, match="broadcast has no one answer"):
            await router.ask(Who(), timeout=1)
        assert [await ref.ask(Notes(), timeout=1) for ref in refs] == [["a", "b"]] * 3


async def test_a_full_mailbox_s_policy_holds_behind_a_router(autojump_clock: Clock) -> None:
    mailbox = Mailbox(1, full="reject")
    async with routed(2, mailbox=mailbox) as (system, _, router, refs), trio.open_nursery() as nursery:
        found = letters(system)
        await busy(nursery, *refs)
        for text in "ab":
            await router.tell(Note(text))
        with pytest.raises(MailboxFullError, match="is full"):
            await router.ask(Who(), timeout=1)
        await router.tell(Note("c"))
        await trio.testing.wait_all_tasks_blocked()
        assert [(letter.path, letter.kind) for letter in found] == [("/p/router", "Who"), ("/p/router", "Note")]
        nursery.cancel_scope.cancel()


async def test_a_key_function_that_fails_fails_its_message_and_not_the_router(autojump_clock: Clock) -> None:
    async with routed(2, route=ConsistentHash(key=lambda m: m.user)) as (system, _, router, _refs):
        found = letters(system)
        await router.tell(Note("no user"))
        with pytest.raises(RefusedError, match="no key for Notes: AttributeError"):
            await router.ask(Notes(), timeout=1)
        assert await router.ask(Who("a"), timeout=1)
        assert [letter.kind for letter in found] == ["Note", "Notes"]
        assert all(child.restarts == 0 for child in system.tree()[0].children)


# ------------------------------------------------------------------------------------------------------- who leaves


async def test_a_routee_that_ends_leaves_and_the_last_one_leaves_nobody(autojump_clock: Clock) -> None:
    async with routed(2) as (system, sup, router, refs):
        found = letters(system)
        await sup.stop(refs[0])
        assert [await router.ask(Who(), timeout=1) for _ in range(3)] == [refs[1].path] * 3
        await sup.stop(refs[1])
        with pytest.raises(NoSuchActorError, match="/p/router has no routees left"):
            await router.ask(Who(), timeout=1)
        await router.tell(Note("lost"))
        await trio.testing.wait_all_tasks_blocked()
        assert [(letter.path, letter.kind) for letter in found] == [("/p/router", "Who"), ("/p/router", "Note")]


async def test_a_crash_answers_the_asker_and_the_routee_stays(autojump_clock: Clock) -> None:
    async with routed(2) as (_, _, router, refs):
        with pytest.raises(ActorCrashedError, match="/p/w0 failed while handling Crash"):
            await router.ask(Crash(), timeout=1)
        answers = Counter([await router.ask(Who(), timeout=9) for _ in range(4)])
        assert answers == {refs[0].path: 2, refs[1].path: 2}


async def test_what_waits_for_a_routee_that_leaves_goes_to_another(autojump_clock: Clock) -> None:
    route = ConsistentHash(key=lambda m: getattr(m, "text", ""))
    async with routed(2, route=route, mailbox=Mailbox(1)) as (system, sup, router, refs):
        found = letters(system)
        async with trio.open_nursery() as nursery:

            async def nap(ref: Ref[Protocol]) -> None:
                with pytest.raises(ActorCrashedError):
                    await ref.ask(Nap(60), timeout=100)

            for ref in refs:
                nursery.start_soon(nap, ref)
            await trio.testing.wait_all_tasks_blocked()
            for _ in range(6):
                await router.tell(Note("same"))  # mailbox 1, the lane's hand 1, waiting 4
            await trio.testing.wait_all_tasks_blocked()
            (target,) = (ref for ref in refs if ref.load == 3)
            (other,) = (ref for ref in refs if ref != target)
            await sup.stop(target)
            nursery.cancel_scope.cancel()
        await trio.testing.wait_all_tasks_blocked()
        assert [letter.path for letter in found] == [target.path] * 2  # what was in its hands is lost with it
        await trio.sleep(100)
        other_notes = await other.ask(Notes(), timeout=100)
        assert other_notes == ["same"] * 4


async def test_a_broadcast_that_waits_for_one_that_leaves_is_not_said_twice(autojump_clock: Clock) -> None:
    async with routed(2, route=Broadcast(), mailbox=Mailbox(1)) as (_, sup, router, refs):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: _crashed(refs[0].ask(Nap(60), timeout=100)))
            await trio.testing.wait_all_tasks_blocked()
            for i in range(6):
                await router.tell(Note(str(i)))
            await trio.testing.wait_all_tasks_blocked()
            await sup.stop(refs[0])
        assert await refs[1].ask(Notes(), timeout=100) == [str(i) for i in range(6)]


async def _crashed(ask: Any) -> None:
    with pytest.raises(ActorCrashedError):
        await ask


async def test_new_routees_take_the_place_of_the_old(autojump_clock: Clock) -> None:
    async with routed(1) as (system, sup, router, refs):
        new = [await sup.spawn(Worker, f"new{i}") for i in range(2)]
        assert await router.ask(Who(), timeout=1) == refs[0].path
        anything: Ref[Any] = router
        await anything.tell(Routees(tuple(new)))
        assert {await router.ask(Who(), timeout=1) for _ in range(4)} == {ref.path for ref in new}
        watchers = system.leftovers()["watches"]
        assert watchers == 2  # it watches its routees and no others
        await sup.stop(refs[0])
        assert await router.ask(Who(), timeout=1)
        assert len(system.deadlines) == 0


async def test_a_router_that_stops_fails_what_it_holds_and_watches_nobody(autojump_clock: Clock) -> None:
    route = ConsistentHash(key=lambda _: 1)
    async with routed(1, route=route, mailbox=Mailbox(1)) as (system, sup, router, refs):
        errors: list[Exception] = []

        async def ask() -> None:
            try:
                await router.ask(Who(), timeout=500)
            except NoSuchActorError as error:
                errors.append(error)

        async with trio.open_nursery() as nursery:
            await busy(nursery, *refs, seconds=60)
            await refs[0].tell(Note("fills it"))
            for _ in range(5):
                nursery.start_soon(ask)
            await trio.testing.wait_all_tasks_blocked()
            await sup.stop(router)
            await trio.testing.wait_all_tasks_blocked()
            assert len(errors) == 5
            assert all("ended before it handed this on" in str(error) for error in errors)
        assert system.leftovers()["watches"] == 0
        assert len(system.deadlines) == 0


async def test_a_router_that_waits_for_room_stops_within_its_time_and_answers(autojump_clock: Clock) -> None:
    async with routed(1, mailbox=Mailbox(1)) as (_, sup, router, refs), trio.open_nursery() as nursery:
        await busy(nursery, *refs, seconds=60)
        await refs[0].tell(Note("fills it"))

        async def ask() -> None:
            with pytest.raises(NoSuchActorError, match="ended before"):
                await router.ask(Who(), timeout=500)

        nursery.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked()
        await sup.stop(router)
        assert trio.current_time() < 10


async def test_a_choosing_that_fails_is_a_crash_of_the_router_and_fails_the_ask(autojump_clock: Clock) -> None:
    class Broken:
        def chooser(self) -> Broken:
            return self

        def choose(self, message: Any, routees: Any, *, asks: bool) -> int:
            if isinstance(message, Crash):
                raise ZeroDivisionError
            return 0

    async with routed(1, route=Broken()) as (system, _, router, refs):
        with pytest.raises(NoSuchActorError, match="ended before"):
            await router.ask(Crash(), timeout=1)
        assert await router.ask(Who(), timeout=9) == refs[0].path  # a fresh router watches the same routees
        assert [child.restarts for child in system.tree()[0].children] == [0, 1]


async def test_impossible_routers_are_refused(autojump_clock: Clock) -> None:
    with pytest.raises(ActorUsageError, match="backlog=0"):
        Router([], backlog=0)
    async with routed(1) as (_, _, router, refs):
        anything: Ref[Any] = router
        await anything.tell(Routees((router, refs[0])))
        assert await router.ask(Who(), timeout=9) == refs[0].path  # it crashed and came back with its first routees


# --------------------------------------------------------------------------------------------------------- a group


async def test_a_router_follows_a_group(autojump_clock: Clock) -> None:
    class Member(Worker):
        async def started(self) -> None:
            self.ctx.join("workers")

    async with open_system(seed=0) as system, system.supervisor("p", restart=Restart(max=5)) as sup:
        router = await sup.spawn(lambda: Router[Protocol](group="workers"), "router")
        with pytest.raises(NoSuchActorError, match="no routees left"):
            await router.ask(Who(), timeout=1)
        first = await sup.spawn(Member, "a")
        assert await router.ask(Who(), timeout=1) == first.path
        second = await sup.spawn(Member, "b")
        assert {await router.ask(Who(), timeout=1) for _ in range(4)} == {first.path, second.path}
        await sup.stop(first)
        assert [await router.ask(Who(), timeout=1) for _ in range(3)] == [second.path] * 3
        with pytest.raises(ActorCrashedError):
            await router.ask(Crash(), timeout=1)
        await trio.sleep(5)  # it is back, and has joined again
        assert await router.ask(Who(), timeout=1) == second.path
        assert sum(len(child.cell.watchers or ()) for child in sup.children) == 1
    with pytest.raises(ActorUsageError, match="of refs and of a group"):
        Router([first], group="workers")


async def test_a_router_in_the_group_that_it_follows_does_not_route_to_itself(autojump_clock: Clock) -> None:
    class Joining(Router[Protocol]):
        async def started(self) -> None:
            await super().started()
            self.ctx.join("workers")

    async with open_system(seed=0) as system, system.supervisor("p") as sup:
        router = await sup.spawn(lambda: Joining(group="workers"), "router")
        with pytest.raises(NoSuchActorError):
            await router.ask(Who(), timeout=1)


# ------------------------------------------------------------------------------------------------------------ far away


@asynccontextmanager
async def far_routed(
    route: Route | None = None, **options: Any
) -> AsyncIterator[tuple[System, Ref[Protocol], list[Ref[Protocol]], trio.CancelScope]]:
    """Two workers on one far node and one near, behind a near router."""
    hub = Memory()
    async with (
        open_system(transport=hub, seed=0) as near,
        near.supervisor("near", restart=Restart(max=5)) as sup,
        trio.open_nursery() as nursery,
    ):
        scope = trio.CancelScope()

        async def far_node(*, task_status: trio.TaskStatus[System] = trio.TASK_STATUS_IGNORED) -> None:
            with scope:
                async with open_system(transport=hub, seed=1) as far, far.supervisor("far") as far_sup:
                    for i in range(2):
                        await far_sup.spawn(Worker, f"w{i}")
                    task_status.started(far)
                    await trio.sleep_forever()

        far = await nursery.start(far_node)
        near.learn(far.peer, far.addresses)
        refs: list[Ref[Protocol]] = [near.ref(far.peer, f"/far/w{i}", Worker) for i in range(2)]
        refs.append(await sup.spawn(Worker, "w2"))
        router = await sup.spawn(lambda: Router(refs, route=route or RoundRobin(), **options), "router")
        yield near, router, refs, scope
        nursery.cancel_scope.cancel()


async def test_far_and_near_routees_behind_one_ref(autojump_clock: Clock) -> None:
    async with far_routed() as (system, router, refs, _):
        answers = [await router.ask(Who(), timeout=5) for _ in range(6)]
        assert answers == [ref.path for ref in refs] * 2
        for i in range(30):
            await router.tell(Note(str(i)))
        await router.ask(Who(), timeout=5)
        with trio.fail_after(5):
            while sum([len(await ref.ask(Notes(), timeout=5)) for ref in refs]) < 30:
                await trio.lowlevel.checkpoint()
        for i, ref in enumerate(refs):
            assert await ref.ask(Notes(), timeout=5) == [str(n) for n in range(i, 30, 3)]
        assert len(system.deadlines) == 0


async def test_a_far_ask_does_not_overtake_and_is_not_overtaken(autojump_clock: Clock) -> None:
    route = ConsistentHash(key=lambda _: "x")
    async with far_routed(route) as (_, router, _refs, _scope), trio.open_nursery() as nursery:
        sizes: dict[int, int] = {}

        async def count(i: int) -> None:
            sizes[i] = len(await router.ask(Notes(), timeout=5))

        for i in range(20):
            await router.tell(Note(str(i)))
            nursery.start_soon(count, i)
            await trio.testing.wait_all_tasks_blocked()
    assert sizes == {i: i + 1 for i in range(20)}


async def test_asks_to_a_far_routee_are_bounded_and_least_loaded_counts_them(autojump_clock: Clock) -> None:
    async with far_routed(LeastLoaded()) as (_, router, refs, _), trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(lambda: router.ask(Nap(5), timeout=50))
            await trio.testing.wait_all_tasks_blocked()
        started = trio.current_time()
        nursery.start_soon(lambda: router.ask(Nap(5), timeout=50))  # all three have one: a turn for the first
        await trio.testing.wait_all_tasks_blocked()
        assert await router.ask(Who(), timeout=50) in {refs[1].path, refs[2].path}
        assert 4 < trio.current_time() - started < 6


async def test_far_routees_leave_with_their_node_and_open_asks_fail(autojump_clock: Clock) -> None:
    async with far_routed() as (system, router, refs, scope):
        await router.ask(Who(), timeout=5)
        failed: list[str] = []

        async def nap() -> None:
            try:
                await router.ask(Nap(500), timeout=1000)
            except (ActorCrashedError, NoSuchActorError, RefusedError) as error:
                failed.append(type(error).__name__)
            except Exception as error:  # noqa: BLE001 - which one is asserted below
                failed.append(type(error).__name__)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(nap)  # to the far w1
            await trio.testing.wait_all_tasks_blocked()
            scope.cancel()
        assert len(failed) == 1
        with trio.fail_after(60):
            answers = {await router.ask(Who(), timeout=30) for _ in range(4)}
        assert answers == {refs[2].path}
        assert len(system.deadlines) == 0


async def test_a_router_has_no_more_rights_than_the_refs_it_was_given(autojump_clock: Clock) -> None:
    async with open_system(seed=0) as system, system.supervisor("r") as sup:
        found = letters(system)
        worker = await sup.spawn(Worker, "worker")
        narrow: Ref[Any] = worker.narrow(Who)
        router: Ref[Any] = await sup.spawn(lambda: Router((narrow,)), "router")
        assert await router.ask(Who(), timeout=1) == "/r/worker"
        await router.tell(Note("no"))
        with pytest.raises(RefusedError, match="takes Who, not Notes"):
            await router.ask(Notes(), timeout=1)
        assert await worker.ask(Notes(), timeout=1) == []
        assert [letter.kind for letter in found] == ["Note", "Notes"]
