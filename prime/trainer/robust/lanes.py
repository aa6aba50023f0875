"""How an inner product is added up, so that every engine comes to the same bits."""

from __future__ import annotations

from typing import Final

LANES: Final = 64
"""Sums that run side by side: product k goes to sum k mod `LANES`, so a loop is vectorised without changing its order."""
