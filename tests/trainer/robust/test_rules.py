"""The rules against their papers' definitions on whole vectors, and against liars at the largest f that they admit."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prime.errors import ConfigError
from prime.trainer.metadata import AGGREGATIONS, TrainingConfig
from prime.trainer.robust.gates import median
from prime.trainer.robust.rules import SCORE_MAX, Rule, Verdict, byzantine_admitted, coefficients, rule_of
from prime.trainer.round.leader import GRAM_MAX

BY_CONTRIBUTION = ("krum", "multi-krum", "centred-clipping")


def judged(rule: Rule, x_ND: np.ndarray, weights: list[float] | None = None) -> tuple[Verdict, ...]:  # noqa: N803
    x = x_ND.astype(np.float64)
    return coefficients(rule, (x @ x.T).tolist(), weights or [1.0] * len(x))


def combined(rule: Rule, x_ND: np.ndarray) -> np.ndarray:  # noqa: N803
    return np.array([v.coefficient for v in judged(rule, x_ND)]) @ x_ND


def test_krum_chooses_what_the_papers_sum_of_distances_chooses() -> None:
    x = np.random.default_rng(1).normal(size=(9, 40))
    squares = ((x[:, None] - x[None]) ** 2).sum(axis=2)
    scores = [sorted(np.delete(row, i))[: 9 - 3 - 2] for i, row in enumerate(squares)]
    best = int(np.argmin([sum(s) for s in scores]))
    assert [v.coefficient for v in judged(Rule("krum", 3), x)] == [float(i == best) for i in range(9)]


def test_multi_krum_is_the_mean_of_the_n_minus_f_minus_2_best() -> None:
    x = np.random.default_rng(2).normal(size=(9, 40))
    squares = ((x[:, None] - x[None]) ** 2).sum(axis=2)
    scores = [sum(sorted(np.delete(row, i))[:4]) for i, row in enumerate(squares)]
    best = sorted(range(9), key=scores.__getitem__)[:4]
    assert np.allclose(combined(Rule("multi-krum", 3), x), x[best].mean(axis=0))


def test_centred_clipping_is_one_step_from_the_middle_of_those_that_lie_close() -> None:
    x = np.random.default_rng(3).normal(size=(9, 40)) + 1
    x[:2] *= 50
    distances = np.linalg.norm(x[:, None] - x[None], axis=2)
    start = int(np.argmin([np.median(np.delete(row, i)) for i, row in enumerate(distances)]))
    v = x[np.argsort(distances[start])[:5]].mean(axis=0)
    off = np.linalg.norm(x - v, axis=1)
    expected = v + ((x - v) * np.minimum(1, np.median(off) / off)[:, None]).mean(axis=0)
    assert np.allclose(combined(Rule("centred-clipping", 4), x), expected)


@pytest.mark.parametrize("name", BY_CONTRIBUTION)
@given(seed=st.integers(0, 2**32), n=st.integers(3, 12), scale=st.sampled_from([1.0, -1.0, 30.0, 1e6, 1e15]))
def test_liars_at_the_largest_f_do_not_move_the_result_out_of_the_honest_cloud(
    name: str, seed: int, n: int, scale: float
) -> None:
    """All f send one and the same vector, a scaled or flipped honest mean: the result stays as near as honest ones are."""
    f = byzantine_admitted(name, n)
    rng = np.random.default_rng(seed)
    honest = rng.normal(size=(n - f, 64)) + 0.5
    mean = honest.mean(axis=0)
    x = np.concatenate([np.tile(scale * mean, (f, 1)), honest])
    farthest = np.linalg.norm(honest - mean, axis=1).max()
    assert np.linalg.norm(combined(Rule(name, f), x) - mean) <= 2.5 * farthest


@pytest.mark.parametrize("name", BY_CONTRIBUTION)
@given(seed=st.integers(0, 2**32), n=st.integers(1, 12), f=st.integers(0, 5))
def test_coefficients_by_contribution_are_a_mixture(name: str, seed: int, n: int, f: int) -> None:
    verdicts = judged(Rule(name, f), np.random.default_rng(seed).normal(size=(n, 5)))
    assert math.isclose(sum(v.coefficient for v in verdicts), 1)
    assert all(v.coefficient >= 0 and (v.coefficient > 0) == (not v.reason) for v in verdicts)


@pytest.mark.parametrize("name", AGGREGATIONS)
def test_what_lies_in_the_same_place_counts_alike_and_nothing_divides_by_zero(name: str) -> None:
    for x in (np.zeros((7, 3)), np.ones((7, 3))):
        verdicts = judged(Rule(name, 2, 3.0), x)
        assert all(v.score == 1 for v in verdicts)
        assert sum(v.coefficient for v in verdicts) > 0


@pytest.mark.parametrize(
    ("name", "admitted"),
    [("mean", 0), ("median", 4), ("trimmed-mean", 4), ("krum", 3), ("multi-krum", 3), ("centred-clipping", 4)],
)
def test_of_nine_candidates_each_rule_admits_so_many_liars(name: str, admitted: int) -> None:
    assert byzantine_admitted(name, 9) == admitted
    assert Rule(name, admitted).fault(9, 9) == ""
    if name != "mean":
        assert f"{name} with byzantine_max {admitted + 1} needs" in Rule(name, admitted + 1).fault(9, 9)


def test_who_is_missing_counts_among_the_liars_so_silence_stops_no_round() -> None:
    krum = Rule("krum", 3)
    assert krum.fault(6, 9) == ""
    assert krum.fault(5, 9) == "krum with byzantine_max 3 needs 6 contributions of 9 members, 5 came"
    assert krum.fault(8, 8) == "krum with byzantine_max 3 needs 9 members to contribute, 8 are asked"
    assert krum.fault(9, 20) == ""  # nine of any number bear three liars, whoever is missing
    assert Rule().fault(1, 9) == ""


@pytest.mark.parametrize("name", [n for n in AGGREGATIONS if n != "mean"])
@pytest.mark.parametrize("missing", range(4))
def test_with_some_missing_it_bears_the_liars_that_are_left(name: str, missing: int) -> None:
    n = 11
    f = byzantine_admitted(name, n)
    missing = min(missing, f)
    rng = np.random.default_rng(missing)
    honest = rng.normal(size=(n - f, 64)) + 0.5
    x = np.concatenate([np.tile(-50 * honest.mean(axis=0), (f - missing, 1)), honest])
    rule = Rule(name, f)
    assert rule.fault(len(x), n) == ""
    if rule.by_order:
        trim = rule.trim(len(x))
        result = np.sort(x, axis=0)[trim : len(x) - trim].mean(axis=0)
        assert (result >= honest.min(axis=0)).all() and (result <= honest.max(axis=0)).all()
    else:
        mean = honest.mean(axis=0)
        assert np.linalg.norm(combined(rule, x) - mean) <= 2 * np.linalg.norm(honest - mean, axis=1).max()


def test_the_gate_refuses_a_norm_per_token_above_its_multiple_of_the_median_in_words() -> None:
    x = np.ones((5, 4))
    x[2] *= 3.1
    verdicts = judged(Rule("mean", 0, 3.0), x)
    assert [v.coefficient for v in verdicts] == [1, 1, 0, 1, 1]
    assert verdicts[2].reason == "its norm per token is 3.1 times the median: the gate is 3"
    assert judged(Rule("mean", 0, 3.2), x)[2].coefficient == 1


def test_a_fast_member_passes_the_gate_by_its_tokens_a_slow_one_by_its_norm_and_a_carried_delta_by_both() -> None:
    x = np.ones((6, 4))
    x[0] *= 3.5  # four times the tokens, a norm nearly as many times as large
    x[1] *= 0.4  # a tenth of the tokens: by token it moved four times as much
    weights = [400.0, 10.0, 200.0, 100.0, 100.0, 100.0]  # the third carries a round that it missed
    assert all(v.reason == "" for v in judged(Rule("mean", 0, 3.0), x, weights))


def test_a_weight_counts_at_most_four_times_the_median_and_buys_no_larger_norm_than_that() -> None:
    x = np.ones((5, 4))
    verdicts = judged(Rule("mean", 0, 3.0), x, [1.0, 1.0, 1.0, 1.0, 1e9])
    assert [v.coefficient for v in verdicts] == [1, 1, 1, 1, 4]
    x[4] *= 13
    assert judged(Rule("mean", 0, 3.0), x, [1.0, 1.0, 1.0, 1.0, 1e9])[4].coefficient == 0


def test_who_fails_the_gate_is_counted_among_the_liars_so_the_rest_is_still_enough() -> None:
    """Three of nine fail it; Krum with f = 3 would have no neighbour to count among the six that are left."""
    x = np.random.default_rng(5).normal(size=(9, 30))
    x[:3] *= 100
    verdicts = judged(Rule("krum", 3, 3.0), x)
    assert [v.coefficient for v in verdicts[:3]] == [0, 0, 0]
    assert sum(v.coefficient for v in verdicts) == 1


@pytest.mark.parametrize("name", AGGREGATIONS)
@pytest.mark.parametrize("bad", [math.nan, math.inf, 1e300])
def test_what_is_not_finite_is_refused_by_every_rule_and_leaves_the_others_theirs(name: str, bad: float) -> None:
    x = np.random.default_rng(6).normal(size=(6, 10))
    gram = (x @ x.T).tolist()
    for i in range(6):
        gram[4][i] = gram[i][4] = bad * bad if bad > 1e200 else bad
    verdicts = coefficients(Rule(name, 1), gram, [1.0] * 6)
    assert verdicts[4] == Verdict(0.0, SCORE_MAX, "its numbers are not finite")
    assert all(math.isfinite(v.coefficient) and math.isfinite(v.score) for v in verdicts)
    assert sum(v.coefficient for v in verdicts) > 0


def test_if_nobody_is_finite_nobody_counts() -> None:
    verdicts = coefficients(Rule("median", 1), [[math.nan] * 3] * 3, [1.0] * 3)
    assert [v.coefficient for v in verdicts] == [0, 0, 0]


def test_a_score_says_how_far_off_a_contribution_lies_whatever_the_rule() -> None:
    x = np.random.default_rng(7).normal(size=(9, 200))
    x[8] += 10
    for name in AGGREGATIONS:
        scores = [v.score for v in judged(Rule(name, 1), x)]
        assert scores[8] > 5
        assert all(0.8 < s < 1.2 for s in scores[:8])


@pytest.mark.parametrize(("inputs", "trims"), [(9, (4, 3)), (8, (3, 3)), (5, (2, 2)), (2, (0, 0)), (1, (0, 0))])
def test_of_a_coordinate_the_median_keeps_one_or_two_and_the_trimmed_mean_at_least_as_many(
    inputs: int, trims: tuple[int, int]
) -> None:
    assert (Rule("median", 3).trim(inputs), Rule("trimmed-mean", 3).trim(inputs)) == trims
    assert Rule("mean").trim(inputs) == Rule("krum", 3).trim(inputs) == 0


def test_a_rule_that_is_none_is_refused_with_those_that_are() -> None:
    with pytest.raises(ConfigError, match="'bulyan'") as caught:
        Rule("bulyan")
    assert "multi-krum" in str(caught.value.hint)


def test_only_the_plain_mean_needs_no_gram_matrix() -> None:
    assert [Rule(name).measured for name in AGGREGATIONS] == [False, True, True, True, True, True]
    assert Rule("mean", 0, 3.0).measured
    assert [Rule(name).by_order for name in AGGREGATIONS] == [False, True, True, False, False, False]


def test_the_rule_of_a_run_is_its_configurations() -> None:
    config = TrainingConfig(aggregation="krum", byzantine_max=3, norm_gate=3.0, nodes_min=9)
    assert rule_of(config) == Rule("krum", 3, 3.0)
    assert rule_of(TrainingConfig()) == Rule()


def test_a_run_that_could_begin_with_too_few_members_for_its_rule_is_refused() -> None:
    with pytest.raises(
        ConfigError, match="nodes_min is 8, and krum .* needs 9 members to contribute, 8 are asked"
    ) as caught:
        rule_of(TrainingConfig(aggregation="krum", byzantine_max=3, nodes_min=8))
    assert "raise train.nodes_min" in str(caught.value.hint)
    with pytest.raises(ConfigError, match="5 are asked"):
        rule_of(TrainingConfig(aggregation="krum", byzantine_max=3, nodes_min=9, participation=0.5))
    with pytest.raises(ConfigError, match="a mean follows a single liar"):
        rule_of(TrainingConfig(byzantine_max=1))


PRODUCTS = st.sampled_from((0.0, 1.0, -1.0, 5e-324, 1e50, GRAM_MAX, -GRAM_MAX)) | st.floats(-GRAM_MAX, GRAM_MAX)
WEIGHTS = st.sampled_from((1.0, 5e-324, 1e308)) | st.floats(0, exclude_min=True, allow_infinity=False)


@given(name=st.sampled_from(AGGREGATIONS), gate=st.sampled_from((0.0, 3.0)), drawn=st.data())
def test_whatever_owners_say_the_products_are_and_members_their_weights_there_is_a_verdict(
    name: str, gate: float, drawn: st.DataObject
) -> None:
    n = drawn.draw(st.integers(1, 7))
    gram = [[0.0] * n for _ in range(n)]
    for i in range(n):
        for j in range(i, n):
            gram[i][j] = gram[j][i] = drawn.draw(PRODUCTS)
    weights = drawn.draw(st.lists(WEIGHTS, min_size=n, max_size=n))
    verdicts = coefficients(Rule(name, drawn.draw(st.integers(0, 3)), gate), gram, weights)
    assert all(0 <= v.coefficient < math.inf and 0 <= v.score <= SCORE_MAX for v in verdicts)


def test_the_smallest_weights_have_a_median() -> None:
    assert median([5e-324, 5e-324]) == 5e-324
