"""The actor that Monarch's processes import."""

from __future__ import annotations

from monarch.actor import Actor, endpoint


class Echo(Actor):  # type: ignore[misc]
    """Answers what it is asked."""

    @endpoint  # type: ignore[untyped-decorator]
    async def ask(self, number: int) -> int:
        """Answer at once."""
        return number
