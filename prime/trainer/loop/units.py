"""The modules of a model that are sharded, gathered and recomputed by themselves: its units."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint

from prime.errors import ConfigError
from prime.trainer.job import Parallel
from prime.trainer.loop.blocks import matching, outermost


def units(module: nn.Module, parallel: Parallel) -> list[nn.Module]:
    """Return the modules that are sharded by themselves; the rest of the model is one unit more."""
    if parallel.shard == "full":
        return []
    found = blocks_of(module, parallel)
    _refuse_shared(module, found)
    return found


def blocks_of(module: nn.Module, parallel: Parallel) -> list[nn.Module]:
    """Return the repeated blocks: what `parallel.blocks` names, else the items of lists of several modules."""
    modules = dict(module.named_modules())
    if parallel.blocks:
        return [modules[name] for name in outermost(matching(modules, parallel.blocks))]
    lists = [n for n, m in modules.items() if isinstance(m, nn.ModuleList | nn.Sequential) and len(m) > 1]
    items = [f"{name}.{i}" if name else str(i) for name in lists for i in range(len(modules[name]))]
    return [modules[name] for name in outermost(items) if any(True for _ in modules[name].parameters())]


def _refuse_shared(module: nn.Module, blocks: list[nn.Module]) -> None:
    """Refuse a parameter that a block shares with what lies outside of it: each unit would gather a copy of its own."""
    owners: dict[int, set[int]] = {}
    for number, block in enumerate(blocks):
        for parameter in block.parameters():
            owners.setdefault(id(parameter), set()).add(number)
    inside = {id(part) for block in blocks for part in block.modules()}
    for part in module.modules():
        if id(part) not in inside:
            for parameter in part.parameters(recurse=False):
                owners.setdefault(id(parameter), set()).add(-1)
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    shared = [names[key] for key, found in owners.items() if len(found) > 1]
    if shared:
        raise ConfigError(
            f"parallel.shard: {shared[0]} is shared between a block and another part of the model",
            hint='set parallel.shard = "full", or name blocks that share nothing with parallel.blocks',
        )


def recompute(module: nn.Module, parallel: Parallel) -> None:
    """Have the activations of each block computed again in the backward pass (Chen et al., "Sublinear Memory Cost", 2016).

    Raises `ConfigError` where the model has no blocks.
    """
    found = blocks_of(module, parallel)
    if not found:
        raise ConfigError(
            "parallel.checkpoint_activations: the model has no blocks, neither in a ModuleList nor in a Sequential",
            hint="name its modules with parallel.blocks, or set parallel.checkpoint_activations to false",
        )
    for block in found:
        _recompute(block)


def _recompute(block: nn.Module) -> None:
    forward = block.forward

    def recomputed(*args: Any, **named: Any) -> Any:
        return checkpoint(forward, *args, use_reentrant=False, **named)

    block.forward = recomputed  # an instance's own: names of parameters stay
