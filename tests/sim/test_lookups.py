"""The simulated DHT: what is found without faults, among liars and over partitions, in small; in full at night."""

from __future__ import annotations

import pytest

from prime.sim import Scenario, run
from prime.sim.scenarios import lookups as sim


@pytest.fixture(scope="module")
def hops() -> sim.Hops:
    return sim.measure_hops(1000, 60)


def test_every_lookup_among_a_thousand_finds_what_brute_force_finds(hops: sim.Hops) -> None:
    assert hops.agreement == 1.0


def test_lookups_among_a_thousand_are_short(hops: sim.Hops) -> None:
    assert hops.greatest <= hops.limit == 7


def test_nodes_that_joined_by_themselves_find_what_brute_force_finds() -> None:
    figures = sim.measure_hops(lookups=60, swarm=sim.joined(80, 1))
    assert figures.agreement == 1.0


def test_a_fifth_of_liars_deceives_nobody() -> None:
    reads = sim.measure_liars(200, records=8, reads=40)
    assert (reads.right, reads.wrong) == (40, 0)
    assert reads.forged_seen > 0, "nobody forged anything"


def test_liars_next_to_every_key_deceive_nobody_while_they_share_a_group() -> None:
    reads = sim.measure_liars(100, share=0.0, records=3, reads=15, sybils=24)
    assert (reads.right, reads.wrong) == (15, 0)


def test_halves_that_were_cut_apart_merge() -> None:
    merge = sim.measure_split(24, 900.0)
    assert merge.knew_apart < 1.0, "they were not apart"
    assert merge.merged_s < 300.0


def test_halves_that_joined_before_what_both_were_told_of_merge() -> None:
    merge = sim.measure_late_bootstrap()
    assert merge.knew_apart < 1.0, "they were not apart"
    assert merge.merged_s < 600.0


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_in_any_storm_nodes_become_one_swarm(seed: int) -> None:
    outcome = run(seed, sim.lookups)
    assert outcome.ok, f"{outcome.error}; {outcome.command}"


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_in_any_storm_liars_deceive_nobody(seed: int) -> None:
    outcome = run(seed, sim.liars)
    assert outcome.ok, f"{outcome.error}; {outcome.command}"


def test_a_seed_gives_the_same_run_again() -> None:
    assert run(5, sim.liars).trace == run(5, sim.liars).trace


@pytest.mark.nightly
def test_every_lookup_among_a_thousand_that_joined_finds_what_brute_force_finds() -> None:
    figures = sim.measure_hops(lookups=1000, swarm=sim.joined(1000, 2))
    assert figures.agreement == 1.0
    assert figures.greatest <= figures.limit


@pytest.mark.nightly
def test_hops_grow_as_the_logarithm_up_to_ten_thousand() -> None:
    figures = sim.measure_hops(10_000, 300)
    assert figures.agreement == 1.0
    assert figures.greatest <= figures.limit


@pytest.mark.nightly
def test_a_fifth_of_liars_among_a_thousand() -> None:
    reads = sim.measure_liars()
    assert reads.share >= 0.99
    assert reads.wrong == 0


@pytest.mark.nightly
@pytest.mark.parametrize("scenario", [sim.lookups, sim.liars])
def test_a_hundred_storms(scenario: Scenario) -> None:
    failed = [outcome.command for seed in range(100, 200) if not (outcome := run(seed, scenario)).ok]
    assert failed == []


@pytest.mark.nightly
def test_a_hundred_nodes_that_were_cut_apart_for_hours_merge() -> None:
    assert sim.measure_split(100, 2 * 3600.0).merged_s < 900.0
