"""The int8 block codec: one wire form, several engines that all write the same bytes.

What lives here: the wire form, its checks, and the choice of an engine. The arithmetic lives in one file per engine.

Wire form (`D` elements, `n = ceil(D / 256)` blocks), one contiguous buffer of `260 n` bytes::

    codes   int8[256 n]        element i of the vector, the last block padded with 0
    scales  float32[n], LE     one per block

    s_b = max|x_b| / 127       in float32, at most `SCALE_MAX`
    q   = round_half_even(x / s_b)
    x'  = q s_b

A block with `s_b < 2**-126` (the smallest normal float32) has scale 0 and codes 0: its values are all residual. The
division is a division: a reciprocal would overflow for the smallest blocks. A vector with a NaN or an infinity has no
wire form: `encode` refuses it and names the first one, so that no NaN scale ever leaves a node.

Because every engine does the same IEEE operations in the same order, replicas that decode the same bytes hold the same
bits.
"""

from __future__ import annotations

import importlib.util
from typing import Final, Literal, Protocol

import numpy as np
import numpy.typing as npt

from prime.errors import ConfigError, DecodeError, LocalProtocolError, MissingExtraError
from prime.trainer.swarm.parts import BLOCK, encoded_size_bytes

QMAX: Final = 127
"""The largest code: codes are symmetric, so -128 is never written."""
SCALE_MIN: Final = np.float32(2.0**-126)
"""A block whose scale would be smaller goes as zeros."""
SCALE_MAX: Final = np.nextafter(np.finfo(np.float32).max / np.float32(QMAX), np.float32(0))
"""The largest scale whose 127-fold is finite (the plain quotient rounds up); a buffer with a larger one is refused."""

EngineName = Literal["auto", "numba", "torch", "numpy"]
Vector = npt.NDArray[np.float32]
"""A flat float32 vector, C-contiguous."""
Codes = npt.NDArray[np.int8]
Encoded = npt.NDArray[np.uint8]
"""One contiguous buffer: codes, then scales."""
BytesLike = bytes | bytearray | memoryview | Encoded


class Engine(Protocol):
    """The arithmetic. Shapes: `x`, `into`, `residual` are float32[D]; `codes` int8[256 n]; `scales` float32[n]."""

    name: str

    def quantise(self, x: Vector, codes: Codes, scales: Vector) -> bool:
        """Fill `codes` and `scales`; False when a block held a NaN or an infinity (the outputs are then undefined)."""
        ...

    def dequantise(self, codes: Codes, scales: Vector, into: Vector) -> None:
        """`into = codes * scales`."""
        ...

    def accumulate(self, codes: Codes, scales: Vector, into: Vector, weight: np.float32) -> None:
        """`into += codes * (scales * weight)`, the product of scale and weight rounded first."""
        ...


def codec_engine(name: EngineName = "auto") -> Engine:
    """Import and return the engine of that name; `auto` is numba (a second to load) where it is installed, else numpy.

    Raises ConfigError for a name that is none, MissingExtraError where the library is not installed.
    """
    if name == "auto":
        name = "numba" if importlib.util.find_spec("numba") else "numpy"
    try:
        return _load(name)
    except ModuleNotFoundError as missing:
        raise MissingExtraError(
            f"the codec engine {name!r} needs {missing.name}, which is not installed",
            hint="pip install 'prime-actors[train]', or set the codec engine to 'auto'",
        ) from missing


def _load(name: str) -> Engine:
    if name == "numba":
        from prime.trainer.codec_numba import NumbaEngine

        return NumbaEngine()
    if name == "torch":
        from prime.trainer.codec_torch import TorchEngine

        return TorchEngine()
    if name == "numpy":
        return NumpyEngine()
    raise ConfigError(f"no codec engine is called {name!r}", hint="choose one of auto, numba, torch, numpy")


class Int8Codec:
    """Encode and decode flat float32 vectors in the wire form of this module."""

    name = "int8"

    def __init__(self, engine: Engine | EngineName = "auto") -> None:
        self.engine: Engine = codec_engine(engine) if isinstance(engine, str) else engine

    @staticmethod
    def encoded_size_bytes(elements: int) -> int:
        """Return the size of the wire form of a vector of that many elements."""
        return encoded_size_bytes(elements)

    def encode(self, x: Vector) -> Encoded:
        """Return the wire form of `x` (float32[D], contiguous) in a fresh buffer.

        Raises LocalProtocolError when `x` holds a NaN or an infinity, or is no flat contiguous float32 vector.
        """
        _require_vector(x)
        encoded = np.empty(encoded_size_bytes(x.size), np.uint8)
        codes, scales = _parts(encoded, x.size)
        if not self.engine.quantise(x, codes, scales):
            raise _non_finite(x)
        if _SWAP:
            scales.byteswap(inplace=True)
        return encoded

    def check(self, encoded: BytesLike, elements: int) -> None:
        """Raise DecodeError unless `encoded` is the wire form of some vector of that many elements.

        Cheap (size and scales, not codes), and done by the decoders too: a scale that is NaN, infinite, negative or
        too large would poison everyone's sum.
        """
        self._open(encoded, elements)

    def decode(self, encoded: BytesLike, elements: int, into: Vector | None = None) -> Vector:
        """Return the vector (float32[elements], fresh or `into`) that `encoded` stands for.

        Raises DecodeError where it is no wire form of that many elements. A large fresh vector costs more than the
        decoding (its pages are new), so a caller that decodes often passes its own.
        """
        into = np.empty(elements, np.float32) if into is None else into
        _require_vector(into)
        if into.size != elements:
            raise LocalProtocolError(
                f"a vector of {into.size} elements cannot take {elements}", hint="make room for all of them"
            )
        codes, scales = self._open(encoded, elements)
        self.engine.dequantise(codes, scales, into)
        return into

    def decode_add(self, encoded: BytesLike, into: Vector, weight: float = 1.0) -> None:
        """`into += weight * decode(encoded)` in one pass, without a temporary; DecodeError leaves `into` as it was."""
        _require_vector(into)
        codes, scales = self._open(encoded, into.size)
        self.engine.accumulate(codes, scales, into, np.float32(weight))

    def residual(self, x: Vector, encoded: BytesLike) -> Vector:
        """Return `x - decode(encoded)`, what the codec left out: added to the decoded vector it gives `x` back exactly."""
        residual = x.copy()
        self.decode_add(encoded, residual, -1.0)
        return residual

    @staticmethod
    def _open(encoded: BytesLike, elements: int) -> tuple[Codes, Vector]:
        flat = np.frombuffer(encoded, np.uint8)
        if flat.size != encoded_size_bytes(elements):
            raise DecodeError(
                f"an int8 vector of {elements} elements takes {encoded_size_bytes(elements)} bytes, got {flat.size}"
            )
        codes, scales = _parts(flat, elements)
        if not scales.flags.aligned or _SWAP:  # a payload may start at any byte of its frame
            scales = scales.astype(np.dtype("<f4")).astype(np.float32)
        if not bool(np.all((scales >= 0) & (scales <= SCALE_MAX))):
            bad = int(np.argmin((scales >= 0) & (scales <= SCALE_MAX)))
            raise DecodeError(f"the scale of block {bad} is {scales[bad]}: no encoder writes that")
        return codes, scales


class NumpyEngine:
    """The arithmetic in plain numpy: always there, slow (several passes with temporaries)."""

    name = "numpy"

    def quantise(self, x: Vector, codes: Codes, scales: Vector) -> bool:
        """See `Engine.quantise`."""
        blocks_NB = np.zeros((scales.size, BLOCK), np.float32)  # noqa: N806 - shape suffix: N blocks, B per block
        blocks_NB.reshape(-1)[: x.size] = x
        top = np.abs(blocks_NB).max(axis=1, initial=0)
        if not np.isfinite(top).all():
            return False
        np.minimum(top / np.float32(QMAX), SCALE_MAX, out=scales)
        scales[scales < SCALE_MIN] = 0
        divisor = np.where(scales > 0, scales, np.float32(np.inf))[:, None]  # x / inf is 0: an all-residual block
        np.rint(np.divide(blocks_NB, divisor, out=blocks_NB), out=blocks_NB)
        codes[:] = blocks_NB.reshape(-1)
        return True

    def dequantise(self, codes: Codes, scales: Vector, into: Vector) -> None:
        """See `Engine.dequantise`."""
        into[:] = (codes.reshape(-1, BLOCK) * scales[:, None]).reshape(-1)[: into.size]

    def accumulate(self, codes: Codes, scales: Vector, into: Vector, weight: np.float32) -> None:
        """See `Engine.accumulate`."""
        into += (codes.reshape(-1, BLOCK) * (scales * weight)[:, None]).reshape(-1)[: into.size]


_SWAP: Final = not np.little_endian


def _blocks(elements: int) -> int:
    return -(-elements // BLOCK)


def _parts(encoded: Encoded, elements: int) -> tuple[Codes, Vector]:
    split = BLOCK * _blocks(elements)
    return encoded[:split].view(np.int8), encoded[split:].view(np.float32)


def _require_vector(x: Vector) -> None:
    if x.dtype != np.float32 or x.ndim != 1 or not x.flags.c_contiguous or not x.flags.aligned:
        raise LocalProtocolError(
            f"the codec takes a flat, contiguous float32 vector, got {x.dtype}{list(x.shape)} with strides {x.strides}",
            hint="numpy.ascontiguousarray(x, numpy.float32).reshape(-1) makes one",
        )


def _non_finite(x: Vector) -> LocalProtocolError:
    bad = ~np.isfinite(x)
    first = int(np.argmax(bad))
    return LocalProtocolError(
        f"{int(bad.sum())} of {x.size} elements are not finite; the first is {x[first]} at index {first}",
        hint="training diverged: lower the learning rate, or clip the gradients harder",
    )
