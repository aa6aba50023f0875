"""The outer optimisers' loops as numba compiles them: one pass over memory, without the interpreter's lock.

The order of the operations is that of `optimisers.py`, each rounded to float32. Fast-math stays off, so that nothing is
fused or reordered: the bits are those of numpy.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numba import njit, types

_FLOAT: Final = types.float32
_READ: Final = types.Array(types.float32, 1, "C", readonly=True)
_WRITE: Final = types.Array(types.float32, 1, "C")


def _nesterov(theta: Any, v: Any, delta: Any, theta_out: Any, v_out: Any, eta: Any, mu: Any) -> None:
    for i in range(theta.size):
        v_new = np.float32(mu * v[i]) + delta[i]
        step = np.float32(mu * v_new) + delta[i]
        v_out[i] = v_new
        theta_out[i] = theta[i] - np.float32(eta * step)


def _sgd(theta: Any, delta: Any, theta_out: Any, eta: Any) -> None:
    for i in range(theta.size):
        theta_out[i] = theta[i] - np.float32(eta * delta[i])


def _average(theta: Any, delta: Any, theta_out: Any) -> None:
    for i in range(theta.size):
        theta_out[i] = theta[i] - delta[i]


def _adam(
    theta: Any,
    m: Any,
    s: Any,
    delta: Any,
    theta_out: Any,
    m_out: Any,
    s_out: Any,
    eta: Any,
    beta_1: Any,
    rest_1: Any,
    beta_2: Any,
    rest_2: Any,
    epsilon: Any,
) -> None:
    for i in range(theta.size):
        m_new = np.float32(beta_1 * m[i]) + np.float32(rest_1 * delta[i])
        s_new = np.float32(beta_2 * s[i]) + np.float32(rest_2 * np.float32(delta[i] * delta[i]))
        step = np.float32(m_new / np.float32(np.sqrt(s_new) + epsilon))
        m_out[i] = m_new
        s_out[i] = s_new
        theta_out[i] = theta[i] - np.float32(eta * step)


_LOOPS: Final[dict[str, tuple[Callable[..., None], int, int, int]]] = {
    "nesterov": (_nesterov, 3, 2, 2),
    "sgd": (_sgd, 2, 1, 1),
    "average": (_average, 2, 1, 0),
    "adam": (_adam, 4, 3, 6),
}
"""Each loop with the number of vectors that it reads, of those that it writes, and of its numbers: so its arguments go."""


@functools.cache
def loop(name: str) -> Any:
    """Return the loop of an optimiser, compiled at its first use (half a second, then cached on disk)."""
    function, reads, writes, numbers = _LOOPS[name]
    signature = types.void(*[_READ] * reads, *[_WRITE] * writes, *[_FLOAT] * numbers)
    try:
        return njit(signature, nogil=True, cache=True)(function)
    except (RuntimeError, OSError):  # no writable place for the cache, or a full disk
        return njit(signature, nogil=True)(function)
