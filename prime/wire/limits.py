"""How much a remote party may make us read, allocate and walk before we know who it is."""

from __future__ import annotations

import attrs

KIB = 1024
MIB = 1024 * KIB


def _positive(_instance: object, attribute: attrs.Attribute[int], value: int) -> None:
    if value < 1:
        raise ValueError(f"{attribute.name} must be at least 1, not {value}")


@attrs.frozen
class Limits:
    """Caps on one frame and on the CBOR header inside it; the defaults suit links between nodes.

    `header_size_bytes_max` caps the CBOR header, `payload_size_bytes_max` one payload, `payload_count_max` the number
    of payloads and `frame_size_bytes_max` everything together. `depth_max` caps nested arrays and maps,
    `items_max` the number of data items in a header (so a small header cannot unfold into many objects).
    """

    header_size_bytes_max: int = attrs.field(default=1 * MIB, validator=_positive)
    payload_size_bytes_max: int = attrs.field(default=64 * MIB, validator=_positive)
    payload_count_max: int = attrs.field(default=1024, validator=_positive)
    frame_size_bytes_max: int = attrs.field(default=256 * MIB, validator=_positive)
    depth_max: int = attrs.field(default=32, validator=_positive)
    items_max: int = attrs.field(default=65_536, validator=_positive)


DEFAULT_LIMITS = Limits()
"""The limits used where a caller passes none."""
