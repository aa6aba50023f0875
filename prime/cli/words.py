"""What several commands' texts are made of."""

from __future__ import annotations


def many(count: int, name: str) -> str:
    """Return a number of things."""
    return f"{count:,} {name}" if count == 1 else f"{count:,} {name}s"


def plain(text: str) -> str:
    """Return a text from elsewhere so that no control character of it reaches a terminal."""
    return "".join(character if character.isprintable() else "?" for character in text)
