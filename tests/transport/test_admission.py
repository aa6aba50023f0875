"""Who may link, and how much each may use: the pure core, and the same through links and sockets."""

from __future__ import annotations

import contextlib
import ipaddress
import math
import random
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

import prime
from prime import Actor, Admission, AdmissionLimits, Ask, KeyPair, Memory, System, on
from prime.errors import ConfigError, LinkLostError, RefusedError, UnreachableError
from prime.transport import admission
from prime.transport.admission import WAITING_MAX, Caller, Entrance, Prove, Shut, Toll, source_of
from prime.transport.facts import LinkDown, LinkRefused
from prime.transport.links import LinkLimits, Links
from prime.transport.tcp import Tcp
from prime.transport.unix import Unix

KEYS = tuple(KeyPair.from_seed(bytes([n]) * 32) for n in range(1, 5))
PEERS = tuple(key.peer for key in KEYS)


@prime.message(tag=0x7A71)
class Count(Ask[int]):
    pass


@prime.message(tag=0x7A72)
class Note:
    text: str


class Tally(Actor[Count | Note]):
    notes = 0

    @on(Count)
    def count(self, _: Count) -> int:
        return self.notes

    @on(Note)
    def note(self, _: Note) -> None:
        self.notes += 1


# ---------------------------------------------------------------------------------------------------------- the lists


def test_without_lists_everybody_may_link() -> None:
    assert Admission().refusal(PEERS[0]) == ""
    assert Admission().allowed is None


def test_the_allow_list_keeps_all_others_out() -> None:
    admission = Admission(allow=[PEERS[0]])
    assert admission.refusal(PEERS[0]) == ""
    assert "allow list" in admission.refusal(PEERS[1])
    admission.allow(PEERS[1])
    assert admission.refusal(PEERS[1]) == ""
    assert admission.allowed == {PEERS[0], PEERS[1]}


def test_a_denied_peer_is_kept_out_until_it_is_allowed_and_the_reason_is_said() -> None:
    admission = Admission(allow=[PEERS[0]], deny=[PEERS[0]])
    assert "denies" in admission.refusal(PEERS[0])
    admission.deny(PEERS[1], "it flooded us")
    assert "it flooded us" in admission.refusal(PEERS[1])
    admission.allow(PEERS[1])
    assert admission.refusal(PEERS[1]) == ""


@pytest.mark.parametrize(
    ("denied", "host", "is_denied"),
    [
        ("192.0.2.7", "192.0.2.7", True),
        ("192.0.2.7", "192.0.2.8", False),
        ("192.0.2.0/24", "192.0.2.8", True),
        ("192.0.2.0/24", "::ffff:192.0.2.8", True),
        ("::ffff:192.0.2.7", "192.0.2.7", True),
        ("::ffff:192.0.2.0/120", "192.0.2.8", True),
        ("::ffff:192.0.2.0/120", "192.0.3.8", False),
        ("0.0.0.0/0", "192.0.2.8", True),
        ("0.0.0.0/0", "2001:db8::5", False),
        ("2001:db8::/32", "2001:db8:1::5", True),
        ("2001:db8::/32", "2001:db9::5", False),
        ("2001:db8::/32", "192.0.2.8", False),
        ("2001:db8::5", "2001:db8::6", True),  # one /64 is one source
    ],
)
def test_networks_are_denied_before_anybody_proves_himself(denied: str, host: str, is_denied: bool) -> None:
    admission = Admission(deny=[denied])
    assert admission.denies_source(source_of(host)) is is_denied
    admission.allow(denied)
    assert not admission.denies_source(source_of(host))


def test_of_two_addresses_in_one_64_the_other_stays_denied() -> None:
    admission = Admission(deny=["2001:db8::5", "2001:db8::6", "2001:db8::6"])
    admission.allow("2001:db8::6")
    assert admission.denies_source(source_of("2001:db8::5"))
    admission.allow("2001:db8::5")
    assert not admission.denies_source(source_of("2001:db8::5"))


def test_a_list_of_very_many_networks_is_not_gone_through_for_each_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    admission = Admission(deny=[f"10.{n >> 8}.{n & 255}.0/24" for n in range(4096)])
    for kind in (ipaddress.IPv4Network, ipaddress.IPv6Network):
        monkeypatch.setattr(kind, "overlaps", None)
        monkeypatch.setattr(kind, "__eq__", lambda *_: pytest.fail("one network after the other"))
    assert admission.denies_source("10.15.255.9")
    assert not admission.denies_source("10.16.0.9")


@pytest.mark.parametrize(
    ("sources", "newcomer", "gone"),
    [("", "a", None), ("a", "b", None), ("aa", "b", 1), ("aab", "b", None), ("aaab", "b", 2), ("aaba", "b", 3)],
)
def test_of_the_source_with_the_most_the_last_makes_room(sources: str, newcomer: str, gone: int | None) -> None:
    assert admission.gives_way(list(sources), newcomer) == gone


@pytest.mark.parametrize("who", ["", "nobody", "192.0.2.300", "12D3KooWshort", PEERS[0][:-1] + "!"])
def test_what_is_neither_a_peer_nor_a_network_is_an_error(who: str) -> None:
    with pytest.raises(ConfigError):
        Admission(deny=[who])
    with pytest.raises(ConfigError):
        Admission(allow=[who])


def test_a_source_is_an_address_or_a_64() -> None:
    assert source_of("192.0.2.7") == source_of("::ffff:192.0.2.7") == "192.0.2.7"
    assert source_of("2001:db8::1") == source_of("2001:db8::ffff:1%eth0") == "2001:db8::/64"
    assert source_of("2001:db8:0:1::1") != source_of("2001:db8::1")
    assert source_of("/run/a.sock") == ""


# ---------------------------------------------------------------------------------------------------------- the rates


def test_a_toll_puts_off_what_is_over_the_rate() -> None:
    toll = Toll(AdmissionLimits(messages_per_s=10))
    for _ in range(20):
        toll.pay(0.0, 100)
    assert toll.due <= 0.0
    for _ in range(10):
        toll.pay(0.0, 100)
    assert toll.due == pytest.approx(1.0, abs=1e-3)
    big = Toll(AdmissionLimits(bytes_per_s=1000))
    big.pay(0.0, 5000)
    assert big.due == pytest.approx(3.0, abs=1e-3)


@pytest.mark.parametrize("field", ["messages_per_s", "bytes_per_s", "peer_connects_per_s", "source_connects_per_s"])
def test_a_rate_is_above_nothing(field: str) -> None:
    with pytest.raises(ValueError, match=field):
        AdmissionLimits(**{field: 0.0})


# ------------------------------------------------------------------------------------------------------- the entrance


def entrance(proving_max: int = 8, **limits: Any) -> Entrance:
    return Entrance(Admission(limits=AdmissionLimits(**({"source_connects_per_s": math.inf} | limits))), proving_max)


def test_one_source_leaves_places_for_others_and_its_own_wait() -> None:
    made = entrance(8, source_proving_max=4)
    commands = [command for ticket in range(10) for command in made.arrive(ticket, "192.0.2.1", 0.0)]
    assert commands == [Prove(ticket) for ticket in range(4)]
    assert made.arrive(20, "192.0.2.2", 0.0) == [Prove(20)]
    assert made.leave(0) == [Prove(4)]


def test_when_all_prove_themselves_a_new_source_takes_the_oldest_place_of_the_fullest() -> None:
    made = entrance(8, source_proving_max=8)
    for ticket in range(8):
        made.arrive(ticket, "192.0.2.1", 0.0)
    assert made.arrive(20, "192.0.2.2", 0.0) == [Shut(0, "crowded"), Prove(20)]
    assert made.leave(0) == []  # it is gone already
    assert made.arrive(21, "192.0.2.2", 0.0) == []  # it has a place, and waits for another
    assert made.leave(1) == [Prove(21)]


def test_stalling_sources_keep_out_nobody_else() -> None:
    """Slow-loris: thousands of connections from a few sources, none of which ever ends; honest ones go on at once."""
    made, tickets = entrance(8, source_proving_max=4), iter(range(1_000_000))
    for _ in range(3000):
        for source in ("192.0.2.1", "192.0.2.2", "2001:db8::/64"):
            made.arrive(next(tickets), source, 0.0)
    assert len(made) <= 8 + WAITING_MAX
    for number in range(100):
        ticket = next(tickets)
        assert Prove(ticket) in made.arrive(ticket, f"198.51.100.{number}", 0.0)
        made.leave(ticket)


def test_a_source_that_comes_too_often_is_hung_up_on() -> None:
    made = Entrance(Admission(limits=AdmissionLimits(source_connects_per_s=5)), 64)
    shut = [Shut(ticket, "too often") in made.arrive(ticket, "192.0.2.1", 0.0) for ticket in range(40)]
    assert shut == [False] * 20 + [True] * 20
    assert made.arrive(99, "192.0.2.9", 0.0) == [Prove(99)]
    assert all(Shut(ticket, "too often") not in made.arrive(ticket, "", 0.0) for ticket in range(100, 200))


@given(st.randoms(use_true_random=False), st.integers(1, 6), st.integers(1, 4))
def test_the_entrance_keeps_its_bounds_whatever_comes(chance: random.Random, proving_max: int, source_max: int) -> None:
    made = entrance(proving_max, source_proving_max=source_max)
    proving, known = dict[int, str](), dict[int, str]()
    for ticket in range(300):
        if proving and chance.random() < 0.4:
            gone = chance.choice(list(proving))
            del proving[gone], known[gone]
            commands = made.leave(gone)
        else:
            source = known[ticket] = chance.choice(["", "192.0.2.1", "192.0.2.2", "192.0.2.3"])
            commands = made.arrive(ticket, source, 0.0)
        for command in commands:
            if isinstance(command, Prove):
                proving[command.ticket] = known[command.ticket]
            else:
                del known[command.ticket]
                proving.pop(command.ticket, None)
        assert len(proving) <= proving_max
        assert all(count <= source_max for source, count in Counter(proving.values()).items() if source)
        assert len(made) == len(known) <= proving_max + WAITING_MAX
    while proving:
        gone = next(iter(proving))
        del proving[gone], known[gone]
        for command in made.leave(gone):
            assert isinstance(command, Prove)
            proving[command.ticket] = known[command.ticket]
    assert not known


# ------------------------------------------------------------------------------------------------------ through links


def links(system: System) -> Links:
    assert isinstance(system.network, Links)
    return system.network


@contextlib.asynccontextmanager
async def two(
    admission: Admission | None, transport: Any = None, limits: LinkLimits | None = None
) -> AsyncIterator[tuple[System, System, list[Any]]]:
    """Yield a caller and a node with an admission, and the facts of that."""
    transport = transport or Memory()
    facts: list[Any] = []
    async with (
        prime.open_system(transport=transport, key=KEYS[0], limits=limits) as caller,
        prime.open_system(transport=transport, key=KEYS[1], limits=limits, admission=admission) as node,
        node.supervisor("s") as supervisor,
    ):
        node.subscribe(facts.append)
        await supervisor.spawn(Tally, "counter")
        caller.learn(node.peer, node.addresses)
        node.learn(caller.peer, caller.addresses)
        yield caller, node, facts


async def ask(system: System, other: System, timeout: float = 5) -> int:
    return await system.ref(other.peer, "/s/counter", Tally).ask(Count(), timeout=timeout)


@pytest.mark.parametrize("admission", [{"deny": [PEERS[0]]}, {"allow": [PEERS[2]]}], ids=["denied", "not allowed"])
async def test_who_may_not_link_hears_why_and_costs_no_link(admission: Any, autojump_clock: Any) -> None:
    async with two(Admission(**admission)) as (caller, node, facts):
        with pytest.raises(RefusedError, match=r"den(y|ies)|allow list"):
            await ask(caller, node)
        assert not links(node)._carriers
        assert links(node).turned_away == {"list": 1}
        (refused,) = [fact for fact in facts if isinstance(fact, LinkRefused)]
        assert refused.peer == caller.peer
        await trio.sleep(5)
        assert links(node).sizes() == links(caller).sizes()


async def test_who_is_denied_is_not_dialled_either(autojump_clock: Any) -> None:
    async with two(Admission(deny=[PEERS[0]])) as (caller, node, _):
        with pytest.raises(RefusedError, match="not dialled"):
            await ask(node, caller)
        with pytest.raises(RefusedError, match="not dialled"):
            await links(node).dial(caller.addresses[0])


async def test_to_deny_a_linked_peer_ends_its_link_and_to_allow_it_lets_it_back(autojump_clock: Any) -> None:
    admission = Admission()
    async with two(admission) as (caller, node, facts):
        assert await ask(caller, node) == 0
        admission.deny(caller.peer, "it was rude")
        await trio.sleep(0.1)
        assert [fact.reason for fact in facts if isinstance(fact, LinkDown)] == [
            "this node denies the peer: it was rude"
        ]
        with pytest.raises(RefusedError, match="it was rude"):
            await ask(caller, node)
        admission.allow(caller.peer)
        assert await ask(caller, node) == 0


async def test_an_ask_in_flight_of_a_peer_that_is_denied_fails_with_the_cause(autojump_clock: Any) -> None:
    admission = Admission()
    async with two(admission) as (caller, node, _), trio.open_nursery() as nursery:
        assert await ask(caller, node) == 0

        async def deny() -> None:
            admission.deny(caller.peer)

        nursery.start_soon(deny)
        with contextlib.suppress(LinkLostError, RefusedError):
            await ask(caller, node)


async def yes(_: Caller) -> bool:
    await trio.sleep(0.5)
    return True


async def late(_: Caller) -> bool:
    await trio.sleep(60)
    return True


async def broken(_: Caller) -> bool:
    raise RuntimeError("no database")


@pytest.mark.parametrize("hook", [lambda _: True, lambda _: None, lambda _: "", yes])
async def test_a_hook_that_agrees_lets_in(hook: Any, autojump_clock: Any) -> None:
    async with two(Admission(hook=hook)) as (caller, node, _):
        assert await ask(caller, node) == 0


@pytest.mark.parametrize(
    ("hook", "said"),
    [
        (lambda _: False, "the admission hook refused"),
        (lambda caller: f"no {caller.transport} today", "no memory today"),
        (late, "no answer within 1 s"),
        (broken, "the admission hook failed"),
        (lambda _: 1 / 0, "the admission hook failed"),
    ],
    ids=["no", "a reason", "late", "raises", "raises at once"],
)
async def test_a_hook_that_does_not_agree_lets_nobody_in(hook: Any, said: str, autojump_clock: Any) -> None:
    async with two(Admission(hook=hook)) as (caller, node, facts):
        with pytest.raises(RefusedError, match=said):
            await ask(caller, node)
        assert links(node).turned_away == {"hook": 1}
        assert any(isinstance(fact, LinkRefused) for fact in facts)


async def test_a_hook_sees_who_comes(autojump_clock: Any) -> None:
    seen = list[Caller]()
    async with two(Admission(hook=seen.append)) as (caller, node, _):
        await ask(caller, node)
        assert [(each.peer, each.transport) for each in seen] == [(caller.peer, "memory")]


async def test_a_hook_over_tcp_is_told_the_address() -> None:
    seen = list[Caller]()
    async with two(Admission(hook=seen.append), Tcp()) as (caller, node, _):
        await ask(caller, node)
        assert seen[0].address.startswith("/ip4/127.0.0.1/tcp/")


async def test_a_peer_that_comes_again_and_again_is_turned_away(autojump_clock: Any) -> None:
    memory = Memory()
    async with two(Admission(limits=AdmissionLimits(peer_connects_per_s=1)), memory) as (_, node, facts):
        async with memory.open(KEYS[2]) as endpoint:
            for _ in range(30):
                await (await endpoint.dial(node.addresses[0])).aclose()
                await trio.sleep(0.01)
        assert links(node).turned_away["rate"] == 26
        told = [fact for fact in facts if isinstance(fact, LinkRefused)]
        assert len(told) == 5  # observers are not flooded with it
        await trio.sleep(10)
        assert not links(node)._carriers


async def test_one_peer_has_a_few_greetings_open_and_no_more(autojump_clock: Any) -> None:
    memory = Memory()
    async with two(Admission(), memory) as (caller, node, _), memory.open(KEYS[2]) as endpoint:
        channels = [await endpoint.dial(node.addresses[0]) for _ in range(12)]
        await trio.sleep(0.1)
        assert links(node).turned_away == {"greetings": 8}
        assert await ask(caller, node) == 0
        for channel in channels:
            await channel.aclose()


async def test_over_its_rate_a_peer_is_slowed_and_loses_nothing(autojump_clock: Any) -> None:
    limits = LinkLimits()
    admission = Admission(limits=AdmissionLimits(messages_per_s=200))
    async with two(admission, limits=limits) as (caller, node, _):
        ref = caller.ref(node.peer, "/s/counter", Tally)
        began = trio.current_time()
        for number in range(3000):
            await ref.tell(Note(str(number)))
        assert await ref.ask(Count(), timeout=60) == 3000
        took = trio.current_time() - began
    assert 3000 / 200 - 2 - 3 <= took <= 3000 / 200 + 3  # less the burst of 2 s and what one window lets through


async def test_a_slowed_peer_slows_nobody_else(autojump_clock: Any) -> None:
    memory, admission = Memory(), Admission(limits=AdmissionLimits(messages_per_s=50))
    async with (
        two(admission, memory) as (caller, node, _),
        prime.open_system(transport=memory, key=KEYS[2]) as third,
        trio.open_nursery() as nursery,
    ):
        third.learn(node.peer, node.addresses)

        async def flood() -> None:
            while True:
                await caller.ref(node.peer, "/s/counter", Tally).tell(Note("x"))

        nursery.start_soon(flood)
        await trio.sleep(10)
        began = trio.current_time()
        for _ in range(20):
            await ask(third, node)
        assert trio.current_time() - began < 0.1
        nursery.cancel_scope.cancel()


# --------------------------------------------------------------------------------------------------- through sockets


async def test_a_denied_network_is_hung_up_on_before_a_byte() -> None:
    async with two(Admission(deny=["127.0.0.0/8"]), Tcp()) as (caller, node, _):
        with pytest.raises(UnreachableError):
            await ask(caller, node)
        assert not links(node).turned_away


@pytest.mark.parametrize("kind", ["tcp", "unix"])
async def test_callers_that_stall_keep_nobody_out(kind: str, tmp_path: Path) -> None:
    tmp_path.chmod(0o700)  # noqa: ASYNC240 - a test
    limits = AdmissionLimits(source_connects_per_s=10_000)
    here = Unix(tmp_path / "node") if kind == "unix" else Tcp()
    there = Unix(tmp_path / "caller") if kind == "unix" else Tcp()
    async with (
        prime.open_system(transport=there, key=KEYS[0]) as caller,
        prime.open_system(transport=here, key=KEYS[1], admission=Admission(limits=limits)) as node,
        node.supervisor("s") as supervisor,
    ):
        await supervisor.spawn(Tally, "counter")
        caller.learn(node.peer, node.addresses)
        sockets = []
        for number in range(40):
            if kind == "unix":
                socket = trio.socket.socket(trio.socket.AF_UNIX)
                await socket.connect(str(tmp_path / "node"))
            else:
                socket = trio.socket.socket()
                await socket.bind((f"127.0.0.{2 + number % 3}", 0))
                await socket.connect(("127.0.0.1", int(node.addresses[0].split("/")[4])))
            sockets.append(socket)
        with trio.fail_after(4):
            assert await ask(caller, node) == 0
        for socket in sockets:
            socket.close()


async def test_callers_that_say_no_hello_make_room_for_those_that_do(autojump_clock: Any) -> None:
    """Proved strangers under ever new identities that stall: the silent ones go first, and an honest caller links."""
    memory, limits = Memory(), LinkLimits(greetings_max=8)
    async with two(Admission(), memory, limits) as (caller, node, _), contextlib.AsyncExitStack() as stack:
        for number in range(40):
            endpoint = await stack.enter_async_context(memory.open(KeyPair.from_seed(bytes([100 + number]) * 32)))
            await endpoint.dial(node.addresses[0])
        await trio.sleep(0.01)
        assert links(node).sizes()["greetings"] <= 8
        assert await ask(caller, node, 1) == 0
        assert links(node).turned_away["crowd"] >= 32
