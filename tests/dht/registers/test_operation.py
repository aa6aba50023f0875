"""Registers, one operation after the other: what each ends with, whoever is away."""

from __future__ import annotations

import pytest

from prime.actor.contract import PeerId
from prime.dht.registers.elector import Accept, Prepare
from prime.dht.registers.operation import Conflict, End, Gone, Put, Read, Settled, Tend, Term, Write, Written
from tests.dht.registers.electors import Swarm


def value(end: End) -> tuple[int, bytes | None] | None:
    outcome = end.outcome
    assert isinstance(outcome, Settled | Written | Conflict), outcome
    version = outcome.version
    return None if version is None else (version.seq, version.value)


def why(end: End) -> str:
    assert isinstance(end.outcome, Gone), end.outcome
    return end.outcome.why


def term(end: End) -> Term:
    assert end.term is not None
    return end.term


def test_a_register_that_was_never_written_is_empty() -> None:
    swarm = Swarm()
    assert swarm.play(Read()).outcome == Settled(None)
    assert swarm.play(Write(3, b"x")).outcome == Conflict(None)


def test_each_write_needs_the_version_before() -> None:
    swarm = Swarm()
    first = swarm.play(Write(0, b"a"))
    assert value(first) == (1, b"a")
    late = swarm.play(Write(0, b"b"), first.term)
    assert isinstance(late.outcome, Conflict)
    assert value(late) == (1, b"a")
    assert value(swarm.play(Write(1, b"b"))) == (2, b"b")
    assert value(swarm.play(Write(2, None))) == (3, None)
    assert value(swarm.play(Read())) == (3, None)


def test_a_read_of_what_is_known_asks_each_elector_once() -> None:
    swarm = Swarm()
    known = swarm.play(Write(0, b"a")).term
    swarm.asked = 0
    assert value(swarm.play(Read(), known, has_key=False)) == (1, b"a")
    assert swarm.asked == 7


@pytest.mark.parametrize(("count", "quorum"), [(1, 1), (2, 2), (3, 2), (4, 3), (5, 4), (6, 4), (7, 5)])
def test_a_register_lives_with_its_quorum_and_names_what_it_lacks(count: int, quorum: int) -> None:
    swarm = Swarm(count)
    known = swarm.play(Write(0, b"a")).term
    swarm.down = {f"e{i}" for i in range(count - quorum)}
    assert value(swarm.play(Write(1, b"b"), known)) == (2, b"b")
    assert value(swarm.play(Read(), known)) == (2, b"b")
    swarm.down = {f"e{i}" for i in range(count - quorum + 1)}
    for wish in (Read(), Write(2, b"c")):
        assert f"{count - quorum + 1} of its {count} electors do not vote, where {quorum} of them must" in why(
            swarm.play(wish, known)
        )


def test_who_came_back_with_an_empty_disk_does_not_vote() -> None:
    swarm = Swarm(3)
    known = swarm.play(Write(0, b"a")).term
    swarm.lose_disk("e0")
    swarm.lose_disk("e1")
    assert "2 of its 3 electors do not vote" in why(swarm.play(Read(), known))
    assert "2 of its 3 electors do not vote" in why(swarm.play(Write(1, b"b"), known))


def test_a_write_that_was_cut_off_is_finished_by_the_next_operation() -> None:
    swarm = Swarm()
    known = swarm.play(Write(0, b"a")).term

    def cut(put: Put) -> None:
        if isinstance(put.question, Accept):
            swarm.down = {"e1", "e2", "e3", "e4", "e5", "e6"}

    swarm.on_put = cut
    outcome = swarm.play(Write(1, b"b"), known).outcome
    assert isinstance(outcome, Gone)
    assert outcome.is_unknown
    swarm.on_put, swarm.down = lambda _: None, set()
    assert value(swarm.play(Read(), known, has_key=False)) == (2, b"b")
    late = swarm.play(Write(1, b"c"), known)
    assert isinstance(late.outcome, Conflict)
    assert value(late) == (2, b"b")


def test_a_writer_that_was_overtaken_hears_what_is_there() -> None:
    swarm = Swarm()
    known = swarm.play(Write(0, b"a")).term
    rivals = [b"c"]

    def overtake(put: Put) -> None:
        if isinstance(put.question, Accept) and rivals:
            assert value(swarm.play(Write(1, rivals.pop()), known)) == (2, b"c")

    swarm.on_put = overtake
    late = swarm.play(Write(1, b"b"), known)
    assert isinstance(late.outcome, Conflict)
    assert value(late) == (2, b"c")


def test_an_attempt_that_another_finished_is_not_told_of_as_a_conflict() -> None:
    """Accepted by one, refused by the others since a reader was faster, which finished it; then others wrote on."""
    swarm = Swarm()
    known = swarm.play(Write(0, b"a")).term
    steps = [0]

    def interfere(put: Put) -> None:
        steps[0] += isinstance(put.question, Accept)
        if isinstance(put.question, Accept) and steps[0] == 1:
            swarm.ask("e0", put.question)
            swarm.down = {"e5", "e6"}
            for next_ in (b"x", b"y", b"z"):
                seq, _ = value(swarm.play(Read(), known)) or (0, None)
                swarm.play(Write(seq, next_), known)
            swarm.down = set()

    swarm.on_put = interfere
    end = swarm.play(Write(1, b"b"), known)
    assert isinstance(end.outcome, Written)
    assert value(end) == (2, b"b")
    assert value(swarm.play(Read())) == (5, b"z")


def test_electors_that_stay_away_are_replaced() -> None:
    swarm = Swarm(12)
    known = term(swarm.play(Write(0, b"a")))
    gone: set[PeerId] = set()
    for _ in range(2):
        gone |= set(known.electors.peers()[:2])
        swarm.down = set(gone)
        known = term(swarm.play(Tend(frozenset(gone)), known))
        known = term(swarm.play(Write(known.known.version.seq, b"b"), known))
        assert not gone & set(known.electors.peers())
        assert len(known.electors.seats) == 7
    assert len(gone) == 4


def test_an_elector_with_another_disk_is_seated_anew() -> None:
    swarm = Swarm()
    known = term(swarm.play(Write(0, b"a")))
    swarm.lose_disk("e3")
    swarm.play(Tend(), known)
    swarm.down = {"e0", "e1"}
    assert value(swarm.play(Write(1, b"b"), known)) == (2, b"b")


def test_who_knows_only_the_first_electors_is_led_to_the_present_ones() -> None:
    swarm = Swarm(14)
    old = known = term(swarm.play(Write(0, b"a")))
    for name in ("e0", "e1", "e2"):
        swarm.down = {name}
        known = term(swarm.play(Tend(frozenset({PeerId(name)})), known))
    swarm.down = set()
    written = term(swarm.play(Write(1, b"b"), known))
    assert written.number == old.number + 3
    assert value(swarm.play(Read(), old, has_key=False)) == (2, b"b")
    assert value(swarm.play(Write(2, b"c"), old)) == (3, b"c")


def test_a_small_register_grows_with_the_swarm() -> None:
    swarm = Swarm()
    few = term(swarm.play(Write(0, b"a"), view=["e0", "e1", "e2"]))
    assert len(few.electors.seats) == 3
    swarm.play(Tend(), few)
    grown = term(swarm.play(Write(1, b"b"), few))
    assert len(grown.electors.seats) == 7
    assert value(swarm.play(Read(), few, has_key=False)) == (2, b"b")


def test_an_island_creates_no_second_register() -> None:
    swarm = Swarm(5, electors=5)
    swarm.down = {"e0", "e1", "e2"}
    assert "of the 5 peers closest to its key 2 answer" in why(swarm.play(Write(0, b"a")))


def test_two_who_create_it_with_views_that_differ_find_one_register() -> None:
    swarm = Swarm(9)
    names = list(map(str, swarm.electors))
    ends: list[End] = []

    def rival(put: Put) -> None:
        if isinstance(put.question, Accept):
            swarm.on_put = lambda _: None
            ends.append(swarm.play(Write(0, b"b"), view=names[1:]))

    swarm.on_put = rival
    ends.append(swarm.play(Write(0, b"a"), view=names[:8]))
    assert sorted(type(end.outcome).__name__ for end in ends) == ["Conflict", "Written"]
    assert {value(end) for end in ends} == {value(swarm.play(Read()))}


def test_two_registers_of_one_key_are_told_of() -> None:
    swarm = Swarm(14)
    names = list(map(str, swarm.electors))
    ends = [
        term(swarm.play(Write(0, b"left"), view=names[:7])),
        term(swarm.play(Write(0, b"right"), view=names[7:])),
    ]
    kept, lost = sorted(ends, key=lambda one: one.root)
    assert kept.root != lost.root
    swarm.play(Write(1, b"on"), kept)
    swarm.down = set(map(str, lost.electors.peers()[:3]))
    assert value(swarm.play(Read(), lost, view=names)) == (2, b"on")
    assert {report.kind for report in swarm.reports} == {"split"}


def test_who_has_no_key_calls_no_ballot() -> None:
    swarm = Swarm()
    known = swarm.play(Write(0, b"a")).term
    questions: list[object] = []
    swarm.on_put = lambda put: questions.append(put.question)
    swarm.play(Read(), known, has_key=False)
    assert not any(isinstance(question, Prepare | Accept) for question in questions)
