"""Promises of the page about guarantees that no other test holds by itself."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import trio
import trio.testing

import prime
from prime import Actor, Ask, Down, Mailbox, Ref, on, open_system
from prime.actor import ActorStarted, ActorStopped

Clock = trio.testing.MockClock


@prime.message
class Number:
    value: int


@prime.message
class Heard(Ask[list[Any]]):
    pass


@prime.message
class Break(Ask[None]):
    pass


@prime.message
class Nap:
    seconds: float


class Listener(Actor[Number | Heard | Break | Nap | Down]):
    def __init__(self, runs: list[str], watched: Ref[Any] | None = None) -> None:
        self.heard: list[Any] = []
        self.runs = runs
        self.watched = watched

    async def started(self) -> None:
        if self.watched is not None:
            self.ctx.watch(self.watched)

    @on(Number, Down)
    def note(self, m: Number | Down) -> None:
        self.heard.append(m)

    @on(Heard)
    def tell_heard(self, _: Heard) -> list[Any]:
        return self.heard

    @on(Nap)
    async def nap(self, m: Nap) -> None:
        await trio.sleep(m.seconds)

    @on(Break)
    def fail(self, _: Break) -> None:
        self.runs.append("break")
        raise ValueError("broken")


async def test_each_tell_of_many_senders_is_handled_once_and_in_its_senders_order(autojump_clock: Clock) -> None:
    async with open_system() as system, system.supervisor("s") as sup:
        listener = await sup.spawn(lambda: Listener([]), "listener", mailbox=Mailbox(7))

        async def send(sender: int) -> None:
            for number in range(200):
                await listener.tell(Number(sender * 1000 + number))

        async with trio.open_nursery() as nursery:
            for sender in range(5):
                nursery.start_soon(send, sender)
        heard = [m.value for m in await listener.ask(Heard(), timeout=1)]
        assert Counter(heard) == Counter(sender * 1000 + number for sender in range(5) for number in range(200))
        for sender in range(5):
            own = [value for value in heard if value // 1000 == sender]
            assert own == sorted(own)


@pytest.mark.parametrize("asked", [True, False])
async def test_a_message_that_crashed_its_actor_is_not_run_again(asked: bool, autojump_clock: Clock) -> None:
    runs: list[str] = []
    async with open_system() as system, system.supervisor("s") as sup:
        listener = await sup.spawn(lambda: Listener(runs), "listener")
        if asked:
            with pytest.raises(prime.PrimeError):
                await listener.ask(Break(), timeout=5)
        else:
            await listener.tell(Break())
        await listener.tell(Number(1))
        assert await listener.ask(Heard(), timeout=5) == [Number(1)]
        await trio.sleep(60)
    assert runs == ["break"]


@pytest.mark.parametrize("full", ["wait", "reject", "drop_oldest", "drop_newest"])
async def test_a_full_mailbox_keeps_no_system_message_out(full: Any, autojump_clock: Clock) -> None:
    async with open_system() as system, system.supervisor("s") as sup:
        other = await sup.spawn(lambda: Listener([]), "other")
        listener = await sup.spawn(lambda: Listener([], other), "listener", mailbox=Mailbox(1, full=full), shutdown=30)
        await listener.tell(Nap(10))
        await trio.testing.wait_all_tasks_blocked()
        await listener.tell(Number(1))
        await sup.stop(other)
        await trio.sleep(11)
        down, number = await listener.ask(Heard(), timeout=1)  # the notice came later, and went first
        assert isinstance(down, Down)
        assert number == Number(1)
        await listener.tell(Nap(10))
        await trio.testing.wait_all_tasks_blocked()
        await listener.tell(Number(2))
        before = trio.current_time()
        await sup.stop(listener)  # it waits for the message in hand, and for no other
        assert trio.current_time() - before == pytest.approx(10)
        assert system.dead_letters == 1


async def test_who_floods_one_actor_starves_no_other_task(autojump_clock: Clock) -> None:
    turns = 0
    async with open_system() as system, system.supervisor("s") as sup:
        listener = await sup.spawn(lambda: Listener([]), "listener", mailbox=Mailbox(10_000))

        async def take_turns() -> None:
            nonlocal turns
            while True:
                await trio.lowlevel.checkpoint()
                turns += 1

        async with trio.open_nursery() as nursery:
            nursery.start_soon(take_turns)
            for number in range(6400):
                await listener.tell(Number(number))
            assert turns >= 90  # every 64 messages at least, the last lot apart
            nursery.cancel_scope.cancel()


async def test_who_waits_for_room_gets_it_in_turn(autojump_clock: Clock) -> None:
    async with open_system() as system, system.supervisor("s") as sup:
        listener = await sup.spawn(lambda: Listener([]), "listener", mailbox=Mailbox(1))
        await listener.tell(Nap(10))
        await trio.testing.wait_all_tasks_blocked()
        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(listener.tell, Number(number))
                await trio.testing.wait_all_tasks_blocked()
        assert await listener.ask(Heard(), timeout=1) == [Number(number) for number in range(20)]


async def test_being_cancelled_is_no_crash(autojump_clock: Clock) -> None:
    facts: list[Any] = []
    async with open_system() as system:
        system.subscribe(facts.append)
        with trio.move_on_after(1):
            async with system.supervisor("s") as sup:
                busy = await sup.spawn(lambda: Listener([]), "busy", shutdown=2)
                await busy.tell(Nap(1000))  # cut short when its time to stop is over
                await trio.sleep_forever()
        assert [type(fact) for fact in facts] == [ActorStarted, ActorStopped]
