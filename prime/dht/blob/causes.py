"""Why a blob could not be fetched, as its providers said it. Pure."""

from __future__ import annotations

from collections import deque
from typing import Final

from prime.dht.blob.content import text_of
from prime.errors import CorruptedError, DecodeError, NotFoundError, UnreachableError, WorldError
from prime.store.manifest import ContentId

CAUSES_MAX: Final = 8
"""The last causes that are told."""
_HINT: Final = "what is here is kept; try again once a provider is up: `prime dht providers CID` names them"


class Causes:
    """What went wrong with whom; the worst of it decides what error it makes."""

    def __init__(self, content: ContentId) -> None:
        self._content = content
        self._told: deque[str] = deque(maxlen=CAUSES_MAX)
        self._is_wrong = False
        self._is_silent = False

    @property
    def may_pass(self) -> bool:
        """Tell whether somebody did not answer, or was busy: he may be back."""
        return self._is_silent

    def failed(self, peer: str, error: WorldError) -> None:
        """Take note that a peer did not answer, refused, or sent what is no answer."""
        self._told.append(f"{peer}: {error}")
        self._is_wrong |= isinstance(error, (CorruptedError, DecodeError))
        self._is_silent |= not isinstance(error, (CorruptedError, DecodeError, NotFoundError))

    def lied(self, peer: str, reason: str) -> None:
        """Take note that a peer sent something else than was asked for."""
        self._told.append(f"{peer}: {reason}")
        self._is_wrong = True

    def nobody(self) -> NotFoundError:
        """Return the error of a blob that nobody says he has."""
        return NotFoundError(
            f"nobody provides {text_of(self._content)}",
            hint="its provider may be down, or not in this network: `prime dht stats` says whom this node knows",
        )

    def error(self) -> WorldError:
        """Return the error: wrong bytes before silence, silence before nothing found."""
        if not self._told:
            return self.nobody()
        text = f"{text_of(self._content)} cannot be fetched: {'; '.join(dict.fromkeys(self._told))}"
        if self._is_wrong:
            return CorruptedError(text, hint="nothing wrong was kept; try again when another provider is up")
        return UnreachableError(text, hint=_HINT) if self._is_silent else NotFoundError(text, hint=_HINT)
