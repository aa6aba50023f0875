"""The loss scale of float16: gradients are computed that many times too large, so that small ones do not become 0. Pure.

Dynamic, as in Micikevicius et al., "Mixed Precision Training", 2018, section 3.2: halved when a gradient overflows, and
doubled after many steps without.
"""

from __future__ import annotations

from typing import Final

import attrs

FIRST: Final = 2.0**16
LEAST: Final = 1.0
"""A gradient that overflows without a scale is not finite by itself."""
MOST: Final = 2.0**24
GROWS_AFTER: Final = 2000


@attrs.define
class LossScale:
    """The scale of the next step; the same on every rank, because all see the same reduced gradient."""

    value: float = FIRST
    held: int = 0
    """Steps since the scale changed."""

    def lower(self) -> bool:
        """Halve it after an overflow; return whether there was room to."""
        if self.value <= LEAST:
            return False
        self.value, self.held = self.value / 2, 0
        return True

    def hold(self) -> None:
        """Count a step that did not overflow; double the scale after many."""
        self.held += 1
        if self.held >= GROWS_AFTER and self.value < MOST:
            self.value, self.held = self.value * 2, 0
