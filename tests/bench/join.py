"""How long a node takes to join a run, against the least that it can take.

Run: python tests/bench/join.py [--json] [--elements 12500000] [--rate-mbit 100] [--members 4] [--delay 0]

`join`: members train in rounds over links of a rate, each way, in network namespaces of their own; then one more node
asks to be let in, and fetches the state from all of them. Its time is from the first word to holding the state that its
round starts from. The least is the state's bytes at the rate of its link, and one round, as measured between the members
meanwhile: it is let in by a round's decision. Read `ratio`: the least by the time that it took. Needs root and tc.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from _report import machine, say, show

HERE = Path(__file__).parent
NETSIM = HERE.parent / "netsim" / "netsim.sh"
CASE = "join"
SLOTS = 1
LIMIT_S = 170.0


def measured(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Run the swarm and return what its nodes told."""
    rate = f"{options.rate_mbit:g}mbit"
    node = [sys.executable, str(HERE / "_join_node.py"), str(folder), "--elements", str(options.elements)]
    node += ["--pace-s", str(options.pace_s), "--limit-s", str(LIMIT_S - 10)]
    command = ["bash", str(NETSIM), str(options.members + 1), rate, options.delay, "--", *node]
    environment = {**os.environ, "NETSIM_DOWN": rate, "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
    subprocess.run(command, check=True, timeout=LIMIT_S, env=environment)
    found = json.loads((folder / "joiner").read_text(encoding="utf-8"))
    nodes = [json.loads((folder / f"rounds-{rank}").read_text(encoding="utf-8")) for rank in range(options.members + 1)]
    states = {each["round"]: set() for each in nodes}
    for each in nodes:
        states[each["round"]].add(each["hash"])
    if any(len(hashes) > 1 for hashes in states.values()):
        raise SystemExit(f"nodes hold different states after the same round: {states}")
    return {**found, "round_s": _round_s(nodes[0]["at_s"], found)}


def _round_s(at_s: list[float], found: dict[str, Any]) -> float:
    """Return the mean time of the rounds that the members made while the node joined, and of the one before."""
    marks = [at for at in at_s if at <= found["joined_at_s"]]
    spans = [later - earlier for earlier, later in itertools.pairwise(marks) if later > found["began_at_s"]]
    spans = spans or [marks[-1] - marks[-2]]
    return sum(spans) / len(spans)


def result(options: argparse.Namespace, found: dict[str, Any]) -> dict[str, Any]:
    """Return the case as benches print it."""
    state_bytes = 4 * options.elements * (1 + SLOTS)
    link_s = state_bytes / (options.rate_mbit * 125_000)
    took_s = found["joined_at_s"] - found["began_at_s"]
    return {
        "case": CASE,
        "value": took_s,
        "unit": "s",
        "ratio": (link_s + found["round_s"]) / took_s,
        "against": "the state at the rate of its link and one round",
        "state_bytes": state_bytes,
        "link_s": link_s,
        "round_s": found["round_s"],
        "fetch_s": found["fetch_s"],
        "donors": found["donors"],
        "fetches": found["fetches"],
        "members": options.members,
        "rate_mbit": options.rate_mbit,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--case", choices=[CASE], default=CASE)
    parser.add_argument("--elements", type=int, default=12_500_000)
    parser.add_argument("--rate-mbit", type=float, default=100.0)
    parser.add_argument("--members", type=int, default=4)
    parser.add_argument("--delay", default="0")
    parser.add_argument("--pace-s", type=float, default=8.0, help="seconds of computing between two rounds")
    options = parser.parse_args()
    before = machine()
    if os.geteuid() != 0 or shutil.which("tc") is None:
        say("needs root and tc: links of a rate are made in network namespaces")
        show(CASE, [], before, as_json=options.json)
        return
    with tempfile.TemporaryDirectory() as folder:
        found = measured(options, Path(folder))
    show(CASE, [result(options, found)], before, as_json=options.json)


if __name__ == "__main__":
    main()
