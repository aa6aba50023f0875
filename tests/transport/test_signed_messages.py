"""Signed messages end to end: systems over the memory transport on the virtual clock, and who is refused there."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import attrs
import pytest
import trio
import trio.testing
from hypothesis import given

import prime
from prime import Actor, Ask, KeyPair, Mailbox, Memory, Payload, Persistent, Ref, Stream, System, applies, on
from prime.actor import DeadLetter
from prime.errors import LocalProtocolError, MessageError, RefusedError, ReplayError, SignatureError
from prime.testing.strategies import messages_of
from prime.transport.facts import SignedRefused
from prime.transport.links import LinkLimits, Links
from prime.transport.memory import MemoryChannel
from prime.transport.signing import KeySignatory
from prime.wire import Signed
from prime.wire.message import sign, signed_or_none

KEYS = tuple(KeyPair.from_seed(bytes([n]) * 32) for n in range(61, 65))


@prime.message(tag=0x7B20, signed=True)
class Vote:
    proposal: str


@prime.message(tag=0x7B21, signed=True)
class Ticket:
    number: int


@prime.message(tag=0x7B22, signed=True)
class Buy(Ask[Ticket]):
    number: int


@prime.message(tag=0x7B23, signed=True)
class Blob:
    data: Payload


@prime.message(tag=0x7B24)
class HandOn(Ask[None]):
    """Tell the ballot box of another node what came last."""

    peer: str
    times: int = 1


@prime.message(tag=0x7B25)
class Shelve(Ask[bytes]):
    """Return what came last, as bytes to keep."""


@prime.message(tag=0x7B26)
class Draw(Ask[Ticket | None]):
    signed: bool


@attrs.frozen
class Came:
    message: Any
    signed: Signed
    sender: str | None


class Box(Actor[Vote | Buy | Blob | HandOn | Shelve | Draw]):
    """A ballot box: writes down what came, and who signed it."""

    def __init__(self, came: list[Came], pause_s: float = 0.0) -> None:
        self.came, self.pause_s = came, pause_s

    def _note(self, message: Any) -> None:
        self.came.append(Came(message, self.ctx.signed(message), self.ctx.sender))

    @on(Vote)
    async def vote(self, m: Vote) -> None:
        self._note(m)
        if self.pause_s:
            await trio.sleep(self.pause_s)

    @on(Buy)
    def buy(self, m: Buy) -> Ticket:
        self._note(m)
        return Ticket(m.number)

    @on(Blob)
    def blob(self, m: Blob) -> None:
        self._note(m)

    @on(HandOn)
    async def hand_on(self, m: HandOn) -> None:
        for _ in range(m.times):
            await self.ctx.system.ref(m.peer, "/s/box", Box).tell(self.came[-1].message)

    @on(Shelve)
    def shelve(self, _: Shelve) -> bytes:
        return prime.signed_bytes(self.came[-1].message)

    @on(Draw)
    def draw(self, m: Draw) -> Ticket | None:
        return Ticket(1) if m.signed else None


@attrs.define(eq=False)
class Place:
    """A node with a ballot box."""

    system: System
    came: list[Came]
    dead: list[DeadLetter] = attrs.field(factory=list)
    facts: list[Any] = attrs.field(factory=list)

    def hear(self, fact: Any) -> None:
        self.facts.append(fact)
        if isinstance(fact, DeadLetter):
            self.dead.append(fact)

    @property
    def links(self) -> Links:
        assert isinstance(self.system.network, Links)
        return self.system.network

    @property
    def box(self) -> Ref[Any]:
        found = self.system.whereis("/s/box")
        assert found is not None
        return found

    def ref(self, other: Place, *, path: str = "/s/box", reliable: bool = False) -> Any:
        return self.system.ref(other.system.peer, path, Box, reliable=reliable)

    def votes(self) -> list[str]:
        return [each.message.proposal for each in self.came]


@contextlib.asynccontextmanager
async def places(
    count: int = 2, *, capacity: int = 64, pause_s: float = 0.0, limits: LinkLimits | None = None
) -> AsyncIterator[list[Place]]:
    transport = Memory()
    async with contextlib.AsyncExitStack() as stack:
        found: list[Place] = []
        for number in range(count):
            system = await stack.enter_async_context(
                prime.open_system(transport=transport, key=KEYS[number], limits=limits)
            )
            place = Place(system, [])
            supervisor = await stack.enter_async_context(system.supervisor("s"))
            came = place.came
            await supervisor.spawn(lambda came=came: Box(came, pause_s), "box", mailbox=Mailbox(capacity))
            system.subscribe(place.hear)
            for other in found:
                other.system.learn(system.peer, system.addresses)
                system.learn(other.system.peer, other.system.addresses)
            found.append(place)
        yield found


def only(place: Place) -> Came:
    (came,) = place.came
    return came


# ------------------------------------------------------------------------------------------------------ who signed


async def test_a_handler_learns_who_signed_and_when(autojump_clock: Any) -> None:
    async with places() as (near, far):
        await near.ref(far).tell(Vote("a"))
        await trio.sleep(1)
        came = only(far)
        assert came.message == Vote("a")
        assert came.sender == came.signed.signer == near.system.peer
        assert came.signed.audience == far.system.peer
        assert signed_or_none(came.message) is came.signed


async def test_local_actors_are_told_that_their_own_node_signed(autojump_clock: Any) -> None:
    async with places(1) as (here,):
        message = Vote("a")
        await here.box.tell(message)
        assert await here.box.ask(Buy(1), timeout=1) == Ticket(1)
        await trio.sleep(1)
        first, second = here.came
        assert first.signed.signer == second.signed.signer == here.system.peer
        assert first.sender is None
        assert first.signed.seq < second.signed.seq
        assert signed_or_none(message) is None  # the message itself is as it was: it can be told again
        assert prime.open_signed(prime.signed_bytes(here.system.sign(message)), Vote) == message


async def test_the_same_message_can_be_told_again_and_to_many(autojump_clock: Any) -> None:
    async with places(3) as (near, far, third):
        message = Vote("again")
        for place in (far, far, third):
            await near.ref(place).tell(message)
        await trio.sleep(1)
        assert [len(far.came), len(third.came)] == [2, 1]
        assert len({each.signed.seq for each in (*far.came, *third.came)}) == 3


async def test_a_reply_is_signed_by_who_answers(autojump_clock: Any) -> None:
    async with places() as (near, far):
        ticket = await near.ref(far).ask(Buy(7), timeout=5)
        assert ticket == Ticket(7)
        what = prime.signed(ticket)
        assert (what.signer, what.audience) == (far.system.peer, near.system.peer)
        drawn = await near.ref(far).ask(Draw(signed=True), timeout=5)
        assert prime.signed(drawn).signer == far.system.peer
        assert await near.ref(far).ask(Draw(signed=False), timeout=5) is None
        local = await far.box.ask(Buy(8), timeout=5)
        assert far.system.signed(local).signer == far.system.peer


async def test_payloads_are_signed_too(autojump_clock: Any) -> None:
    async with places() as (near, far):
        data = bytes(range(256)) * 4096
        await near.ref(far).tell(Blob(memoryview(data)))
        await near.ref(far, reliable=True).tell(Blob(memoryview(bytearray(data))))
        await trio.sleep(1)
        assert [bytes(each.message.data) for each in far.came] == [data, data]
        assert {each.signed.signer for each in far.came} == {near.system.peer}


async def test_a_signed_message_to_oneself_by_a_far_ref_is_delivered_here(autojump_clock: Any) -> None:
    async with places(1) as (here,):
        assert here.system.network is not None
        await here.system.network.tell(here.links.peer, "/s/box", Vote("mine"))
        await trio.sleep(1)
        assert only(here).signed.signer == here.system.peer


# ----------------------------------------------------------------------------------------------- handed on, and kept


async def test_what_is_signed_for_anyone_is_handed_on_with_its_signer(autojump_clock: Any) -> None:
    async with places(3) as (first, second, third):
        await first.ref(second).tell(first.system.sign(Vote("pass it on")))
        await trio.sleep(1)
        await second.box.ask(HandOn(third.system.peer), timeout=5)
        await trio.sleep(1)
        came = only(third)
        assert came.signed.signer == first.system.peer
        assert came.sender == second.system.peer
        assert came.signed == only(second).signed


async def test_each_node_takes_it_once_by_whatever_way_it_comes(autojump_clock: Any) -> None:
    async with places(3) as (first, second, third):
        vote = first.system.sign(Vote("once"))
        await first.ref(second).tell(vote)
        await first.ref(third).tell(vote)
        await trio.sleep(1)
        await second.box.ask(HandOn(third.system.peer, times=2), timeout=5)
        await trio.sleep(1)
        assert third.votes() == ["once"]
        assert [letter.kind for letter in third.dead] == [f"tag {0x7B20}"] * 2
        assert all("was taken before" in letter.reason for letter in third.dead)
        assert (third.links.signed_refused, third.links.dead_letters) == (2, 2)
        with pytest.raises(ReplayError, match="was taken before") as caught:
            bought = first.system.sign(Buy(1))
            assert await first.ref(third).ask(bought, timeout=5) == Ticket(1)
            await first.ref(third).ask(bought, timeout=5)
        assert caught.value.hint


async def test_what_was_told_to_one_node_is_not_handed_on_to_another(autojump_clock: Any) -> None:
    async with places(3) as (first, second, third):
        await first.ref(second).tell(Vote("for you"))
        await trio.sleep(1)
        with pytest.raises(LocalProtocolError, match="would refuse it") as caught:
            await second.ref(third).tell(only(second).message)
        assert "system.sign" in caught.value.hint


async def test_a_node_that_hands_it_on_all_the_same_is_refused(autojump_clock: Any, monkeypatch: Any) -> None:
    async with places(3) as (first, second, third):
        await first.ref(second).tell(Vote("for you"))
        await trio.sleep(1)
        came = only(second)
        lying = attrs.evolve(came.signed, audience=None)  # so that its own side lets it pass; the bytes say the truth
        object.__setattr__(came.message, "__seal__", lying)
        await second.ref(third).tell(came.message)
        await trio.sleep(1)
        assert not third.came
        assert "not for this node" in third.dead[0].reason
        assert third.links.signed_refused == 1


async def test_a_kept_message_is_verified_at_any_time_by_anyone(autojump_clock: Any) -> None:
    async with places() as (near, far):
        await near.ref(far).tell(Vote("for the record"))
        await trio.sleep(1)
        kept = await near.ref(far).ask(Shelve(), timeout=5)
        peer = near.system.peer
    opened = prime.open_signed(kept, Vote)
    assert opened == Vote("for the record")
    assert prime.signed(opened).signer == peer
    with pytest.raises(SignatureError):
        prime.open_signed(kept[:-1] + bytes([kept[-1] ^ 1]), Vote)


async def test_a_router_hands_on_what_is_signed_for_anyone(autojump_clock: Any) -> None:
    async with places(3) as (first, second, third), second.system.supervisor("r") as supervisor:
        routees = (second.ref(third),)
        await supervisor.spawn(lambda: prime.Router[Vote](routees), "router")
        router = first.ref(second, path="/r/router")
        await router.tell(first.system.sign(Vote("routed")))
        await trio.sleep(1)
        assert only(third).signed.signer == first.system.peer
        await router.tell(Vote("not for the third"))
        await trio.sleep(1)
        assert third.votes() == ["routed"]
        assert any("would refuse it" in letter.reason for letter in second.dead)


# --------------------------------------------------------------------------------------------- what is not taken


def with_signatory(place: Place, signatory: Any) -> None:
    place.links.signatory = signatory
    place.system.signatory = signatory


class Forger(KeySignatory):
    """Signs in the name of another."""

    def __init__(self, key: KeyPair, name: str) -> None:
        super().__init__(key)
        self.signer = name  # type: ignore[misc]


class OfTomorrow(KeySignatory):
    scheme = 7  # type: ignore[misc]


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda key: Forger(key, KEYS[2].peer), "is not one of its signer's"),
        (OfTomorrow, "scheme 7, which this node does not know"),
    ],
    ids=["forged", "unknown scheme"],
)
async def test_a_false_signature_is_refused_and_the_link_lives_on(
    make: Callable[[KeyPair], Any], reason: str, autojump_clock: Any
) -> None:
    async with places() as (near, far):
        honest = near.links.signatory
        with_signatory(near, make(KEYS[0]))
        await near.ref(far).tell(Vote("false"))
        with pytest.raises(SignatureError, match=reason):
            await near.ref(far).ask(Buy(1), timeout=5)
        await trio.sleep(1)
        assert not far.came
        assert reason in far.dead[0].reason
        assert far.links.signed_refused == 2
        refusals = [fact for fact in far.facts if isinstance(fact, SignedRefused)]
        assert [fact.peer for fact in refusals] == [near.system.peer] * 2
        assert all(reason in fact.reason for fact in refusals)
        with_signatory(near, honest)
        await near.ref(far).tell(Vote("true"))
        await trio.sleep(1)
        assert far.votes() == ["true"]
        assert len(near.links.peers) == 1


async def test_a_false_signature_told_reliably_is_settled_and_not_sent_for_ever(autojump_clock: Any) -> None:
    async with places() as (near, far):
        ref = near.ref(far, reliable=True)
        with_signatory(near, OfTomorrow(KEYS[0]))
        near.links._post._signatory = near.links.signatory
        await ref.tell(Vote("false"))
        await ref.flushed(timeout=5)
        near.links._post._signatory = KeySignatory(KEYS[0])
        await ref.tell(Vote("true"))
        await ref.flushed(timeout=5)
        assert far.votes() == ["true"]
        assert "scheme 7" in far.dead[0].reason


async def test_a_false_answer_is_an_error_of_its_ask(autojump_clock: Any) -> None:
    async with places() as (near, far):
        with_signatory(far, Forger(KEYS[1], KEYS[2].peer))
        with pytest.raises(SignatureError, match="Ticket"):
            await near.ref(far).ask(Buy(1), timeout=5)
        assert near.links.signed_refused == 1
        with_signatory(far, KeySignatory(KEYS[1]))
        assert await near.ref(far).ask(Buy(2), timeout=5) == Ticket(2)


@pytest.mark.parametrize(("off_s", "text"), [(-301, "too old"), (61, "from now"), (-299, ""), (59, "")])
async def test_age_is_judged_by_both_clocks(off_s: float, text: str, autojump_clock: Any) -> None:
    async with places() as (near, far):
        wall_s = far.links._wall_s
        with_signatory(near, KeySignatory(KEYS[0], lambda: wall_s() + off_s))
        if not text:
            assert await near.ref(far).ask(Buy(1), timeout=5) == Ticket(1)
            return
        with pytest.raises(ReplayError, match=text) as caught:
            await near.ref(far).ask(Buy(1), timeout=5)
        assert "NTP" in caught.value.hint
        assert not far.came
        assert far.links.signed_refused == 1


async def test_limits_say_how_old_and_how_many(autojump_clock: Any) -> None:
    limits = LinkLimits(signed_age_s=10, signed_ahead_s=1, signers_max=1)
    async with places(3, limits=limits) as (first, second, third):
        wall_s = third.links._wall_s
        with_signatory(first, KeySignatory(KEYS[0], lambda: wall_s() - 11))
        with pytest.raises(ReplayError, match="too old"):
            await first.ref(third).ask(Buy(1), timeout=5)
        with_signatory(first, KeySignatory(KEYS[0]))
        await first.ref(third).ask(Buy(1), timeout=5)
        with pytest.raises(RefusedError, match="one signer more than this node remembers: 1"):
            await second.ref(third).ask(Buy(1), timeout=5)
        assert third.links.sizes()["signers"] == 1


async def test_a_signer_is_heard_after_its_restart_and_its_old_messages_are_not(autojump_clock: Any) -> None:
    async with places(3) as (first, second, third):
        vote = first.system.sign(Vote("of the first run"))
        await first.ref(second).tell(vote)
        await first.ref(third).tell(vote)
        with_signatory(first, KeySignatory(KEYS[0]))  # as a new run of the node would
        await first.ref(third).tell(Vote("of the second run"))
        await trio.sleep(1)
        await second.box.ask(HandOn(third.system.peer), timeout=5)
        await trio.sleep(1)
        assert third.votes() == ["of the first run", "of the second run"]
        assert third.links.signed_refused == 1


# -------------------------------------------------------------------------------------------------- reliable delivery


def tear(place: Place) -> None:
    for carrier in tuple(place.links._up.values()):
        channel = carrier._channel
        assert isinstance(channel, MemoryChannel)
        channel._outward.tear()
        channel._inward.tear()


@pytest.mark.parametrize("pause_s", [0.0, 0.05])
async def test_what_is_sent_again_is_no_replay(pause_s: float, autojump_clock: Any) -> None:
    async with places(capacity=2, pause_s=pause_s) as (near, far):
        ref = near.ref(far, reliable=True)

        async def tell_all() -> None:
            for number in range(100):
                await ref.tell(Vote(str(number)))
                await trio.sleep(0.01)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(tell_all)
            for _ in range(12):
                await trio.sleep(0.09)
                tear(near)
        await ref.flushed(timeout=200)
        await trio.sleep(20)
        assert far.votes() == [str(number) for number in range(100)]
        assert far.links.signed_refused == 0


async def test_what_found_nobody_or_no_room_is_taken_when_it_comes_again(autojump_clock: Any) -> None:
    async with places() as (near, far), far.system.supervisor("late") as supervisor:
        ref = near.ref(far, path="/late/box", reliable=True)
        for number in range(10):
            await ref.tell(Vote(str(number)))
        await trio.sleep(3)
        came: list[Came] = []
        mailbox = Mailbox(2, full="reject")
        await supervisor.spawn(lambda: Box(came, 0.2), "box", mailbox=mailbox)
        await ref.flushed(timeout=100)
        await trio.sleep(10)
        assert [each.message.proposal for each in came] == [str(number) for number in range(10)]
        assert far.links.signed_refused == 0


async def test_a_replay_told_reliably_is_settled_as_a_dead_letter_and_what_follows_comes(autojump_clock: Any) -> None:
    async with places(3) as (first, second, third):
        vote = first.system.sign(Vote("once"))
        await first.ref(third).tell(vote)
        ref = second.ref(third, reliable=True)
        for message in (vote, Vote("after"), vote, Vote("last")):
            await ref.tell(message)
        await ref.flushed(timeout=10)
        await trio.sleep(1)
        assert third.votes() == ["once", "after", "last"]
        assert ["was taken before" in letter.reason for letter in third.dead] == [True, True]
        assert third.links.signed_refused == 2


async def test_an_ask_that_found_nobody_may_be_handed_on_again(autojump_clock: Any) -> None:
    async with places() as (near, far), far.system.supervisor("late") as supervisor:
        buy = near.system.sign(Buy(1))
        ref = near.ref(far, path="/late/box")
        with pytest.raises(prime.PrimeError, match="no actor at /late/box"):
            await ref.ask(buy, timeout=5)
        await supervisor.spawn(lambda: Box([]), "box")
        assert await ref.ask(buy, timeout=5) == Ticket(1)
        with pytest.raises(ReplayError):
            await ref.ask(buy, timeout=5)


async def test_what_waited_for_room_when_its_link_ended_may_come_again(autojump_clock: Any) -> None:
    async with places(capacity=1, pause_s=50.0) as (near, far):
        votes = [near.system.sign(Vote(str(number))) for number in range(4)]
        for vote in votes:
            await near.ref(far).tell(vote)
        await trio.sleep(1)  # one is in hand, one in the mailbox, two wait for room
        tear(near)
        await trio.sleep(1)
        for vote in votes[1:]:
            await near.ref(far).tell(vote)
        await trio.sleep(300)
        assert far.votes() == ["0", "1", "2", "3"]
        assert far.links.signed_refused == 1


async def test_a_persistent_actor_keeps_what_others_signed(autojump_clock: Any) -> None:
    store, signers = prime.MemoryEventStore(), list[str]()

    class Register(Persistent[Vote, Vote]):
        def __init__(self) -> None:
            super().__init__(store, "register")

        @on(Vote)
        async def vote(self, m: Vote) -> None:
            await self.persist(m)

        @applies(Vote)
        def voted(self, event: Vote) -> None:
            signers.append(prime.signed(event).signer)

    async with places() as (near, far), far.system.supervisor("p") as supervisor:
        await supervisor.spawn(Register, "register")
        await near.system.ref(far.system.peer, "/p/register", Register).tell(Vote("kept"))
        await trio.sleep(1)
        local = far.system.whereis("/p/register")
        assert local is not None
        await local.tell(far.system.sign(Vote("mine")))
        await trio.sleep(1)
        peers = [near.system.peer, far.system.peer]
        assert signers == peers
        await supervisor.stop(local)
        await supervisor.spawn(Register, "register")
        await trio.sleep(1)
        assert signers == peers * 2  # verified again as they were read


def test_signed_messages_are_no_items_of_a_stream() -> None:
    class Votes(Stream[Vote]):
        pass

    with pytest.raises(MessageError, match="no item of a stream") as caught:
        prime.streams(Votes)
    assert "Stream[bytes]" in caught.value.hint


@given(messages_of(Vote))
def test_the_strategies_draw_signed_messages(vote: Vote) -> None:
    assert prime.open_signed(prime.signed_bytes(sign(vote, KeySignatory(KEYS[0]))), Vote) == vote


async def test_a_system_without_a_key_says_so() -> None:
    system = System()
    with pytest.raises(prime.PrimeError, match="no key to sign with") as caught:
        system.sign(Vote("a"))
    assert "open_system" in caught.value.hint


def test_the_name_is_public() -> None:
    assert Signed is prime.Signed
