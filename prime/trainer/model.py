"""The built-in task: a character transformer of about 0.8 M parameters, and its batches from a corpus.

Pre-norm transformer (Radford et al., 2019, "GPT-2"), 4 layers of width 128 with 4 heads, tied embedding.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from prime.trainer.corpus import SYMBOLS, Corpus, decode_text, encode_text, load_corpus
from prime.trainer.metadata import TrainingConfig

WIDTH, LAYERS, HEADS = 128, 4, 4


class _Block(nn.Module):
    """Attention, then a feed-forward layer four times as wide; each adds to its input."""

    def __init__(self) -> None:
        super().__init__()
        self.norm_in = nn.LayerNorm(WIDTH)
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH, bias=False)
        self.out = nn.Linear(WIDTH, WIDTH, bias=False)
        self.norm_mid = nn.LayerNorm(WIDTH)
        self.up = nn.Linear(WIDTH, 4 * WIDTH)
        self.down = nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x_BTC: torch.Tensor) -> torch.Tensor:  # noqa: N803 - B batch, T time, C channels
        batch, time, _ = x_BTC.shape
        qkv = self.qkv(self.norm_in(x_BTC)).view(batch, time, 3, HEADS, WIDTH // HEADS).permute(2, 0, 3, 1, 4)
        seen = functional.scaled_dot_product_attention(qkv[0], qkv[1], qkv[2], is_causal=True)
        x_BTC = x_BTC + self.out(seen.transpose(1, 2).reshape(batch, time, WIDTH))  # noqa: N806
        return x_BTC + self.down(functional.gelu(self.up(self.norm_mid(x_BTC)), approximate="tanh"))


class CharacterTransformer(nn.Module):
    """Symbols int64[B, T] to logits float32[B, T, 97]."""

    def __init__(self, context: int) -> None:
        super().__init__()
        self.context = context
        self.symbols = nn.Embedding(SYMBOLS, WIDTH)
        self.places = nn.Embedding(context, WIDTH)
        self.blocks = nn.ModuleList(_Block() for _ in range(LAYERS))
        self.norm = nn.LayerNorm(WIDTH)
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                scale = 0.02 / math.sqrt(2 * LAYERS) if name.endswith(("out.weight", "down.weight")) else 0.02
                nn.init.normal_(parameter, std=scale)

    def forward(self, symbols_BT: torch.Tensor) -> torch.Tensor:  # noqa: N803
        """Return the logits of the next symbol at every place."""
        time = symbols_BT.shape[1]
        x_BTC = self.symbols(symbols_BT) + self.places.weight[:time]  # noqa: N806
        for block in self.blocks:
            x_BTC = block(x_BTC)  # noqa: N806
        return functional.linear(self.norm(x_BTC), self.symbols.weight)


class CharacterModel:
    """The built-in model."""

    def __init__(self, config: TrainingConfig) -> None:
        self.module = CharacterTransformer(config.context)

    def loss(self, batch: Any) -> torch.Tensor:
        """Return the mean cross-entropy in nats a character over symbols int64[B, T + 1]."""
        rows = torch.from_numpy(np.ascontiguousarray(batch))
        logits = self.module(rows[:, :-1])
        return functional.cross_entropy(logits.reshape(-1, SYMBOLS), rows[:, 1:].reshape(-1))

    def write(self, prompt: str, length: int, seed: int) -> str:
        """Continue a prompt, one sampled character after the other (temperature 0.8)."""
        generator = torch.Generator().manual_seed(seed)
        symbols = [int(s) for s in encode_text(prompt or "\n")]
        with torch.no_grad():
            for _ in range(length):
                logits = self.module(torch.tensor([symbols[-self.module.context :]]))[0, -1]
                share = functional.softmax(logits / 0.8, dim=-1)
                symbols.append(int(torch.multinomial(share, 1, generator=generator)))
        return decode_text(symbols)


class CharacterData:
    """Batches of a corpus."""

    def __init__(self, config: TrainingConfig) -> None:
        self._config = config
        self._corpus: Corpus = load_corpus(config.data, config.context, config.batch_size)
        self.baseline: float | None = self._corpus.unigram_nats()

    def batch(self, step: int, rank: int) -> Any:
        """Return symbols int64[batch_size, context + 1]."""
        return self._corpus.batch(self._config.seed, step, rank)

    def held_out(self, count: int) -> list[Any]:
        """Return at most `count` batches of the held-out text, spread evenly over it."""
        batches = list(self._corpus.held_out_batches())
        return batches[:: max(1, len(batches) // count)][:count]
