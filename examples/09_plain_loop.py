"""A plain PyTorch loop on several processes or GPUs: two new lines and a changed one, and gradients a quarter of the size.

Run: python examples/09_plain_loop.py
Then: torchrun --nproc-per-node 2 examples/09_plain_loop.py
Needs: pip install '.[train]'
"""

from __future__ import annotations

import os

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from prime.trainer import attach  # new


def spirals(count: int) -> TensorDataset:
    """Points float32[count, 2] on two spirals under noise, and which spiral each is on."""
    generator = torch.Generator().manual_seed(1)
    turn = 9 * torch.rand(count, generator=generator).sqrt()
    which = torch.arange(count) % 2
    angle = turn + torch.pi * which
    points = torch.stack((turn * angle.cos(), turn * angle.sin()), dim=1) / 5
    return TensorDataset(points + 0.05 * torch.randn(count, 2, generator=generator), which)


def main() -> None:
    """Train a perceptron, and say how often it is right."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 128), nn.Tanh(), nn.Linear(128, 128), nn.Tanh(), nn.Linear(128, 2))
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    loader = DataLoader(spirals(4_000), batch_size=100, shuffle=True)
    loop = attach(model, codec="int8")  # new
    for epoch in range(12):
        for points, which in loop.share(loader):  # was: in loader
            loss = nn.functional.cross_entropy(model(points), which)
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
        if epoch % 4 == 3 and os.environ.get("RANK", "0") == "0":  # torchrun's variable: once, not on every rank
            print(f"epoch {epoch + 1}: loss {loss.item():.3f}, {right(model):.1%} right")


def right(model: nn.Module) -> float:
    """Return the fraction of points whose spiral the model names."""
    points, which = spirals(1_000).tensors
    with torch.no_grad():
        return float((model(points).argmax(dim=1) == which).float().mean())


if __name__ == "__main__":
    main()
