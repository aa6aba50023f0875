"""How long a round will take: the formula of two all-to-alls, and what decides."""

from __future__ import annotations

import pytest

from prime.errors import ConfigError, UsageError
from prime.trainer.swarm.forecast import Forecast, forecast

MBIT = 1e6 / 8


def of(
    codec: str = "int8", gather: str = "auto", members: int = 2, up: float = 100 * MBIT, rtt_s: float = 0.0
) -> Forecast:
    return forecast(25_000_000, members, codec, gather, up_bytes_s=up, down_bytes_s=200 * MBIT, rtt_s=rtt_s)


def test_two_nodes_at_100_mbit_as_measured_against_gloo() -> None:
    assert of().seconds == pytest.approx(25e6 * (1 + 4 / 256) / (100 * MBIT), rel=0.001)
    assert of().float32_seconds == pytest.approx(8.0, rel=0.001)
    assert of().float32_seconds / of().seconds == pytest.approx(3.94, abs=0.01)


def test_int4_with_an_int8_sum_has_the_limit_of_both() -> None:
    assert of("int4").float32_seconds / of("int4").seconds == pytest.approx(5.07, abs=0.01)


def test_more_members_send_more_but_never_twice_a_vector() -> None:
    sent = [of(members=members).sent_bytes for members in (2, 4, 1000)]
    assert sent == sorted(sent)
    assert sent[2] < 2 * 25e6 * (1 + 4 / 256)


def test_sparse_contributions_have_sparse_sums_among_few() -> None:
    assert of("topk", members=4).sent_bytes < of("topk", "int8", members=4).sent_bytes < of(members=4).sent_bytes


def test_what_decides_is_named() -> None:
    assert of().narrow == "up"
    assert of(up=400 * MBIT).narrow == "down"
    assert of(rtt_s=3.0).narrow == "rtt"


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ConfigError, match="no codec is called"):
        of("int9")
    with pytest.raises(UsageError, match="two members"):
        of(members=1)
    with pytest.raises(UsageError, match="carries nothing"):
        of(up=0.0)
