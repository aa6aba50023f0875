"""Who signs what a node says: its own key, with numbers that rise over its restarts too.

The check of such signatures needs the peer id alone, which holds the public key (`peer.py`).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from prime.transport.identity import KeyPair
from prime.wire.message import open_signed
from prime.wire.signed import ED25519

__all__ = ["KeySignatory", "open_signed"]

_MICROSECONDS: Final = 1_000_000


def wall_clock_s() -> float:
    """Return seconds since 1970 (UTC). Looked up at each call, so that a simulation sees who reads it."""
    return time.time()


class KeySignatory:
    """Signs with a node's key. One key has one: two would give one number twice.

    The first number is the wall clock's, in microseconds, when it first signs, and each is one more than the one before.
    Signing one message takes many microseconds, so the numbers of a run never pass the clock, and the next run begins
    above all of them, unless the clock is set back by more than the time since the earlier run first signed. Then
    receivers refuse what the node signs until they have forgotten it (`signed_age_s` after its last message): too little
    is taken for a while, and nothing twice.
    """

    scheme: Final = ED25519

    def __init__(self, key: KeyPair, wall_s: Callable[[], float] = wall_clock_s) -> None:
        """Sign with `key`; `wall_s` returns seconds since 1970 (UTC)."""
        self._key = key
        self._wall_s = wall_s
        self._seq = 0
        self.signer: Final[str] = key.peer

    def stamp(self) -> tuple[int, int]:
        """See `wire.signed.Signatory.stamp`."""
        self._seq = self._seq + 1 if self._seq else int(self._wall_s() * _MICROSECONDS)
        return self._seq, int(self._wall_s() * 1000)

    def sign(self, data: bytes) -> bytes:
        """See `wire.signed.Signatory.sign`."""
        return self._key.sign(data)
