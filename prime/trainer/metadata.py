"""What a run is: its configuration, and the model that it trains. Public records with validation and a wire form."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from prime.errors import ConfigError
from prime.wire import record

LAYOUT_MAX = 100_000
"""Tensors of one model."""
ELEMENTS_MAX = 2**63 - 1
"""Elements of one tensor."""
OPTIONS_MAX = 20_000
"""Characters of the options of model and data."""
OUTER_OPTIMISERS = ("nesterov", "sgd", "average", "adam")
"""What may be done with a round's aggregate (`prime.trainer.outer.optimisers`)."""

OWN_DATA = "own"
"""As the data of a run that is submitted: each node trains on what its own configuration names (`runs.data`)."""

AGGREGATIONS = ("mean", "median", "trimmed-mean", "krum", "multi-krum", "centred-clipping")
"""The rules by which a round makes one vector of its contributions (`prime.trainer.robust`)."""

CODECS = ("int8", "int4", "fp8", "fp16", "topk", "none")
"""What a contribution may travel as (`prime.trainer.codec`); `none` is float32."""
GATHER_CODECS = ("auto", "int8", "fp8", "fp16", "none")
"""What a round's result may travel as."""
FEEDBACK_CODECS = ("int4", "topk")
"""Codecs that leave out so much that error feedback is on unless it is switched off."""


@record
class TrainingConfig:
    """Everything that decides what a run computes; equal on all its nodes.

    `model` and `data` are `module:function` or `file.py:function` (see `prime.trainer.task`), a preset's name, or
    empty for the character transformer and the text of Python's standard library; `data` may also be the path of a
    text file or folder, and `own` in a run that is submitted.
    `inner_steps` is H, the local steps in which every parameter goes through one round; `context` is in characters,
    `round_deadline_s` in seconds. With `fragments` above 1 the rounds carry a part of the parameters each, in turn.
    `overlap_steps` is tau, how far training goes on while a round is under way; -1: as far as to the next round.
    `codec` is what contributions travel as, `gather_codec` what the results of rounds do; `auto` is `int8`, and with `topk`
    the sparse form of its sums. `error_feedback`, `auto`, `on` or `off`: what the codec leaves out of a contribution goes
    with the next one.
    With `local_epochs` above 0, H is that many passes over the node's own data instead. `participation` is the fraction
    of the members that each round asks to contribute; the others idle.
    `options` holds the tables `model` and `data` of further options, as JSON; empty for none.
    `aggregation` is the rule by which a round makes one vector of its contributions, `byzantine_max` is f, how many of
    its members may be liars, and `norm_gate` the multiple of the median norm per token from which a contribution is
    refused; 0: none is (`prime.trainer.robust`).
    The run ends with the first round from `rounds` on to which `contributors_final_min` members contributed.

    Raises `ConfigError` for values that cannot be.
    """

    model: str = ""
    data: str = ""
    rounds: int = 20
    nodes_min: int = 3
    contributors_final_min: int = 0
    inner_steps: int = 100
    local_epochs: int = 0
    participation: float = 1.0
    batch_size: int = 32
    context: int = 128
    learning_rate: float = 1e-3
    warmup_steps: int = 20
    weight_decay: float = 0.1
    clip_norm: float = 1.0
    outer_optimiser: str = "nesterov"
    outer_learning_rate: float = 0.7
    outer_momentum: float = 0.7
    outer_square_decay: float = 0.99
    outer_epsilon: float = 1e-6
    fragments: int = 1
    overlap_steps: int = -1
    aggregation: str = "mean"
    byzantine_max: int = 0
    norm_gate: float = 0.0
    codec: str = "int8"
    gather_codec: str = "auto"
    error_feedback: str = "auto"
    round_deadline_s: float = 60.0
    seed: int = 0
    threads: int = 1
    options: str = ""

    @property
    def feeds_back(self) -> bool:
        """Whether what the codec leaves out of a contribution is added to the next one."""
        return self.error_feedback == "on" or (self.error_feedback == "auto" and self.codec in FEEDBACK_CODECS)

    @property
    def model_options(self) -> Mapping[str, Any]:
        """Return what the function of the model is given beside this, as a `Job` has it."""
        return _tables(self.options).get("model", {})

    @property
    def data_options(self) -> Mapping[str, Any]:
        """Return what the function of the data is given, too."""
        return _tables(self.options).get("data", {})

    def __attrs_post_init__(self) -> None:
        """Refuse what cannot be."""
        for name in ("rounds", "nodes_min", "inner_steps", "batch_size", "threads", "fragments"):
            _require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        _require(self.context >= 2, "context", self.context, "at least 2")
        for name in ("outer_momentum", "outer_square_decay"):
            _require(0 <= getattr(self, name) < 1, name, getattr(self, name), "from 0 to under 1")
        _require(0 < self.outer_epsilon <= 1, "outer_epsilon", self.outer_epsilon, "above 0 and at most 1")
        known = self.outer_optimiser in OUTER_OPTIMISERS
        _require(known, "outer_optimiser", repr(self.outer_optimiser), f"one of {', '.join(OUTER_OPTIMISERS)}")
        _require(self.codec in CODECS, "codec", repr(self.codec), f"one of {', '.join(CODECS)}")
        known = self.gather_codec in GATHER_CODECS
        _require(known, "gather_codec", repr(self.gather_codec), f"one of {', '.join(GATHER_CODECS)}")
        known = self.error_feedback in ("auto", "on", "off")
        _require(known, "error_feedback", repr(self.error_feedback), "auto, on or off")
        fit = self.local_epochs > 0 or self.fragments <= self.inner_steps
        _require(fit, "fragments", self.fragments, "at most inner_steps")
        _require(0 < self.participation <= 1, "participation", self.participation, "above 0 and at most 1")
        _require(self.overlap_steps >= -1, "overlap_steps", self.overlap_steps, "-1 or more")
        known = self.aggregation in AGGREGATIONS
        _require(known, "aggregation", repr(self.aggregation), f"one of {', '.join(AGGREGATIONS)}")
        middle = self.aggregation in ("median", "trimmed-mean")  # of coordinates that most members leave out it is 0
        _require(
            not (middle and self.codec == "topk"), "aggregation", repr(self.aggregation), "another rule with codec topk"
        )
        self._check_momentum()
        steps = self.outer_optimiser == "average" or 0 < self.outer_learning_rate <= 10
        _require(steps, "outer_learning_rate", self.outer_learning_rate, "above 0 and at most 10")
        _require(
            self.norm_gate == 0 or 1 <= self.norm_gate < float("inf"), "norm_gate", self.norm_gate, "0, or 1 or more"
        )
        _require(self.round_deadline_s > 0, "round_deadline_s", self.round_deadline_s, "above 0")
        for name in ("learning_rate", "weight_decay", "clip_norm", "outer_learning_rate"):
            _require(0 <= getattr(self, name) < float("inf"), name, getattr(self, name), "0 or more, and finite")
        for name in ("warmup_steps", "contributors_final_min", "byzantine_max", "local_epochs", "seed"):
            _require(getattr(self, name) >= 0, name, getattr(self, name), "0 or more")
        _require(
            len(self.options) <= OPTIONS_MAX, "options", f"{len(self.options)} characters", f"{OPTIONS_MAX} at most"
        )

    def _check_momentum(self) -> None:
        """Refuse to count twice: what waits in a sparse codec's residual comes rounds later, as a momentum does."""
        has_momentum = self.outer_optimiser in ("nesterov", "adam") and self.outer_momentum > 0
        if self.codec == "topk" and self.feeds_back and has_momentum:
            raise ConfigError(
                f"codec topk with error feedback and outer_optimiser {self.outer_optimiser} of momentum "
                f"{self.outer_momentum:g} count what was learnt twice: the residual is a momentum already",
                hint='set train.outer_optimiser = "sgd" with train.outer_learning_rate = 1, or train.outer_momentum = 0',
            )


def _tables(options: str) -> dict[str, dict[str, Any]]:
    """Return the tables of options, by `model` and `data`. Raises `ConfigError`."""
    try:
        found = json.loads(options) if options else {}
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or not all(isinstance(table, dict) for table in found.values()):
        raise ConfigError("TrainingConfig.options is no JSON of tables", hint='such as {"model": {"width": 64}}')
    return found


@record
class TensorLayout:
    """One parameter tensor: its name, its shape, and its type as torch names it (`float32`)."""

    name: str
    shape: tuple[int, ...]
    dtype: str


@record
class ModelMetadata:
    """A model as others need to know it: how its flat vector of `parameters` elements is cut into tensors.

    Raises `ConfigError` where the layout does not add up to the count.
    """

    name: str
    parameters: int
    layout: tuple[TensorLayout, ...]

    def __attrs_post_init__(self) -> None:
        """Refuse a layout that does not add up."""
        total = sum(_elements(tensor.shape) for tensor in self.layout)
        if total != self.parameters or not 1 <= len(self.layout) <= LAYOUT_MAX:
            raise ConfigError(
                f"model {self.name!r}: {len(self.layout)} tensors hold {total} elements, not {self.parameters}",
                hint="every trainable tensor stands in the layout once",
            )

    @property
    def layout_hash(self) -> str:
        """Return a hash (SHA-256, hex) that is equal for models whose vectors fit each other."""
        text = "\n".join(f"{t.name} {t.shape} {t.dtype}" for t in self.layout)
        return hashlib.sha256(text.encode()).hexdigest()


def _elements(shape: tuple[int, ...]) -> int:
    count = 1
    for size in shape:
        count *= size
        if abs(count) > ELEMENTS_MAX:  # no tensor: and the product of a thousand such sizes would take a while
            break
    return count


def _require(holds: bool, name: str, value: object, wanted: str) -> None:  # noqa: FBT001 - reads as a sentence
    if not holds:
        raise ConfigError(
            f"TrainingConfig.{name} is {value}: it must be {wanted}", hint="`prime config explain` tells more"
        )
