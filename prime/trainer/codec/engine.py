"""The contract of the arithmetic, and the choice of an engine for a device, with the reason for it.

An engine works on flat arrays and checks nothing: `vectors.py` and `tensors.py` do. There are two kinds with one set of
verbs: an `Engine` takes numpy arrays, a `TensorEngine` (`tensors.py`) tensors of its device.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from prime.errors import ConfigError, MissingExtraError
from prime.trainer.codec.cpu import cpu_choice
from prime.trainer.codec.form import INT8, Form, form

EngineName = Literal["auto", "numba", "torch", "numpy"]
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


def codec_engine(name: EngineName = "auto") -> Engine:
    """Import and return the engine of that name; `auto` is numba (a second to load) where it loads, else numpy.

    Raises ConfigError for a name that is none, MissingExtraError where the library is not installed.
    """
    try:
        return _load(cpu_choice().engine if name == "auto" else name)
    except ModuleNotFoundError as missing:
        raise MissingExtraError(
            f"the codec engine {name!r} needs {missing.name}, which is not installed",
            hint="pip install 'prime-actors[train]', or set the codec engine to 'auto'",
        ) from missing


def warm(codecs: Iterable[str]) -> None:
    """Have the engine, if it compiles, do that for an all-reduce in these codecs: now, and not while other ranks wait."""
    for form_ in map(form, codecs):
        engine, own, one = codec_engine(), np.zeros(INT8.block, np.float32), np.ones(1, np.float32)
        rows_RB = np.zeros((1, form_.encoded_size_bytes(own.size)), np.uint8)  # noqa: N806 - shape suffix
        engine.encode(form_, own, rows_RB[0], None, None)
        engine.fold(form_, rows_RB, one, own, one[0], rows_RB[0].copy(), None, None)


def _load(name: str) -> Engine:
    if name == "numba":
        from prime.trainer.codec.engine_numba import NumbaEngine

        return NumbaEngine()
    if name == "torch":
        from prime.trainer.codec.engine_torch import TorchEngine

        return TorchEngine()
    if name == "numpy":
        from prime.trainer.codec.engine_numpy import NumpyEngine

        return NumpyEngine()
    raise ConfigError(f"no codec engine is called {name!r}", hint="choose one of auto, numba, torch, numpy")
