"""The outer step against its formulas, and its determinism."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prime.errors import ConfigError, LocalProtocolError
from prime.trainer.swarm.outer import OuterStep, averaging


def test_the_formula_on_numbers_that_are_exact() -> None:
    theta, momentum, delta = (np.array([v], np.float32) for v in (10.0, 4.0, 2.0))
    new_theta, new_momentum = OuterStep(0.5, 0.25).apply(theta, momentum, delta)
    assert new_momentum.tolist() == [3.0]  # 0.25 * 4 + 2
    assert new_theta.tolist() == [10.0 - 0.5 * (2.0 + 0.25 * 3.0)]
    assert (theta[0], momentum[0], delta[0]) == (10.0, 4.0, 2.0)


def test_averaging_gives_the_mean_of_the_local_parameters() -> None:
    outer = np.array([1.0, 2.0], np.float32)
    local = np.array([[0.5, 3.0], [1.5, 5.0]], np.float32)
    theta, momentum = averaging().apply(outer, np.zeros_like(outer), (outer - local).mean(axis=0))
    assert theta.tolist() == [1.0, 4.0]
    assert momentum.tolist() == [0.0, -2.0]


@given(st.integers(0, 2**32), st.integers(0, 300), st.floats(0.1, 1), st.floats(0, 0.95))
def test_bits_depend_on_the_values_alone(seed: int, size: int, eta: float, mu: float) -> None:
    """Rounded after every operation: the same for a vector, its slices and its elements one by one."""
    theta, momentum, delta = np.random.default_rng(seed).standard_normal((3, size), np.float32)
    whole = OuterStep(eta, mu).apply(theta, momentum, delta)
    mu32, eta32 = np.float32(mu), np.float32(eta)
    for i in range(size):
        v = np.float32(np.float32(mu32 * momentum[i]) + delta[i])
        step = np.float32(eta32 * np.float32(np.float32(mu32 * v) + delta[i]))
        assert whole[1][i] == v
        assert whole[0][i] == np.float32(theta[i] - step)


@pytest.mark.parametrize(("eta", "mu"), [(0.0, 0.9), (11.0, 0.9), (0.7, 1.0), (0.7, -0.1), (float("nan"), 0.0)])
def test_settings_that_cannot_be(eta: float, mu: float) -> None:
    with pytest.raises(ConfigError, match="no outer step"):
        OuterStep(eta, mu)


def test_vectors_that_do_not_fit() -> None:
    zeros = np.zeros(3, np.float32)
    for wrong in (np.zeros(2, np.float32), np.zeros(3), np.zeros((3, 1), np.float32)):
        with pytest.raises(LocalProtocolError, match="one size"):
            OuterStep().apply(zeros, zeros, wrong)
