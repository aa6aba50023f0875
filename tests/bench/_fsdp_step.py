"""One rank of the bench case `fsdp_step`: a model of 10 M parameters, a replica on each rank, exact and int8 in turns."""

from __future__ import annotations

import argparse
import json
import statistics
import time

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard

from prime.trainer.collective import CompressedReduce, attach_fsdp

WIDTH, LAYERS, SAMPLES = 1000, 10, 16


class Run:
    """A model and its steps. `mesh` is what `fully_shard` gets: 2-D for torch's own reduction of replicas."""

    def __init__(self, mesh: DeviceMesh) -> None:
        torch.manual_seed(0)
        layers = [nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.GELU()) for _ in range(LAYERS)]
        self.model = nn.Sequential(*layers)
        for layer in [*layers, self.model]:
            fully_shard(layer, mesh=mesh)
        self.optimiser = torch.optim.AdamW(self.model.parameters(), lr=1e-4)
        self.x = torch.randn(SAMPLES, WIDTH, generator=torch.Generator().manual_seed(dist.get_rank()))

    def step(self) -> float:
        """Make a step that ends when every rank's has; return its seconds."""
        dist.barrier()
        started = time.perf_counter()
        self.optimiser.zero_grad()
        (self.model(self.x) - self.x).square().mean().backward()
        self.optimiser.step()
        dist.barrier()
        return time.perf_counter() - started

    def parameters(self) -> torch.Tensor:
        """Return all parameters, flat."""
        return torch.cat([each.full_tensor().flatten() for each in self.model.parameters()])


def main() -> None:
    """Be one rank."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--pairs", type=int, default=5)
    pairs = parser.parse_args().pairs
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    mesh = init_device_mesh("cpu", (dist.get_world_size(), 1), mesh_dim_names=("replicate", "shard"))
    exact, ours = Run(mesh), Run(mesh["shard"])
    reduce = CompressedReduce(mesh["replicate"].get_group(), "int8")
    attach_fsdp(ours.model, mesh, reduce)
    exact.step(), ours.step()
    times = [(ours.step(), exact.step()) for _ in range(pairs)]
    theirs = [torch.empty_like(ours.parameters()) for _ in range(dist.get_world_size())]
    dist.all_gather(theirs, ours.parameters())
    difference = (ours.parameters() - exact.parameters()).detach().norm() / exact.parameters().norm()
    if dist.get_rank() == 0:
        found = {
            "seconds": statistics.median(ours_s for ours_s, _ in times),
            "exact_seconds": statistics.median(exact_s for _, exact_s in times),
            "ratio": statistics.median(exact_s / ours_s for ours_s, exact_s in times),
            "identical": all(torch.equal(each, theirs[0]) for each in theirs),
            "relative_error": difference.item(),
            "pairs": pairs,
        }
        print(json.dumps(found), flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
