"""The bounds of a relay: what strangers may use of it, and how fast."""

from __future__ import annotations

import attrs

from prime.errors import ConfigError


@attrs.frozen
class RelayLimits:
    """What a relay gives away. `open_system(relay=RelayLimits())` makes a node one.

    `reservers` are the peers that may reserve; `None` lets every linked peer. Rates are in bytes a second, both directions
    of a circuit together. A circuit ends when it was idle for `idle_s`, or has carried `circuit_bytes_max`.
    """

    reservers: frozenset[str] | None = attrs.field(
        default=None, converter=attrs.converters.optional(frozenset), kw_only=True
    )
    reservations_max: int = 128
    reservations_per_source_max: int = 32
    """Slots of peers from one address (IPv6: one /64): keys cost nothing, addresses do."""
    reservation_s: float = 3600.0
    lost_s: float = 60.0
    """How long a slot is kept for a peer whose link is lost."""
    circuits_max: int = 64
    circuits_per_peer_max: int = 8
    requests_per_minute_max: int = 60
    """Circuits that one peer may ask for in a minute, granted or not."""
    offer_s: float = 5.0
    """How long a peer has to take up a circuit that it is offered."""
    idle_s: float = 120.0
    circuit_bytes_max: int = 64 * 2**30
    circuit_bytes_per_s: int = 8 * 2**20
    relay_bytes_per_s: int = 16 * 2**20

    def __attrs_post_init__(self) -> None:
        """Refuse limits under which nothing could be relayed, or nothing would ever end."""
        for field in attrs.fields(type(self)):
            value = getattr(self, field.name)
            if field.name != "reservers" and not 0 < value < float("inf"):
                raise ConfigError(f"RelayLimits.{field.name} is {value}", hint="Give a number above 0.")
