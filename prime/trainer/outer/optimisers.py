"""The outer optimisers: what a round's aggregate does to the shared parameters. Pure, flat float32 vectors.

With D the aggregated pseudo-gradient (shared parameters minus local ones, averaged over the contributors), each is a
few operations an element. Every operation is one rounding to float32, in the order written here, so equal inputs give
equal bits on every machine, with or without numba, for the whole vector or a fragment of it.

What an optimiser remembers between rounds are its *slots*: vectors as long as the parameters, zeros before the first
round. They belong to the shared state.

Sources: Douillard et al., "DiLoCo", 2023 (arXiv 2311.08105), with Nesterov momentum as in Sutskever et al., 2013;
Reddi et al., "Adaptive Federated Optimization", 2021 (arXiv 2003.00295), algorithm 2, which is Adam without the
correction of the first steps' bias.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Protocol

import attrs
import numpy as np

from prime.errors import ConfigError, LocalProtocolError
from prime.trainer.codec import Vector
from prime.trainer.codec.cpu import cpu_choice

if TYPE_CHECKING:
    from prime.trainer.metadata import TrainingConfig

Slots = tuple[Vector, ...]
"""What an outer optimiser remembers: float32[D] each."""

_TILE: Final = 1 << 16
"""Elements that numpy finishes before the next are begun: the steps between find them in the cache."""
_NUMBA_ELEMENTS: Final = 1 << 20
"""Below this, loading numba (a second) costs more than its one pass saves."""
_HINT: Final = "the learning rate is above 0 and at most 10, what decays from 0 to below 1, epsilon above 0"


class OuterOptimiser(Protocol):
    """One way to apply a round's aggregate. D: flat size, of the whole vector or of a fragment."""

    @property
    def slots(self) -> int:
        """Return how many vectors it remembers."""
        ...

    def apply(self, theta_D: Vector, slots_D: Slots, delta_D: Vector) -> tuple[Vector, Slots]:  # noqa: N803
        """Return the new parameters and slots; the arguments stay as they are.

        Raises LocalProtocolError where a vector is no flat float32 one or the sizes differ.
        """
        ...

    def apply_into(self, theta_D: Vector, slots_D: Slots, delta_D: Vector, into: Slots) -> None:  # noqa: N803
        """As `apply`, and write to `into`: the parameters, then the slots. They may be the arguments themselves."""
        ...


class _Elementwise:
    """What the optimisers have in common: a loop over elements, by numba in one pass or by numpy in tiles."""

    slots: int

    def apply(self, theta_D: Vector, slots_D: Slots, delta_D: Vector) -> tuple[Vector, Slots]:  # noqa: N803
        """See `OuterOptimiser.apply`."""
        into = tuple(np.empty_like(theta_D) for _ in range(1 + self.slots))
        self.apply_into(theta_D, slots_D, delta_D, into)
        return into[0], into[1:]

    def apply_into(self, theta_D: Vector, slots_D: Slots, delta_D: Vector, into: Slots) -> None:  # noqa: N803
        """See `OuterOptimiser.apply_into`."""
        vectors = (theta_D, *slots_D, delta_D, *into)
        _check(vectors, 2 * (1 + self.slots) + 1)
        if theta_D.size >= _NUMBA_ELEMENTS and cpu_choice().engine == "numba":
            self._fused(*vectors)
        else:
            self._tiled(vectors)

    def _tiled(self, vectors: tuple[Vector, ...]) -> None:
        scratch = np.empty(min(vectors[0].size, _TILE), np.float32)
        for start in range(0, vectors[0].size, _TILE):
            tile = [vector[start : start + _TILE] for vector in vectors]
            self._tile(*tile, scratch[: tile[0].size])

    def _fused(self, *vectors: Vector) -> None:
        raise NotImplementedError

    def _tile(self, *vectors: Vector) -> None:
        raise NotImplementedError


@attrs.frozen
class Nesterov(_Elementwise):
    """Nesterov momentum: `learning_rate` is eta, `momentum` is mu, the slot is v.

    ::

        v'     = mu v + D
        theta' = theta - eta (mu v' + D)
    """

    learning_rate: float = 0.7
    momentum: float = 0.7
    slots = 1

    def __attrs_post_init__(self) -> None:
        _refuse_unless(_is_rate(self.learning_rate) and _is_decay(self.momentum), self)

    def _tile(self, *vectors: Vector) -> None:
        theta, v, delta, theta_out, v_out, step = vectors
        mu = np.float32(self.momentum)
        np.multiply(v, mu, out=v_out)
        v_out += delta
        np.multiply(v_out, mu, out=step)
        step += delta
        step *= np.float32(self.learning_rate)
        np.subtract(theta, step, out=theta_out)

    def _fused(self, *vectors: Vector) -> None:
        _loop("nesterov")(*vectors, np.float32(self.learning_rate), np.float32(self.momentum))


@attrs.frozen
class Sgd(_Elementwise):
    """One step along the aggregate, `theta' = theta - eta D`: nothing is remembered."""

    learning_rate: float = 1.0
    slots = 0

    def __attrs_post_init__(self) -> None:
        _refuse_unless(_is_rate(self.learning_rate), self)

    def _tile(self, *vectors: Vector) -> None:
        theta, delta, theta_out, step = vectors
        np.multiply(delta, np.float32(self.learning_rate), out=step)
        np.subtract(theta, step, out=theta_out)

    def _fused(self, *vectors: Vector) -> None:
        _loop("sgd")(*vectors, np.float32(self.learning_rate))


@attrs.frozen
class Average(_Elementwise):
    """Plain averaging, `theta' = theta - D`: the weighted mean of the members' local parameters."""

    slots = 0

    def _tile(self, *vectors: Vector) -> None:
        theta, delta, theta_out, _ = vectors
        np.subtract(theta, delta, out=theta_out)

    def _fused(self, *vectors: Vector) -> None:
        _loop("average")(*vectors)


@attrs.frozen
class Adam(_Elementwise):
    """FedAdam: `learning_rate` is eta, `momentum` is beta 1, `square_decay` is beta 2; the slots are m and s.

    ::

        m'     = beta1 m + (1 - beta1) D
        s'     = beta2 s + (1 - beta2) D^2
        theta' = theta - eta m' / (sqrt(s') + epsilon)
    """

    learning_rate: float = 0.01
    momentum: float = 0.9
    square_decay: float = 0.99
    epsilon: float = 1e-6
    slots = 2

    def __attrs_post_init__(self) -> None:
        holds = _is_rate(self.learning_rate) and _is_decay(self.momentum) and _is_decay(self.square_decay)
        _refuse_unless(holds and 0 < self.epsilon <= 1, self)

    def _tile(self, *vectors: Vector) -> None:
        theta, m, s, delta, theta_out, m_out, s_out, step = vectors
        eta, beta_1, rest_1, beta_2, rest_2, epsilon = self._numbers()
        np.multiply(delta, rest_1, out=step)
        np.multiply(m, beta_1, out=m_out)
        m_out += step
        np.multiply(delta, delta, out=step)
        step *= rest_2
        np.multiply(s, beta_2, out=s_out)
        s_out += step
        np.sqrt(s_out, out=step)
        step += epsilon
        np.divide(m_out, step, out=step)
        step *= eta
        np.subtract(theta, step, out=theta_out)

    def _fused(self, *vectors: Vector) -> None:
        _loop("adam")(*vectors, *self._numbers())

    def _numbers(self) -> tuple[np.float32, ...]:
        beta_1, beta_2, one = np.float32(self.momentum), np.float32(self.square_decay), np.float32(1)
        return np.float32(self.learning_rate), beta_1, one - beta_1, beta_2, one - beta_2, np.float32(self.epsilon)


def outer_optimiser(config: TrainingConfig) -> OuterOptimiser:
    """Return the outer optimiser of a run. Raises `ConfigError` for a name that is none, and for numbers that cannot be."""
    rate, momentum = config.outer_learning_rate, config.outer_momentum
    match config.outer_optimiser:
        case "nesterov":
            return Nesterov(rate, momentum)
        case "sgd":
            return Sgd(rate)
        case "average":
            return Average()
        case "adam":
            return Adam(rate, momentum, config.outer_square_decay, config.outer_epsilon)
        case other:
            raise ConfigError(f"no outer optimiser is called {other!r}", hint="choose nesterov, sgd, average or adam")


def _loop(name: str) -> Any:
    from prime.trainer.outer.numba_loops import loop

    return loop(name)


def _check(vectors: tuple[Vector, ...], wanted: int) -> None:
    size = vectors[0].size
    if len(vectors) == wanted and all(v.dtype == np.float32 and v.shape == (size,) for v in vectors):
        return
    got = ", ".join(f"{vector.dtype}{list(vector.shape)}" for vector in vectors)
    raise LocalProtocolError(
        f"the outer step takes {wanted} flat float32 vectors of one size, got {got}",
        hint="flatten each into one float32 vector, and give the optimiser as many slots as it has",
    )


def _is_rate(value: float) -> bool:
    return 0 < value <= 10


def _is_decay(value: float) -> bool:
    return 0 <= value < 1


def _refuse_unless(holds: bool, optimiser: object) -> None:  # noqa: FBT001 - reads as a sentence
    if not holds:
        raise ConfigError(f"there is no outer optimiser {optimiser}", hint=_HINT)
