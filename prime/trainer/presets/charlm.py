"""The preset `charlm`: a character transformer, by default of about 0.8 M parameters.

Pre-norm transformer (Radford et al., 2019, "GPT-2"): 4 layers of width 128 with 4 heads, tied embedding. Its options
are `width`, `layers`, `heads` and `context`; the alphabet and the shortest context are those of the data.

Shapes: B batch, T time, C channels, H heads.
"""

from __future__ import annotations

import math
from typing import Any, Self

import attrs
import torch
from torch import nn
from torch.nn import functional

from prime.errors import ConfigError
from prime.trainer.data.contract import Request
from prime.trainer.data.options import Options
from prime.trainer.data.symbols import Alphabet
from prime.trainer.data.text import TextSettings

TEMPERATURE = 0.8


@attrs.frozen
class Sizes:
    """The sizes of a transformer: `context` is the longest sequence, in symbols."""

    symbols: int = 97
    context: int = 128
    width: int = 128
    layers: int = 4
    heads: int = 4

    @classmethod
    def of(cls, request: Request, text: TextSettings) -> Self:
        """Read `[model_options]`. Raises `ConfigError`."""
        options = Options(request.model_options, "model_options", "charlm")
        sizes = cls(
            symbols=text.alphabet.size,
            context=options.integer("context", text.context, at_least=text.context),
            width=options.integer("width", 128, at_least=1),
            layers=options.integer("layers", 4, at_least=1),
            heads=options.integer("heads", 4, at_least=1),
        )
        options.end()
        if sizes.width % sizes.heads:
            raise ConfigError(
                f"model_options.width is {sizes.width}, which {sizes.heads} heads cannot share",
                hint="set a width that is a multiple of heads",
            )
        return sizes


class Block(nn.Module):
    """Attention, then a feed-forward layer four times as wide; each adds to its input."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_in = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.norm_mid = nn.LayerNorm(width)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)

    def forward(self, x_BTC: torch.Tensor) -> torch.Tensor:  # noqa: N803 - shapes
        """Return float[B, T, C]."""
        batch, time, width = x_BTC.shape
        qkv = self.qkv(self.norm_in(x_BTC)).view(batch, time, 3, self.heads, width // self.heads)
        q_BHTC, k_BHTC, v_BHTC = qkv.permute(2, 0, 3, 1, 4)  # noqa: N806
        seen = functional.scaled_dot_product_attention(q_BHTC, k_BHTC, v_BHTC, is_causal=True)
        x_BTC = x_BTC + self.out(seen.transpose(1, 2).reshape(batch, time, width))  # noqa: N806
        return x_BTC + self.down(functional.gelu(self.up(self.norm_mid(x_BTC)), approximate="tanh"))


class CharacterTransformer(nn.Module):
    """Symbols int64[B, T] to logits float[B, T, symbols]."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.sizes = sizes
        self.symbols = nn.Embedding(sizes.symbols, sizes.width)
        self.places = nn.Embedding(sizes.context, sizes.width)
        self.blocks = nn.ModuleList(Block(sizes.width, sizes.heads) for _ in range(sizes.layers))
        self.norm = nn.LayerNorm(sizes.width)
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                scale = 0.02 / math.sqrt(2 * sizes.layers) if name.endswith(("out.weight", "down.weight")) else 0.02
                nn.init.normal_(parameter, std=scale)

    def forward(self, symbols_BT: torch.Tensor) -> torch.Tensor:  # noqa: N803
        """Return the logits of the next symbol at every place."""
        time = symbols_BT.shape[1]
        x_BTC = self.symbols(symbols_BT) + self.places.weight[:time]  # noqa: N806
        for block in self.blocks:
            x_BTC = block(x_BTC)  # noqa: N806
        return functional.linear(self.norm(x_BTC), self.symbols.weight)


class CharacterModel:
    """The transformer with its loss, and with the alphabet it writes in."""

    def __init__(self, sizes: Sizes, alphabet: Alphabet) -> None:
        self.module = CharacterTransformer(sizes)
        self._context, self._alphabet = sizes.context, alphabet

    def loss(self, batch: Any) -> torch.Tensor:
        """Return the mean cross-entropy in nats a symbol over symbols int64[B, T + 1]."""
        logits_BTS = self.module(batch[:, :-1])  # noqa: N806 - S symbols
        return functional.cross_entropy(logits_BTS.flatten(0, 1), batch[:, 1:].flatten())

    def write(self, prompt: str, length: int, seed: int) -> str:
        """Continue a prompt, one sampled character after the other (temperature 0.8)."""
        device = next(self.module.parameters()).device
        generator = torch.Generator().manual_seed(seed)
        symbols = [int(s) for s in self._alphabet.encode(prompt or "\n")]
        with torch.no_grad():
            for _ in range(length):
                logits = self.module(torch.tensor([symbols[-self._context :]], device=device))[0, -1]
                share = functional.softmax(logits.float().cpu() / TEMPERATURE, dim=-1)
                symbols.append(int(torch.multinomial(share, 1, generator=generator)))
        return self._alphabet.decode(symbols)


def build_model(request: Request) -> CharacterModel:
    """Build the model for the text that the run names. Raises `ConfigError` for sizes that cannot be."""
    text = TextSettings.of(request)
    return CharacterModel(Sizes.of(request, text), text.alphabet)
