"""The compressed all-reduce as callers see it: one call for one tensor, and an object that keeps what lasts over steps.

A vector of `D` float32 elements over `W` ranks costs `2 (W - 1) / W` of its encoded size on the wire of each rank, and
two quantisations of each number (`pipeline.py`). With error feedback (Seide et al., "1-bit stochastic gradient descent",
2014) each of the two adds the residual of the last step first and keeps its own: in the part that a rank owns that of the
sum, elsewhere that of what it sent, so both together are one float32 vector of length `D`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import attrs
import torch
import torch.distributed as dist

from prime.errors import NonFiniteError, UsageError
from prime.trainer.codec.cpu import codec_engine
from prime.trainer.codec.feedback import Feedback
from prime.trainer.codec.form import NON_FINITE, Form, form
from prime.trainer.collective.lane import Errand, Lane
from prime.trainer.collective.pipeline import Pipeline
from prime.trainer.collective.plan import Parcel, parcels
from prime.trainer.collective.refusal import ACCEPTED, FINE, Names, Verdict, refusal, refuse
from prime.trainer.collective.stream import Streamed, first_unfit

Operation = Literal["mean", "sum"]
Policy = Callable[[str, tuple[int, ...]], str]
"""Which codec a parameter travels in, by its name and its shape."""


def compressed_all_reduce(
    tensor: torch.Tensor,
    group: dist.ProcessGroup | None = None,
    codec: str = "int8",
    feedback: torch.Tensor | None = None,
    op: Operation = "mean",
) -> None:
    """All-reduce a tensor in place, compressed; afterwards all ranks of the group hold the same bits.

    `tensor` is float32, bfloat16 or float16, of any shape and stride, on the CPU or an accelerator, and of the same number
    of elements on every rank. `feedback` (float32, as many elements, contiguous, zeros at first) turns error feedback on
    and carries the residual from one call to the next. Every rank of the group has to call this, in the same order, with
    one codec: of ranks that differ in size or codec gloo ends those that get more bytes than they wait for.

    Raises NonFiniteError on every rank alike when one of them has a NaN or an infinity (`tensor` is then
    undefined, `feedback` as it was), LinkLostError when a rank is gone (the same), UsageError for a tensor that cannot be
    taken. A trainer, which calls every step, uses `CompressedReduce`, which keeps its buffers.
    """
    reduce = CompressedReduce(group, codec, error_feedback=feedback is not None, op=op)
    reduce.all_reduce(tensor, feedback=feedback)


@attrs.frozen
class Segment:
    """A parameter in a flat gradient: how many `elements` of it are there, and its codec."""

    name: str
    elements: int
    codec: str


@attrs.define
class Pending:
    """A flat gradient that is being reduced. `verdicts` are filled in, parcel by parcel, until the errand is done."""

    flat: torch.Tensor
    key: str
    names: Names
    parcels: list[Parcel]
    scale: float = 1.0
    feedback: torch.Tensor | None = None
    verdicts: list[Verdict | torch.Tensor] = attrs.field(factory=list)
    errand: Errand | None = None
    future: Any = None
    """A torch future of `flat`; errors are left to `finish`."""

    def wait(self) -> None:
        """Return when `flat` is reduced (on an accelerator: when that is queued on its stream)."""
        if self.errand is not None:
            self.errand.wait()

    def verdict(self) -> tuple[int, Verdict]:
        """Return the first parcel that was refused, and its verdict, as all ranks know it: waits for an accelerator."""
        for number, verdict in enumerate(self.verdicts):
            smallest = verdict if isinstance(verdict, Verdict) else _smallest(verdict)
            if smallest.refused:
                return number, smallest
        return 0, ACCEPTED

    def refusal(self, number: int, verdict: Verdict) -> NonFiniteError:
        """Return the error for the verdict on a parcel."""
        place = self.parcels[number].place_in_flat(verdict.place)
        return refusal(Verdict(place, verdict.blame), self.names, self.parcels[number].codec)


class CompressedReduce:
    """Reduces gradients, step after step: keeps residuals, buffers, counters, and the thread that it is done on.

    `error_feedback` "auto" is on for int4 and off for the finer codecs; `True` is on for all but none. `op` "mean" divides
    by the ranks of the group. `policy` gives each parameter its codec (`None`: `codec` for all).
    """

    def __init__(
        self,
        group: dist.ProcessGroup | None = None,
        codec: str = "int8",
        *,
        error_feedback: bool | Literal["auto"] = "auto",
        op: Operation = "mean",
        policy: Policy | None = None,
    ) -> None:
        form(codec)
        if op not in ("mean", "sum"):
            raise UsageError(f"an all-reduce does no {op!r}", hint="op is mean or sum")
        self.group = _group(group)
        self.codec = codec
        self.op = op
        self.residuals = Feedback(self.group.rank(), self.group.size())
        self.bytes_exact = 0
        """What an exact all-reduce of the same tensors, in their own type, would have had this rank send so far."""
        self.is_last = True
        """Whether this backward pass ends the step: an earlier microbatch's gradients are only added up."""
        self._error_feedback = error_feedback
        self._policy = policy
        self._pending: list[Pending] = []
        self._afterwards: list[Callable[[], None]] = []
        self._shards: dist.ProcessGroup | None = None
        self._device = torch.device("cpu")
        self._lane = Lane("prime-reduce")
        self._streamed = Streamed(self.group)
        self._pipeline: Pipeline | None = None

    @property
    def bytes_sent(self) -> int:
        """What this rank has sent so far."""
        return self._streamed.bytes_sent + (self._pipeline.bytes_sent if self._pipeline else 0)

    def codec_of(self, name: str, shape: Sequence[int]) -> str:
        """Return the codec that a parameter travels in."""
        return self.codec if self._policy is None else self._policy(name, tuple(shape))

    def last_microbatch(self, is_last: bool) -> None:  # noqa: FBT001 - a switch, as in `requires_gradient_sync`
        """Say before a backward pass whether it is the last one of a step."""
        self.is_last = is_last

    def all_reduce(self, tensor: torch.Tensor, name: str = "", feedback: torch.Tensor | None = None) -> None:
        """Reduce one tensor now, see `compressed_all_reduce`; without `feedback`, its residual is kept here by `name`."""
        _require(tensor, feedback)
        flat = tensor.detach().contiguous().view(-1)
        draft = None if feedback is None else feedback.detach().clone()
        pending = self._begin(flat, name, [Segment(name, flat.numel(), self.codec)], draft)
        self._reduce(pending)
        self._settle()
        if feedback is not None and draft is not None:
            feedback.detach().copy_(draft)
        if flat.data_ptr() != tensor.data_ptr():
            tensor.detach().copy_(flat.view(tensor.shape))

    def start(self, flat: torch.Tensor, key: str, segments: Sequence[Segment], scale: float = 1.0) -> Pending:
        """Begin to reduce a flat contiguous tensor in place; `finish` ends it. The order is the same on every rank.

        The result is `scale` times the mean or sum.

        `key` names the residual and stays the same over the steps; `segments` are the parameters that the tensor is made
        of, in order. On a CPU a thread does it; on an accelerator it is queued on the current stream, and `flat` is
        referred to until `finish`, so that its memory is not used again under the kernels.
        """
        pending = self._begin(flat, key, segments, None)
        pending.scale = scale
        if flat.device.type == "cpu":
            future = pending.future = torch.futures.Future()
            pending.errand = self._lane.hand_in(lambda: self._reduce(pending), lambda: future.set_result(flat))
        else:
            self._reduce(pending)
            future = pending.future = torch.futures.Future(devices=[flat.device])
            future.set_result(flat)  # whoever waits for it, waits for what is queued on this stream by now
        return pending

    def then(self, work: Callable[[], None]) -> None:
        """Have `work` done by the next `finish`."""
        self._afterwards.append(work)

    def finish(self) -> None:
        """Wait for all that was started. Raises NonFiniteError, on every rank alike, or LinkLostError.

        Where it raises, the step is lost as a whole: the residuals are as they were before it.
        """
        self._settle()
        self.residuals.end_step()

    def _settle(self) -> None:
        """Wait for all that was started, and let what it left out count, or nothing of it."""
        try:
            self._wait()
        except BaseException:
            self.residuals.abandon()
            raise
        self.residuals.commit()

    def _wait(self) -> None:
        pending, self._pending = self._pending, []
        afterwards, self._afterwards = self._afterwards, []
        for work in afterwards:
            work()
        for each in pending:
            each.wait()
        first, number, verdict = self._agreed(pending)
        if verdict.refused:
            raise pending[first].refusal(number, verdict)

    def _agreed(self, pending: list[Pending]) -> tuple[int, int, Verdict]:
        """Return which gradient was refused first, which parcel of it, and why: alike on all ranks that make the step."""
        found = (0, 0, ACCEPTED)
        for first, each in enumerate(pending):
            number, verdict = each.verdict()
            if verdict.refused:
                rank, flags = divmod(verdict.blame, 4)
                found = first, number, refuse(verdict.place, dist.get_global_rank(self.group, rank), flags)
                break
        return found if self._shards is None else _agreed_over(self._shards, *found, self._device)

    def agree_over(self, shards: dist.ProcessGroup, device: torch.device) -> None:
        """Have `finish` refuse alike on the ranks of another group, too: those that hold the other shards of the model."""
        self._shards = shards if shards.size() > 1 else None
        self._device = device

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Return the residuals: names differ from rank to rank, so a checkpoint holds those of all."""
        return self.residuals.state_dict()

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Take the residuals back; in a group of another size they start from zero."""
        self.residuals.load_state_dict(state)

    def close(self) -> None:
        """End the thread."""
        self._lane.close()

    # ------------------------------------------------------------------------------------------------------ one flat tensor

    def _begin(
        self, flat: torch.Tensor, key: str, segments: Sequence[Segment], feedback: torch.Tensor | None
    ) -> Pending:
        names = Names.of([(each.name, each.elements) for each in segments if each.name])
        travel = parcels([(each.elements, each.codec) for each in segments])
        pending = Pending(flat, key, names, travel, feedback=feedback)
        self._pending.append(pending)
        world = self.group.size()
        self.bytes_exact += 2 * (world - 1) * flat.numel() * flat.element_size() // world
        return pending

    def _reduce(self, pending: Pending) -> None:
        weight = pending.scale / (self.group.size() if self.op == "mean" else 1)
        wide = pending.flat.float()  # the tensor itself where it is float32
        for number, parcel in enumerate(pending.parcels):
            pending.verdicts.append(self._reduce_parcel(wide, parcel, self._residual(pending, number), weight))
        if wide is not pending.flat:
            pending.flat.copy_(wide)

    def _reduce_parcel(
        self, wide: torch.Tensor, parcel: Parcel, residual: torch.Tensor | None, weight: float
    ) -> Verdict | torch.Tensor:
        if len(parcel.slices) == 1:
            return self._reduce_vector(wide[parcel.slices[0]], form(parcel.codec), residual, weight)
        vector = torch.cat([wide[each] for each in parcel.slices])
        verdict = self._reduce_vector(vector, form(parcel.codec), residual, weight)
        lengths = [each.stop - each.start for each in parcel.slices]
        for each, reduced in zip(parcel.slices, vector.split(lengths), strict=True):
            wide[each] = reduced
        return verdict

    def _reduce_vector(
        self, vector: torch.Tensor, form: Form, residual: torch.Tensor | None, weight: float
    ) -> Verdict | torch.Tensor:
        if self.group.size() == 1:
            vector *= weight
            place = int(first_unfit(vector))
            return refuse(place, 0, NON_FINITE) if place != FINE else ACCEPTED
        if vector.device.type != "cpu":
            return self._streamed.all_reduce(vector, form, weight, residual)
        if self._pipeline is None:
            self._pipeline = Pipeline(self.group, codec_engine())
        return self._pipeline.all_reduce(vector.numpy(), form, weight, None if residual is None else residual.numpy())

    def _residual(self, pending: Pending, number: int) -> torch.Tensor | None:
        parcel = pending.parcels[number]
        if pending.feedback is not None:
            return pending.feedback.view(-1)
        keeps = parcel.codec == "int4" if self._error_feedback == "auto" else self._error_feedback
        if not keeps or parcel.codec == "none" or self.group.size() == 1:
            return None
        return self.residuals.draft(f"{pending.key}/{number}", parcel.elements, pending.flat.device)


def _group(group: dist.ProcessGroup | None) -> dist.ProcessGroup:
    if group is not None:
        return group
    if not dist.is_initialized():
        raise UsageError(
            "there is no process group to reduce over",
            hint="call torch.distributed.init_process_group, or start the program with torchrun",
        )
    return dist.group.WORLD


def _agreed_over(
    group: dist.ProcessGroup, first: int, number: int, verdict: Verdict, device: torch.device
) -> tuple[int, int, Verdict]:
    """Return the verdict on the earliest gradient among the ranks of a group."""
    words = torch.tensor([first, number, verdict.place, verdict.blame], device=device)
    rows = [torch.empty_like(words) for _ in range(group.size())]
    dist.all_gather(rows, words, group=group)
    refused = [row for row in (each.tolist() for each in rows) if row[2] != FINE]
    first, number, place, blame = min(refused, default=[0, 0, FINE, 0])
    return first, number, Verdict(place, blame)


def _smallest(verdicts_W2: torch.Tensor) -> Verdict:  # noqa: N803 - shape suffix: W ranks
    return min(Verdict(place, blame) for place, blame in verdicts_W2.tolist())


def _require(tensor: torch.Tensor, feedback: torch.Tensor | None) -> None:
    if tensor.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        raise UsageError(
            f"the compressed all-reduce takes no {tensor.dtype}", hint="give it float32, bfloat16 or float16"
        )
    if feedback is None:
        return
    if feedback.dtype != torch.float32 or feedback.numel() != tensor.numel() or not feedback.is_contiguous():
        raise UsageError(
            f"the feedback of {tensor.numel()} elements is no {feedback.dtype}{list(feedback.shape)}",
            hint="torch.zeros(tensor.numel()) on the same device makes one",
        )
