"""A swarm of real nodes that come and go for as long as you like: what grows, what hangs, whether it learns.

Run: python tests/node/soak.py [--minutes 2] [--nodes 8] [--seed 0] [--json]

Each node is a `prime node start` with its worker, and trains a small model on one text. Of all but two (the *witnesses*,
the founder among them) one after the other is killed, loses its worker, stands still, leaves in order or comes back with an
empty disk, drawn by the seed; at most as many are away as leave a majority. Every few seconds each process is measured.
At the end all come back and train on for some rounds. It fails (exit status 1) if

* no round was decided for longer than a round's deadline and a link's together,
* the nodes do not hold the same parameters at the end, or do not all take part,
* the loss did not fall,
* the memory, descriptors or threads of a witness grow: a line fitted to the second half of its samples rises by more than
  is named in `RISES_MAX`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # a fresh checkout needs no installation

import attrs

from prime.observe.messages import RunStatus
from prime.testing.nodes import NodeProcess, children_of, lives, write_text

TASK = Path(__file__).with_name("tiny_task.py")
SAMPLE_S = 3.0
EVENT_S = 4.0
AWAY_S = (1.0, 8.0)
"""How long one that was ended stays away."""
PAUSE_S = (0.5, 4.0)
SPARED_S = 60.0
"""After its worker was killed a node keeps the next one so long: the fourth in two minutes ends a node, as it should."""
END_S = 120.0
"""How long it may take until all are in again."""
ROUNDS_END = 3
RISES_MAX = {"kib": 0.05, "fds": 4.0, "threads": 2.0, "worker_kib": 0.05}
"""By how much each may rise over the whole time: memory by a share of itself, the others by number."""
SETTINGS = {
    "train.rounds": 1_000_000,
    "train.nodes_min": 3,
    "train.inner_steps": 8,
    "train.batch_size": 4,
    "train.model": f"{TASK}:learner",
    "train.round_deadline_s": 20,
    "transport.ping_interval_s": 0.5,
    "transport.dead_after_s": 3.0,
}
SILENCE_MAX_S = 20.0 + 3.0 + 10.0
"""A round's deadline, a link's, and as much as a busy machine takes to start two nodes."""


@attrs.define(eq=False)
class Peer:
    """One node: away since when and until when, or there."""

    node: NodeProcess
    is_witness: bool
    back_at: float | None = None
    wakes_at: float | None = None
    spared_until: float = 0.0

    @property
    def is_here(self) -> bool:
        """Whether its process runs and is not stopped."""
        return self.back_at is None and self.wakes_at is None


@attrs.frozen
class Sample:
    """What one node's processes take."""

    at_s: float
    name: str
    kib: int
    fds: int
    threads: int
    worker_kib: int


@attrs.define
class Course:
    """What was seen of the run's rounds."""

    hashes: dict[int, dict[str, str]] = attrs.Factory(dict)
    losses: dict[int, float] = attrs.Factory(dict)
    round: int = 0
    advanced_at: float = 0.0
    silence_s: float = 0.0

    def see(self, name: str, run: RunStatus, now: float) -> None:
        """Take note of a node's view of the run."""
        self.hashes.setdefault(run.round, {})[name] = run.state_hash
        for each in run.history:
            if each.held_out is not None:
                self.losses[each.round] = each.held_out
        if run.round > self.round:
            self.round, self.advanced_at = run.round, now
        if self.round:  # before the first round the nodes start
            self.silence_s = max(self.silence_s, now - self.advanced_at)


class Soak:
    """The nodes, and what happens to them."""

    def __init__(self, folder: Path, count: int, seed: int) -> None:
        self.folder = folder
        self.random = random.Random(seed)
        self.text = write_text(folder / "text.txt")
        self.peers = [Peer(self._node(f"n{i}"), is_witness=i < 2) for i in range(count)]
        self.samples: list[Sample] = []
        self.events: dict[str, int] = {}
        self.course = Course()
        self.started = time.monotonic()

    def _node(self, name: str) -> NodeProcess:
        return NodeProcess(self.folder, name, {**SETTINGS, "train.data": self.text})

    @property
    def now(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.started

    def start(self) -> None:
        """Start the founder, then all others."""
        founder = self.peers[0].node
        founder.start()
        founder.ready(120)
        for peer in self.peers[1:]:
            peer.node.start(founder.address)
        for peer in self.peers[1:]:
            peer.node.ready(120)

    def close(self) -> None:
        """End everything that was started."""
        for peer in self.peers:
            with contextlib.suppress(OSError):
                self._signal(peer, signal.SIGCONT)
            peer.node.close()

    # ------------------------------------------------------------------------------------------------------- churn

    def churn(self) -> None:
        """Let one thing happen to one node, if a majority is left."""
        here = [peer for peer in self.peers if peer.is_here]
        able = [peer for peer in here if not peer.is_witness]
        if not able or len(here) - 1 <= len(self.peers) // 2:
            return
        peer = self.random.choice(able)
        happens: Callable[[Peer], None] = self.random.choice(
            [self.kill, self.kill_worker, self.stand_still, self.leave, self.lose_disk]
        )
        happens(peer)
        self.events[happens.__name__] = self.events.get(happens.__name__, 0) + 1

    def kill(self, peer: Peer) -> None:
        """Kill the node; its worker must end with it."""
        workers = peer.node.workers
        peer.node.close()
        self._gone(peer)
        deadline = time.monotonic() + 10
        while any(lives(worker) for worker in workers):
            if time.monotonic() > deadline:
                raise SystemExit(f"the worker of {peer.node.folder.name} outlives it")
            time.sleep(0.05)

    def kill_worker(self, peer: Peer) -> None:
        """Kill the worker alone: its node starts another."""
        if self.now < peer.spared_until:
            return
        peer.spared_until = self.now + SPARED_S
        for worker in peer.node.workers:
            os.kill(worker, signal.SIGKILL)

    def stand_still(self, peer: Peer) -> None:
        """Stop the node for a while."""
        self._signal(peer, signal.SIGSTOP)
        peer.wakes_at = self.now + self.random.uniform(*PAUSE_S)

    def leave(self, peer: Peer) -> None:
        """Ask the node to end in order."""
        self._signal(peer, signal.SIGTERM)
        self._gone(peer)

    def lose_disk(self, peer: Peer) -> None:
        """Kill the node and take its journal and state away: it comes back as a new member."""
        self.kill(peer)
        for file in peer.node.folder.rglob("*"):
            if file.is_file() and file.suffix not in (".toml", ".key", ".txt"):
                file.unlink()

    def _gone(self, peer: Peer) -> None:
        peer.back_at = self.now + self.random.uniform(*AWAY_S)

    def _signal(self, peer: Peer, number: signal.Signals) -> None:
        os.kill(peer.node.running.pid, number)

    def bring_back(self, *, everyone: bool = False) -> None:
        """Start again, or wake, those whose time has come."""
        for peer in self.peers:
            if peer.wakes_at is not None and (everyone or self.now >= peer.wakes_at):
                self._signal(peer, signal.SIGCONT)
                peer.wakes_at = None
            if peer.back_at is not None and (everyone or self.now >= peer.back_at):
                here = [p.node.address for p in self.peers if p.is_here and p is not peer]
                peer.node.start(*here[:3])
                peer.node.ready(60)
                peer.back_at = None

    # ------------------------------------------------------------------------------------------------------ looking

    def look(self) -> None:
        """Measure every node that is there."""
        for peer in self.peers:
            if not peer.is_here:
                continue
            if peer.node.running.poll() is not None:
                raise SystemExit(f"{peer.node.folder.name} ended by itself:\n{peer.node.log[-4000:]}")
            run = peer.node.run()
            if run is not None and run.state_hash:
                self.course.see(peer.node.folder.name, run, self.now)
            if peer.is_witness:
                with contextlib.suppress(OSError, StopIteration):
                    self.samples.append(sample(self.now, peer.node))
        if self.now - self.course.advanced_at > SILENCE_MAX_S + (60 if not self.course.round else 0):
            raise SystemExit(f"no round was decided for {SILENCE_MAX_S:g} s\n{self.story()}")

    def story(self) -> str:
        """Return how each stands."""
        lines = [f"after {self.now:.0f} s, events {self.events}"]
        for peer in self.peers:
            run = peer.node.run() if peer.is_here else None
            about = (
                f"{run.phase} {run.round} {run.state_hash[:8]} {run.waiting_for} {run.stalled}" if run else "no answer"
            )
            lines.append(f"  {peer.node.folder.name}: here {peer.is_here}: {about}")
        return "\n".join(lines)

    def run(self, minutes: float) -> None:
        """Let them come and go for that long, then wait until all are in again and hold the same."""
        churned = looked = 0.0
        while self.now < 60 * minutes:
            self.bring_back()
            if self.course.round >= 2 and self.now - churned > EVENT_S:
                self.churn()
                churned = self.now
            if self.now - looked > SAMPLE_S:
                self.look()
                looked = self.now
            time.sleep(0.1)
        self.settle()

    def settle(self) -> None:
        """Wait until rounds are decided that all nodes hold alike."""
        self.bring_back(everyone=True)
        first, end = self.course.round, time.monotonic() + END_S
        while len(self._common(first)) < ROUNDS_END:
            self.look()
            if time.monotonic() > end:
                raise SystemExit(f"not all are in again after {END_S:g} s\n{self.story()}")
            time.sleep(0.1)

    def _common(self, after: int) -> list[int]:
        names = {peer.node.folder.name for peer in self.peers}
        return [r for r, held in self.course.hashes.items() if r > after and names <= held.keys()]

    def faults(self) -> list[str]:
        """Return what does not hold."""
        found = [
            f"different parameters after round {r}: {h}"
            for r, h in self.course.hashes.items()
            if len(set(h.values())) > 1
        ]
        first, last = self.losses()
        if not last < first:
            found.append(f"the loss went from {first:.3f} to {last:.3f}")
        for name, rises in self.rises().items():
            found += [f"{what} of {name} rises by {rise:.3g}" for what, rise in rises.items() if rise > RISES_MAX[what]]
        return found

    def losses(self) -> tuple[float, float]:
        """Return the held-out loss of the first and of the last rounds (medians of a tenth)."""
        losses = [self.course.losses[r] for r in sorted(self.course.losses)]
        few = max(1, len(losses) // 10)
        return statistics.median(losses[:few]), statistics.median(losses[-few:])

    def rises(self) -> dict[str, dict[str, float]]:
        """Return by how much each figure of each witness rises over the whole time, from a line through its second half."""
        found = {}
        for peer in self.peers:
            name = peer.node.folder.name
            mine = [s for s in self.samples if s.name == name]
            late = mine[len(mine) // 2 :]
            if len(late) > 2:
                found[name] = {what: rise(late, what, relative=what.endswith("kib")) for what in RISES_MAX}
        return found


def sample(now: float, node: NodeProcess) -> Sample:
    """Measure a node's processes."""
    status = _status(node.running.pid)
    fds = sum(1 for _ in Path(f"/proc/{node.running.pid}/fd").iterdir())
    worker_kib = sum(_status(worker)["VmRSS"] for worker in children_of(node.running.pid))
    return Sample(now, node.folder.name, status["VmRSS"], fds, status["Threads"], worker_kib)


def _status(process: int) -> dict[str, int]:
    lines = Path(f"/proc/{process}/status").read_text(encoding="utf-8").splitlines()
    return {
        name: int(rest.split()[0])
        for name, _, rest in (line.partition(":") for line in lines)
        if name in ("VmRSS", "Threads")
    }


def rise(samples: list[Sample], what: str, *, relative: bool) -> float:
    """Return how much a line through the samples rises over their time (over their mean, if relative)."""
    times, values = [s.at_s for s in samples], [float(getattr(s, what)) for s in samples]
    slope, _ = statistics.linear_regression(times, values)
    mean = statistics.mean(values) if relative else 1.0
    return slope * (times[-1] - times[0]) / mean if mean else 0.0


@contextlib.contextmanager
def soaking(folder: Path, count: int, seed: int) -> Iterator[Soak]:
    """Start the nodes and end them all."""
    soak = Soak(folder, count, seed)
    try:
        soak.start()
        yield soak
    finally:
        soak.close()


def report(soak: Soak) -> dict[str, Any]:
    """Return what was seen, as one object."""
    first, last = soak.losses()
    witnesses = {
        name: {
            what: [getattr(s, what) for s in soak.samples if s.name == name][:: max(1, len(soak.samples) // 40)]
            for what in RISES_MAX
        }
        for name in soak.rises()
    }
    return {
        "schema": 1,
        "seconds": soak.now,
        "nodes": len(soak.peers),
        "rounds": soak.course.round,
        "events": soak.events,
        "longest_without_a_round_s": soak.course.silence_s,
        "loss_first": first,
        "loss_last": last,
        "rises": soak.rises(),
        "witnesses": witnesses,
        "faults": soak.faults(),
    }


def main() -> None:
    """Run the soak and say how it went."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--nodes", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, soaking(Path(folder), options.nodes, options.seed) as soak:
        soak.run(options.minutes)
        found = report(soak)
    if options.json:
        print(json.dumps(found))
    else:
        for name, value in found.items():
            print(f"{name}: {value}")
    sys.exit(1 if found["faults"] else 0)


if __name__ == "__main__":
    main()
