"""Tensors there and back, on any device: the seam between the all-reduce inside a node and the codec's engines.

On a CPU numba does the work, in the tensors' own memory (`numpy` where numba is missing); on CUDA Triton (`cuda.py`);
elsewhere the torch reference. Nothing here waits for a device: flags are tensors, and what is undefined where one is set
is thrown away by the caller. What comes over this seam is from ranks of one run, so the bytes are not checked as
`vectors.Codec` checks those of strangers.

Shapes: x, into, residuals [D] (any shape of D elements for x and into), encoded uint8[B] with B =
`form(name).encoded_size_bytes(D)`, R ranks.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Protocol

import numpy as np
import torch

from prime.errors import LocalProtocolError
from prime.trainer.codec.cpu import codec_engine
from prime.trainer.codec.cuda import CudaChoice, choose, triton_fault
from prime.trainer.codec.engine import Engine, Vector
from prime.trainer.codec.form import INT8, Form, form


class TensorEngine(Protocol):
    """The arithmetic on flat contiguous tensors of one device, none empty. Shapes as above; residuals, weights float32.

    `x` and `into` may be float32, bfloat16 or float16. Every engine does the same IEEE float32 operations in the same
    order (true divisions, no fused multiply-add, half to even, subnormals kept), so all write the same bytes.
    """

    name: str

    def encode(
        self,
        form: Form,
        x: torch.Tensor,
        encoded: torch.Tensor,
        residual: torch.Tensor | None,
        residual_out: torch.Tensor | None,
    ) -> torch.Tensor:
        """Encode `x + residual`; `residual_out` (may be `residual`) takes what is left out. Return the flags, int32[1]."""
        ...

    def decode(self, form: Form, encoded: torch.Tensor, into: torch.Tensor) -> None:
        """`into = decoded`."""
        ...

    def reduce(
        self,
        form: Form,
        encoded_RB: torch.Tensor,  # noqa: N803 - shape suffix
        weights_R: torch.Tensor,  # noqa: N803 - shape suffix
        encoded: torch.Tensor,
        residual: torch.Tensor | None,
        residual_out: torch.Tensor | None,
        elements: int,
    ) -> torch.Tensor:
        """Encode `0 + codes_0 (scales_0 weights_0) + codes_1 (scales_1 weights_1) + …`, summed in float32 in that order."""
        ...


def encode_tensor(
    codec: str,
    x: torch.Tensor,
    out: torch.Tensor,
    residual: torch.Tensor | None = None,
    residual_out: torch.Tensor | None = None,
) -> torch.Tensor:
    """Write the wire form of `x + residual` into `out`, and what it leaves out into `residual_out`; return the flags.

    Flags: int32[1] on the device of `x`: 0, `form.NON_FINITE`, `form.OVERFLOW`; unless it is 0, `out` and `residual_out`
    are undefined. `residual_out` is `residual` itself where it is not given: then a failed exchange has lost it. `x` may be
    float32, bfloat16 or float16, and is copied if it is not contiguous. Raises LocalProtocolError for other shapes.
    """
    form_ = form(codec)
    x = _input(x)
    residual_out = residual if residual_out is None else residual_out
    _require(out, torch.uint8, form_.encoded_size_bytes(x.numel()), "the buffer for the wire form")
    _require_residuals(x.numel(), residual, residual_out)
    if not x.numel():
        return _no_flags(x)
    return tensor_engine(x.device.type).encode(form_, x, out, residual, residual_out)


def reduce_encoded(
    codec: str,
    encoded_RB: torch.Tensor,  # noqa: N803 - shape suffix
    weights_R: torch.Tensor,  # noqa: N803 - shape suffix
    out: torch.Tensor,
    elements: int,
    residual: torch.Tensor | None = None,
    residual_out: torch.Tensor | None = None,
) -> torch.Tensor:
    """Decode R wire forms in the order of their rows, add them up in float32 by weight, and encode the sum into `out`.

    `weights_R` (float32[R]) are 1 for a sum and 1 / R for a mean. The residual is the owner's, as in `encode_tensor`, and
    so are the flags.
    """
    form_ = form(codec)
    size = form_.encoded_size_bytes(elements)
    residual_out = residual if residual_out is None else residual_out
    _require(encoded_RB, torch.uint8, size * weights_R.numel(), "the wire forms")
    _require(weights_R, torch.float32, encoded_RB.shape[0], "the weights")
    _require(out, torch.uint8, size, "the buffer for the wire form")
    _require_residuals(elements, residual, residual_out)
    if not elements:
        return _no_flags(out)
    engine = tensor_engine(out.device.type)
    return engine.reduce(form_, encoded_RB, weights_R, out, residual, residual_out, elements)


def decode_tensor(codec: str, encoded: torch.Tensor, into: torch.Tensor) -> None:
    """Write the vector that `encoded` stands for into `into` (contiguous; float32, bfloat16 or float16, rounded to it)."""
    form_ = form(codec)
    _require(encoded, torch.uint8, form_.encoded_size_bytes(into.numel()), "the wire form")
    if not into.is_contiguous():
        raise LocalProtocolError("a tensor to decode into is not contiguous", hint="decode into a contiguous one, copy")
    if into.numel():
        tensor_engine(into.device.type).decode(form_, encoded, into.detach().view(-1))


@functools.cache
def tensor_engine(device_type: str) -> TensorEngine:
    """Import and return the fastest engine that is installed for a type of device (`cpu`, `cuda`, …)."""
    if device_type == "cpu":
        return VectorTensors(codec_engine())
    if device_type == "cuda" and cuda_choice().engine == "triton":
        from prime.trainer.codec.engine_triton import TritonTensors

        return TritonTensors()
    from prime.trainer.codec.engine_torch import TorchTensors

    return TorchTensors()


def cuda_choice() -> CudaChoice:
    """Choose the engine of this machine's CUDA devices; the oldest counts, since all ranks have to write the same bytes."""
    devices = range(torch.cuda.device_count())
    return choose(min(map(torch.cuda.get_device_capability, devices), default=(0, 0)), triton_fault())


def warm(codecs: Iterable[str]) -> None:
    """Have the engine, if it compiles, do that for an all-reduce in these codecs: now, and not while other ranks wait."""
    for form_ in map(form, codecs):
        engine, own, one = codec_engine(), np.zeros(INT8.block, np.float32), np.ones(1, np.float32)
        rows_RB = np.zeros((1, form_.encoded_size_bytes(own.size)), np.uint8)  # noqa: N806 - shape suffix
        engine.encode(form_, own, rows_RB[0], None, None)
        engine.fold(form_, rows_RB, one, own, one[0], rows_RB[0].copy(), None, None)


class VectorTensors:
    """Tensors of the CPU by an engine of numpy vectors, which works in their own memory. See `TensorEngine`."""

    def __init__(self, engine: Engine) -> None:
        self.name = engine.name
        self._engine = engine

    def encode(
        self,
        form: Form,
        x: torch.Tensor,
        encoded: torch.Tensor,
        residual: torch.Tensor | None,
        residual_out: torch.Tensor | None,
    ) -> torch.Tensor:
        """See `TensorEngine.encode`."""
        flags = self._engine.encode(form, x.float().numpy(), encoded.numpy(), _numpy(residual), _numpy(residual_out))
        return torch.tensor([flags], dtype=torch.int32)

    def decode(self, form: Form, encoded: torch.Tensor, into: torch.Tensor) -> None:
        """See `TensorEngine.decode`."""
        target = into if into.dtype == torch.float32 else torch.empty(into.numel())
        self._engine.decode(form, encoded.numpy(), target.numpy())
        if target is not into:
            into.copy_(target)

    def reduce(
        self,
        form: Form,
        encoded_RB: torch.Tensor,  # noqa: N803 - shape suffix
        weights_R: torch.Tensor,  # noqa: N803 - shape suffix
        encoded: torch.Tensor,
        residual: torch.Tensor | None,
        residual_out: torch.Tensor | None,
        elements: int,
    ) -> torch.Tensor:
        """See `TensorEngine.reduce`."""
        flags = self._engine.reduce(
            form,
            encoded_RB.numpy(),
            weights_R.numpy(),
            encoded.numpy(),
            _numpy(residual),
            _numpy(residual_out),
            elements,
        )
        return torch.tensor([flags], dtype=torch.int32)


_FLOATS = (torch.float32, torch.bfloat16, torch.float16)


def _numpy(tensor: torch.Tensor | None) -> Vector | None:
    return None if tensor is None else tensor.numpy()


def _input(x: torch.Tensor) -> torch.Tensor:
    if x.dtype not in _FLOATS:
        raise LocalProtocolError(f"the codec takes no {x.dtype}", hint="give it float32, bfloat16 or float16")
    return x.detach().contiguous().view(-1)


def _no_flags(beside: torch.Tensor) -> torch.Tensor:
    return torch.zeros(1, dtype=torch.int32, device=beside.device)


def _require(tensor: torch.Tensor, dtype: torch.dtype, elements: int, what: str) -> None:
    if tensor.dtype != dtype or tensor.numel() != elements or not tensor.is_contiguous():
        raise LocalProtocolError(
            f"{what} must be a contiguous {dtype} tensor of {elements} elements, got {tensor.dtype}{list(tensor.shape)}",
            hint="form(codec).encoded_size_bytes(elements) tells the size of a wire form",
        )
    if tensor.data_ptr() % 4:  # both hold words of 4 bytes
        raise LocalProtocolError(f"{what} must begin at a multiple of 4 bytes", hint="slice buffers at multiples of 4")


def _require_residuals(elements: int, *residuals: torch.Tensor | None) -> None:
    for residual in residuals:
        if residual is not None:
            _require(residual, torch.float32, elements, "a residual")
