"""The relay's books: who may, how many, how long and how fast. And when a node asks for a slot."""

from __future__ import annotations

import contextlib
import math
from pathlib import Path
from typing import Any

import pycddl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from prime.errors import ConfigError, DecodeError, PrimeError
from prime.transport.identity import KeyPair
from prime.transport.relay import keeper, ledger
from prime.transport.relay.ledger import (
    Asked,
    Carried,
    Cut,
    Declined,
    Deny,
    Ended,
    Grant,
    Join,
    Leaves,
    Ledger,
    LinkLost,
    Offer,
    Pause,
    Refusal,
    Refuse,
    TakenUp,
    Tick,
    Wants,
)
from prime.transport.relay.limits import RelayLimits
from prime.transport.relay.preface import (
    PREFACE,
    Answer,
    Connect,
    TakeUp,
    pack_answer,
    pack_request,
    read_answer,
    read_request,
    size_of,
)
from prime.transport.relay.punch import pack as pack_control
from prime.wire import dumps

TOKEN = bytes(range(16))


def ask(
    books: Ledger, circuit: int = 1, source: str = "a", target: str = "b", now: float = 0.0, *, linked: bool = True
) -> Any:
    return books.step(Asked(circuit, TOKEN, source, target, linked), now)[0]


def reserved(limits: RelayLimits = RelayLimits(), *peers: str) -> Ledger:  # noqa: B008 - frozen
    books = Ledger(limits)
    for peer in peers or ("b",):
        books.step(Wants(peer), 0.0)
    return books


def test_a_circuit_is_offered_joined_and_ended() -> None:
    books = reserved()
    assert ask(books) == Offer(1, TOKEN, "a", "b")
    assert books.step(TakenUp(1, TOKEN, "b"), 1.0) == [Join(1)]
    assert books.step(Carried(1, 1000), 1.0) == []
    assert books.step(Ended(1), 2.0) == []
    assert books.sizes() == {"slots": 1, "circuits": 0, "ends": 0, "askers": 1}


@pytest.mark.parametrize(
    ("target", "now", "linked"), [("c", 0.0, True), ("b", 3600.0, True), ("b", 0.0, False), ("a", 0.0, True)]
)
def test_who_has_no_slot_or_no_link_is_absent(target: str, now: float, *, linked: bool) -> None:
    books = reserved(RelayLimits(), "a", "b")
    assert ask(books, target=target, now=now, linked=linked).why is Refusal.ABSENT
    assert books.circuits == 0


def test_slots_are_bounded_and_come_back() -> None:
    books = reserved(RelayLimits(reservations_max=2, lost_s=60), "b", "c")
    assert isinstance(books.step(Wants("d"), 0.0)[0], Deny)
    assert books.step(Wants("c"), 10.0) == [Grant("c", 3600.0)]  # renewed
    books.step(LinkLost("b"), 10.0)
    assert isinstance(books.step(Wants("d"), 69.0)[0], Deny)
    assert isinstance(books.step(Wants("d"), 70.0)[0], Grant)
    books.step(Leaves("d"), 71.0)
    assert isinstance(books.step(Wants("e"), 71.0)[0], Grant)


def test_one_address_with_many_keys_does_not_get_all_slots() -> None:
    books = Ledger(RelayLimits(reservations_per_source_max=2))
    for peer in "ab":
        assert isinstance(books.step(Wants(peer, "192.0.2.7"), 0.0)[0], Grant)
    assert "at your address" in books.step(Wants("c", "192.0.2.7"), 0.0)[0].reason
    assert isinstance(books.step(Wants("b", "192.0.2.7"), 1.0)[0], Grant)  # renewed
    assert isinstance(books.step(Wants("d", "198.51.100.1"), 1.0)[0], Grant)
    for peer in "efg":  # where it comes from is not known: within this machine
        assert isinstance(books.step(Wants(peer), 1.0)[0], Grant)
    books.step(Leaves("a"), 2.0)
    assert isinstance(books.step(Wants("c", "192.0.2.7"), 2.0)[0], Grant)


def test_a_lost_link_that_came_back_keeps_its_slot() -> None:
    books = reserved()
    books.step(LinkLost("b"), 1.0)
    books.step(Wants("b"), 2.0)
    books.step(Tick(), 1000.0)
    assert books.reservers == ("b",)


def test_only_named_peers_reserve() -> None:
    books = Ledger(RelayLimits(reservers=frozenset({"b"})))
    assert isinstance(books.step(Wants("c"), 0.0)[0], Deny)
    assert isinstance(books.step(Wants("b"), 0.0)[0], Grant)


def test_circuits_are_bounded_in_all_and_for_each_peer() -> None:
    books = reserved(RelayLimits(circuits_max=3, circuits_per_peer_max=2), "b", "c")
    assert isinstance(ask(books, 1), Offer)
    assert isinstance(ask(books, 2), Offer)
    assert "one of the two" in ask(books, 3, target="c").text
    assert "one of the two" in ask(books, 3, source="x").text
    assert isinstance(ask(books, 3, source="x", target="c"), Offer)
    assert "3 circuits" in ask(books, 4, source="y", target="c").text


def test_few_addresses_with_many_keys_keep_nobody_from_a_target() -> None:
    books = reserved(RelayLimits(circuits_max=4, circuits_per_peer_max=3), "b", "c")

    def come(circuit: int, source: str, address: str, target: str = "b") -> Any:
        return books.step(Asked(circuit, TOKEN, source, target, True, address), 0.0)

    for circuit in (1, 2, 3):
        assert isinstance(come(circuit, f"x{circuit}", "192.0.2.7")[0], Offer)
    assert books.step(TakenUp(3, TOKEN, "b"), 0.0) == [Join(3)]
    assert come(4, "x4", "192.0.2.7")[0].why is Refusal.FULL
    cut, offer = come(5, "honest", "198.51.100.1")
    assert (cut.circuit, offer.circuit) == (3, 5)
    assert isinstance(cut, Cut)
    assert isinstance(come(6, "y", "203.0.113.1", "c")[0], Offer)
    refused, offer = come(7, "z", "203.0.113.9", "c")  # the relay is full, and the target is not
    assert (refused.circuit, refused.why, offer.circuit) == (2, Refusal.FULL, 7)
    assert come(8, "v", "203.0.113.8", "c")[0].why is Refusal.FULL  # nobody has more than one now
    assert books.circuits == 4


def test_a_flood_of_requests_is_refused() -> None:
    books = reserved(RelayLimits(requests_per_minute_max=10))
    outcomes = [ask(books, n, target="nobody", now=0.0).why for n in range(1, 30)]
    assert outcomes.count(Refusal.OFTEN) == 19
    assert ask(books, 99, now=6.0) == Offer(99, TOKEN, "a", "b")
    assert isinstance(ask(books, 100, source="x"), Offer)  # others are not concerned


def test_what_is_known_of_askers_is_bounded() -> None:
    books = reserved()
    for n in range(ledger.ASKERS_MAX + 100):
        ask(books, n + 1, source=f"s{n}", target="nobody")
    assert books.sizes()["askers"] == ledger.ASKERS_MAX
    ask(books, 1, source="late", target="nobody", now=100.0)
    assert books.sizes()["askers"] == 1


def test_only_the_target_takes_up_and_once() -> None:
    books = reserved(RelayLimits(), "b", "c")
    ask(books)
    for event in (TakenUp(1, TOKEN, "c"), TakenUp(1, bytes(16), "b"), TakenUp(2, TOKEN, "b")):
        assert books.step(event, 0.0)[0].why is Refusal.UNKNOWN
    assert books.step(Declined(1, "c"), 0.0) == []
    assert books.step(TakenUp(1, TOKEN, "b"), 0.0) == [Join(1)]
    assert books.step(TakenUp(1, TOKEN, "b"), 0.0)[0].why is Refusal.UNKNOWN
    assert books.step(Declined(1, "b"), 0.0) == []  # too late


def test_an_offer_ends_declined_or_late() -> None:
    books = reserved()
    ask(books)
    assert books.step(Declined(1, "b"), 0.0)[0].why is Refusal.DECLINED
    ask(books, 2)
    assert books.step(Tick(), 4.9) == []
    assert books.step(Tick(), 5.0)[0].why is Refusal.SILENT
    assert books.circuits == 0


def test_a_circuit_ends_idle_or_spent() -> None:
    books = reserved(RelayLimits(idle_s=10, circuit_bytes_max=1000))
    for number in (1, 2):
        ask(books, number)
        books.step(TakenUp(number, TOKEN, "b"), 0.0)
    assert books.step(Carried(1, 600), 9.0) == []
    assert [cut.circuit for cut in books.step(Tick(), 10.0)] == [2]
    assert isinstance(books.step(Carried(1, 600), 11.0)[0], Cut)
    assert books.step(Carried(1, 600), 11.0) == []
    assert books.circuits == 0


def test_the_rate_of_a_circuit_and_of_all_together() -> None:
    books = reserved(RelayLimits(circuit_bytes_per_s=1000, relay_bytes_per_s=1500))
    for number in (1, 2):
        ask(books, number)
        books.step(TakenUp(number, TOKEN, "b"), 0.0)
    (pause,) = books.step(Carried(1, 1000), 0.0)
    assert pause == Pause(1, pytest.approx(0.75, abs=1e-5))
    (pause,) = books.step(Carried(2, 1000), 0.0)
    assert pause.pause_s == pytest.approx(2000 / 1500 - 0.25, abs=1e-5)


def test_limits_that_could_not_be_kept_are_refused() -> None:
    for wrong in ({"circuits_max": 0}, {"idle_s": math.inf}, {"reservation_s": -1.0}, {"offer_s": math.nan}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            RelayLimits(**wrong)


class Books(RuleBasedStateMachine):
    """Whatever comes in whatever order: the bounds hold, and each request has one outcome at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.limits = RelayLimits(reservations_max=2, circuits_max=3, circuits_per_peer_max=2, idle_s=10)
        self.books = Ledger(self.limits)
        self.now = 0.0
        self.states: dict[int, str] = {}

    peers = st.sampled_from("abcd")

    @rule(peer=peers)
    def wants(self, peer: str) -> None:
        (command,) = self.books.step(Wants(peer), self.now)
        assert isinstance(command, Grant | Deny)

    @rule(peer=peers, kind=st.sampled_from([Leaves, LinkLost]))
    def goes(self, peer: str, kind: type) -> None:
        assert self.books.step(kind(peer), self.now) == []

    @rule(source=peers, to=peers, linked=st.booleans())
    def asks(self, source: str, to: str, *, linked: bool) -> None:
        number = len(self.states) + 1
        command = ask(self.books, number, source, to, self.now, linked=linked)
        assert isinstance(command, Offer | Refuse)
        self.states[number] = "offered" if isinstance(command, Offer) else "over"

    @rule(number=st.integers(1, 30), peer=peers, right=st.booleans())
    def takes_up(self, number: int, peer: str, *, right: bool) -> None:
        (command,) = self.books.step(TakenUp(number, TOKEN if right else bytes(16), peer), self.now)
        if isinstance(command, Join):
            assert right
            assert self.states[number] == "offered"
            self.states[number] = "joined"

    @rule(number=st.integers(1, 30), size=st.integers(1, 10**6))
    def carries(self, number: int, size: int) -> None:
        self.note(self.books.step(Carried(number, size), self.now))

    @rule(number=st.integers(1, 30))
    def ends(self, number: int) -> None:
        self.books.step(Ended(number), self.now)
        if number in self.states:
            self.states[number] = "over"

    @rule(seconds=st.floats(0, 20))
    def waits(self, seconds: float) -> None:
        self.now += seconds
        self.note(self.books.step(Tick(), self.now))

    def note(self, commands: list[object]) -> None:
        for command in commands:
            if isinstance(command, Refuse):
                assert self.states[command.circuit] == "offered"
                self.states[command.circuit] = "over"
            if isinstance(command, Cut):
                assert self.states[command.circuit] == "joined"
                self.states[command.circuit] = "over"

    @invariant()
    def bounds_hold(self) -> None:
        sizes = self.books.sizes()
        assert sizes["slots"] <= 2
        assert sizes["circuits"] <= 3
        assert sizes["circuits"] == sum(state != "over" for state in self.states.values())
        assert bool(sizes["ends"]) == bool(sizes["circuits"])


TestBooks = Books.TestCase


# -------------------------------------------------------------------------------------------------- what stands on the wire


PEER = KeyPair.from_seed(bytes(32)).peer


@pytest.mark.parametrize("request_", [Connect(PEER), TakeUp(2**62, TOKEN)])
def test_requests_survive_the_wire(request_: Connect | TakeUp) -> None:
    data = pack_request(request_)
    assert data[:1] == PREFACE
    assert size_of(data[1:3]) == len(data) - 3
    assert read_request(data[3:]) == request_


def test_answers_survive_the_wire() -> None:
    answer = Answer(2, "x" * 300, "/ip4/192.0.2.1/tcp/4")
    assert read_answer(pack_answer(answer)[2:]) == Answer(2, "x" * 256, "/ip4/192.0.2.1/tcp/4")


RULES = (Path(__file__).parents[2] / "spec" / "relay.cddl").read_text(encoding="utf-8")


def schema(rule: str) -> pycddl.Schema:
    """Return the written shapes with one of them as what a whole body is."""
    return pycddl.Schema(f"whole = {rule}\n{RULES}")


@pytest.mark.parametrize(
    ("rule", "body"),
    [
        ("connect", pack_request(Connect(PEER))[3:]),
        ("take_up", pack_request(TakeUp(2**63 - 1, TOKEN))[3:]),
        ("answer", pack_answer(Answer())[2:]),
        ("answer", pack_answer(Answer(6, "é" * 300, "/ip4/192.0.2.1/tcp/4"))[2:]),
        ("control", pack_control(1, TOKEN, ("/ip4/192.0.2.1/tcp/4",))),
        ("control", pack_control(3, TOKEN)),
    ],
)
def test_what_is_sent_is_as_the_specification_draws_it(rule: str, body: bytes) -> None:
    schema(rule).validate_cbor(body)


@pytest.mark.parametrize(
    ("rule", "fields"),
    [
        ("request", [1, 1, PEER[:-1]]),
        ("request", [1, 2, 0, TOKEN]),
        ("answer", [256, "", ""]),
        ("control", [1, b"", []]),
    ],
)
def test_what_is_refused_is_not_in_the_specification(rule: str, fields: list[object]) -> None:
    with pytest.raises(pycddl.ValidationError):
        schema(rule).validate_cbor(dumps(fields))


@pytest.mark.parametrize(
    "fields",
    [[], [2, 1, PEER], [1, 1, "nobody"], [1, 2, 0, TOKEN], [1, 2, 1, b"short"], [1, 3, PEER], ["1", 1, PEER], 1],
)
def test_other_requests_are_refused(fields: object) -> None:
    with pytest.raises(PrimeError):
        read_request(dumps(fields))


@given(st.binary(max_size=200))
def test_no_bytes_crash_the_reader(data: bytes) -> None:
    for read in (read_request, read_answer):
        with contextlib.suppress(PrimeError):
            read(data)


@pytest.mark.parametrize("prefix", [b"\x00\x00", b"\x04\x01", b"\xff\xff"])
def test_sizes_are_bounded(prefix: bytes) -> None:
    with pytest.raises(DecodeError):
        size_of(prefix)


# ---------------------------------------------------------------------------------------------------------- the keeper


def test_a_slot_is_asked_for_renewed_and_announced() -> None:
    core = keeper.Keeper(["/memory/r"])
    assert core.due == math.inf
    assert core.step(keeper.Start(), 0.0) == [keeper.Ask("/memory/r")]
    assert core.step(keeper.Tick(), 0.0) == []  # it is being asked
    granted = keeper.Granted("/memory/r", "R", 100.0, ("/memory/r/p2p/R",))
    assert core.step(granted, 1.0) == [
        keeper.Gained("R", "/memory/r/p2p/R"),
        keeper.Announce(("/memory/r/p2p/R",)),
    ]
    assert core.held == ("/memory/r",)
    assert core.due == 51.0
    assert core.step(keeper.Tick(), 50.9) == []
    assert core.step(keeper.Tick(), 51.0) == [keeper.Ask("/memory/r")]
    assert core.step(granted, 51.0) == [keeper.Announce(("/memory/r/p2p/R",))]


def test_a_relay_that_gives_no_slot_is_asked_ever_less_often() -> None:
    core = keeper.Keeper(["/memory/r"])
    core.step(keeper.Start(), 0.0)
    now, pauses = 0.0, []
    for n in range(9):
        told = core.step(keeper.Failed("/memory/r", "full"), now)
        assert told == ([keeper.Gone("/memory/r", "full")] if n == 0 else [])
        pauses.append(core.due - now)
        now = core.due
        assert core.step(keeper.Tick(), now) == [keeper.Ask("/memory/r")]
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60, 60]


def test_a_lost_link_is_mended_at_once() -> None:
    core = keeper.Keeper(["/memory/r", "/memory/s"])
    core.step(keeper.Start(), 0.0)
    for name in "rs":
        core.step(keeper.Granted(f"/memory/{name}", name, 100.0, (f"/memory/{name}/p2p/{name}",)), 0.0)
    told = core.step(keeper.LinkLost("r"), 10.0)
    assert told == [
        keeper.Gone("/memory/r", "the link to the relay was lost"),
        keeper.Announce(("/memory/s/p2p/s",)),
        keeper.Ask("/memory/r"),
    ]
    assert core.step(keeper.LinkLost("r"), 10.0) == []


def test_a_renewal_that_fails_costs_nothing_before_the_slot_ends() -> None:
    core = keeper.Keeper(["/memory/r"])
    core.step(keeper.Start(), 0.0)
    core.step(keeper.Granted("/memory/r", "r", 100.0, ("/memory/r/p2p/r",)), 0.0)
    core.step(keeper.Tick(), 50.0)
    assert core.step(keeper.Failed("/memory/r", "busy"), 60.0) == []
    assert core.held
    core.step(keeper.Tick(), 100.0)
    assert core.step(keeper.Failed("/memory/r", "busy"), 100.0) == [
        keeper.Gone("/memory/r", "busy"),
        keeper.Announce(()),
    ]


@pytest.mark.parametrize("said", [0.0, -5.0, math.nan, math.inf, -math.inf])
def test_no_relay_makes_a_node_ask_without_a_pause_or_never_again(said: float) -> None:
    core = keeper.Keeper(["/memory/r"])
    core.step(keeper.Start(), 0.0)
    core.step(keeper.Granted("/memory/r", "r", said, ("/memory/r/p2p/r",)), 0.0)
    assert core.due == keeper.SLOT_MIN_S / 2


def test_a_node_that_can_be_dialled_gives_its_slots_back() -> None:
    core = keeper.Keeper(["/memory/r"])
    core.step(keeper.Start(), 0.0)
    core.step(keeper.Granted("/memory/r", "r", 100.0, ("/memory/r/p2p/r",)), 0.0)
    assert core.step(keeper.Stop(), 1.0) == [
        keeper.GiveBack("r"),
        keeper.Announce(()),
        keeper.Gone("/memory/r", "this node can be dialled"),
    ]
    assert core.step(keeper.Tick(), 60.0) == []
    assert core.step(keeper.Granted("/memory/r", "r", 100.0, ("/memory/r/p2p/r",)), 61.0) == [keeper.GiveBack("r")]
    assert core.step(keeper.Start(), 62.0) == [keeper.Ask("/memory/r")]
