"""All fuzz targets by name, and what searches have found: each finding stays a case of its target."""

from __future__ import annotations

from types import MappingProxyType

from tests.fuzz import dht_targets, link_targets, node_targets, transport_targets, wire_targets
from tests.fuzz.transport_targets import _certificate_seeds

TARGETS = MappingProxyType(
    {
        target.name: target
        for target in (
            *wire_targets.TARGETS,
            *transport_targets.TARGETS,
            *link_targets.TARGETS,
            *node_targets.TARGETS,
            *dht_targets.TARGETS,
        )
    }
)

CASES: tuple[tuple[str, bytes], ...] = (
    # An empty array below the deepest that is allowed: it was taken, and could not be sent on.
    ("cbor", b"\x81" * 32 + b"\x80"),
    ("link_frames", b"\x84\x02\x61a\x01" + b"\x81" * 31 + b"\x80"),
    # A certificate of a version that does not exist: cryptography has an error of its own for it.
    ("certificate", _certificate_seeds()[0].replace(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x42", 1)),
    # A body with a NaN, which equals nothing.
    ("link_frames", bytes.fromhex("8903622f610182f97e0001001864f6f6826670316665712f622332")),
)
