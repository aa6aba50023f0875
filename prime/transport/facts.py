"""Facts of the links: plain records of what happened, in the past tense. Undelivered messages are `DeadLetter`s."""

from __future__ import annotations

import attrs


@attrs.frozen
class LinkUp:
    """Both sides said HELLO; `address` is the dialled multiaddr, or empty if the peer dialled."""

    peer: str
    address: str
    transport: str


@attrs.frozen
class LinkDown:
    """A link that was up ended; `reason` names the cause."""

    peer: str
    reason: str
