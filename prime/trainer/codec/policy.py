"""Which codec each parameter's gradient travels in (pure).

Norms and biases are few, their gradients differ by orders of magnitude within a block, and a model is sensitive to them;
small tensors save nothing. So these go as fp16, whatever the codec, unless a rule says otherwise.
"""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import attrs

from prime.trainer.codec.form import form

if TYPE_CHECKING:
    from prime.trainer.job import Compression

WRAPPERS: Final = ("_checkpoint_wrapped_module.", "_orig_mod.")
"""What activation checkpointing and torch.compile put into the names of parameters; rules see the names without."""


@attrs.frozen
class Rule:
    """Parameters whose names match a pattern of the shell's kind (`*`, `?`, `[abc]`; case counts) go in this codec."""

    match: str
    codec: str


@attrs.frozen
class Policy:
    """Tells the codec of each parameter: `policy(name, shape)`.

    The first rule that matches decides. Without one, parameters of fewer than two dimensions (norms and biases) or fewer
    than `exact_below` elements go as fp16, and all others in `codec`. Where `codec` is itself exact, it is everyone's.
    Raises ConfigError for a codec that is none.
    """

    codec: str = "int8"
    exact_below: int = 4096
    rules: tuple[Rule, ...] = ()

    def __attrs_post_init__(self) -> None:
        for name in (self.codec, *(rule.codec for rule in self.rules)):
            form(name)

    @classmethod
    def of(cls, compression: Compression) -> Policy:
        """Return the policy of a job's table `[compression]`, whose codec is a wire form (so not powersgd)."""
        rules = tuple(Rule(rule.match, rule.codec) for rule in compression.policy)
        return cls(compression.codec, compression.exact_below, rules)

    def __call__(self, name: str, shape: Sequence[int]) -> str:
        """Return the codec of the parameter of that name and (unsharded) shape."""
        for wrapper in WRAPPERS:
            name = name.replace(wrapper, "")
        for rule in self.rules:
            if fnmatch.fnmatchcase(name, rule.match):
                return rule.codec
        is_small = len(shape) < 2 or math.prod(shape) < self.exact_below
        return "fp16" if is_small and self.codec not in ("fp16", "none") else self.codec
