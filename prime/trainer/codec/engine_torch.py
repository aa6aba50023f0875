"""The codec's arithmetic in eager torch, on any device: the reference that faster engines are compared with. Slow."""

from __future__ import annotations

import numpy as np
import torch

from prime.trainer.codec.engine import Encoded, Vector, folded
from prime.trainer.codec.form import FP16, INT4, INT8, NON_FINITE, NONE, OVERFLOW, SCALE_MIN, Form


class TorchTensors:
    """See `TensorEngine`: says in whole-tensor operations what the wire form's definition says."""

    name = "torch"

    def encode(
        self,
        form: Form,
        x: torch.Tensor,
        encoded: torch.Tensor,
        residual: torch.Tensor | None,
        residual_out: torch.Tensor | None,
    ) -> torch.Tensor:
        """See `TensorEngine.encode`."""
        y = x.float() if residual is None else x.float() + residual
        flags = (~torch.isfinite(y).all()).int() * NON_FINITE
        if form is FP16:
            flags = flags | (torch.isinf(y.half()).any() & torch.isfinite(y).all()).int() * OVERFLOW
        _put(form, y, encoded)
        if residual_out is not None:
            torch.sub(y, _value(form, encoded, None, y.numel()), out=residual_out)
        return flags.view(1)

    def decode(self, form: Form, encoded: torch.Tensor, into: torch.Tensor) -> None:
        """See `TensorEngine.decode`."""
        into.copy_(_value(form, encoded, None, into.numel()))

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
        total = torch.zeros(elements, device=encoded.device)
        for row, weight in zip(encoded_RB, weights_R, strict=True):
            total += _value(form, row, weight, elements)
        return self.encode(form, total, encoded, residual, residual_out)


class TorchEngine:
    """The same for numpy arrays, in their own memory. See `Engine`."""

    name = "torch"

    def __init__(self) -> None:
        self._tensors = TorchTensors()

    def encode(
        self, form: Form, x: Vector, encoded: Encoded, residual: Vector | None, residual_out: Vector | None
    ) -> int:
        """See `Engine.encode`."""
        flags = self._tensors.encode(
            form, torch.tensor(x), torch.from_numpy(encoded), _tensor(residual), _tensor(residual_out)
        )
        return int(flags)

    def decode(self, form: Form, encoded: Encoded, into: Vector) -> None:
        """See `Engine.decode`."""
        self._tensors.decode(form, torch.tensor(encoded), torch.from_numpy(into))

    def accumulate(self, form: Form, encoded: Encoded, into: Vector, weight: np.float32) -> None:
        """See `Engine.accumulate`."""
        torch.from_numpy(into).add_(_value(form, torch.tensor(encoded), torch.tensor(weight), into.size))

    def reduce(
        self,
        form: Form,
        encoded_RB: Encoded,  # noqa: N803 - shape suffix
        weights_R: Vector,  # noqa: N803 - shape suffix
        encoded: Encoded,
        residual: Vector | None,
        residual_out: Vector | None,
        elements: int,
    ) -> int:
        """See `Engine.reduce`."""
        rows = torch.tensor(encoded_RB)
        flags = self._tensors.reduce(
            form,
            rows,
            torch.tensor(weights_R),
            torch.from_numpy(encoded),
            _tensor(residual),
            _tensor(residual_out),
            elements,
        )
        return int(flags)

    def fold(
        self,
        form: Form,
        encoded_RB: Encoded,  # noqa: N803 - shape suffix
        weights_R: Vector,  # noqa: N803 - shape suffix
        own: Vector,
        own_weight: np.float32,
        encoded: Encoded,
        residual: Vector | None,
        residual_out: Vector | None,
    ) -> int:
        """See `Engine.fold`."""
        return folded(self, form, encoded_RB, weights_R, own, own_weight, encoded, residual, residual_out)


def _tensor(vector: Vector | None) -> torch.Tensor | None:
    return None if vector is None else torch.from_numpy(vector)


def _put(form: Form, y: torch.Tensor, encoded: torch.Tensor) -> None:
    if form is NONE:
        encoded.view(torch.float32).copy_(y)
    elif form is FP16:
        encoded[2 * y.numel() :] = 0
        encoded[: 2 * y.numel()].view(torch.float16).copy_(y)
    else:
        _put_blocks(form, y, encoded)


def _put_blocks(form: Form, y: torch.Tensor, encoded: torch.Tensor) -> None:
    split = form.codes_bytes(y.numel())
    y_NB = torch.zeros(form.blocks(y.numel()), form.block, device=y.device)  # noqa: N806 - shape suffix
    y_NB.view(-1)[: y.numel()] = y
    code_max = torch.full((), form.code_max, device=y.device)  # by a Python number CUDA multiplies with its reciprocal
    scale_N1 = (y_NB.abs().amax(1, keepdim=True) / code_max).clamp(max=form.scale_max)  # noqa: N806
    whole_N1 = scale_N1 >= SCALE_MIN  # noqa: N806
    quotients = torch.where(whole_N1, y_NB / scale_N1, 0.0).view(-1)
    encoded[:split] = _codes(form, quotients)
    encoded[split:].view(torch.float32).copy_(torch.where(whole_N1, scale_N1, 0.0).view(-1))


def _codes(form: Form, quotients: torch.Tensor) -> torch.Tensor:
    if form is INT8:
        return torch.round(quotients).to(torch.int8).view(torch.uint8)  # torch rounds half to even
    if form is INT4:
        nibbles = torch.round(quotients).to(torch.int8).view(torch.uint8) & 15
        return nibbles[0::2] | nibbles[1::2] << 4
    return quotients.clamp(-form.code_max, form.code_max).to(torch.float8_e4m3fn).view(torch.uint8)


def _value(form: Form, encoded: torch.Tensor, weight: torch.Tensor | None, elements: int) -> torch.Tensor:
    if form is NONE:
        return _weighted(encoded.view(torch.float32), weight)
    if form is FP16:
        return _weighted(encoded[: 2 * elements].view(torch.float16).float(), weight)
    split = form.codes_bytes(elements)
    scale_N1 = _weighted(encoded[split:].view(torch.float32), weight).view(-1, 1)  # noqa: N806
    return (_code_values(form, encoded[:split]).view(-1, form.block) * scale_N1).view(-1)[:elements]


def _weighted(value: torch.Tensor, weight: torch.Tensor | None) -> torch.Tensor:
    return value if weight is None else value * weight


def _code_values(form: Form, codes: torch.Tensor) -> torch.Tensor:
    if form is INT8:
        return codes.view(torch.int8).float()
    if form is INT4:
        return torch.stack([(codes << 4).view(torch.int8) >> 4, codes.view(torch.int8) >> 4], 1).view(-1).float()
    return codes.view(torch.float8_e4m3fn).float()
