"""Facts of the links: plain records of what happened, in the past tense. Undelivered messages are `DeadLetter`s."""

from __future__ import annotations

import attrs


@attrs.frozen
class LinkUp:
    """Both sides said HELLO; `address` is the dialled multiaddr, or empty if the peer dialled."""

    peer: str
    address: str
    transport: str
    relayed: bool = False


@attrs.frozen
class LinkDown:
    """A link that was up ended; `reason` names the cause."""

    peer: str
    reason: str


@attrs.frozen
class CircuitOpened:
    """This node, a relay, joined two others."""

    source: str
    target: str


@attrs.frozen
class CircuitClosed:
    """A circuit through this node ended; `reason` says why."""

    source: str
    target: str
    carried_bytes: int
    reason: str


@attrs.frozen
class SlotReserved:
    """A relay keeps a slot for this node, which can be dialled at `address` from now on."""

    relay: str
    address: str


@attrs.frozen
class SlotLost:
    """The relay at `address` keeps no slot for this node any more, or gave none; `reason` says why."""

    address: str
    reason: str


@attrs.frozen
class SignedRefused:
    """A signed message, or an answer, that came from `peer` was refused: false, taken before, too old, for another node."""

    peer: str
    reason: str


@attrs.frozen
class ReachabilityChanged:
    """Others reach this node in another way than before: `public`, `relayed`, `client-only` or `unknown`."""

    before: str
    after: str
    why: str


@attrs.frozen
class LinkRefused:
    """A peer that wanted to link was turned away; `unsaid` others were since the last such fact."""

    peer: str
    reason: str
    unsaid: int = 0


@attrs.frozen
class CircuitMoved:
    """The link with a peer goes through no relay any more: a hole was punched to `remote`."""

    peer: str
    remote: str


@attrs.frozen
class HolePunchFailed:
    """The link with a peer goes on through the relay; `reason` says why there is no direct connection."""

    peer: str
    reason: str
