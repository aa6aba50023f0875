"""Numpy vectors there and back, checked: a buffer may come from a stranger, a vector from anyone's training.

The wire forms are those of `form.py`; the arithmetic is an engine's (`engine.py`).
"""

from __future__ import annotations

from typing import Final, Protocol

import numpy as np

from prime.errors import ConfigError, DecodeError, LocalProtocolError
from prime.trainer.codec.cpu import EngineName, codec_engine
from prime.trainer.codec.engine import Encoded, Engine, Vector
from prime.trainer.codec.form import FP16, NON_FINITE, NONE, OVERFLOW, Form, form

BytesLike = bytes | bytearray | memoryview | Encoded


class _Named(Protocol):
    name: str


class _Sized(Protocol):
    @property
    def name(self) -> str: ...
    def encoded_size_bytes(self, elements: int) -> int: ...


class VectorCodec(Protocol):
    """What a `Codec` and a `Sparse` have in common: flat float32 vectors there and back, checked. Verbs as in `Codec`."""

    @property
    def form(self) -> _Sized:
        """What the bytes mean: its name is the codec's."""
        ...

    @property
    def engine(self) -> _Named:
        """Who does the arithmetic."""
        ...

    def encode(
        self,
        x: Vector,
        out: Encoded | None = None,
        residual: Vector | None = None,
        residual_out: Vector | None = None,
    ) -> Encoded:
        """Return the wire form of `x + residual`; `residual_out` takes what it leaves out."""
        ...

    def check(self, encoded: BytesLike, elements: int) -> None:
        """Raise DecodeError unless `encoded` is the wire form of some vector of that many elements."""
        ...

    def decode(self, encoded: BytesLike, elements: int, into: Vector | None = None) -> Vector:
        """Return the vector that `encoded` stands for, fresh or `into`."""
        ...

    def decode_add(self, encoded: BytesLike, into: Vector, weight: float = 1.0) -> None:
        """`into += weight * decode(encoded)`."""
        ...


def codec(name: str, engine: Engine | EngineName = "auto") -> Codec:
    """Return the codec of that name (`int8`, `int4`, `fp8`, `fp16`, `none`) on that engine.

    Raises ConfigError for a name that is none, MissingExtraError where the engine's library is not installed.
    """
    return Codec(form(name), codec_engine(engine) if isinstance(engine, str) else engine)


class Codec:
    """Encode and decode flat float32 vectors. `form` says what the bytes mean, `engine` who does the arithmetic."""

    def __init__(self, form: Form, engine: Engine) -> None:
        if not np.little_endian:
            raise ConfigError(
                "the codec's engines write the words of this machine, which are big-endian; its wire forms are not",
                hint="train on a little-endian machine (x86-64, arm64)",
            )
        self.form = form
        self.engine: Engine = engine

    def encode(
        self,
        x: Vector,
        out: Encoded | None = None,
        residual: Vector | None = None,
        residual_out: Vector | None = None,
    ) -> Encoded:
        """Return the wire form of `x + residual` (float32[D]) in `out` (uint8) or a fresh buffer.

        `residual_out` takes what the codec left out; it is `residual` itself where it is not given. Raises
        LocalProtocolError when `x + residual` holds a NaN or an infinity (the residual in place is then lost), or an
        array is no flat contiguous vector of the right size. `fp16` returns a longer, fresh buffer where a value overflows.
        """
        residual_out = residual if residual_out is None else residual_out
        require_vectors(x.size, x, residual, residual_out)
        out = room(self.form.encoded_size_bytes(x.size), x.size, out)
        if not x.size:
            return out
        y = x
        if residual is None and residual_out is not None:
            residual_out[:] = 0
            residual = residual_out
        if self.form is FP16 and residual is not None:
            y, residual = x + residual, np.zeros_like(residual)  # whole, in case it has to go as float32
        flags = self.engine.encode(self.form, y, out, residual, residual_out)
        if flags & NON_FINITE:
            raise non_finite(x)
        return _as_float32(y, residual_out) if flags & OVERFLOW else out

    def reduce(
        self,
        encoded_RB: Encoded,  # noqa: N803 - shape suffix: R ranks, B bytes
        weights_R: Vector,  # noqa: N803 - shape suffix
        elements: int,
        out: Encoded | None = None,
        residual: Vector | None = None,
    ) -> Encoded:
        """Return the wire form of the sum of R vectors by weight, each decoded in the order of the rows, added in float32.

        `encoded_RB` is contiguous; the residual is the one of whoever reduces, and kept in place, as in `encode`. Raises
        DecodeError for a row that is no wire form (of `fp16`: none that went as float32), and what `encode` raises.
        """
        for row in encoded_RB:
            self.check(row, elements)
        if self.form is FP16:
            return self._reduce_whole(encoded_RB, weights_R, elements, out, residual)
        require_vectors(elements, residual)
        require_vectors(len(encoded_RB), weights_R)
        out = room(self.form.encoded_size_bytes(elements), elements, out)
        if elements and self.engine.reduce(self.form, encoded_RB, weights_R, out, residual, residual, elements):
            raise LocalProtocolError("the sum is not finite", hint=_DIVERGED)
        return out

    def _reduce_whole(
        self, rows: Encoded, weights: Vector, elements: int, out: Encoded | None, residual: Vector | None
    ) -> Encoded:
        """Reduce by a whole vector in between, which can go as float32."""
        total = np.zeros(elements, np.float32)
        for row, weight in zip(rows, weights, strict=True):
            self.decode_add(row, total, float(weight))
        return self.encode(total, out, residual)

    def check(self, encoded: BytesLike, elements: int) -> None:
        """Raise DecodeError unless `encoded` is the wire form of some vector of that many elements.

        Done by the decoders too: a scale that is NaN, infinite, negative or too large would poison everyone's sum, as
        would a code that is no number.
        """
        self._open(encoded, elements)

    def decode(self, encoded: BytesLike, elements: int, into: Vector | None = None) -> Vector:
        """Return the vector (float32[elements], fresh or `into`) that `encoded` stands for.

        Raises DecodeError where it is no wire form of that many elements. A large fresh vector costs more than the
        decoding (its pages are new), so a caller that decodes often passes its own.
        """
        into = np.empty(elements, np.float32) if into is None else into
        require_vectors(elements, into)
        form, flat = self._open(encoded, elements)
        if elements:
            self.engine.decode(form, flat, into)
        return into

    def decode_add(self, encoded: BytesLike, into: Vector, weight: float = 1.0) -> None:
        """`into += weight * decode(encoded)` in one pass, without a temporary; DecodeError leaves `into` as it was."""
        require_vectors(into.size, into)
        form, flat = self._open(encoded, into.size)
        if into.size:
            self.engine.accumulate(form, flat, into, np.float32(weight))

    def residual(self, x: Vector, encoded: BytesLike) -> Vector:
        """Return `x - decode(encoded)`, what the codec left out: added to the decoded vector it gives `x` back exactly."""
        residual = x.copy()
        self.decode_add(encoded, residual, -1.0)
        return residual

    def _open(self, encoded: BytesLike, elements: int) -> tuple[Form, Encoded]:
        """Return the checked buffer, aligned, and its form: `NONE` for a vector of `fp16` that went as float32."""
        flat = np.frombuffer(encoded, np.uint8)
        if self.form is FP16 and elements and flat.size == 4 * elements + 4 and flat[-4:].tobytes() == _AS_FLOAT32:
            form, flat = NONE, flat[:-4]
        else:
            form = self.form
        if flat.size != form.encoded_size_bytes(elements):
            raise DecodeError(
                f"an {self.form.name} vector of {elements} elements takes {form.encoded_size_bytes(elements)} bytes, "
                f"got {flat.size}"
            )
        if flat.ctypes.data % 4:  # a payload may start at any byte of its frame
            flat = flat.copy()
        _check_values(form, flat, elements)
        return form, flat


def _as_float32(y: Vector, residual_out: Vector | None) -> Encoded:
    """Return the wire form of a vector that overflows float16: nothing is left out."""
    if residual_out is not None:
        residual_out[:] = 0
    return np.concatenate([y.view(np.uint8), np.frombuffer(_AS_FLOAT32, np.uint8)])


_AS_FLOAT32: Final = b"\x01\0\0\0"
_DIVERGED: Final = "training diverged: lower the learning rate, or clip the gradients harder"


def _check_values(form: Form, flat: Encoded, elements: int) -> None:
    if form is NONE:
        _refuse_codes(~np.isfinite(flat.view(np.float32)))
    elif form is FP16:
        if flat[form.codes_bytes(elements) :].any():
            raise DecodeError("the flag of an fp16 vector is neither 0 nor 1 with float32 values")
        _refuse_codes(~np.isfinite(flat[: 2 * elements].view(np.float16)))
    else:
        split = form.codes_bytes(elements)
        scales = flat[split:].view(np.float32)
        fine = (scales >= 0) & (scales <= form.scale_max)
        if not fine.all():
            bad = int(np.argmin(fine))
            raise DecodeError(f"the scale of block {bad} is {scales[bad]}: no encoder writes that")
        if form.name == "fp8":
            _refuse_codes(flat[:split] & 0x7F == 0x7F)


def _refuse_codes(bad: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> None:
    if bad.any():
        raise DecodeError(f"the code of element {int(np.argmax(bad))} is no finite number: no encoder writes that")


def room(size: int, elements: int, out: Encoded | None) -> Encoded:
    """Return a buffer of that many bytes for the wire form of so many elements: `out`, if it fits, or a fresh one."""
    if out is None:
        return np.empty(size, np.uint8)
    if out.dtype != np.uint8 or out.shape != (size,) or not out.flags.c_contiguous or out.ctypes.data % 4:
        raise LocalProtocolError(
            f"the wire form of {elements} elements needs uint8[{size}] aligned to 4 bytes, got {out.dtype}{list(out.shape)}",
            hint="numpy.empty(codec.form.encoded_size_bytes(elements), numpy.uint8) makes one",
        )
    return out


def require_vectors(elements: int, *vectors: Vector | None) -> None:
    """Raise LocalProtocolError unless each is a flat, contiguous float32 vector of that many elements."""
    for x in vectors:
        if x is None:
            continue
        if x.dtype != np.float32 or x.ndim != 1 or not x.flags.c_contiguous or not x.flags.aligned:
            raise LocalProtocolError(
                f"the codec takes a flat, contiguous float32 vector, got {x.dtype}{list(x.shape)} with strides {x.strides}",
                hint="numpy.ascontiguousarray(x, numpy.float32).reshape(-1) makes one",
            )
        if x.size != elements:
            raise LocalProtocolError(
                f"a vector of {x.size} elements cannot take {elements}", hint="make room for all of them"
            )


def non_finite(x: Vector) -> LocalProtocolError:
    """Return the error that names the first element which is not finite."""
    bad = ~np.isfinite(x)
    if not bad.any():  # the residual, which may be overwritten by now, or the sum of both
        return LocalProtocolError(
            "the vector and its residual together overflow float32",
            hint=_DIVERGED,
        )
    first = int(np.argmax(bad))
    return LocalProtocolError(
        f"{int(bad.sum())} of {x.size} elements are not finite; the first is {x[first]} at index {first}",
        hint=_DIVERGED,
    )
