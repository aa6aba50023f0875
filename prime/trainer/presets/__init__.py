"""What runs here without a download: models and data of Prime's own, each with a name for a job.

Listing them loads neither torch nor numpy.
"""

from __future__ import annotations

from typing import Final

MODELS: Final = {
    "charlm": "prime.trainer.presets.charlm:build_model",
}
"""The models that a job may name, and the functions that build them."""

DATASETS: Final = {
    "stdlib": "prime.trainer.data.text:open_text",
}
"""The data that a job may name, and the functions that open it."""
