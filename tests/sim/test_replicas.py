"""Copies of records in a simulated swarm: storms in small, many of them and churn at night."""

from __future__ import annotations

import attrs
import pytest

from prime.sim.scenarios import replicas as sim


@pytest.mark.parametrize("seed", [2, 7, 15])
def test_after_a_storm_each_record_has_its_holders_and_its_last_version(seed: int) -> None:
    came = sim.storm(seed)
    assert came.records > 0
    assert came.holders_mean >= min(came.replicas, came.nodes)


def test_the_same_seed_is_the_same_storm() -> None:
    assert sim.storm(2) == sim.storm(2)


def test_readers_get_the_last_version_while_nodes_crash() -> None:
    came = sim.measure_churn(20, hours=0.4, records=8, reads=80)
    assert came.crashes >= 2
    assert came.share >= 0.99


@pytest.mark.nightly
@pytest.mark.parametrize("seed", range(100, 160))
def test_many_storms(seed: int) -> None:
    sim.storm(seed)


@pytest.mark.nightly
@pytest.mark.timeout(900)
def test_copies_are_what_keeps_records_where_nodes_crash() -> None:
    """Of three replicas each, eight hours take what nobody makes anew; with repair every read is right."""
    few = attrs.evolve(sim.SWARM, replicas=3, refresh_s=3600.0)
    kept, left = (
        sim.measure_churn(40, hours=8, records=30, reads=400, settings=few, repairs=on) for on in (True, False)
    )
    assert left.share < 0.99 <= kept.share


@pytest.mark.nightly
@pytest.mark.timeout(900)
def test_a_quarter_of_the_nodes_crashing_each_hour() -> None:
    assert sim.measure_churn().share >= 0.99
