"""The outer optimisers against their formulas, and that their bits depend on the values alone."""

from __future__ import annotations

from typing import Any

import attrs
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prime.errors import ConfigError, LocalProtocolError
from prime.trainer.metadata import TrainingConfig
from prime.trainer.outer import optimisers
from prime.trainer.outer.optimisers import Adam, Average, Nesterov, OuterOptimiser, Sgd, outer_optimiser

F = np.float32
ALL: list[Any] = [Nesterov(0.7, 0.9), Sgd(0.3), Average(), Adam(0.02, 0.9, 0.99, 1e-3)]


def one(value: float) -> Any:
    return np.array([value], F)


def vectors(count: int, size: int, seed: int = 1) -> list[Any]:
    return list(np.random.default_rng(seed).standard_normal((count, size), F))


def given_to(optimiser: OuterOptimiser, size: int, seed: int = 1) -> tuple[Any, tuple[Any, ...], Any]:
    theta, delta, *slots = vectors(2 + optimiser.slots, size, seed)
    return theta, tuple(abs(slot) for slot in slots), delta


def by_hand(optimiser: Any, theta: Any, slots: tuple[Any, ...], delta: Any) -> list[Any]:
    """Return new parameters and slots of one element, each operation rounded to float32 in the documented order."""
    if isinstance(optimiser, Average):
        return [F(theta - delta)]
    eta = F(optimiser.learning_rate)
    if isinstance(optimiser, Sgd):
        return [F(theta - F(eta * delta))]
    if isinstance(optimiser, Nesterov):
        mu = F(optimiser.momentum)
        v = F(F(mu * slots[0]) + delta)
        return [F(theta - F(eta * F(F(mu * v) + delta))), v]
    beta_1, beta_2 = F(optimiser.momentum), F(optimiser.square_decay)
    m = F(F(beta_1 * slots[0]) + F(F(F(1) - beta_1) * delta))
    s = F(F(beta_2 * slots[1]) + F(F(F(1) - beta_2) * F(delta * delta)))
    return [F(theta - F(eta * F(m / F(np.sqrt(s) + F(optimiser.epsilon))))), m, s]


def test_nesterov_on_numbers_that_are_exact() -> None:
    theta, momentum, delta = one(10.0), one(4.0), one(2.0)
    new_theta, (new_momentum,) = Nesterov(0.5, 0.25).apply(theta, (momentum,), delta)
    assert new_momentum.tolist() == [3.0]  # 0.25 * 4 + 2
    assert new_theta.tolist() == [10.0 - 0.5 * (2.0 + 0.25 * 3.0)]
    assert (theta[0], momentum[0], delta[0]) == (10.0, 4.0, 2.0)


def test_adam_on_numbers_that_are_exact() -> None:
    new_theta, (mean, square) = Adam(0.5, 0.5, 0.75, 1.0).apply(one(10.0), (one(2.0), one(12.0)), one(4.0))
    assert mean.tolist() == [3.0]  # 0.5 * 2 + 0.5 * 4
    assert square.tolist() == [13.0]  # 0.75 * 12 + 0.25 * 16
    assert new_theta.tolist() == [F(10.0) - F(0.5) * (F(3.0) / (np.sqrt(F(13.0)) + F(1.0)))]


def test_averaging_gives_the_mean_of_the_local_parameters() -> None:
    outer = np.array([1.0, 2.0], F)
    local = np.array([[0.5, 3.0], [1.5, 5.0]], F)
    theta, slots = Average().apply(outer, (), (outer - local).mean(axis=0))
    assert theta.tolist() == [1.0, 4.0]
    assert slots == ()


@pytest.mark.parametrize("optimiser", ALL, ids=lambda o: type(o).__name__)
@given(seed=st.integers(0, 2**32), size=st.integers(0, 300))
def test_bits_depend_on_the_values_alone(optimiser: OuterOptimiser, seed: int, size: int) -> None:
    """Rounded after every operation: the same for a vector, its slices and its elements one by one."""
    theta, slots, delta = given_to(optimiser, size, seed)
    new_theta, new_slots = optimiser.apply(theta, slots, delta)
    for i in range(size):
        expected = by_hand(optimiser, theta[i], tuple(slot[i] for slot in slots), delta[i])
        assert [vector[i] for vector in (new_theta, *new_slots)] == expected
    cut = slice(size // 3, size // 2)
    part_theta, part_slots = optimiser.apply(theta[cut], tuple(slot[cut] for slot in slots), delta[cut])
    for part, whole in zip((part_theta, *part_slots), (new_theta, *new_slots), strict=True):
        assert part.tobytes() == whole[cut].tobytes()


@pytest.mark.parametrize("optimiser", ALL, ids=lambda o: type(o).__name__)
def test_numba_in_one_pass_and_numpy_in_tiles_give_the_same_bits(
    optimiser: OuterOptimiser, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("numba")
    theta, slots, delta = given_to(optimiser, 2 * optimisers._TILE + 77)
    theta.setflags(write=False)  # as what a worker sent is
    monkeypatch.setattr(optimisers, "_NUMBA_ELEMENTS", 1 << 60)
    tiled = optimiser.apply(theta, slots, delta)
    monkeypatch.setattr(optimisers, "_NUMBA_ELEMENTS", 0)
    fused = optimiser.apply(theta, slots, delta)
    for a, b in zip((tiled[0], *tiled[1]), (fused[0], *fused[1]), strict=True):
        assert a.tobytes() == b.tobytes()


@pytest.mark.parametrize("optimiser", ALL, ids=lambda o: type(o).__name__)
@pytest.mark.parametrize("fused", [False, True])
def test_in_place_gives_the_same_bits(
    optimiser: OuterOptimiser, monkeypatch: pytest.MonkeyPatch, *, fused: bool
) -> None:
    if fused:
        pytest.importorskip("numba")
        monkeypatch.setattr(optimisers, "_NUMBA_ELEMENTS", 0)
    theta, slots, delta = given_to(optimiser, optimisers._TILE + 5)
    wanted_theta, wanted_slots = optimiser.apply(theta, slots, delta)
    optimiser.apply_into(theta, slots, delta, (theta, *slots))
    assert theta.tobytes() == wanted_theta.tobytes()
    assert [slot.tobytes() for slot in slots] == [slot.tobytes() for slot in wanted_slots]


@pytest.mark.parametrize(("name", "kind", "slots"), [("nesterov", Nesterov, 1), ("sgd", Sgd, 0), ("average", Average, 0), ("adam", Adam, 2)])  # fmt: skip
def test_a_run_names_its_optimiser(name: str, kind: type, slots: int) -> None:
    config = TrainingConfig(outer_optimiser=name, outer_learning_rate=0.5, outer_momentum=0.8)
    made = outer_optimiser(config)
    assert type(made) is kind
    assert made.slots == slots
    fields = attrs.asdict(made)  # type: ignore[call-overload]
    wanted = {"learning_rate": 0.5, "momentum": 0.8, "square_decay": 0.99, "epsilon": 1e-6}
    assert fields == {key: wanted[key] for key in fields}


@pytest.mark.parametrize(
    "make",
    [
        lambda: Nesterov(0.0, 0.9),
        lambda: Nesterov(11.0, 0.9),
        lambda: Nesterov(0.7, 1.0),
        lambda: Nesterov(0.7, -0.1),
        lambda: Sgd(float("nan")),
        lambda: Adam(0.1, 0.9, 1.0),
        lambda: Adam(0.1, 0.9, 0.9, 0.0),
    ],
)
def test_settings_that_cannot_be(make: Any) -> None:
    with pytest.raises(ConfigError, match="no outer optimiser"):
        make()


def test_vectors_that_do_not_fit() -> None:
    zeros = np.zeros(3, F)
    for wrong in (np.zeros(2, F), np.zeros(3), np.zeros((3, 1), F)):
        with pytest.raises(LocalProtocolError, match="one size"):
            Nesterov().apply(zeros, (zeros,), wrong)
    with pytest.raises(LocalProtocolError, match="takes 7 flat"):
        Adam().apply(zeros, (zeros,), zeros)
