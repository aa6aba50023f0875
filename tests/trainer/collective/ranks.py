"""Runs groups of ranks for the tests: `python ranks.py FOLDER KIND-WORLD...` writes FOLDER/KIND-WORLD-RANK.json for each.

Kinds: `plain` calls the all-reduce itself, `hooks` (hooks.py) trains through it, in `lost` a rank is killed meanwhile.

Torch is imported once and the ranks are forked from that process, so that a test of seventeen ranks takes seconds.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import hooks
import torch
import torch.distributed as dist
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prime.errors import LinkLostError, NonFiniteError, UsageError
from prime.trainer.codec.form import FORMS, form
from prime.trainer.codec.tensors import decode_tensor, encode_tensor, reduce_encoded
from prime.trainer.collective import CompressedReduce, Segment, compressed_all_reduce, pipeline
from prime.trainer.collective.layout import layout
from prime.trainer.collective.refusal import Verdict
from prime.trainer.collective.stream import Streamed

SIZES = (0, 1, 5, 255, 1000, 70_001)
Found = dict[str, Any]


def drawn(elements: int, rank: int, seed: int = 0) -> torch.Tensor:
    """Return what that rank has: float32[elements]."""
    return torch.randn(elements, generator=torch.Generator().manual_seed(1000 * seed + rank))


def digest(tensor: torch.Tensor) -> str:
    """Return a hash of a tensor's bits."""
    return hashlib.sha256(tensor.contiguous().numpy().tobytes()).hexdigest()


def error_of(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """Return the relative error; 0 for nothing."""
    return float((found.double() - wanted.double()).norm() / wanted.double().norm().clamp(min=1e-30))


def mean_of(elements: int, world: int) -> torch.Tensor:
    """Return the exact mean of what all ranks have."""
    return sum((drawn(elements, rank).double() for rank in range(world)), torch.zeros(elements).double()) / world


def sizes_and_codecs(rank: int, world: int) -> Found:
    """Every codec over every size: the error, and the bits."""
    found: Found = {}
    for codec in FORMS:
        for elements in SIZES:
            x = drawn(elements, rank)
            compressed_all_reduce(x, codec=codec)
            found[f"{codec} {elements}"] = [error_of(x, mean_of(elements, world)), digest(x)]
    return found


def many_rounds(rank: int, world: int) -> Found:
    """In chunks so small that there are many rounds, and buffers are used again, the bits are the same."""
    found: Found = {}
    for codec in ("int8", "int4"):
        whole, cut = drawn(20_011, rank), drawn(20_011, rank)
        compressed_all_reduce(whole, codec=codec)
        pipeline.layout = functools.partial(layout, in_flight=256 * world)
        compressed_all_reduce(cut, codec=codec)
        pipeline.layout = layout
        found[codec] = torch.equal(whole, cut)
    return found


def sums(rank: int, world: int) -> Found:
    """The sum is the mean times the ranks."""
    x = drawn(1000, rank)
    compressed_all_reduce(x, op="sum")
    return {"error": error_of(x, world * mean_of(1000, world)), "bits": digest(x)}


def shapes_and_types(rank: int, world: int) -> Found:
    """A transposed matrix, every other column, bfloat16 and float16: reduced in place, the same everywhere."""
    found: Found = {}
    base = drawn(6000, rank).view(60, 100)
    wanted = mean_of(6000, world).view(60, 100)
    for name, x, exact in (
        ("transposed", base.clone().t(), wanted.t()),
        ("strided", base.clone()[:, ::2], wanted[:, ::2]),
        ("bfloat16", base.to(torch.bfloat16), wanted),
        ("float16", base.to(torch.float16), wanted),
    ):
        compressed_all_reduce(x)
        found[name] = [error_of(x, exact), digest(x.float())]
    return found


def segmented(rank: int, world: int) -> Found:
    """A flat gradient of parameters with codecs of their own: short ones packed, long ones where they lie."""
    parts = [("up", 40_000, "int8"), ("norm", 300, "fp16"), ("down", 50_000, "int4"), ("bias", 7, "fp16")]
    elements = sum(size for _, size, _ in parts)
    flat, wanted = drawn(elements, rank), mean_of(elements, world)
    reduce = CompressedReduce()
    reduce.start(flat, "layer", [Segment(*each) for each in parts])
    reduce.finish()
    reduce.close()
    errors, start = {}, 0
    for name, size, _ in parts:
        errors[name] = error_of(flat[start : start + size], wanted[start : start + size])
        start += size
    return {"errors": errors, "bits": digest(flat), "sent": reduce.bytes_sent, "exact": reduce.bytes_exact}


def refused(rank: int, world: int) -> Found:
    """One rank has a NaN, another infinity further on: all name the first, and go on to reduce what is fine."""
    found: Found = {}
    reduce = CompressedReduce(codec="int4")
    segments = [Segment("first", 40_000, "int4"), Segment("second", 30_000, "int4")]
    reduce.start(drawn(70_000, rank), "layer", segments)
    reduce.finish()
    before = {name: kept.clone() for name, kept in reduce.state_dict().items()}
    for name, value in (("nan", float("nan")), ("infinity", float("-inf"))):
        for fault in sorted({0, world - 1}):
            flat = drawn(70_000, rank)
            if rank == 0:
                flat[69_999] = float("inf")
            if rank == fault:
                flat[40_123] = value
            reduce.start(flat, "layer", segments)
            found[f"{name} on {fault}"] = refusal_of(reduce.finish)
    after = reduce.state_dict()
    unmoved = before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    flat = drawn(70_000, rank)
    reduce.start(flat, "layer", [Segment("whole", 70_000, "int4")])
    reduce.finish()
    reduce.close()
    feedback = torch.arange(3.0)
    refusal_of(lambda: compressed_all_reduce(torch.full((3,), torch.nan), feedback=feedback))
    unmoved = unmoved and feedback.tolist() == [0, 1, 2]
    return {"refused": found, "unmoved": unmoved, "after": [error_of(flat, mean_of(70_000, world)), digest(flat)]}


def too_large(rank: int, world: int) -> Found:
    """What float16 cannot hold is refused alike."""
    x = drawn(300, rank)
    x[17 + rank] = 1e6
    return {"refused": refusal_of(lambda: compressed_all_reduce(x, codec="fp16"))}


def refusal_of(call: Callable[[], None]) -> Found | None:
    """Return the refusal that a call ends with."""
    try:
        call()
    except NonFiniteError as error:
        return {"text": str(error), "parameter": error.parameter, "rank": error.rank, "hint": error.hint}
    return None


def misused(rank: int, world: int) -> Found:
    """What cannot be taken is refused before anything is sent."""
    calls: dict[str, Callable[[], object]] = {
        "type": lambda: compressed_all_reduce(torch.zeros(3, dtype=torch.float64)),
        "feedback": lambda: compressed_all_reduce(torch.zeros(3), feedback=torch.zeros(4)),
        "op": lambda: CompressedReduce(op="max"),  # type: ignore[arg-type]
    }
    found: Found = {}
    for name, call in calls.items():
        try:
            call()
        except UsageError as error:
            found[name] = [str(error), error.hint]
    return found


def streamed(rank: int, world: int) -> Found:
    """The exchange for accelerators does the same arithmetic: the same bits and residuals, the same refusals."""
    if world == 1:
        return {}
    found: Found = {}
    for codec in ("int8", "int4", "fp16"):
        for elements in (1, 1000, 70_001):
            ours, theirs = drawn(elements, rank), drawn(elements, rank)
            left_ours, left_theirs = torch.zeros(elements), torch.zeros(elements)
            exchange = Streamed(dist.group.WORLD)
            for _ in range(3):
                compressed_all_reduce(ours, codec=codec, feedback=left_ours)
                exchange.all_reduce(theirs, form(codec), 1 / world, left_theirs)
            found[f"{codec} {elements}"] = torch.equal(ours, theirs) and torch.equal(left_ours, left_theirs)
    x = drawn(9000, rank)
    if rank == world - 1:
        x[8765] = float("nan")
    verdicts = Streamed(dist.group.WORLD).all_reduce(x, form("int8"), 1.0, None)
    found["place"] = min(Verdict(*each) for each in verdicts.tolist()).place == 8765
    return found


def conserved(rank: int, world: int) -> Found:
    """What is not in the results is in the residuals, whatever is reduced: Hypothesis draws the same on every rank."""
    if world not in (2, 3):
        return {}

    @settings(max_examples=25, derandomize=True, database=None, deadline=None, suppress_health_check=[*HealthCheck])
    @given(
        elements=st.integers(0, 2000),
        codec=st.sampled_from(["int8", "int4", "fp8"]),
        seed=st.integers(1, 999),
        size=st.sampled_from([1e-30, 1.0, 1e20]),
    )
    def law(elements: int, codec: str, seed: int, size: float) -> None:
        feedback = torch.zeros(elements)
        put_in, got_out = torch.zeros(elements).double(), torch.zeros(elements).double()
        for step in range(3):
            x = size * drawn(elements, rank, seed + step)
            put_in += x.double() / world
            compressed_all_reduce(x, codec=codec, feedback=feedback)
            got_out += x.double()
        kept = feedback.double() / world
        kept[layout(elements, world).owned(rank)] *= world  # the owner's is in units of the result
        dist.all_reduce(put_in)
        dist.all_reduce(kept)
        assert torch.all((put_in - got_out - kept).abs() <= 1e-5 * size)

    law()
    return {"held": True}


def fed_back(rank: int, world: int) -> Found:
    """With error feedback the mean over many steps comes nearer to the exact one; without, it does not."""
    found: Found = {}
    for name, feedback in (("with", torch.zeros(5000)), ("without", None)):
        total = torch.zeros(5000).double()
        for _ in range(20):
            x = drawn(5000, rank)
            compressed_all_reduce(x, codec="int4", feedback=feedback)
            total += x.double()
        found[name] = error_of(total / 20, mean_of(5000, world))
    return found


def resumed(rank: int, world: int) -> Found:
    """The residuals' state, loaded into another object, goes on to the bit; of another world it is left out."""
    first, second = CompressedReduce(codec="int4"), CompressedReduce(codec="int4")
    x = drawn(3000, rank)
    first.all_reduce(x, "w")
    first.all_reduce(x.clone(), "v")
    second.load_state_dict({name: value.clone() for name, value in first.state_dict().items()})
    ours, theirs = drawn(3000, rank, 1), drawn(3000, rank, 1)
    first.all_reduce(ours, "w")
    second.all_reduce(theirs, "w")
    first.all_reduce(x.clone(), "v")
    second.load_state_dict({"rank0of99/w/0": torch.ones(3000)})
    return {"equal": torch.equal(ours, theirs), "names": sorted(first.state_dict()), "other": len(second.state_dict())}


CASES: tuple[Callable[[int, int], Found], ...] = (
    sizes_and_codecs,
    many_rounds,
    sums,
    shapes_and_types,
    segmented,
    refused,
    too_large,
    misused,
    streamed,
    conserved,
    fed_back,
    resumed,
)


def lost(rank: int, world: int) -> Found:
    """The last rank is killed in the middle of an exchange: the calls of the others end with an error."""
    reduce = CompressedReduce()
    reduce.all_reduce(drawn(1000, rank))
    if rank == world - 1:
        os.kill(os.getpid(), signal.SIGKILL)
    started = time.monotonic()
    for through_the_lane in (False, True):
        try:
            if through_the_lane:
                reduce.start(drawn(50_000, rank), "w", [Segment("w", 50_000, "int8")])
                reduce.finish()
            else:
                reduce.all_reduce(drawn(300_000, rank))
        except LinkLostError as error:
            text, hint = str(error), error.hint
    return {"text": text, "hint": hint, "seconds": time.monotonic() - started}


def run_rank(kind: str, rank: int, world: int, folder: Path) -> None:
    """Be one rank: run every case, write what was found."""
    torch.set_num_threads(1)
    store = dist.FileStore(str(folder / f"store-{kind}-{world}"), world)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world, timeout=timedelta(seconds=60))
    cases = {"plain": CASES, "hooks": hooks.CASES, "lost": (lost,)}[kind]
    found = {case.__name__: case(rank, world) for case in cases}
    (folder / f"{kind}-{world}-{rank}.json").write_text(json.dumps(found))
    if kind != "lost":
        dist.destroy_process_group()


def forked(kind: str, rank: int, world: int, folder: Path) -> int:
    """Fork one rank and return its process id."""
    if child := os.fork():
        return child
    status = 1
    try:
        run_rank(kind, rank, world, folder)
        status = 0
    except BaseException:  # noqa: BLE001 - a forked child ends here, whatever happens
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def load_kernels() -> None:
    """Have every kernel loaded before the ranks are forked, once for all of them."""
    x, residual = torch.randn(300), torch.zeros(300)
    for codec, each in FORMS.items():
        encoded = torch.empty(each.encoded_size_bytes(300), dtype=torch.uint8)
        for left in (None, residual):
            encode_tensor(codec, x, encoded, left)
            reduce_encoded(codec, encoded.view(1, -1), torch.ones(1), encoded.clone(), 300, left)
        decode_tensor(codec, encoded, x)


def main() -> None:
    """Run the groups one after the other. A rank that fails says so, and leaves no file."""
    folder = Path(sys.argv[1])
    load_kernels()
    for kind, world in (group.split("-") for group in sys.argv[2:]):
        children = [forked(kind, rank, int(world), folder) for rank in range(int(world))]
        for child in children:
            os.waitpid(child, 0)


if __name__ == "__main__":
    main()
