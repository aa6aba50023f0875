"""One of three processes that average by hivemind 1.1.12, of which one is killed on the way; `kill.py` starts them.

It runs in hivemind's own environment. With `--die POINT` it sends SIGKILL to its own group of processes (hivemind has
several) exactly there. hivemind's averaging has no seal and no vote, so the points are those places of its all-reduce
that come nearest to ours: it has sent a part of its vector (`scatter`); it has all inputs of one of the parts that it
averages and has told nobody (`seal`); it has told one peer of an averaged part (`ready`); it has the whole result itself
(`commit`). The others say what their averager reports, and what their tensors then are.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import hivemind
import torch
from _contribution import answer, delta
from hivemind.averaging import DecentralizedAverager
from hivemind.averaging.allreduce import AllReduceRunner
from hivemind.averaging.control import AveragingStage
from hivemind.averaging.partition import TensorPartContainer, TensorPartReducer

NODES = 3
TIMEOUT_S = 60.0
SENDER_S, REDUCER_S = 2.0, 4.0
"""How long one waits for a peer's next part: hivemind has no deadline of its own."""
SCATTERED = 2
"""Parts sent before `scatter` ends it."""


def main() -> None:
    """Average once, or die on the way."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--index", type=int)
    parser.add_argument("--join")
    parser.add_argument("--elements", type=int)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--die", default="")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    if options.die:
        DEATHS[options.die]()
    found = [options.join] if options.join else None
    dht = hivemind.DHT(initial_peers=found, start=True, host_maddrs=["/ip4/127.0.0.1/tcp/0"])
    vector = delta(options.index, 1, options.elements)
    averager = DecentralizedAverager(
        [torch.from_numpy(vector.copy())],
        dht,
        start=True,
        prefix="bench",
        target_group_size=NODES,
        min_matchmaking_time=3.0,
        request_timeout=1.0,
        sender_timeout=SENDER_S,
        reducer_timeout=REDUCER_S,
    )
    try:
        answer(address=str(dht.get_visible_maddrs()[0]))
        sys.stdin.readline()
        control = averager.step(wait=False, require_trigger=True, timeout=TIMEOUT_S, allow_retries=False)
        while control.stage is not AveragingStage.AWAITING_TRIGGER:
            if control.done():
                raise SystemExit(f"hivemind found no group: {control.exception()}")
            time.sleep(0.01)
        answer(ready=True)
        sys.stdin.readline()
        started = time.monotonic()
        control.allow_allreduce()
        reports = _report_of(control)
        took = time.monotonic() - started
        with averager.get_tensors() as (tensor,):
            after = tensor.numpy().copy()
        (options.folder / f"hivemind-{options.index}").write_bytes(after.data)
        answer(reports=reports, seconds=took, kept=float((after == vector).mean()))
        sys.stdin.readline()
    finally:
        averager.shutdown()
        dht.shutdown()


def _report_of(control: Any) -> str:
    try:
        control.result(TIMEOUT_S)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is what hivemind says
        return f"{type(error).__name__}: {error}"
    return "success"


# ---------------------------------------------------------------------------------------------------- where it ends


def die() -> None:
    """End all processes of this one's session, which are hivemind's and ours."""
    os.killpg(0, signal.SIGKILL)


def die_at_scatter() -> None:
    """End after some parts were sent to another."""
    original = AllReduceRunner._generate_input_for_peer

    async def generate(self: Any, peer_index: int) -> Any:
        sent = 0
        async for message in original(self, peer_index):
            if sent == SCATTERED:
                die()
            sent += 1
            yield message

    AllReduceRunner._generate_input_for_peer = generate


def die_at_seal() -> None:
    """End when all have sent the first part that is averaged here."""
    original = TensorPartReducer.accumulate_part

    async def accumulate(self: Any, *arguments: Any, **words: Any) -> Any:
        await original(self, *arguments, **words)
        die()

    TensorPartReducer.accumulate_part = accumulate


def die_at_ready() -> None:
    """End when one peer has taken an averaged part."""
    original = AllReduceRunner._accumulate_parts_streaming

    async def accumulate(self: Any, *arguments: Any) -> Any:
        async for message in original(self, *arguments):
            yield message
            die()

    AllReduceRunner._accumulate_parts_streaming = accumulate


def die_at_commit() -> None:
    """End when the whole result is here."""
    original = TensorPartContainer.register_processed_part
    left: dict[int, int] = {}

    def register(self: Any, *arguments: Any) -> None:
        original(self, *arguments)
        left[id(self)] = left.get(id(self), sum(self.num_parts_by_peer)) - 1
        if not left[id(self)]:
            die()

    TensorPartContainer.register_processed_part = register


DEATHS = {"scatter": die_at_scatter, "seal": die_at_seal, "ready": die_at_ready, "commit": die_at_commit}

if __name__ == "__main__":
    main()
