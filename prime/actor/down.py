"""The death notice a watcher receives."""

from __future__ import annotations

import attrs


@attrs.frozen
class Down:
    """A watched actor ended for good, or the link to its node was lost. Exactly one for each watch.

    `peer` is empty for a local actor; `reason` says why, in words.
    """

    path: str
    peer: str
    reason: str
