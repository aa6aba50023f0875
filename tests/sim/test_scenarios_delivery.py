"""The delivery scenario: named seeds of what it once found, fresh seeds, and that its books see what is wrong."""

from __future__ import annotations

import pytest

from prime import sim
from prime.sim.scenarios import post_books
from prime.sim.scenarios.delivery import delivery, flipped_bits
from prime.sim.scenarios.post_books import Books, Line

SEEDS = {
    0: "the deadline of an ask that came was a time on the link's clock, and was held against Trio's",
    22: "after a jump of the clock an ask went on past its deadline, until the alarm that had been set before",
}
FLIPPED = {
    27: "a wrong length before a frame stopped a link for ever, as its signs of life came all the same",
}


def passes(seed: int, scenario: sim.Scenario) -> None:
    outcome = sim.run(seed, scenario)
    assert outcome.ok, f"{outcome.error} at {outcome.at_s:g} s; {outcome.command}"


@pytest.mark.parametrize("seed", SEEDS)
def test_what_it_once_found(seed: int) -> None:
    passes(seed, delivery)


@pytest.mark.parametrize("seed", FLIPPED)
def test_what_it_once_found_with_flipped_bits(seed: int) -> None:
    passes(seed, flipped_bits)


@pytest.mark.parametrize("seed", [1001, 1002, 1003])
def test_fresh_seeds(seed: int) -> None:
    passes(seed, delivery)


def test_fresh_seeds_with_flipped_bits() -> None:
    passes(1001, flipped_bits)


# ------------------------------------------------------------------------------------------ the books see what is wrong


def line(count: int, *, reliable: bool = True) -> Line:
    made = Line(("a", 1), "b", reliable)
    for _ in range(count):
        made.settle(made.begin(1.0), "kept")
    return made


@pytest.mark.parametrize(
    ("came", "wrong"),
    [
        ([1, 2, 3], ""),
        ([2, 3], ""),
        ([1, 1], "came twice"),
        ([2, 1], "came after"),
        ([1, 3], "before it did not"),
        ([9], "never sent"),
    ],
)
def test_a_reliable_line_must_be_whole_within_a_life(came: list[int], wrong: str) -> None:
    made = line(3)
    said = [made.handle(1, number) for number in came]
    assert said[:-1] == [""] * (len(came) - 1)
    assert wrong in said[-1]
    assert bool(wrong) == bool(said[-1])


def test_a_plain_line_may_have_gaps_and_must_not_repeat_over_a_restart() -> None:
    made = line(5, reliable=False)
    assert [made.handle(1, number) for number in (1, 3)] == ["", ""]
    assert "over a restart" in made.handle(2, 3)
    assert "after" in made.handle(1, 2)


def test_what_was_given_up_may_be_missing() -> None:
    made = line(5)
    for _ in range(2):
        made.give_up(2.0)
    assert made.lost() == {4, 5}
    made.settle(made.begin(3.0), "kept")
    assert [made.handle(1, number) for number in (1, 2, 3, 6)] == [""] * 4
    assert made.unaccounted([], 8) == []


def test_what_a_crash_may_have_taken_is_bounded_by_the_mailbox() -> None:
    made = line(20)
    for number in range(1, 4):
        made.handle(1, number)
    assert made.unaccounted([(1, 5.0)], 8) == list(range(13, 21))
    assert made.unaccounted([(1, 0.5)], 8) == list(range(4, 21))


def test_a_watch_that_was_told_twice_is_seen() -> None:
    books = Books(8)
    first, second = books.watch(), books.watch()
    books.notified(first)
    books.unwatch(second)
    books.unwatch(first)
    books.check(post_books.WATCHES)
    books.notified(second)
    with pytest.raises(AssertionError, match="after it had ended"):
        books.check(post_books.WATCHES)


def test_an_ask_that_is_handled_twice_is_seen() -> None:
    books = Books(8)
    books.question_came("q")
    books.check(post_books.ASKS)
    books.question_came("q")
    with pytest.raises(AssertionError, match="handled 2 times"):
        books.check(post_books.ASKS)
