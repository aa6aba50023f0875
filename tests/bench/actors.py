"""The actor runtime against bare event loops and other actor systems, in turns, in the same minutes.

Run: python tests/bench/actors.py [--json] [--cases ask,tell_sync] [--pairs 5] [--actors 100000] [--plot FILE] [--page FILE]

Ours and theirs take turns (A B A B ...), after one turn of each to warm up; a ratio is the median of the pairs' ratios.
`reach` is what Prime sets itself for a ratio. Peers that are not installed are left out, with a line that says so.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Callable
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
import trio  # noqa: E402
from _blocks import in_trio, plain  # noqa: E402
from _cases import Case, add_options, run  # noqa: E402

ACTORS = 100_000
CHILD_S = 300


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
        some("ask_remote_ray", ask, _peers.ray_ask(), "Ray"),
        some("ask_remote_monarch", ask, _peers.monarch_ask(), "Monarch"),
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


def main() -> None:
    """Run the bench, or a process of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser, "turns of each (default 5; 3 at most for the long ones)")
    parser.add_argument("--actors", type=int, default=ACTORS, help=f"how many are spawned at once (default {ACTORS:,})")
    parser.add_argument("--plot", type=Path, help="draw the ratios into this file (.svg or .png)")
    parser.add_argument("--child", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.child, options.actors)
        return
    run("actors", parser, options, cases(options.actors))


if __name__ == "__main__":
    main()
