"""How the vector is cut after bandwidth, who backs whom up, and when a measured rate is worth a new view."""

from __future__ import annotations

import itertools

from hypothesis import example, given
from hypothesis import strategies as st

from prime.trainer.round.partition import FAST_BYTES_S, backups, cuts, differs, fractions, owners_of, rounded
from prime.trainer.round.view import Member, view_of

RATES = st.lists(st.one_of(st.none(), st.just(0), st.integers(1, 10**10)), min_size=1, max_size=12)
BLOCK = 256


def members(*rates: int | None) -> list[Member]:
    return [Member(f"m{i:02}", (), 1.0, 1, rate) for i, rate in enumerate(rates)]


@given(RATES, st.integers(0, 10**7))
def test_the_cuts_are_the_vector_in_whole_blocks(rates: list[int | None], elements: int) -> None:
    found = cuts(elements, members(*rates), BLOCK)
    assert (found[0].start, found[-1].stop) == (0, elements)
    assert all(a.stop == b.start for a, b in itertools.pairwise(found))
    assert all(cut.start <= cut.stop and (cut.stop % BLOCK == 0 or cut.stop == elements) for cut in found)


@given(RATES, st.integers(10**5, 10**7))
def test_a_part_is_in_proportion_to_the_rate_within_a_block(rates: list[int | None], elements: int) -> None:
    group = members(*rates)
    for cut, fraction in zip(cuts(elements, group, BLOCK), fractions(group), strict=True):
        assert abs((cut.stop - cut.start) - fraction * elements) <= 2 * BLOCK


@given(RATES.filter(lambda rates: any(rate != 0 for rate in rates)))
def test_a_client_owns_nothing_and_backs_nobody_up(rates: list[int | None]) -> None:
    group = members(*rates)
    clients = {m.peer for m in group if m.rate_bytes_s == 0}
    lengths = {m.peer: cut.stop - cut.start for m, cut in zip(group, cuts(10**6, group, BLOCK), strict=True)}
    assert all(not lengths[peer] for peer in clients)
    assert not clients & set(owners_of(view_of("run", 0, group), ()))
    if len(rates) - len(clients) > 1:
        assert not clients & {group[place].peer for place in backups(group)}


def test_members_that_measured_nothing_share_evenly_and_count_as_the_median_of_those_that_did() -> None:
    assert fractions(members(None, None, None)) == (1 / 3,) * 3
    assert fractions(members(100, None, 300)) == (100 / 700, 300 / 700, 300 / 700)
    assert fractions(members(0, 0)) == (0.5, 0.5)


def test_two_share_evenly_whatever_their_links_as_neither_way_is_quicker() -> None:
    assert fractions(members(5, 9)) == (0.5, 0.5)
    assert fractions(members(0, 9)) == (0.0, 1.0)


def test_nobody_finishes_earlier_with_another_partition() -> None:
    """The time of both stretches, for each partition on a grid: none beats the proportional one."""
    rates = (100.0, 50.0, 25.0)

    def time_s(parts: tuple[float, ...]) -> float:
        scatter = max((1 - f) / rate for f, rate in zip(parts, rates, strict=True))
        return scatter + max(f * (len(rates) - 1) / rate for f, rate in zip(parts, rates, strict=True))

    best = time_s(fractions(members(100, 50, 25)))
    steps = [i / 20 for i in range(21)]
    grid = [(a, b, 1 - a - b) for a, b in itertools.product(steps, steps) if a + b <= 1]
    assert best <= min(time_s(parts) for parts in grid) + 1e-12


@given(RATES, st.sets(st.integers(0, 11)))
def test_a_lost_part_goes_to_its_named_backup(rates: list[int | None], lost: set[int]) -> None:
    group = members(*rates)
    unfit = {m.peer for i, m in enumerate(group) if i in lost}
    named, found = backups(group), owners_of(view_of("run", 0, group), unfit)
    able = {m.peer for m in group if m.rate_bytes_s != 0} or {m.peer for m in group}
    for part, owner in enumerate(found):
        if group[part].peer in able - unfit:
            assert owner == group[part].peer
        elif group[named[part]].peer in able - unfit:
            assert owner == group[named[part]].peer
        elif able - unfit:
            assert owner in able - unfit


def test_backups_are_shared_out_by_bandwidth() -> None:
    assert backups(members(100, 100, 100)) == (1, 2, 0)
    assert backups(members(1000, 1, 1)) == (1, 0, 0)  # a fast member backs all that is not its own
    assert backups(members(100, 100, 1, 1)) == (1, 0, 0, 1)  # of two fast ones not all by the first
    assert backups(members(7)) == (0,)


@given(st.floats(0, 1e13))
@example(2.5)
@example(6.0)
def test_rates_are_told_in_steps_of_a_quarter(rate: float) -> None:
    told = rounded(rate)
    assert rounded(told) == told
    if 16 <= rate <= FAST_BYTES_S:
        assert 0.8 <= told / rate <= 1.25
    assert told <= FAST_BYTES_S * 1.25


def test_a_view_changes_for_a_quarter_more_or_less() -> None:
    assert not differs(1000, 1249)
    assert not differs(1000, 801)
    assert differs(1000, 1300)
    assert differs(1000, 700)
    assert differs(None, 1)
    assert differs(0, 1)
    assert not differs(0, 0)
