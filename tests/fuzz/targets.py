"""All fuzz targets by name, and what searches have found: each finding stays a case of its target."""

from __future__ import annotations

from types import MappingProxyType

from tests.fuzz import link_targets, transport_targets, wire_targets

TARGETS = MappingProxyType(
    {target.name: target for target in (*wire_targets.TARGETS, *transport_targets.TARGETS, *link_targets.TARGETS)}
)

CASES: tuple[tuple[str, bytes], ...] = ()
