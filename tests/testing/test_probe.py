"""The probe, as a user's tests use it; the fixtures; what their errors say."""

from __future__ import annotations

import pytest
import trio

import prime
from prime import Actor, Ask, Down, Ref, Supervisor, System, on
from prime.actor import ActorStarted, DeadLetter
from prime.errors import ActorUsageError, MailboxFullError, NoSuchActorError, RefusedError
from prime.testing import Facts, Probe, advance
from prime.testing.fixtures import facts, probe, supervisor, system, system_seed, virtual_clock

__all__ = ["facts", "probe", "supervisor", "system", "system_seed", "virtual_clock"]


@prime.message
class Start:
    pass


@prime.message
class Done:
    number: int


@prime.message
class Price(Ask[int]):
    item: str


class Shop(Actor[Start]):
    """Asks one actor for a price and tells another the result."""

    def __init__(self, prices: Ref[Price], till: Ref[Done]) -> None:
        self.prices, self.till = prices, till

    @on(Start)
    async def start(self, _: Start) -> None:
        await self.till.tell(Done(await self.prices.ask(Price("tea"), timeout=5)))


class Unprintable:
    def __repr__(self) -> str:
        raise ValueError("no repr")


async def test_a_probe_stands_for_the_others_an_actor_talks_to(supervisor: Supervisor, probe: Probe) -> None:
    shop = await supervisor.spawn(lambda: Shop(probe.ref, probe.ref), "shop")
    await shop.tell(Start())
    assert (await probe.expect(Price)).item == "tea"
    probe.reply(3)
    assert (await probe.expect(Done)).number == 3
    await probe.expect_nothing(within=60)


async def test_a_refusal_reaches_the_asker(probe: Probe) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(refused, probe.ref)
        await probe.expect(Price)
        probe.fail(RefusedError("sold out"))


async def refused(ref: Ref[Price]) -> None:
    with pytest.raises(RefusedError, match="sold out"):
        await ref.ask(Price("tea"), timeout=1)


async def test_another_message_than_expected_fails_at_once_and_shows_what_came(probe: Probe) -> None:
    await probe.ref.tell(Done(1))
    await probe.ref.tell(Done(2))
    with pytest.raises(AssertionError, match=r"expected Price, got Done\(number=1\); after it Done\(number=2\)"):
        await probe.expect(Price, within=60)
    assert trio.current_time() == 0
    assert (await probe.expect(Done)).number == 2


async def test_silence_fails_at_the_deadline(probe: Probe) -> None:
    with pytest.raises(AssertionError, match=r"expected Price within 2.5 s, got nothing"):
        await probe.expect(Price, within=2.5)
    assert trio.current_time() == 2.5


async def test_skipping_passes_over_others_and_tells_which(probe: Probe) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(passed_over, probe.ref)
        await advance(0)
        await probe.ref.tell(Done(1))
        assert (await probe.expect(Done, skip=True)).number == 1
    await probe.ref.tell(Done(2))
    with pytest.raises(AssertionError, match=r"expected Start within 1 s, got Done\(number=2\)"):
        await probe.expect(Start, skip=True)


async def passed_over(ref: Ref[Price]) -> None:
    with pytest.raises(NoSuchActorError, match="the probe expected Done"):
        await ref.ask(Price("tea"), timeout=1)


async def test_expecting_nothing_fails_when_something_comes_and_keeps_it(probe: Probe) -> None:
    await probe.ref.tell(Done(1))
    with pytest.raises(AssertionError, match=r"expected nothing within 1 s, got Done\(number=1\)"):
        await probe.expect_nothing()
    assert len(probe) == 1
    await probe.expect(Done)


async def test_a_message_whose_repr_fails_is_shown_by_its_class(probe: Probe) -> None:
    await probe.ref.tell(Unprintable())
    with pytest.raises(AssertionError, match="got <Unprintable instance at"):
        await probe.expect(Done)


async def test_a_long_message_is_cut(probe: Probe) -> None:
    await probe.ref.tell(Price("tea" * 10_000))
    with pytest.raises(AssertionError) as caught:
        await probe.expect(Done)
    assert len(str(caught.value)) < 500


async def test_a_watched_actor_ends_in_one_down(supervisor: Supervisor, probe: Probe) -> None:
    other = await Probe.spawn(supervisor, "other")
    probe.watch(other.ref)
    await probe.expect_nothing()
    await supervisor.stop(other.ref)
    down = await probe.expect_down(other.ref)
    assert down == Down("/test/other", "", "it was stopped")
    await probe.expect_nothing()


async def test_the_down_of_another_actor_fails(supervisor: Supervisor, probe: Probe) -> None:
    one, two = [await Probe.spawn(supervisor, name) for name in ("one", "two")]
    probe.watch(one.ref)
    await supervisor.stop(one.ref)
    with pytest.raises(AssertionError, match=r"expected the Down of <Ref /test/two>, got Down\(path='/test/one'"):
        await probe.expect_down(two.ref)


@pytest.mark.parametrize("told", [False, True], ids=["nothing expected", "a tell"])
async def test_a_reply_without_an_ask_is_refused(probe: Probe, told: bool) -> None:
    if told:
        await probe.ref.tell(Done(1))
        await probe.expect(Done)
    with pytest.raises(ActorUsageError, match="no ask to answer"):
        probe.reply(1)


async def test_a_second_reply_is_refused(probe: Probe) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: probe.ref.ask(Price("tea"), timeout=1))
        await probe.expect(Price)
        probe.reply(1)
        with pytest.raises(ActorUsageError, match="no ask to answer"):
            probe.reply(2)


async def test_a_full_probe_loses_nothing_in_silence(supervisor: Supervisor, facts: Facts) -> None:
    small = await Probe.spawn(supervisor, "small", capacity=2)
    for number in range(3):
        await small.ref.tell(Done(number))
    with pytest.raises(MailboxFullError):
        await small.ref.ask(Price("tea"), timeout=1)
    assert facts.of(DeadLetter)[0] == DeadLetter("/test/small", "Done", "the probe was full")
    with pytest.raises(AssertionError, match="/test/small held 2 messages nobody expected, and lost Price"):
        await small.expect(Done)


async def test_a_probe_that_stops_leaves_no_asker_waiting(supervisor: Supervisor, probe: Probe) -> None:
    async with trio.open_nursery() as nursery:
        for item in ("expected", "never expected"):
            nursery.start_soon(left_alone, probe.ref, item)
            await advance(0)
        await probe.expect(Price)
        await supervisor.stop(probe.ref)
    assert trio.current_time() < 60


async def left_alone(ref: Ref[Price], item: str) -> None:
    with pytest.raises(NoSuchActorError, match="stopped before the test answered"):
        await ref.ask(Price(item), timeout=60)


async def test_an_expectation_can_be_cancelled_and_takes_nothing(probe: Probe) -> None:
    with trio.move_on_after(1) as scope:
        await probe.expect(Done, within=60)
    assert scope.cancelled_caught
    await probe.ref.tell(Done(1))
    assert (await probe.expect(Done)).number == 1


async def test_impossible_probes_are_refused() -> None:
    with pytest.raises(ActorUsageError, match="a probe for 0 messages"):
        Probe(0)
    with pytest.raises(ActorUsageError, match="was not spawned"):
        _ = Probe().ref


async def test_facts_are_found_by_class_and_awaited(system: System, supervisor: Supervisor, facts: Facts) -> None:
    with pytest.raises(AssertionError, match="no fact ActorStarted within 1 s; the last facts: none"):
        await facts.wait_for(ActorStarted)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(Probe.spawn, supervisor, "late")
        started = await facts.wait_for(ActorStarted, where=lambda fact: fact.path.endswith("late"))
    assert started == facts.of(ActorStarted)[0]
    for number in range(3):
        system.emit(Done(number))
    assert [fact.number for fact in facts.of(Done)] == [0, 1, 2]


async def test_facts_are_bounded(system: System) -> None:
    recorder = Facts(system, capacity=2)
    for number in range(5):
        system.emit(Done(number))
    recorder.close()
    system.emit(Done(9))
    assert [fact.number for fact in recorder] == [3, 4]
    assert recorder.forgotten == 3
