"""How soon the command line answers: `prime --help` and `import prime`, against importing typer alone.

Run: python tests/bench/startup.py [--json] [--pairs 7]

Each is a fresh interpreter; ours and theirs take turns, values are medians.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from _report import machine, say, show

ROOT = Path(__file__).resolve().parents[2]
CASES = {"help": "from prime.cli.main import run; run(['--help'])", "import_prime": "import prime; prime.Actor"}
AGAINST = "import typer"


def seconds(code: str) -> float:
    """Return the wall seconds of one fresh interpreter that runs `code`."""
    started = time.perf_counter()
    subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        stdout=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    return time.perf_counter() - started


def main() -> None:
    """Run the bench."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("--pairs", type=int, default=7, help="runs of each, in turns")
    arguments = parser.parse_args()
    before, results = machine(), []
    for case, code in CASES.items():
        pairs = [(seconds(code), seconds(AGAINST)) for _ in range(arguments.pairs)]
        value = statistics.median(ours for ours, _ in pairs)
        ratio = statistics.median(theirs / ours for ours, theirs in pairs)
        results.append({"case": case, "value": value, "unit": "s", "against": AGAINST, "ratio": ratio})
        say(f"{case}: {value:.3f} s")
    show("startup", results, before, as_json=arguments.json)


if __name__ == "__main__":
    main()
