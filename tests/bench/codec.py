"""The codec on one core, against copying the same vector.

Run: python tests/bench/codec.py [--json] [--case NAME ...] [--elements 25000000] [--pairs 7]

Cases: `codec_FORM_WORK`. Forms: int8, int4, fp8, fp16. Works: `encode`, `encode_feedback` (with the residual, in place),
`decode` (into a vector that is there), `accumulate` (decoded, weighted and added), `reduce` (two ranks' wire forms
decoded, averaged and encoded again, with the owner's residual), and for int8 `decode_checked` (as the round decodes what
strangers sent). Rates are gigabytes of float32 a second, medians; ours and the copy take turns. In one thread.

`codec_topk_WORK`: the same of the sparse form that contributions travel in, `decode_checked` too; `reduce` is the owner's part
of a round: two contributions decoded, averaged, and encoded in the sparse form of their sum.

`codec_FORM_error` is the error of a vector of normally distributed numbers, encoded and decoded, relative to its norm, and
`codec_FORM_error_20` that of the mean of 20 steps with error feedback; its ratio: how many times smaller than without.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # a fresh checkout needs no installation

import numpy as np
from _report import machine, say, show

from prime.trainer.codec.cpu import codec_engine
from prime.trainer.codec.engine import Encoded, Vector
from prime.trainer.codec.form import Form, form
from prime.trainer.codec.sparse_vectors import gather, topk
from prime.trainer.codec.vectors import Codec

FORMS = ("int8", "int4", "fp8", "fp16", "topk")


def seconds(work: Callable[[], object]) -> float:
    """Return how long one call takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


class Bench:
    """One dense form's works over one vector. `x`, `into` and the residual are float32[D]."""

    def __init__(self, form: Form, x: Vector, into: Vector, residual: Vector) -> None:
        self.engine = codec_engine()
        self.codec = Codec(form, self.engine)
        self.form, self.x, self.into, self.residual = form, x, into, residual
        self.encoded: Encoded = self.codec.encode(x)
        self.rows = np.stack([self.encoded, self.encoded])
        self.half = np.full(2, 0.5, np.float32)

    def encode(self) -> None:
        """Encode into a buffer that is there."""
        self.engine.encode(self.form, self.x, self.encoded, None, None)

    def encode_feedback(self) -> None:
        """Encode with the residual."""
        self.engine.encode(self.form, self.x, self.encoded, self.residual, self.residual)

    def decode(self) -> None:
        """Decode into a vector that is there."""
        self.engine.decode(self.form, self.encoded, self.into)

    def decode_checked(self) -> None:
        """Decode, and first look at what a stranger may have sent."""
        self.codec.decode(self.encoded, self.x.size, self.into)

    def accumulate(self) -> None:
        """Add half of the decoded vector."""
        self.engine.accumulate(self.form, self.encoded, self.into, np.float32(0.5))

    def reduce(self) -> None:
        """Average two, encode again."""
        self.engine.reduce(self.form, self.rows, self.half, self.encoded, self.residual, self.residual, self.x.size)


class SparseBench:
    """The works of `topk` over one vector. `x`, `into` and the residual are float32[D]."""

    def __init__(self, x: Vector, into: Vector, residual: Vector) -> None:
        self.codec = topk()
        self.engine = self.codec.engine
        self.x, self.into, self.residual = x, into, residual
        self.encoded: Encoded = self.codec.encode(x)
        sums = gather(2, self.engine)
        assert sums is not None
        self.sums = sums
        self.reduced = np.empty(sums.form.encoded_size_bytes(x.size), np.uint8)

    def encode(self) -> None:
        """Encode into a buffer that is there."""
        self.codec.encode(self.x, self.encoded)

    def encode_feedback(self) -> None:
        """Encode with the residual."""
        self.codec.encode(self.x, self.encoded, self.residual, self.residual)

    def decode(self) -> None:
        """Decode into a vector that is there."""
        self.engine.decode(self.codec.form, self.encoded, self.into)

    def decode_checked(self) -> None:
        """Decode, and first look at what a stranger may have sent."""
        self.codec.decode(self.encoded, self.x.size, self.into)

    def accumulate(self) -> None:
        """Add half of the decoded vector."""
        self.engine.accumulate(self.codec.form, self.encoded, self.into, np.float32(0.5))

    def reduce(self) -> None:
        """Average two, encode their sum."""
        self.into[:] = 0
        self.accumulate()
        self.accumulate()
        self.sums.encode(self.into, self.reduced)


def error(bench: Bench | SparseBench, case: str, steps: int) -> dict[str, object]:
    """Return how far the mean of so many steps is from the vector, relative to its norm."""
    norm = float(np.linalg.norm(bench.x))
    bench.encode()
    bench.decode()
    once = float(np.linalg.norm(bench.into - bench.x)) / norm
    if steps == 1:
        say(f"{case}: {once:.2e} of the norm")
        return {"case": case, "value": once, "unit": "of the norm", "against": None, "ratio": None}
    bench.into[:] = 0
    for _ in range(steps):
        bench.encode_feedback()
        bench.codec.decode_add(bench.encoded, bench.into, 1 / steps)
    value = float(np.linalg.norm(bench.into - bench.x)) / norm
    say(f"{case}: {value:.2e} of the norm, {once / value:.1f} times less than without feedback")
    return {"case": case, "value": value, "unit": "of the norm", "against": "no feedback", "ratio": once / value}


WORKS = ("encode", "encode_feedback", "decode", "accumulate", "reduce")
ERRORS = ("error", "error_20")


def main() -> None:
    """Run the bench."""
    parser = argparse.ArgumentParser(description=__doc__)
    cases = [f"codec_{name}_{work}" for name in FORMS for work in (*WORKS, *ERRORS)]
    for name in ("int8", "topk"):
        cases.insert(cases.index(f"codec_{name}_decode") + 1, f"codec_{name}_decode_checked")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("--case", action="append", choices=cases, help="only this case; may be given more than once")
    parser.add_argument("--elements", type=int, default=25_000_000, help="float32 values in the vector")
    parser.add_argument("--pairs", type=int, default=7, help="runs of each, in turns")
    arguments = parser.parse_args()
    before, results, size = machine(), [], arguments.elements
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    x, into = np.random.default_rng(0).standard_normal(size, np.float32), np.zeros(size, np.float32)
    residual, copied = np.zeros(size, np.float32), np.zeros(size, np.float32)
    for case in arguments.case or cases:
        _, name, work_name = case.split("_", 2)
        bench = SparseBench(x, into, residual) if name == "topk" else Bench(form(name), x, into, residual)
        residual[:] = 0
        if work_name in ERRORS:
            results.append(error(bench, case, 20 if work_name == "error_20" else 1))
            continue
        work = getattr(bench, work_name)
        work()
        pairs = [(seconds(work), seconds(lambda: np.copyto(copied, x))) for _ in range(arguments.pairs)]
        value = 4e-9 * size / statistics.median(ours for ours, _ in pairs)
        ratio = statistics.median(theirs / ours for ours, theirs in pairs)
        results.append({"case": case, "value": value, "unit": "GB/s", "against": "numpy copy", "ratio": ratio})
        say(f"{case}: {value:.1f} GB/s of float32, {ratio:.2f} copies ({bench.engine.name})")
    show("codec", results, before, as_json=arguments.json)


if __name__ == "__main__":
    main()
