"""The codec's kernels for CUDA: their bits against the reference, their speed against a copy on the device.

Run: python tests/bench/cuda.py [--json] [--case NAME] [--elements 100000000] [--pairs 9]     on a machine with a GPU
     python tests/bench/cuda.py --interpret [--json]                                          anywhere, numbers only

A kernel's rate is the bytes that it has to move (what it reads once and what it writes once) by its time; the ratio is
that rate to the one of a copy of as many float32, which reads and writes, too. So 1 is all the memory gives. Times are
of CUDA events around some calls in a row, medians, in turns.

`cuda_hook` is the time of a training step under DDP with the compressed all-reduce as its hook, against the same step
without: rank 0 of 2, whose wire brings zeros at the speed of the device's memory, so what is seen is what the codec
costs beside a backward pass. Its value is the part of the step that it adds.

Without a GPU and without `--interpret` it says so, and has no results.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # a fresh checkout needs no installation

from _report import machine, say, show

CASES = ("cuda_numerics", "cuda_quantise", "cuda_reduce", "cuda_dequantise", "cuda_hook")
REACH = 0.8
REACH_HOOK = 0.03
CALLS = 20
"""How many calls are timed in a row: so many that the device never waits for the host."""
RANKS = 4
SIZES = (1, 63, 257, 2048, 2049, 4500)


def main() -> None:
    """Run the bench."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument(
        "--interpret", action="store_true", help="the numbers alone, in Triton's interpreter, on the CPU"
    )
    parser.add_argument("--case", action="append", choices=CASES, help="only this one; may be given again")
    parser.add_argument("--elements", type=int, default=100_000_000, help="float32 values in the vector")
    parser.add_argument("--pairs", type=int, default=9, help="measurements of each, in turns")
    arguments = parser.parse_args()
    before = machine()
    show("cuda", measure(arguments, before), before, as_json=arguments.json)


def measure(arguments: argparse.Namespace, before: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the results of the cases that this machine can run."""
    if arguments.interpret:
        os.environ["TRITON_INTERPRET"] = "1"  # which Triton reads when it is imported
    try:
        import torch
        import triton
    except ModuleNotFoundError as missing:
        say(f"no case runs: {missing.name} is not installed")
        return []
    before |= {"torch": torch.__version__, "triton": triton.__version__}
    if not arguments.interpret and not torch.cuda.is_available():
        say("no case runs: torch sees no CUDA device (--interpret checks the numbers without one)")
        return []
    wanted = arguments.case or CASES
    if arguments.interpret:
        if tuple(map(int, triton.__version__.split(".")[:2])) < (3, 9):
            say(
                f"no case runs: the interpreter of Triton {triton.__version__} rounds a fused operation twice: take 3.9"
            )
            return []
        warnings.simplefilter("ignore", RuntimeWarning)  # of numpy, about what is not finite: a device does not warn
        return [numerics("cpu")] if "cuda_numerics" in wanted else []
    before["device"] = torch.cuda.get_device_name()
    timed = {
        "cuda_numerics": lambda: numerics("cuda"),
        "cuda_quantise": lambda: against_copy("cuda_quantise", arguments, quantising),
        "cuda_reduce": lambda: against_copy("cuda_reduce", arguments, reducing),
        "cuda_dequantise": lambda: against_copy("cuda_dequantise", arguments, dequantising),
        "cuda_hook": lambda: hook(arguments),
    }
    return [timed[name]() for name in CASES if name in wanted]


# --------------------------------------------------------------------------------------------------------------- numbers


def numerics(device: str) -> dict[str, Any]:
    """Count how many comparisons with the reference, which is torch on the CPU, agree bit by bit."""
    from prime.trainer.codec.form import FORMS

    outcomes = [outcome for form in FORMS.values() for outcome in (*encodings(form, device), *reductions(form, device))]
    agreed = sum(outcomes)
    say(f"cuda_numerics: {agreed} of {len(outcomes)} comparisons with the reference agree bit by bit, on {device}")
    return {
        "case": "cuda_numerics",
        "value": agreed / len(outcomes),
        "unit": "part of the comparisons",
        "against": "the torch reference",
        "ratio": None,
        "comparisons": len(outcomes),
        "reach": 1,
    }


def vectors(form: Any) -> Iterator[Any]:
    """Yield vectors of many sizes: plain ones, ones whose blocks differ by 80 orders of magnitude, and hostile values."""
    import torch

    generator = torch.Generator().manual_seed(6)
    for elements in SIZES:
        plain = torch.randn(elements, generator=generator)
        size = torch.randint(-46, 37, (-(-elements // 64),), generator=generator).double()
        yield plain
        yield (plain * torch.pow(10.0, size).repeat_interleave(64)[:elements]).float()
    code_max = form.code_max or 127.0
    halves = torch.linspace(-code_max, code_max, int(4 * min(code_max, 127)) + 1)  # every tie of every code
    for scale in (1.0, 2.0**-126, 1 / 3, 1.9999999):
        yield torch.cat([halves, halves.nextafter(torch.tensor(1e9)), halves.nextafter(torch.tensor(-1e9))]) * scale
    largest = torch.finfo(torch.float32).max
    yield torch.tensor([largest, -largest, 1.0, -0.0, 2.0**-149])
    yield torch.tensor([1e-40, -1e-41, 0.0] * 100)
    for bad in (float("nan"), float("inf"), -float("inf")):
        yield torch.tensor([1.0, bad] * 150)


def encodings(form: Any, device: str) -> Iterator[bool]:
    """Yield whether each encoding is that of the reference, its residual too, and decodes to the same bits."""
    import torch

    from prime.trainer.codec.engine_torch import TorchTensors
    from prime.trainer.codec.engine_triton import TritonTensors

    ours, theirs = TritonTensors(), TorchTensors()
    for number, x in enumerate(vectors(form)):
        dtype = [torch.float32, torch.bfloat16, torch.float16][number % 3]
        subnormal = (x.abs() < 2.0**-126) & (dtype == torch.bfloat16)  # those the interpreter widens wrongly
        wide = torch.where(subnormal, 0.0, x).to(dtype)
        residual = x.roll(1).clamp(-1, 1) if number % 2 else None
        encoded, encoded_too = (torch.zeros(form.encoded_size_bytes(x.numel()), dtype=torch.uint8) for _ in "ab")
        there, left, left_too = encoded.to(device), torch.zeros(x.numel(), device=device), torch.zeros(x.numel())
        flags = ours.encode(form, wide.to(device), there, None if residual is None else residual.to(device), left)
        flags_too = theirs.encode(form, wide, encoded_too, residual, left_too)
        yield int(flags) == int(flags_too)
        if int(flags_too):
            continue
        yield same(there, encoded_too) and same(left, left_too)
        decoded, decoded_too = torch.zeros(x.numel(), device=device), torch.zeros(x.numel())
        ours.decode(form, encoded_too.to(device), decoded)
        theirs.decode(form, there.cpu(), decoded_too)
        yield same(decoded, decoded_too)


def reductions(form: Any, device: str) -> Iterator[bool]:
    """Yield whether each sum of some ranks' encodings, and the owner's residual, is that of the reference."""
    import torch

    from prime.trainer.codec.engine_torch import TorchTensors
    from prime.trainer.codec.engine_triton import TritonTensors

    ours, theirs = TritonTensors(), TorchTensors()
    generator = torch.Generator().manual_seed(7)
    for ranks, elements in ((1, 65), (2, 2049), (3, 700), (7, 129)):
        rows = torch.zeros(ranks, form.encoded_size_bytes(elements), dtype=torch.uint8)
        for row in rows:
            theirs.encode(form, torch.randn(elements, generator=generator), row, None, None)
        weights, residual = torch.rand(ranks, generator=generator), torch.randn(elements, generator=generator) / 50
        there, left = (torch.empty_like(each, device=device).copy_(each) for each in (rows[0], residual))
        encoded, left_too = rows[0].clone(), residual.clone()
        flags = ours.reduce(form, rows.to(device), weights.to(device), there, left, left, elements)
        flags_too = theirs.reduce(form, rows, weights, encoded, left_too, left_too, elements)
        yield int(flags) == int(flags_too) == 0 and same(there, encoded) and same(left, left_too)


def same(there: Any, here: Any) -> bool:
    """Tell whether two tensors have the same bits: 0 is not -0."""
    import torch

    return bool(torch.equal(there.cpu().view(torch.uint8), here.view(torch.uint8)))


# ----------------------------------------------------------------------------------------------------------------- speed

Work = Callable[[], object]


def quantising(elements: int) -> tuple[Work, int]:
    """K1, without a residual: reads the vector, writes the wire form."""
    import torch

    from prime.trainer.codec.tensors import encode_tensor

    x, encoded = torch.randn(elements, device="cuda"), buffer(elements)
    return lambda: encode_tensor("int8", x, encoded), 4 * elements + encoded.numel()


def reducing(elements: int) -> tuple[Work, int]:
    """K2: reads the wire forms of all ranks, writes one."""
    import torch

    from prime.trainer.codec.tensors import encode_tensor, reduce_encoded

    rows = buffer(elements, RANKS)
    for row in rows:
        encode_tensor("int8", torch.randn(elements, device="cuda"), row)
    weights, encoded = torch.full((RANKS,), 1 / RANKS, device="cuda"), buffer(elements)
    return lambda: reduce_encoded("int8", rows, weights, encoded, elements), rows.numel() + encoded.numel()


def dequantising(elements: int) -> tuple[Work, int]:
    """K3: reads the wire form, writes the vector."""
    import torch

    from prime.trainer.codec.tensors import decode_tensor, encode_tensor

    into, encoded = torch.randn(elements, device="cuda"), buffer(elements)
    encode_tensor("int8", into, encoded)
    return lambda: decode_tensor("int8", encoded, into), 4 * elements + encoded.numel()


def buffer(elements: int, rows: int | None = None) -> Any:
    """Make room for one wire form, or for some under each other."""
    import torch

    from prime.trainer.codec.form import INT8

    size = INT8.encoded_size_bytes(elements)
    return torch.empty(size if rows is None else (rows, size), dtype=torch.uint8, device="cuda")


def against_copy(
    case: str, arguments: argparse.Namespace, prepare: Callable[[int], tuple[Work, int]]
) -> dict[str, Any]:
    """Measure one kernel and a copy of the same vector in turns."""
    import torch

    work, moved_bytes = prepare(arguments.elements)
    source = torch.randn(arguments.elements, device="cuda")
    target = torch.empty_like(source)

    def copy() -> None:
        target.copy_(source)

    seconds(work), seconds(copy)  # compiled, and warm
    pairs = [(seconds(work), seconds(copy)) for _ in range(arguments.pairs)]
    rates = [(moved_bytes / ours / 1e9, 8 * arguments.elements / theirs / 1e9) for ours, theirs in pairs]
    value, copied = (statistics.median(column) for column in zip(*rates, strict=True))
    ratios = [ours / theirs for ours, theirs in rates]
    say(f"{case}: {value:.0f} GB/s moved, a copy {copied:.0f}")
    return {
        "case": case,
        "value": value,
        "unit": "GB/s moved",
        "against": "a copy on the device",
        "ratio": statistics.median(ratios),
        "ratio_low": min(ratios),
        "ratio_high": max(ratios),
        "against_value": copied,
        "reach": REACH,
        "pairs": len(pairs),
    }


def seconds(work: Work, calls: int = CALLS) -> float:
    """Return the device's time of a call, of some in a row."""
    import torch

    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    start.record()
    for _ in range(calls):
        work()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3 / calls


# ------------------------------------------------------------------------------------------------------------------ hook


def hook(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure a training step with and without the hook in turns."""
    import torch
    import torch.distributed as dist
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", rank=0, world_size=2, store=FakeStore())
    torch.cuda.set_device(0)
    try:
        with_hook, without = step(compressed=True), step(compressed=False)
        for work in (with_hook, without) * 3:
            work()
        pairs = [(seconds(with_hook, 3), seconds(without, 3)) for _ in range(arguments.pairs)]
    finally:
        dist.destroy_process_group()
    added = statistics.median(ours / theirs - 1 for ours, theirs in pairs)
    exact_s = statistics.median(theirs for _, theirs in pairs)
    say(f"cuda_hook: {added:.1%} on top of a step of {1e3 * exact_s:.1f} ms")
    return {
        "case": "cuda_hook",
        "value": added,
        "unit": "part of a step added",
        "against": "the same step, its gradients not exchanged",
        "ratio": statistics.median(theirs / ours for ours, theirs in pairs),
        "against_value": exact_s,
        "value_reach": REACH_HOOK,
        "pairs": len(pairs),
    }


def step(*, compressed: bool) -> Work:
    """Make a training step of a transformer of 100 M parameters in bfloat16, on 16 sequences of 512 tokens."""
    import torch
    from torch import nn

    layer = nn.TransformerEncoderLayer(1024, 16, 4096, dropout=0.0, batch_first=True, norm_first=True)
    net = nn.TransformerEncoder(layer, 8, enable_nested_tensor=False).to("cuda")
    model = nn.parallel.DistributedDataParallel(net, device_ids=[0])
    if compressed:
        attach(model)
    x = torch.randn(16, 512, 1024, device="cuda")

    def one() -> None:
        model.zero_grad(set_to_none=True)
        with torch.autocast("cuda", torch.bfloat16):
            loss = model(x).square().mean()
        loss.backward()

    return one


def attach(model: Any) -> None:
    """Give DDP the compressed all-reduce as rank 0 of 2, over a wire that brings zeros from the other rank."""
    import torch.distributed as dist

    from prime.trainer.collective import CompressedReduce, attach_ddp, stream
    from prime.trainer.collective.refusal import HEADER_BYTES

    def all_to_all(received: Any, _sent: Any, *_sizes: Any, **_options: Any) -> None:
        received.zero_()

    def all_gather(gathered: Any, own: Any, **_options: Any) -> None:
        ours, theirs = gathered.view(2, -1)
        ours.copy_(own)
        theirs.zero_()
        theirs[:HEADER_BYTES] = own[:HEADER_BYTES]  # that all is well with it

    dist.all_to_all_single = all_to_all
    stream._all_gather = all_gather
    attach_ddp(model, CompressedReduce(codec="int8"))


if __name__ == "__main__":
    main()
