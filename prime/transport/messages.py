"""What a relay and those who use it say to each other over their links. Tags 0x010-0x01f; see spec/protocols/relay.md."""

from __future__ import annotations

from typing import Annotated, Final

from prime.wire import Ask, Size, message, record

RELAY_PATH: Final = "/net/relay"
"""Where a relay answers `Reserve`."""
CIRCUITS_PATH: Final = "/net/circuits"
"""Where a node that has reserved hears of circuits."""
TOKEN_BYTES: Final = 16


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
