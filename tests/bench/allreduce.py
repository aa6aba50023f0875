"""The compressed all-reduce among two ranks against gloo's own in float32, over links of several rates; and a training step.

Run: python tests/bench/allreduce.py [--json] [--cases NAME,...] [--elements 25000000] [--pairs 5]

`allreduce_*`: the seconds of one all-reduce of 25 M float32, ours and gloo's in turns in the same two processes.
`fsdp_step`: the seconds of a step of a model of 10 M parameters under `fully_shard`, every rank a replica, on a link of
100 Mbit/s, with the int8 hook and with torch's own exact reduction of replicas, in turns.
Links of a rate need root (`tests/netsim/`); without it those cases are left out. Read `ratio`: how many times faster.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import attrs
from _report import machine, say, show

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
NETSIM = HERE.parent / "netsim" / "netsim.sh"
DEADLINE_S = 600.0


@attrs.frozen
class Case:
    """A race: on a link of a rate ("" is the loopback), what the ratio shall reach and what it cannot pass."""

    name: str
    rate: str
    codec: str
    reach: float
    limit: float | None
    pairs_max: int = 100


CASES = (
    Case("allreduce_loopback", "", "int8", 1.0, None),
    Case("allreduce_1gbit", "1gbit", "int8", 2.5, 3.94),
    Case("allreduce_100mbit", "100mbit", "int8", 3.7, 3.94, pairs_max=3),
    Case("allreduce_100mbit_int4", "100mbit", "int4", 6.5, 7.11, pairs_max=3),
    Case("fsdp_step", "100mbit", "int8", 2.5, None, pairs_max=5),
)


def measured(case: Case, elements: int, pairs: int) -> dict[str, Any]:
    """Run one race in two processes and return rank 0's figures."""
    pairs = min(pairs, case.pairs_max)
    if case.name == "fsdp_step":
        program = [sys.executable, str(HERE / "_fsdp_step.py"), "--pairs", str(pairs)]
    else:
        program = [sys.executable, "-m", "prime", "bench", "allreduce", "--json", "--codec", case.codec]
        program += ["--elements", str(elements), "--pairs", str(pairs)]
    link = [str(NETSIM), "2", case.rate, "0", "--"] if case.rate else []
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    ended = subprocess.run(
        [*link, *program], stdout=subprocess.PIPE, text=True, timeout=DEADLINE_S, check=True,
        env={**os.environ, "PYTHONPATH": path, "NETSIM_PYTHON": sys.executable},
    )  # fmt: skip
    found: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return found


def result_of(case: Case, found: dict[str, Any]) -> dict[str, Any]:
    """Return the case's row of the report."""
    return {
        "case": case.name,
        "value": found["seconds"],
        "unit": "s",
        "against": "exact, by torch" if case.name == "fsdp_step" else "gloo float32",
        "against_value": found["exact_seconds"],
        "ratio": found["ratio"],
        "reach": case.reach,
        "limit": case.limit,
        "identical": found["identical"],
        "relative_error": found["relative_error"],
        "pairs": found["pairs"],
    }


def why_not(case: Case) -> str:
    """Return why a case cannot run here, or nothing."""
    if case.rate and (sys.platform != "linux" or os.geteuid() != 0):
        return f"a link of {case.rate} needs network namespaces, hence Linux and root"
    return ""


def main() -> None:
    """Run the bench."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("--cases", "--case", default="", help="names, with commas between them (default: all)")
    parser.add_argument("--elements", type=int, default=25_000_000, help="float32 values in the vector")
    parser.add_argument("--pairs", type=int, default=7, help="runs of each, in turns; fewer on slow links")
    arguments = parser.parse_args()
    wanted = arguments.cases.split(",") if arguments.cases else [case.name for case in CASES]
    if unknown := set(wanted) - {case.name for case in CASES}:
        parser.error(f"no case {', '.join(sorted(unknown))}; there are {', '.join(case.name for case in CASES)}")
    before, results = machine(), []
    for case in (each for each in CASES if each.name in wanted):
        if reason := why_not(case):
            say(f"{case.name:24}left out: {reason}")
            continue
        results.append(row := result_of(case, measured(case, arguments.elements, arguments.pairs)))
        short = "  SHORT OF IT" if row["ratio"] < case.reach else ""
        sides = f"{row['value']:.3g} s against {row['against_value']:.3g}"
        say(f"{case.name:24}{sides}: {row['ratio']:.2f} times, wanted {case.reach:g}{short}")
    show("allreduce", results, before, as_json=arguments.json)


if __name__ == "__main__":
    main()
