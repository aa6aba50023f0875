"""The contract of the arithmetic; `cpu.py` and `cuda.py` choose who keeps it on a device.

An engine works on flat arrays and checks nothing: `vectors.py` and `tensors.py` do. There are two kinds with one set of
verbs: an `Engine` takes numpy arrays, a `TensorEngine` (`tensors.py`) tensors of its device.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from prime.trainer.codec.form import Form

Vector = npt.NDArray[np.float32]
"""A flat float32 vector, C-contiguous."""
Encoded = npt.NDArray[np.uint8]
"""A wire form in one contiguous buffer, aligned to 4 bytes."""


class Engine(Protocol):
    """The arithmetic. Shapes: `x`, `into` and the residuals are float32[D], `encoded` uint8[B], B its size; R ranks.

    No vector is empty. With a residual, `x + residual` (rounded to float32) is what is encoded, and `residual_out` takes
    what the code left out of it; both are given or neither, and both may be one array. A flag of the result says that the
    outputs are undefined.
    """

    name: str

    def encode(
        self, form: Form, x: Vector, encoded: Encoded, residual: Vector | None, residual_out: Vector | None
    ) -> int:
        """Fill `encoded` and `residual_out`; return flags: 0, `NON_FINITE`, `OVERFLOW`."""
        ...

    def decode(self, form: Form, encoded: Encoded, into: Vector) -> None:
        """`into = decoded`."""
        ...

    def accumulate(self, form: Form, encoded: Encoded, into: Vector, weight: np.float32) -> None:
        """`into += codes * (scales * weight)`, the product of scale and weight rounded first; plain forms: `codes * weight`."""
        ...

    def reduce(
        self,
        form: Form,
        encoded_RB: Encoded,  # noqa: N803 - shape suffix: R ranks, B bytes
        weights_R: Vector,  # noqa: N803
        encoded: Encoded,
        residual: Vector | None,
        residual_out: Vector | None,
        elements: int,
    ) -> int:
        """`encode` of the sum that starts at 0 and is accumulated in the order of the rows; return its flags."""
        ...

    def fold(
        self,
        form: Form,
        encoded_RB: Encoded,  # noqa: N803
        weights_R: Vector,  # noqa: N803
        own: Vector,
        own_weight: np.float32,
        encoded: Encoded,
        residual: Vector | None,
        residual_out: Vector | None,
    ) -> int:
        """`reduce` with the exact share `own_weight * own + residual` added last, then decoded into `own`.

        Where it returns a flag, what of `own` is to blame is still there.
        """
        ...


def folded(
    engine: Engine,
    form: Form,
    encoded_RB: Encoded,  # noqa: N803
    weights_R: Vector,  # noqa: N803
    own: Vector,
    own_weight: np.float32,
    encoded: Encoded,
    residual: Vector | None,
    residual_out: Vector | None,
) -> int:
    """Do `Engine.fold` by an engine's other verbs: the own share goes the residual's way, which is exact."""
    share = own * own_weight
    if residual is not None:
        share += residual
    left_out = share if residual_out is None else residual_out
    flags = engine.reduce(form, encoded_RB, weights_R, encoded, share, left_out, own.size)
    if not flags:
        engine.decode(form, encoded, own)
    return flags
