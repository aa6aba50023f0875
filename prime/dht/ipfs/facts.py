"""What happens in the DHT of libp2p, as plain records in the past tense. Pure."""

from __future__ import annotations

import attrs


@attrs.frozen
class NotKeptUp:
    """What this node put there, or provides, was not published anew: `key` has its bytes. It is tried again in time."""

    key: bytes
    reason: str
