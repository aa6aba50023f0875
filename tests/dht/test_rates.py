"""Requests of one peer over time, and the bounds of who is remembered."""

from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import given

from prime.dht.rates import BURST_S, Rates


def test_a_burst_then_so_many_a_second() -> None:
    rates = Rates(10.0)
    assert sum(rates.take("a", 0.0) for _ in range(100)) == 10 * BURST_S
    assert sum(rates.take("a", 1.0) for _ in range(100)) == 10
    assert rates.take("b", 1.0), "one does not use up another's"
    assert sum(rates.take("a", 1e6) for _ in range(100)) == 10 * BURST_S, "long silence gives no more than a burst"


def test_who_asks_too_much_is_let_in_again_in_time() -> None:
    rates = Rates(2.0)
    for tenth in range(100):
        rates.take("a", tenth / 10)
    assert not rates.take("a", 10.0) or not rates.take("a", 10.0)
    assert rates.take("a", 11.0)


@given(st.lists(st.tuples(st.integers(0, 5), st.floats(0, 2)), max_size=200))
def test_over_any_time_nobody_has_more_than_its_share(asks: list[tuple[int, float]]) -> None:
    rates, now = Rates(5.0), 0.0
    taken: dict[int, list[float]] = {}
    for who, wait_s in asks:
        now += wait_s
        if rates.take(who, now):
            taken.setdefault(who, []).append(now)
    for times in taken.values():
        for index, begin in enumerate(times):
            within = sum(begin <= at <= begin + 1.0 for at in times[index:])
            assert within <= 5 * (BURST_S + 1) + 1


def test_ever_new_ids_do_not_fill_the_memory_and_get_nothing_by_changing() -> None:
    rates = Rates(10.0, peers_max=50)
    rates.take("old", 0.0)
    assert sum(rates.take(number, 1.0) for number in range(10_000)) <= 10_000
    assert len(rates) == 50
    fresh = Rates(1.0, peers_max=2)
    for who in ("a", "b"):
        assert sum(fresh.take(who, 0.0) for _ in range(9)) == BURST_S
    assert sum(fresh.take("c", 0.0) for _ in range(9)) == 1, "while all are busy, a newcomer has one request"


def test_who_paces_itself_is_never_refused() -> None:
    taken, paced, now = Rates(10.0), Rates(8.0, burst_s=1.5), 0.0
    for _ in range(200):
        now += paced.owe("a", now)
        assert taken.take("a", now)
    assert 22 < now < 25
