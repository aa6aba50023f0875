"""The preset data `digits`: 1 797 handwritten digits, 8 x 8 pixels of 0 to 16, that scikit-learn brings along.

Every 5th is held out.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from prime.errors import MissingExtraError
from prime.trainer.data.arrays import ArrayDataset, Samples
from prime.trainer.data.contract import Request
from prime.trainer.data.options import Options

HELD_OUT_EVERY: Final = 5
MEAN: Final = 4.88
DEVIATION: Final = 6.02


def open_data(request: Request) -> ArrayDataset:
    """Load the digits. Raises `MissingExtraError` without scikit-learn."""
    Options(request.data_options, "data_options", "digits").end()
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise MissingExtraError("the data `digits` is scikit-learn's", hint="pip install scikit-learn") from None
    found = load_digits()
    samples = Samples(found.images.astype(np.float32), found.target.astype(np.int64))
    return ArrayDataset.split(samples, "digits", HELD_OUT_EVERY, offset=MEAN, scale=DEVIATION)
