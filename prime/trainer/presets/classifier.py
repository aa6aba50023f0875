"""The presets `mlp` and `cnn`: classifiers of pictures, or of any inputs of one shape.

Options of `mlp`: `inputs` (numbers of one input), `width`, `layers` (hidden ones), `classes`. Of `cnn`: `side` (pixels of
a square picture), `width` (channels of the first layer), `classes`. The sizes of the preset data are known.

Shapes: B batch, K classes.
"""

from __future__ import annotations

import itertools
from typing import Any, Final

import torch
from torch import nn
from torch.nn import functional

from prime.errors import ConfigError
from prime.trainer.data.contract import Request
from prime.trainer.data.options import Options

SIDES: Final = {"fashion-mnist": 28, "digits": 8}
"""Pixels of a picture's side; both have 10 classes."""


class Classifier:
    """A module from inputs float[B, …] to scores float[B, K], its loss, and how often it is right."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def loss(self, batch: Any) -> torch.Tensor:
        """Return the mean cross-entropy in nats over inputs and labels int64[B]."""
        inputs, labels_B = _supervised(batch)  # noqa: N806 - shapes
        return functional.cross_entropy(self.module(inputs), labels_B)

    def measures(self, batch: Any) -> dict[str, torch.Tensor]:
        """Return the accuracy: the fraction of inputs whose highest score is their class's."""
        inputs, labels_B = _supervised(batch)  # noqa: N806
        return {"accuracy": (self.module(inputs).argmax(1) == labels_B).float().mean()}


def build_mlp(request: Request) -> Classifier:
    """Build a perceptron of some hidden layers. Raises `ConfigError` for sizes that cannot be."""
    options, side = _options(request, "mlp")
    width = options.integer("width", 256, at_least=1)
    layers = options.integer("layers", 1, at_least=0)
    sizes = [options.integer("inputs", side * side, at_least=1), *[width] * layers]
    classes = _classes(options)
    hidden = [part for a, b in itertools.pairwise(sizes) for part in (nn.Linear(a, b), nn.ReLU())]
    return Classifier(nn.Sequential(nn.Flatten(), *hidden, nn.Linear(sizes[-1], classes)))


def build_cnn(request: Request) -> Classifier:
    """Build two convolutions of 3 x 3, each halved by its maxima, and a layer. Raises `ConfigError`."""
    options, known = _options(request, "cnn")
    width = options.integer("width", 16, at_least=1)
    side = options.integer("side", known, at_least=4)
    classes = _classes(options)
    return Classifier(
        nn.Sequential(
            nn.Unflatten(1, (1, side)),
            nn.Conv2d(1, width, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(width, 2 * width, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(2 * width * (side // 4) ** 2, classes),
        )
    )


def _options(request: Request, owner: str) -> tuple[Options, int]:
    """Return the options and the side of the data's pictures; 0 where it is not known."""
    options = Options(request.model_options, "model_options", owner)
    side = SIDES.get(request.data or "fashion-mnist", 0)
    size = "side" if owner == "cnn" else "inputs"
    if not side and size not in request.model_options:
        raise ConfigError(
            f"model_options.{size} is missing: how large an input of {request.data!r} is",
            hint=f"set {size} and classes under [model_options]",
        )
    return options, side


def _classes(options: Options) -> int:
    found = options.integer("classes", 10, at_least=2)
    options.end()
    return found


def _supervised(batch: Any) -> tuple[torch.Tensor, torch.Tensor]:
    if not (isinstance(batch, (tuple, list)) and len(batch) == 2 and not batch[1].dtype.is_floating_point):
        raise ConfigError(
            "the presets mlp and cnn need inputs and classes, which the data has not",
            hint="set data_options.label to a column of classes, or bring a model of your own",
        )
    return batch[0], batch[1]
