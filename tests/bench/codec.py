"""The int8 codec on one core, against copying the same vector.

Run: python tests/bench/codec.py [--json] [--elements 25000000] [--pairs 7]

Rates are gigabytes of float32 a second, medians; ours and the copy take turns.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # a fresh checkout needs no installation

import numpy as np
from _report import machine, say, show

from prime.trainer.codec import codec as codec_named


def seconds(work: Callable[[], object]) -> float:
    """Return how long one call takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def main() -> None:
    """Run the bench."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("--elements", type=int, default=25_000_000, help="float32 values in the vector")
    parser.add_argument("--pairs", type=int, default=7, help="runs of each, in turns")
    arguments = parser.parse_args()
    before, results = machine(), []
    codec, size = codec_named("int8"), arguments.elements
    x, into = np.random.default_rng(0).standard_normal(size, np.float32), np.zeros(size, np.float32)
    encoded = codec.encode(x)
    works: dict[str, Callable[[], object]] = {
        "encode": lambda: codec.encode(x),
        "decode": lambda: codec.decode(encoded, size, into),
        "decode_add": lambda: codec.decode_add(encoded, into, 0.5),
    }
    for case, work in works.items():
        work()
        pairs = [(seconds(work), seconds(lambda: np.copyto(into, x))) for _ in range(arguments.pairs)]
        value = 4e-9 * size / statistics.median(ours for ours, _ in pairs)
        ratio = statistics.median(theirs / ours for ours, theirs in pairs)
        results.append({"case": case, "value": value, "unit": "GB/s", "against": "numpy copy", "ratio": ratio})
        say(f"{case}: {value:.1f} GB/s of float32 ({codec.engine.name})")
    show("codec", results, before, as_json=arguments.json)


if __name__ == "__main__":
    main()
