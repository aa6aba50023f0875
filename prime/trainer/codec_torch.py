"""The codec's arithmetic in eager torch: the reference that the faster engines are compared with. Slow by design."""

from __future__ import annotations

import numpy as np
import torch

from prime.trainer.codec import QMAX, SCALE_MAX, SCALE_MIN, Codes, Vector
from prime.trainer.swarm.parts import BLOCK


class TorchEngine:
    """Says in whole-tensor operations what the wire form's definition says. Shape suffixes: N blocks, B in a block."""

    name = "torch"

    def quantise(self, x: Vector, codes: Codes, scales: Vector) -> bool:
        """See `Engine.quantise`."""
        x_NB = torch.zeros(scales.size, BLOCK)  # noqa: N806 - shape suffix
        x_NB.view(-1)[: x.size] = torch.tensor(x)
        if not bool(torch.isfinite(x_NB).all()):
            return False
        scale_N1 = (x_NB.abs().amax(1, keepdim=True) / QMAX).clamp(max=float(SCALE_MAX))  # noqa: N806
        whole_N1 = scale_N1 >= float(SCALE_MIN)  # noqa: N806
        codes_NB = torch.where(whole_N1, torch.round(x_NB / scale_N1), 0.0)  # noqa: N806 - torch rounds half to even
        codes[:] = codes_NB.to(torch.int8).view(-1).numpy()
        scales[:] = torch.where(whole_N1, scale_N1, 0.0).view(-1).numpy()
        return True

    def dequantise(self, codes: Codes, scales: Vector, into: Vector) -> None:
        """See `Engine.dequantise`."""
        into[:] = _product(codes, scales, np.float32(1))[: into.size].numpy()

    def accumulate(self, codes: Codes, scales: Vector, into: Vector, weight: np.float32) -> None:
        """See `Engine.accumulate`."""
        into[:] = (torch.tensor(into) + _product(codes, scales, weight)[: into.size]).numpy()


def _product(codes: Codes, scales: Vector, weight: np.float32) -> torch.Tensor:
    scale_N1 = (torch.tensor(scales) * float(weight)).view(-1, 1)  # noqa: N806
    return (torch.tensor(codes).view(-1, BLOCK).float() * scale_N1).view(-1)
