"""How an inner product is added up, so that every engine comes to the same bits."""

from __future__ import annotations

from typing import Final

LANES: Final = 64
"""Sums that run side by side: product k goes to sum k mod `LANES`, so a loop is vectorised without changing its order."""
SLAB_ELEMENTS: Final = 1 << 16
"""Elements of each member that are worked on together: of nine, 2.25 MiB. A multiple of every codec's block."""
