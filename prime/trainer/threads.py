"""How many threads a worker's process computes with: the libraries read it when they load, so it is set before the process starts."""

from __future__ import annotations


def threads_of(count: int) -> dict[str, str]:
    """Return the variables by which a process has so many threads for one computation."""
    return dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(count))
