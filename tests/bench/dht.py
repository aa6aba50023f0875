"""The DHT: real nodes against py-libp2p's own kad, and what the simulator says of thousands of nodes, liars and churn.

Run: python tests/bench/dht.py [--json] [--cases get put find hops_1000 liars_20 churn_25 fetch fetch_paced] [--nodes 32]
     [--pairs 3] [--gibibytes 1] [--grow] [--plot FILE]

`get`, `put` and `find` are medians of calls to a swarm of `--nodes` processes on loopback, ours and py-libp2p's in turns, both
linked throughout. Ours signs what it puts, checks it, counts holders and keeps it on the disk by SQLite (`--store`); theirs
keeps it in memory. `find` looks up the nodes closest to a random key. `hops_1000` is the longest of 300 lookups among 1,000
simulated nodes. `liars_20` is the share of right reads where a fifth of 1,000 nodes lies, `churn_25` where a quarter of 100
nodes crashes each hour, for four hours. With `--grow` each of these three brings curves too (`_dht_curves.py`): over up to 10,000
nodes, 40 % of liars, and crashes with repair and without; `--plot` draws them. `fetch` is a file of `--gibibytes` from three
providers against one, `fetch_paced` a quarter of it from providers that send 40 MB/s each (`_dht_fetch.py`).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # a fresh checkout needs no installation

import _dht_curves  # noqa: E402
import _dht_fetch  # noqa: E402
import _dht_swarm  # noqa: E402
import attrs  # noqa: E402
from _report import machine, say, show  # noqa: E402

from prime.sim.scenarios.lookups import measure_hops, measure_liars  # noqa: E402
from prime.sim.scenarios.replicas import measure_churn  # noqa: E402


def hops_1000(options: argparse.Namespace) -> dict[str, Any]:
    """Return how long lookups are."""
    found = measure_hops(1000)
    say(f"hops: {found}")
    grown = {"curves": _dht_curves.hops()} if options.grow else {}
    return _value("hops_1000", found.greatest, "hops", **attrs.asdict(found), **grown)


def liars_20(options: argparse.Namespace) -> dict[str, Any]:
    """Return the share of right reads beside liars."""
    reads = measure_liars()
    say(f"liars: {reads}")
    grown = {"curves": _dht_curves.liars()} if options.grow else {}
    return _value("liars_20", reads.share, "of reads", **attrs.asdict(reads), **grown)


def churn_25(options: argparse.Namespace) -> dict[str, Any]:
    """Return the share of right reads while nodes crash."""
    churn = measure_churn()
    say(f"churn: {churn}")
    grown = {"curves": _dht_curves.churn()} if options.grow else {}
    return _value("churn_25", churn.share, "of reads", **attrs.asdict(churn), **grown)


def _value(case: str, value: float, unit: str, **about: Any) -> dict[str, Any]:
    return {"case": case, "value": value, "unit": unit, "ratio": None, "against": None, **about}


SIMULATED = {"hops_1000": hops_1000, "liars_20": liars_20, "churn_25": churn_25}
CASES = (*_dht_swarm.CASES, *SIMULATED, *_dht_fetch.CASES)


def main() -> None:
    """Run the chosen cases."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=CASES)
    parser.add_argument("--nodes", type=int, default=32)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--calls", type=int, default=30)
    parser.add_argument("--transport", default="libp2p")
    parser.add_argument("--store", choices=("memory", "sqlite"), default="sqlite")
    parser.add_argument("--gibibytes", type=float, default=1.0, help="the model of fetch")
    parser.add_argument("--grow", action="store_true", help="curves of the simulated cases, too")
    parser.add_argument("--plot", type=Path, help="draw these curves into this file (.svg or .png)")
    options = parser.parse_args()
    options.grow |= options.plot is not None
    before, results = machine(), []
    if raced := [case for case in _dht_swarm.CASES if case in options.cases]:
        results += _dht_swarm.race(raced, options.nodes, options.pairs, options.calls, options.transport, options.store)
    results += [run(options) for case, run in SIMULATED.items() if case in options.cases]
    size_bytes = int(options.gibibytes * 1024) << 20
    results += [
        _dht_fetch.measure(case, size_bytes, options.pairs) for case in _dht_fetch.CASES if case in options.cases
    ]
    show("dht", results, before, as_json=options.json)
    if options.plot:
        _dht_curves.draw(results, options.plot)


if __name__ == "__main__":
    main()
