"""One of three is killed in the middle of an averaging: what the two others then hold, ours and hivemind's.

Run: python tests/bench/kill.py [--json] [--elements 3000000] [--points scatter seal ready commit]

`kill_identical` gives a SIGKILL to one of three processes exactly at a point of the protocol (`_hivemind_kill.py` says
which places of hivemind's all-reduce stand for ours). Its value is the largest difference between two elements of the
survivors' results over all points, `theirs` the same of hivemind 1.1.12 without compression. Ours commit the round
itself (`committed`), with what the survivors sent; of hivemind's survivors it is told what each reports, and how much
of its own vector it was left with (`kept`). hivemind runs in the environment whose Python is `--hivemind-python` or the
variable HIVEMIND_PYTHON; without one it is left out.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # a fresh checkout needs no installation
sys.path.insert(0, str(ROOT / "tests" / "trainer" / "kills"))

import numpy as np  # noqa: E402
from _lines import heard, tell  # noqa: E402
from _report import machine, say, show  # noqa: E402
from swarm import Swarm, running  # noqa: E402

CASE = "kill_identical"
NODES = 3
POINTS = {"scatter": "scatter", "seal": "after seal", "ready": "decided, told nobody", "commit": "half committed"}
"""What each is called among the points of our round: the last three kill the leader."""
HIVEMIND = "hivemind 1.1.12"
ANSWER_S = 120.0


def distance(one: Path, other: Path) -> float:
    """Return the largest difference between two elements of two vectors in files (float32[D])."""
    first, second = (np.fromfile(path, np.float32) for path in (one, other))
    return float(np.max(np.abs(first - second)))


# ---------------------------------------------------------------------------------------------------------------- ours


def ours(points: list[str], elements: int) -> dict[str, Any]:
    """Kill one of ours at each point, and let it come back in between."""
    found = {}
    with tempfile.TemporaryDirectory() as folder, running(Path(folder), NODES, elements=elements) as swarm:
        for point in points:
            found[point] = killed(swarm, point)
            say(f"prime, killed at {point}: {found[point]}")
    return found


def killed(swarm: Swarm, point: str) -> dict[str, Any]:
    """Run a round in which one is killed at a point."""
    strike = swarm.kill(POINTS[point])
    outcomes = strike.outcomes
    one, other = (swarm.folder / f"mean-{strike.round}-{m.index}" for m in swarm.alive())
    result = {
        "distance": distance(one, other),
        "committed": all(outcome["committed"] for outcome in outcomes),
        "contributors": len(outcomes[0]["shares"]),
        "seconds": max(outcome["at"] for outcome in outcomes) - strike.struck_at,
    }
    swarm.restart(*strike.victims)
    swarm.all_in()
    return result


# -------------------------------------------------------------------------------------------------------------- theirs


def theirs(points: list[str], elements: int, python: str) -> dict[str, Any]:
    """Kill one of hivemind's at each point, each time of a fresh three."""
    found = {}
    for point in points:
        with tempfile.TemporaryDirectory() as folder:
            found[point] = averaged(point, elements, python, Path(folder))
        say(f"hivemind, killed at {point}: {found[point]}")
    return found


def averaged(point: str, elements: int, python: str, folder: Path) -> dict[str, Any]:
    """Average once with the last of three dying at a point."""
    with averagers(point, elements, python, folder) as processes:
        for process in processes:
            tell(process)
        for process in processes:
            heard(process, ANSWER_S)
        started = time.monotonic()
        for process in processes:
            tell(process)
        answers = [heard(process, ANSWER_S) for process in processes[:-1]]
        if processes[-1].wait(ANSWER_S) != -signal.SIGKILL:
            raise SystemExit(f"hivemind never came to {point}")
    return {
        "distance": distance(*(folder / f"hivemind-{index}" for index in range(NODES - 1))),
        "reports": [answer["reports"] for answer in answers],
        "kept": [answer["kept"] for answer in answers],
        "seconds": time.monotonic() - started,
    }


@contextlib.contextmanager
def averagers(point: str, elements: int, python: str, folder: Path) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Run hivemind's processes for the length of the block."""
    program = [python, str(Path(__file__).with_name("_hivemind_kill.py"))]
    with contextlib.ExitStack() as stack:
        processes: list[subprocess.Popen[bytes]] = []
        join = ""
        for index in range(NODES):
            arguments = ["--index", str(index), "--join", join, "--elements", str(elements), "--folder", str(folder)]
            death = ["--die", point] if index == NODES - 1 else []
            process = subprocess.Popen(
                [*program, *arguments, *death],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                bufsize=0,
                start_new_session=True,  # hivemind has processes of its own, which end with it
            )
            stack.callback(end, process)
            processes.append(process)
            address = heard(process, ANSWER_S)["address"]
            join = join or address
        yield processes


def end(process: subprocess.Popen[bytes]) -> None:
    """Leave nothing of a process."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for pipe in (process.stdin, process.stdout):
        with contextlib.suppress(BrokenPipeError):
            pipe.close()  # type: ignore[union-attr]


# ------------------------------------------------------------------------------------------------------------ the bench


def compare(points: list[str], elements: int, python: str) -> dict[str, Any]:
    """Return the case as an object of the report."""
    us = ours(points, elements)
    has_python = shutil.which(python or "") is not None
    if not has_python:
        say("hivemind is left out: no Python with it was named (tests/bench/README.md says how to make one)")
    them = theirs(points, elements, python) if has_python else {}
    return {
        "case": CASE,
        "value": max(result["distance"] for result in us.values()),
        "unit": "difference",
        "committed": all(result["committed"] for result in us.values()),
        "against": HIVEMIND if them else None,
        "theirs": max(result["distance"] for result in them.values()) if them else None,
        "ratio": None,
        "elements": elements,
        "points": us,
        "points_theirs": them,
    }


def main() -> None:
    """Run the bench."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("--elements", type=int, default=3_000_000, help="size of the vector (default 3 million)")
    parser.add_argument("--case", "--cases", nargs="*", choices=(CASE,), default=(CASE,))
    parser.add_argument("--points", nargs="*", choices=tuple(POINTS), default=tuple(POINTS))
    parser.add_argument("--hivemind-python", default=os.environ.get("HIVEMIND_PYTHON", ""))
    options = parser.parse_args()
    before = machine()
    result = compare(list(options.points), options.elements, options.hivemind_python)
    show("kill", [result], before, as_json=options.json)
    if result["value"] or not result["committed"]:
        sys.exit("the survivors do not hold one result")


if __name__ == "__main__":
    main()
