"""What nodes say to each other about reaching each other: relays (tags 0x010-0x01f) and reachability (0x020-0x02f).

The rules are in spec/protocols/relay.md.
"""

from __future__ import annotations

from typing import Annotated, Final

from prime.wire import Ask, Size, message, record

RELAY_PATH: Final = "/net/relay"
"""Where a relay answers `Reserve`."""
CIRCUITS_PATH: Final = "/net/circuits"
"""Where a node that has reserved hears of circuits."""
TOKEN_BYTES: Final = 16
REACHABILITY_PATH: Final = "/net/reachability"
"""Where a node answers `DialBack`."""
ADDRESSES_ASKED_MAX: Final = 8


@record
class Reservation:
    """A slot at a relay: how long it lasts, and where the relay says it can be dialled."""

    expires_in_s: float
    addresses: tuple[str, ...]


@message(tag=0x010)
class Reserve(Ask[Reservation]):
    """Ask a relay for a slot, or to keep the one it gave. Refused with the reason."""


@message(tag=0x011)
class Release:
    """Give the slot back."""


@message(tag=0x012)
class CircuitOffered:
    """`source` wants a circuit to you: connect to the relay and take it up with this token, or decline."""

    circuit: int
    token: Annotated[bytes, Size(TOKEN_BYTES, TOKEN_BYTES)]
    source: str


@message(tag=0x013)
class CircuitDeclined:
    """The circuit is not wanted."""

    circuit: int


@record
class Attempt:
    """One address that was dialled back: `reached` if the asker proved its identity there; `text` says why not."""

    address: str
    reached: bool
    text: str


@record
class DialledBack:
    """What a node sees of who asked it: `seen` is where the link comes from, empty if it cannot tell."""

    seen: str
    attempts: tuple[Attempt, ...]


@message(tag=0x020)
class DialBack(Ask[DialledBack]):
    """Ask a node to dial this one at these addresses; it does so only at the host that this node's link comes from."""

    addresses: Annotated[tuple[str, ...], Size(0, ADDRESSES_ASKED_MAX)]
