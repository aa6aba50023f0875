"""What the presets are called, and where each is made: to list them loads none. Pure.

Presets stand above the data that they are made of. What looks a name up stands below them, and reads this table.
"""

from __future__ import annotations

from typing import Final

MODELS: Final = {
    "charlm": "prime.trainer.presets.charlm:build_model",
    "mlp": "prime.trainer.presets.classifier:build_mlp",
    "cnn": "prime.trainer.presets.classifier:build_cnn",
}
"""The models that a job may name, and the functions that build them."""

DATASETS: Final = {
    "stdlib": "prime.trainer.data.text:open_text",
    "fashion-mnist": "prime.trainer.presets.fashion_mnist:open_data",
    "digits": "prime.trainer.presets.digits:open_data",
}
"""The data that a job may name, and the functions that open it."""

OWN_DATA: Final = {"charlm": "stdlib", "mlp": "fashion-mnist", "cnn": "fashion-mnist"}
"""What a model is trained on where a job names no data; any other model on `stdlib`."""
