"""The compressed all-reduce on an accelerator: whole parts by the group's own collectives, on the stream that is current.

The same arithmetic as `pipeline.py`, hence the same bits: encode the parts of the others (kernel K1), all-to-all, add
up and encode the own part (K2), all-gather, decode every part (K3). Nothing here waits for the device. What overlaps
with what is the caller's choice of stream, and bucket by bucket; the collectives run on the group's own stream.
"""

from __future__ import annotations

from typing import Final

import torch
import torch.distributed as dist

from prime.trainer.codec.form import NON_FINITE, Form
from prime.trainer.codec.tensors import decode_tensor, encode_tensor, reduce_encoded
from prime.trainer.collective.layout import Layout, layout
from prime.trainer.collective.refusal import FINE, HEADER_BYTES

_STRETCH: Final = 4096

_all_gather = getattr(dist, "all_gather_single", dist.all_gather_into_tensor)  # its name from torch 2.13 on


class Streamed:
    """All-reduces flat float32 tensors of one device over one group; keeps its buffers. Shapes: D elements, W ranks."""

    def __init__(self, group: dist.ProcessGroup) -> None:
        self.group = group
        self.rank = group.rank()
        self.world = group.size()
        self.bytes_sent = 0
        self._peers = [peer for peer in range(self.world) if peer != self.rank]
        self._kept: dict[tuple[str, torch.device], torch.Tensor] = {}

    def all_reduce(self, x: torch.Tensor, form: Form, weight: float, residual: torch.Tensor | None) -> torch.Tensor:
        """`x = weight * sum of all ranks' x`, float32[D], in place; return all ranks' verdicts, int64[W, 2] (refusal.py).

        `residual` as in `Pipeline.all_reduce`.
        """
        cut = layout(x.numel(), self.world)
        part_bytes = form.encoded_size_bytes(cut.part)
        unfit = first_unfit(x)
        sent, flags = self._encode(x, form, residual, cut, part_bytes)
        received = self._room("received", (self.world - 1) * part_bytes, x.device)
        sizes = [part_bytes * (peer != self.rank) for peer in range(self.world)]
        dist.all_to_all_single(received, sent, sizes, sizes, group=self.group)
        own = self._room("own", HEADER_BYTES + part_bytes, x.device)
        flags[self.rank] = self._reduce(x, form, weight, residual, cut, received.view(-1, part_bytes), own)
        own[:HEADER_BYTES].view(torch.int64).copy_(self._verdict(unfit, flags, cut))
        gathered_WB = self._gather(own)  # noqa: N806 - shape suffix: B bytes
        for owner in range(self.world):
            part = x[cut.owned(owner)]
            decode_tensor(form.name, _body(gathered_WB[owner], form, part.numel()), part)
        return gathered_WB[:, :HEADER_BYTES].contiguous().view(torch.int64)

    def _encode(
        self, x: torch.Tensor, form: Form, residual: torch.Tensor | None, cut: Layout, part_bytes: int
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Encode everyone else's part; return the bytes in the order of the ranks, and flags by rank (the own: zeros)."""
        sent = self._room("sent", (self.world - 1) * part_bytes, x.device)
        flags = [torch.zeros(1, dtype=torch.int32, device=x.device)] * self.world
        for row, peer in enumerate(self._peers):
            part = cut.owned(peer)
            encoded = sent[row * part_bytes :][: form.encoded_size_bytes(part.stop - part.start)]
            flags[peer] = encode_tensor(form.name, x[part], encoded, None if residual is None else residual[part])
        return sent, flags

    def _reduce(
        self,
        x: torch.Tensor,
        form: Form,
        weight: float,
        residual: torch.Tensor | None,
        cut: Layout,
        received_PB: torch.Tensor,  # noqa: N803 - shape suffix: P = W - 1 peers
        own: torch.Tensor,
    ) -> torch.Tensor:
        """Add up the own part and encode it into `own`; return the flags. The own share goes the residual's way: exact."""
        part = cut.owned(self.rank)
        share = x[part] * weight
        left = None if residual is None else residual[part]
        if left is not None:
            share += left
        rows = received_PB[:, : form.encoded_size_bytes(share.numel())].contiguous()
        weights = torch.full((self.world - 1,), weight, device=x.device)
        left_out = share if left is None else left
        body = _body(own, form, share.numel())
        return reduce_encoded(form.name, rows, weights, body, share.numel(), share, left_out)

    def _gather(self, own: torch.Tensor) -> torch.Tensor:
        gathered = self._room("gathered", self.world * own.numel(), own.device)
        _all_gather(gathered, own, group=self.group)
        self.bytes_sent += (self.world - 1) * (2 * own.numel() - HEADER_BYTES)
        return gathered.view(self.world, -1)

    def _verdict(self, unfit: torch.Tensor, flags: list[torch.Tensor], cut: Layout) -> torch.Tensor:
        """Return the header's words: the place that is not finite, else the start of the part whose encoder complains."""
        flags_W = torch.cat(flags)  # noqa: N806 - shape suffix
        # Made on the device: a tensor made of numbers of the host is a copy that waits for all that is queued.
        starts_W = (torch.arange(self.world, device=flags_W.device) * cut.part).clamp(max=cut.elements)  # noqa: N806
        complaint = torch.where(flags_W > 0, starts_W, FINE).min()
        place = torch.where(unfit == FINE, complaint, unfit)
        blame = 4 * self.rank + torch.where(unfit == FINE, flags_W.max(), NON_FINITE)
        return torch.stack([place, torch.where(place == FINE, 0, blame)])

    def _room(self, kind: str, size_bytes: int, device: torch.device) -> torch.Tensor:
        kept = self._kept.get((kind, device))
        if kept is None or kept.numel() < size_bytes:
            kept = self._kept[kind, device] = torch.empty(size_bytes, dtype=torch.uint8, device=device)
        return kept[:size_bytes]


def _body(message: torch.Tensor, form: Form, elements: int) -> torch.Tensor:
    return message[HEADER_BYTES : HEADER_BYTES + form.encoded_size_bytes(elements)]


def first_unfit(x: torch.Tensor) -> torch.Tensor:
    """Return the place of the first NaN or infinity of a flat tensor, or `FINE`: int64 scalar, without waiting for it.

    One pass over `x` finds the stretch, a second one over the stretch the place.
    """
    if x.numel() == 0:
        return torch.full((), FINE, device=x.device)
    whole = x.numel() // _STRETCH * _STRETCH
    tops = [torch.linalg.vector_norm(x[:whole].view(-1, _STRETCH), float("inf"), dim=1)]
    if whole < x.numel():
        tops.append(torch.linalg.vector_norm(x[whole:], float("inf")).view(1))
    bad = ~torch.isfinite(torch.cat(tops))
    start = bad.int().argmax() * _STRETCH
    places = (start + torch.arange(_STRETCH, device=x.device)).clamp(max=x.numel() - 1)
    place = start + (~torch.isfinite(x[places])).int().argmax()
    return torch.where(bad.any(), place, FINE)
