"""The same kill under torchft: two replicas of one process each, one gets SIGKILL and is started again at once.

`recover.py` runs the first lines of this file with Prime's Python (`race`), and the replicas with one that has torchft.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

DEADLINE_S = 150.0


class Replica:
    """A replica's process; `steps` are the time of each step and how many took part."""

    def __init__(self, python: str, number: int, environment: dict[str, str]) -> None:
        self.steps: list[tuple[float, int]] = []
        words = [python, __file__, str(number)]
        self.process = subprocess.Popen(
            words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("step "):
                _, count, at_s = line.split()
                self.steps.append((float(at_s), int(count)))

    def together(self, since_s: float) -> float:
        """Return the time of the first step after `since_s` in which both took part; `TimeoutError` if none comes."""
        until_s = time.time() + DEADLINE_S
        while time.time() < until_s:
            found = [at_s for at_s, count in self.steps if at_s > since_s and count == 2]
            if found:
                return found[0]
            time.sleep(0.01)
        raise TimeoutError("torchft's replicas do not come together")


def race(python: str) -> float:
    """Return the seconds from the kill of a replica to the first step of the one that was started for it."""
    with tempfile.TemporaryDirectory() as folder:
        address = "127.0.0.1:29510"
        lighthouse = [str(Path(python).with_name("torchft_lighthouse")), "--min_replicas", "1", "--bind", address]
        lighthouse += ["--quorum_tick_ms", "100", "--join_timeout_ms", "1000"]
        environment = {
            **os.environ,
            "TORCHFT_LIGHTHOUSE": f"http://{address}",
            "OMP_NUM_THREADS": "1",
            "GLOO_SOCKET_IFNAME": "lo",
        }
        running = [subprocess.Popen(lighthouse, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, cwd=folder)]
        try:
            first, second = (Replica(python, number, environment) for number in range(2))
            running += [first.process, second.process]
            second.together(0.0)
            time.sleep(2)
            killed_s = time.time()
            second.process.kill()
            third = Replica(python, 1, environment)
            running.append(third.process)
            return third.together(killed_s) - killed_s
        finally:
            for process in running:
                process.kill()
                process.wait()


def main() -> None:
    """Train as a replica, for ever."""
    from datetime import timedelta

    import _recover_task
    import torch
    import torch.distributed as dist
    from torchft import DistributedDataParallel, Manager, Optimizer, ProcessGroupGloo

    torch.set_num_threads(1)
    model, loss = _recover_task.model(None)
    inner = torch.optim.AdamW(model.parameters())
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    manager = Manager(
        pg=ProcessGroupGloo(timeout=timedelta(seconds=10)),
        min_replica_size=1,
        load_state_dict=lambda state: (model.load_state_dict(state["model"]), inner.load_state_dict(state["inner"])),
        state_dict=lambda: {"model": model.state_dict(), "inner": inner.state_dict()},
        replica_id=f"replica-{sys.argv[1]}",
        timeout=timedelta(seconds=10),
        store_addr="127.0.0.1",
        store_port=store.port,
        rank=0,
        world_size=1,
        hostname="127.0.0.1",
    )
    whole, optimiser = DistributedDataParallel(manager, model), Optimizer(manager, inner)
    inputs = torch.randn(16, _recover_task.WIDTH)
    while True:
        optimiser.zero_grad()
        loss(whole(inputs), inputs).backward()
        optimiser.step()
        sys.stdout.write(f"step {manager.num_participants()} {time.time()}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
