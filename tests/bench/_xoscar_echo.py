"""The actor that xoscar's processes import."""

from __future__ import annotations

import xoscar


class Echo(xoscar.Actor):  # type: ignore[misc]
    """Answers what it is asked."""

    def ask(self, number: int) -> int:
        """Answer at once."""
        return number
