"""The actor runtime against bare event loops and other actor systems, in turns, in the same minutes.

Run: python tests/bench/actors.py [--json] [--cases ask,tell_sync] [--pairs 5] [--actors 100000] [--plot FILE] [--page FILE]

Ours and theirs take turns (A B A B ...), after one turn of each to warm up; a ratio is the median of the pairs' ratios.
`reach` is what Prime sets itself for a ratio. Peers that are not installed are left out, with a line that says so.
"""

from __future__ import annotations

import argparse
import gc
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
PATHS = [str(HERE), str(HERE.parents[1])]
sys.path[:0] = PATHS  # a fresh checkout needs no installation
os.environ["PYTHONPATH"] = os.pathsep.join([*PATHS, os.environ.get("PYTHONPATH", "")])  # nor do the children

import _ours  # noqa: E402
import _peers  # noqa: E402
import _raw  # noqa: E402
import _two_processes  # noqa: E402
import attrs  # noqa: E402
import trio  # noqa: E402
from _blocks import Block, MissingError, Opening, in_trio, plain  # noqa: E402
from _page import put  # noqa: E402
from _report import machine, say, show  # noqa: E402

ACTORS = 100_000
CHILD_S = 300


@attrs.frozen
class Case:
    """One thing measured: `ours` against `theirs`; `reach` is the ratio Prime wants, or `None` where none is set."""

    name: str
    ours: Opening
    theirs: Opening
    against: str
    reach: float | None = None
    unit: str = "/s"
    better: str = "more"
    value_reach: float | None = None
    """The most that our own value may be, where that is what Prime wants."""
    pairs_max: int = 1000
    warm: bool = True
    """Whether a turn of each comes before the first pair. Long blocks go without."""


def cases(actors: int) -> list[Case]:
    """Return every case; `actors` is how many are spawned at once."""
    return [*_local(), *_against_peers(), *_many(actors), *_between_processes(), _scaling()]


def _local() -> list[Case]:
    nowait, tell = in_trio(_ours.tell_nowait), in_trio(_ours.tell, _ours.Sync)
    ask, ask_async = in_trio(_ours.ask, _ours.Sync), in_trio(_ours.ask, _ours.AsyncAnswer)
    queue_tell, queue_ask = plain(_raw.asyncio_tell), plain(_raw.asyncio_ask)
    counted = [in_trio(partial(_ours.tell_counted, statistics=flag)) for flag in (True, False)]
    return [
        Case("tell_nowait", nowait, in_trio(_raw.send_nowait), "Trio channel, send_nowait and drain", 0.6),
        Case("tell_asyncio", nowait, queue_tell, "asyncio.Queue, put_nowait and drain", 1),
        Case("tell_sync", tell, in_trio(_raw.send), "Trio channel, await send", 8),
        Case("tell_async", in_trio(_ours.tell, _ours.Async), in_trio(_raw.send), "Trio channel, await send", 5),
        Case("ask", ask, in_trio(_raw.request), "two Trio channels", 1.4),
        Case("ask_async", ask_async, in_trio(_raw.request), "two Trio channels"),
        Case("ask_asyncio", ask, queue_ask, "asyncio.Queue and futures", 0.6),
        Case("ask_async_asyncio", ask_async, queue_ask, "asyncio.Queue and futures"),
        Case("metrics_on", *counted, "itself without statistics", 0.95),
    ]


def _against_peers() -> list[Case]:
    tell, ask = in_trio(_ours.tell, _ours.Sync), in_trio(_ours.ask, _ours.Sync)
    ask_async = in_trio(_ours.ask, _ours.AsyncAnswer)
    xoscar_ask = _peers.xoscar_ask(processes=0, in_flight=1)
    return [
        Case("tell_pykka", tell, _peers.pykka_tell, "pykka ThreadingActor", 6),
        Case("ask_pykka", ask, _peers.pykka_ask, "pykka ThreadingActor", 6),
        Case("ask_async_pykka", ask_async, _peers.pykka_ask, "pykka ThreadingActor"),
        Case("ask_xoscar", ask, xoscar_ask, "xoscar, one process", 4),
        Case("ask_async_xoscar", ask_async, xoscar_ask, "xoscar, one process"),
        Case("ask_thespian", ask, _peers.thespian_ask("simpleSystemBase"), "Thespian simpleSystemBase"),
        Case("tell_erlang", tell, _peers.erlang("tell"), "Erlang"),
        Case("ask_erlang", ask, _peers.erlang("ask"), "Erlang"),
    ]


def _many(actors: int) -> list[Case]:
    some = partial(Case, pairs_max=3, warm=False)
    size = partial(some, unit="B", better="less", value_reach=4096)
    start, cancel = in_trio(_raw.start, actors), in_trio(_raw.cancel, actors)
    spawn = [in_trio(partial(_ours.spawn, actors, started=flag)) for flag in (False, True)]
    size_raw = plain(in_child, "raw", actors)
    return [
        some("spawn", spawn[0], start, "parked Trio tasks", 1),
        some("spawn_started", spawn[1], start, "parked Trio tasks"),
        some("stop", in_trio(_ours.stop, actors), cancel, "cancelled Trio tasks", 1),
        size("spawn_bytes", plain(in_child, "spawn", actors), size_raw, "a parked Trio task"),
        size("started_bytes", plain(in_child, "started", actors), size_raw, "a parked Trio task"),
    ]


def _between_processes() -> list[Case]:
    some = partial(Case, pairs_max=3, warm=False)  # each block warms up in a process of its own
    ask, ask_64 = plain(_two_processes.ask_rate, 1), plain(_two_processes.ask_rate, 64)
    tell, echo = plain(_two_processes.tell_rate), plain(_two_processes.echo_rate)
    xoscar = [_peers.xoscar_ask(processes=1, in_flight=flying) for flying in (1, 64)]
    return [
        some("ask_remote", ask, echo, "bare echo over a socket", 0.3),
        some("ask_remote_64", ask_64, echo, "bare echo over a socket, one by one", 4),
        some("tell_remote", tell, in_trio(_raw.send), "Trio channel in one process, await send", 1),
        some("ask_remote_xoscar", ask, xoscar[0], "xoscar, two processes"),
        some("ask_remote_64_xoscar", ask_64, xoscar[1], "xoscar, two processes, 64 in flight"),
        some("ask_remote_thespian", ask, _peers.thespian_ask("multiprocTCPBase"), "Thespian multiprocTCPBase"),
        some("ask_remote_ray", ask, _peers.ray_ask, "Ray"),
        some("ask_remote_monarch", ask, _peers.monarch_ask, "Monarch"),
    ]


def _scaling() -> Case:
    two, one = in_trio(_ours.burn, 2), in_trio(_ours.burn, 1)
    return Case("process_scaling", two, one, "one process actor instead of two", 1.7, warm=False)


def in_child(what: str, actors: int) -> float:
    """Measure memory in a fresh interpreter."""
    arguments = [sys.executable, __file__, "--child", what, "--actors", str(actors)]
    ended = subprocess.run(arguments, stdout=subprocess.PIPE, text=True, timeout=CHILD_S, check=True)
    return float(ended.stdout)


def child(what: str, actors: int) -> None:
    """Be that interpreter."""
    measures: dict[str, Callable[[], Any]] = {
        "raw": partial(_raw.start_bytes, actors),
        "spawn": partial(_ours.spawn_bytes, actors, started=False),
        "started": partial(_ours.spawn_bytes, actors, started=True),
    }
    print(trio.run(measures[what]))


# ----------------------------------------------------------------------------------------------------------- measuring


def compare(case: Case, pairs: int) -> dict[str, Any]:
    """Measure one case in turns."""
    with case.ours() as ours, case.theirs() as theirs:
        if case.warm:
            ours(), theirs()
        measured = [(_clean(ours), _clean(theirs)) for _ in range(min(pairs, case.pairs_max))]
    ratios = [b / a if case.better == "less" else a / b for a, b in measured]
    result = {
        "case": case.name,
        "value": _rounded(statistics.median(a for a, _ in measured)),
        "unit": case.unit,
        "against": case.against,
        "ratio": _rounded(statistics.median(ratios)),
        "against_value": _rounded(statistics.median(b for _, b in measured)),
        "ratio_low": _rounded(min(ratios)),
        "ratio_high": _rounded(max(ratios)),
        "reach": case.reach,
        "value_reach": case.value_reach,
        "pairs": len(measured),
    }
    say(in_words(result))
    return result


def _clean(block: Block) -> float:
    gc.collect()  # what an earlier block left is not this one's to pay for; the collector itself stays on
    return block()


def _rounded(number: float) -> float:
    return float(f"{number:.4g}")


def in_words(result: dict[str, Any]) -> str:
    """Return one line for a person."""
    wanted, most = result["reach"], result["value_reach"]
    reach = (
        f", wanted {wanted:g}" if wanted is not None else f", wanted at most {most:g} {result['unit']}" if most else ""
    )
    short = "  SHORT OF IT" if result["ratio"] < (wanted or 0) or result["value"] > (most or float("inf")) else ""
    sides = (
        f"{result['value']:>11,.0f} {result['unit']} against {result['against_value']:>11,.0f} ({result['against']})"
    )
    spread = f"{result['ratio_low']:g} to {result['ratio_high']:g}"
    return f"{result['case']:21}{sides}: {result['ratio']:g} times ({spread}{reach}){short}"


def bench(chosen: Sequence[Case], pairs: int) -> list[dict[str, Any]]:
    """Measure all that can run here."""
    results = []
    for case in chosen:
        try:
            results.append(compare(case, pairs))
        except MissingError as missing:
            say(f"{case.name:21}left out: {missing}")
    return results


def main() -> None:
    """Run the bench, or a process of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("--cases", default="", help="names, with commas between them (default: all)")
    parser.add_argument("--pairs", type=int, default=5, help="turns of each (default 5; 3 at most for the long ones)")
    parser.add_argument("--actors", type=int, default=ACTORS, help=f"how many are spawned at once (default {ACTORS:,})")
    parser.add_argument("--plot", type=Path, help="draw the ratios into this file (.svg or .png)")
    parser.add_argument("--page", type=Path, help="put the figures into this page, between its two marks")
    parser.add_argument("--child", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.child, options.actors)
        return
    known = cases(options.actors)
    wanted = options.cases.split(",") if options.cases else [case.name for case in known]
    if unknown := set(wanted) - {case.name for case in known}:
        parser.error(f"no case {', '.join(sorted(unknown))}; there are {', '.join(case.name for case in known)}")
    before = machine()
    results = bench([case for case in known if case.name in wanted], options.pairs)
    if options.plot is not None:
        from _plot import draw  # matplotlib is wanted only here

        draw(results, before, options.plot)
    if options.page is not None:
        put(results, before, options.page)
    show("actors", results, before, as_json=options.json)


if __name__ == "__main__":
    main()
