"""One of two processes that average by hivemind 1.1.12 without compression or with its 8-bit one; `round.py` starts them.

It runs in hivemind's own environment and speaks like the other processes of that bench: after its address, for each pair
of lines on standard input it averages once. Finding each other (`matchmaking`) is outside the time: only what lies
between the trigger and the result is measured.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from typing import Any

import hivemind
import torch
from _contribution import NODES, answer, delta, digest, error_of
from hivemind.averaging import DecentralizedAverager
from hivemind.averaging.control import AveragingStage
from hivemind.compression import NoCompression, Uniform8BitQuantization

ERROR_MAX = 0.1
"""hivemind reports success also when it averaged nothing: then the error is that of one contribution, about 1."""
TIMEOUT_S = 120.0


def main() -> None:
    """Average until standard input ends."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--child")
    parser.add_argument("--index", type=int)
    parser.add_argument("--join")
    parser.add_argument("--elements", type=int)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    found = [options.join] if options.join else None
    dht = hivemind.DHT(initial_peers=found, start=True, host_maddrs=["/ip4/127.0.0.1/tcp/0"])
    averager = DecentralizedAverager(
        [torch.zeros(options.elements)],
        dht,
        start=True,
        prefix="bench",
        target_group_size=NODES,
        compression=NoCompression() if options.child == "round_hivemind" else Uniform8BitQuantization(),
        min_matchmaking_time=2.0,
        request_timeout=1.0,
    )
    try:
        answer(address=str(dht.get_visible_maddrs()[0]))
        for round_, _ in enumerate(sys.stdin, 1):
            average(averager, options.index, round_, options.elements)
    finally:
        averager.shutdown()
        dht.shutdown()


def average(averager: Any, index: int, round_: int, elements: int) -> None:
    """Average once and answer how it went."""
    with averager.get_tensors() as (tensor,):
        tensor.copy_(torch.from_numpy(delta(index, round_, elements)))
    control = averager.step(wait=False, require_trigger=True, timeout=TIMEOUT_S)
    while control.stage is not AveragingStage.AWAITING_TRIGGER:
        if control.done():
            raise SystemExit(f"hivemind found no group: {control.exception()}")
        time.sleep(0.01)
    answer(ready=True)
    sys.stdin.readline()
    started = time.monotonic()
    control.allow_allreduce()
    control.result(TIMEOUT_S)
    ended = time.monotonic()
    with averager.get_tensors() as (tensor,):
        mean = tensor.numpy().copy()
    error = error_of(mean, round_)
    if error > ERROR_MAX:
        raise SystemExit(f"hivemind averaged only a part (relative error {error:.2g}): is its numpy older than 2.4?")
    answer(start=started, end=ended, hashes=[digest(mean)], error=error)


if __name__ == "__main__":
    main()
