"""The actor that Thespian's processes import."""

from __future__ import annotations

from typing import Any

from thespian.actors import Actor


class Echo(Actor):  # type: ignore[misc]
    """Answers what it is asked."""

    def receiveMessage(self, message: Any, sender: Any) -> None:  # noqa: N802 - Thespian's name
        """Answer at once; what Thespian itself says is no question."""
        if type(message) is int:
            self.send(sender, message)
