"""An elector by itself: what it takes and refuses, what it shows, what its store holds; and the bytes that are signed."""

from __future__ import annotations

from typing import Any

import attrs
import pytest

from prime import KeyPair
from prime.dht.backend import Entry, Removal
from prime.dht.registers import elector as el
from prime.dht.registers.operation import Read, Settled, Term, Write
from prime.dht.registers.proposal import (
    Ballot,
    Call,
    Electors,
    Proposal,
    Register,
    Seat,
    Version,
    outranks,
    quorum_of,
    read_call,
    read_proposal,
    require_fit,
    signed,
)
from prime.dht.registers.standing import KIND, STORE_KIND, Restored, read_standing, standing_entry
from prime.dht.sealed import seal
from prime.errors import DecodeError, UsageError
from tests.dht.registers.electors import Swarm, store

ANN, BEN = KeyPair.from_seed(b"a" * 32), KeyPair.from_seed(b"b" * 32)
REGISTER = Register(ANN.peer, b"s")
SEAT = Seat(BEN.peer, store(7))
ELECTORS = Electors((SEAT,))
ROOT, BEGUN = b"r" * 32, b"b" * 32
NOW_MS = 1_700_000_000_000
DAY_MS = 24 * 3600 * 1000


def ballot(counter: int, term: int = 1) -> Ballot:
    return Ballot(term, counter, b"n" * 8)


def call(counter: int, **over: Any) -> Call:
    return signed(ANN, attrs.evolve(Call(REGISTER, ballot(counter), ROOT, BEGUN), **over))


def proposal(counter: int, value: bytes = b"v", **over: Any) -> Proposal:
    version = Version(1, NOW_MS, value, b"m" * 8, (b"0" * 8,))
    draft = Proposal(REGISTER, ballot(counter), ROOT, BEGUN, ELECTORS, version, None, NOW_MS)
    return signed(ANN, attrs.evolve(draft, **over))


def ask(elector: el.Elector, question: el.Question, now_ms: int = NOW_MS) -> el.Shown:
    for command in elector.step(question, now_ms):
        if isinstance(command, el.Keep):
            elector.step(el.Kept(command.standing), now_ms)
        elif isinstance(command, el.Answer):
            shown = command.shown
    return shown


@pytest.fixture
def elector() -> el.Elector:
    return el.Elector(SEAT)


# ---------------------------------------------------------------------------------------------------------- the ballots


def test_it_takes_no_ballot_below_its_promise(elector: el.Elector) -> None:
    assert ask(elector, el.Prepare(call(3), proposal(1))).outcome == "promised"
    assert ask(elector, el.Accept(proposal(2))).outcome == "refused"
    assert ask(elector, el.Prepare(call(2), None)).outcome == "refused"
    shown = ask(elector, el.Accept(proposal(3)))
    assert (shown.outcome, shown.accepted) == ("accepted", proposal(3))
    assert ask(elector, el.Prepare(call(3), None)).outcome == "promised", "it came twice"
    assert ask(elector, el.Accept(proposal(3))).outcome == "accepted", "it came twice"


def test_nothing_counts_before_it_is_kept(elector: el.Elector) -> None:
    keep, _ = elector.step(el.Prepare(call(3), proposal(1)), NOW_MS)
    assert isinstance(keep, el.Keep)
    assert ask(elector, el.Look(REGISTER.key)) == el.Shown("shown", SEAT.store)
    elector.step(el.Kept(keep.standing), NOW_MS)
    assert ask(elector, el.Look(REGISTER.key)).promised == call(3)


def test_one_with_another_store_does_not_vote() -> None:
    other = el.Elector(Seat(BEN.peer, store(8)))
    assert ask(other, el.Prepare(call(3), proposal(1))).outcome == "unable"
    assert ask(other, el.Accept(proposal(3))).outcome == "unable"
    assert other.standings == ()


def test_one_that_does_not_know_the_term_says_so(elector: el.Elector) -> None:
    assert ask(elector, el.Prepare(call(3), None)).outcome == "unable"
    assert ask(elector, el.Prepare(call(3), proposal(1, begun=b"x" * 32))).outcome == "unable"


def test_two_proposals_under_one_ballot_are_reported(elector: el.Elector) -> None:
    ask(elector, el.Accept(proposal(3)))
    report, answer = elector.step(el.Accept(proposal(3, b"other")), NOW_MS)
    assert isinstance(report, el.Report)
    assert report.kind == "equivocation"
    assert isinstance(answer, el.Answer)
    assert answer.shown.accepted == proposal(3)


def test_the_smaller_root_takes_the_place_of_the_greater_one_and_is_reported(elector: el.Elector) -> None:
    ask(elector, el.Accept(proposal(9)))
    small = proposal(1, b"small", root=b"a" * 32)
    report, *_ = elector.step(el.Accept(small), NOW_MS)
    assert isinstance(report, el.Report)
    assert report.kind == "split"
    assert ask(elector, el.Accept(small)).accepted == small
    assert ask(elector, el.Accept(proposal(10))).outcome == "refused"
    assert outranks(small, proposal(9))
    assert not outranks(proposal(9), small)


# ------------------------------------------------------------------------------------------------------- time and quotas


def test_clocks_that_are_a_day_ahead_are_refused(elector: el.Elector) -> None:
    assert "a day ahead" in ask(elector, el.Accept(proposal(3, stamp_ms=NOW_MS + DAY_MS + 1))).why
    assert ask(elector, el.Accept(proposal(3, stamp_ms=NOW_MS + DAY_MS))).outcome == "accepted"


def test_a_register_that_nobody_writes_ends_and_is_then_forgotten(elector: el.Elector) -> None:
    ask(elector, el.Accept(proposal(3)))
    later_ms = NOW_MS + 90 * DAY_MS
    assert ask(elector, el.Prepare(call(4), None), later_ms - 1).outcome == "promised"
    elector = el.Elector(SEAT, [el.Standing(REGISTER, None, proposal(3))])
    assert "it has ended" in ask(elector, el.Prepare(call(4), None), later_ms).why
    assert elector.ended(later_ms + 7 * DAY_MS - 1) == ()
    assert elector.ended(later_ms + 7 * DAY_MS) == (REGISTER,)
    elector.forget([REGISTER])
    assert elector.standings == ()
    assert "90 days old" in ask(elector, el.Accept(proposal(3)), later_ms + 7 * DAY_MS).why, "nothing brings it back"


def test_what_ended_is_not_shown_to_readers_as_if_it_lived() -> None:
    swarm = Swarm()
    swarm.now_ms = NOW_MS
    swarm.play(Write(0, b"a"))
    kept = swarm.electors["e0"].standings  # type: ignore[index]
    for i in range(7):
        swarm.electors[f"e{i}"] = el.Elector(Seat(f"e{i}", store(i)))  # type: ignore[index,arg-type]
    swarm.now_ms += 97 * DAY_MS
    swarm.play(Write(0, b"b"))
    swarm.electors["e0"] = el.Elector(Seat("e0", store(0)), kept)  # type: ignore[index,arg-type]
    for _ in range(2):
        outcome = swarm.play(Read(), has_key=False).outcome
        assert isinstance(outcome, Settled)
        assert outcome.version is not None
        assert outcome.version.value == b"b"


def test_no_publisher_and_nobody_fills_it() -> None:
    elector = el.Elector(SEAT, registers_max=3, publisher_registers_max=2)
    for number, signer in ((0, ANN), (1, ANN), (2, ANN), (3, BEN), (4, BEN)):
        register = Register(signer.peer, b"%d" % number)
        one = signed(signer, attrs.evolve(proposal(1), register=register, sealed=b""))
        expected = "unable" if number in (2, 4) else "accepted"
        assert ask(elector, el.Accept(one)).outcome == expected
    assert ask(elector, el.Accept(signed(ANN, attrs.evolve(proposal(2), register=Register(ANN.peer, b"0"))))).outcome


def test_keys_that_cost_nothing_fill_no_more_than_the_quota_of_who_brings_them() -> None:
    elector = el.Elector(SEAT, group_registers_max=2)
    for number in range(5):
        signer = KeyPair.from_seed(bytes([number]) * 32)
        one = signed(signer, attrs.evolve(proposal(1), register=Register(signer.peer, b"s"), sealed=b""))
        asked = el.Accept(one, "20.1.0.0/16") if number % 2 else el.Prepare(called(signer), None, "20.1.0.0/16")
        shown = ask(elector, asked)
        assert shown.outcome == ("unable" if number > 1 else "accepted" if number else "promised")
    assert "2 registers came from 20.1.0.0/16" in shown.why
    assert ask(elector, el.Accept(proposal(1), "30.1.0.0/16")).outcome == "accepted"
    assert ask(elector, el.Accept(proposal(2), "20.1.0.0/16")).outcome == "accepted", "it is here already"
    elector = el.Elector(SEAT, elector.standings, group_registers_max=2)
    assert ask(elector, el.Prepare(called(BEN), None, "20.1.0.0/16")).outcome == "unable", "also after a restart"
    elector.forget([one.register for one in elector.standings])
    assert ask(elector, el.Prepare(called(BEN), None, "20.1.0.0/16")).outcome == "promised"


def called(signer: KeyPair) -> Call:
    return signed(signer, Call(Register(signer.peer, b"s"), ballot(1, 0), b"", b""))


@pytest.mark.parametrize("count", range(1, 8))
def test_two_quorums_share_more_than_may_lie(count: int) -> None:
    for liars in range((count - 1) // 3 + 1):
        assert 2 * quorum_of(count, liars) - count > liars
        assert quorum_of(count, liars) <= count


# -------------------------------------------------------------------------------------------------------------- the bytes


def test_what_is_signed_comes_back_from_its_bytes() -> None:
    grown = Electors((SEAT, Seat(ANN.peer, store(1))))
    creation = signed(
        ANN,
        attrs.evolve(
            proposal(1),
            ballot=ballot(1, 0),
            root=b"",
            begun=b"",
            electors=Electors(()),
            version=Version(0, NOW_MS, None, b"m" * 8),
            following=grown,
        ),
    )
    for one in (proposal(1), proposal(2, following=grown), creation):
        assert read_proposal(one.sealed) == one
        assert read_proposal(one.sealed).content == one.content
    assert read_call(call(4).sealed) == call(4)
    assert Term.after(creation).root == creation.content


def test_no_byte_can_be_changed() -> None:
    for sealed, read in ((call(1).sealed, read_call), (proposal(1).sealed, read_proposal)):
        for place in range(len(sealed)):
            changed = bytearray(sealed)
            changed[place] ^= 1
            with pytest.raises(DecodeError):
                read(bytes(changed))


def test_a_call_is_no_proposal_and_nobody_else_signs() -> None:
    with pytest.raises(DecodeError):
        read_proposal(call(1).sealed)
    with pytest.raises(UsageError, match="publisher's key"):
        signed(BEN, call(1))


@pytest.mark.parametrize(
    "over",
    [
        {"electors": Electors((SEAT, SEAT))},
        {"electors": Electors(())},
        {"electors": Electors((SEAT,), liars=1)},
        {"electors": Electors((Seat(BEN.peer, b"short"),))},
        {"electors": Electors(tuple(Seat(f"e{i}", store(i)) for i in range(8)))},  # type: ignore[arg-type]
        {"root": b"", "begun": b""},
        {"ballot": ballot(-1)},
        {"ballot": ballot(1, 0), "root": b"", "begun": b""},
        {"version": Version(-1, 0, None, b"m" * 8)},
        {"version": Version(1, 0, b"x" * 16_385, b"m" * 8)},
        {"version": Version(1, 0, None, b"")},
        {"stamp_ms": 2**53},
    ],
)
def test_what_cannot_be_is_neither_signed_nor_read(over: dict[str, Any]) -> None:
    from prime.dht.registers import proposal as words

    with pytest.raises(UsageError):
        proposal(1, **over)
    draft = attrs.evolve(proposal(1), **over)
    with pytest.raises(DecodeError):
        read_proposal(seal(words.PROPOSAL_DOMAIN, ANN, words._fields(draft)))


@pytest.mark.parametrize("fields", [[], [1] * 10, [b"s", 1, 1, b"n" * 8, ROOT, BEGUN, None, None, None, None]])
def test_signed_bytes_of_another_shape_are_refused(fields: list[Any]) -> None:
    for domain, read in (
        (b"prime-dht-register-call:1:", read_call),
        (b"prime-dht-register-proposal:1:", read_proposal),
    ):
        if fields[:1] != [b"s"] or read is read_proposal:
            with pytest.raises(DecodeError):
                read(seal(domain, ANN, fields))


def test_what_no_register_can_have_is_refused_before_anybody_is_asked() -> None:
    require_fit(REGISTER, b"x" * 16_384)
    with pytest.raises(UsageError, match="16385 bytes"):
        require_fit(REGISTER, b"x" * 16_385)
    with pytest.raises(UsageError, match="65 bytes"):
        require_fit(Register(ANN.peer, b"s" * 65), None)


# -------------------------------------------------------------------------------------------------------------- the store


def restored(*entries: Entry, is_damaged: bool = False) -> tuple[el.Elector, tuple[Entry | Removal, ...]]:
    found = Restored(store(99))
    for entry in entries:
        found.take(entry)
    found.is_damaged = is_damaged
    return found.elector(BEN.peer)


def test_a_store_gives_back_what_was_promised() -> None:
    standing = el.Standing(REGISTER, call(4), proposal(3), NOW_MS, "20.1.0.0/16")
    assert read_standing(standing_entry(standing)) == standing
    elector, writes = restored(Entry(STORE_KIND, b"", SEAT.store), standing_entry(standing))
    assert (elector.seat, elector.standings, writes) == (SEAT, (standing,), ())


def test_a_store_without_a_name_or_with_damage_is_another_one() -> None:
    standing = standing_entry(el.Standing(REGISTER, call(4), proposal(3), NOW_MS))
    named = Entry(STORE_KIND, b"", SEAT.store)
    for elector, writes in (restored(standing), restored(named, standing, is_damaged=True)):
        assert elector.seat == Seat(BEN.peer, store(99))
        assert elector.standings == ()
        assert set(writes) == {Entry(STORE_KIND, b"", store(99)), Removal(KIND, standing.name)}


@pytest.mark.parametrize("body", [b"", b"\x80", b"\xff", standing_entry(el.Standing(REGISTER, call(1))).body[:-3]])
def test_a_damaged_standing_is_told_from_a_sound_one(body: bytes) -> None:
    with pytest.raises(DecodeError):
        Restored(store(99)).take(Entry(KIND, standing_entry(el.Standing(REGISTER, call(1))).name, body))
    with pytest.raises(DecodeError):
        read_standing(attrs.evolve(standing_entry(el.Standing(REGISTER, call(1))), name=b"x" * 32))
