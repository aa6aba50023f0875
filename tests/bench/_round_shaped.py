"""One of several processes behind links of a rate: rounds of ours and all_reduces of gloo in float32, in turns.

`round.py` starts it by `tests/netsim/netsim.sh`, once in each network namespace. Rank 0 prints one JSON object.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # a fresh checkout needs no installation

import torch  # noqa: E402
import trio  # noqa: E402
from _contribution import delta, digest, error_of  # noqa: E402
from torch import distributed  # noqa: E402

import prime  # noqa: E402
from prime.config import Config, TrainConfig  # noqa: E402
from prime.node.training import timing_of  # noqa: E402
from prime.store.journal import FileJournal  # noqa: E402
from prime.trainer.metadata import TrainingConfig  # noqa: E402
from prime.trainer.round.view import Member  # noqa: E402
from prime.trainer.swarm import plans  # noqa: E402
from prime.trainer.swarm.aggregator import Aggregator  # noqa: E402
from prime.trainer.swarm.float32 import Float32  # noqa: E402
from prime.trainer.swarm.membership import SwarmPlan  # noqa: E402
from prime.transport.identity import KeyPair  # noqa: E402

RANK, SIZE = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
PORT = 29600
DEADLINE_S = 300.0


def address_of(rank: int) -> str:
    """Return where a node listens."""
    return f"/ip4/10.99.0.{rank + 1}/tcp/{PORT}"


class Node:
    """An aggregator with a stand-in for its trainer."""

    def __init__(self) -> None:
        self.outcomes: dict[int, plans.RoundCommitted] = {}
        self.entered = 0
        self.news = trio.Event()

    def report(self, outcome: plans.Outcome) -> None:
        """Take an outcome from the aggregator."""
        match outcome:
            case plans.ViewEntered(round_, view) if len(view.members) == SIZE:
                self.entered = round_
            case plans.RoundCommitted(value):
                self.outcomes[value.round] = outcome
            case plans.RoundAborted(value) if value.round > 0:
                raise SystemExit(f"round {value.round} was aborted")
        self.news.set()

    async def until(self, holds: Any) -> None:
        """Wait for news until `holds`."""
        while not holds():
            self.news = trio.Event()
            await self.news.wait()


@contextlib.asynccontextmanager
async def open_node(node: Node, codec: str, elements: int, folder: str) -> Any:
    """Run this rank's node; yields its aggregator."""
    keys = [KeyPair.from_seed(bytes([index + 1] * 32)) for index in range(SIZE)]
    timing = timing_of(Config(train=TrainConfig(round_deadline_s=DEADLINE_S)))
    numbers = Float32.of(TrainingConfig(codec=codec, gather_codec="int8"))
    journal = await FileJournal.open(Path(folder) / "rounds.journal")
    async with (
        prime.open_system(transport=prime.Tcp(address_of(RANK)), key=keys[RANK]) as system,
        system.supervisor("train") as sup,
    ):
        assert system.network is not None
        await trio.to_thread.run_sync(distributed.barrier)  # everyone listens
        contacts = (await system.network.dial(f"{address_of(0)}/p2p/{keys[0].peer}"),) if RANK else ()
        plan = SwarmPlan("bench", Member(system.peer, system.addresses, 1.0, 1), not RANK, contacts, SIZE, timing)
        ref = await sup.spawn(lambda: Aggregator(plan, journal, node.report, numbers), "aggregator")
        await ref.tell(plans.Begin(elements))
        yield ref


async def race(codec: str, elements: int, pairs: int) -> dict[str, Any]:
    """Run rounds and all_reduces in turns, each from a barrier to the last rank's end."""
    node = Node()
    ours: list[float] = []
    theirs: list[float] = []
    errors: list[float] = []
    hashes: set[str] = set()
    with tempfile.TemporaryDirectory(prefix="prime-bench-") as folder:
        async with open_node(node, codec, elements, folder) as aggregator:
            await node.until(lambda: node.entered == 1)
            for round_ in range(1, pairs + 2):  # the first warms up
                contribution = delta(RANK, round_, elements)
                await aggregator.tell(plans.StateHeld(round_ - 1, bytes([round_ % 256]) * 32))
                await trio.to_thread.run_sync(distributed.barrier)
                began = time.monotonic()
                await aggregator.tell(plans.Contribute(round_, contribution, 1.0))
                await node.until(lambda: round_ in node.outcomes)  # noqa: B023 - awaited at once
                took = time.monotonic() - began
                mean = node.outcomes.pop(round_).aggregate
                every: list[Any] = [None] * SIZE
                await trio.to_thread.run_sync(distributed.all_gather_object, every, (took, digest(mean)))
                tensor = torch.from_numpy(contribution)
                await trio.to_thread.run_sync(distributed.barrier)
                began = time.monotonic()
                await trio.to_thread.run_sync(distributed.all_reduce, tensor)
                tensor /= SIZE
                gloo = time.monotonic() - began
                if round_ > 1:
                    ours.append(max(t for t, _ in every))
                    theirs.append(gloo)
                    hashes |= {hash_ for _, hash_ in every}
                    errors.append(error_of(mean, round_, SIZE))
            await trio.to_thread.run_sync(distributed.barrier)
    return {
        "seconds": statistics.median(ours),
        "gloo_seconds": statistics.median(theirs),
        "relative_error": max(errors),
        "identical": len(hashes) == pairs,
        "pairs": pairs,
    }


def main() -> None:
    """Be one rank."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--codec")
    parser.add_argument("--elements", type=int)
    parser.add_argument("--pairs", type=int)
    options = parser.parse_args()
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", rank=RANK, world_size=SIZE)
    found = trio.run(race, options.codec, options.elements, options.pairs)
    if RANK == 0:
        print(json.dumps(found), flush=True)
    distributed.destroy_process_group()


if __name__ == "__main__":
    main()
