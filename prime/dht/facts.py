"""What happens in a DHT, as plain records in the past tense. Pure."""

from __future__ import annotations

from typing import Literal

import attrs

LookupKind = Literal["peers", "record", "providers"]


@attrs.frozen
class LookupEnded:
    """A lookup is over: how long it took, how many nodes were asked and answered, and how many steps the farthest was away."""

    kind: LookupKind
    found: bool
    seconds: float
    hops: int
    asked: int
    answered: int


@attrs.frozen
class RecordHeld:
    """This node holds a record for the swarm from now on, or a newer version of one. `key` is in hex."""

    key: str
    publisher: str
    seq: int
    size_bytes: int


@attrs.frozen
class Equivocation:
    """A publisher has signed two different values under one seq: `key` is in hex."""

    key: str
    publisher: str
    seq: int


@attrs.frozen
class StoreDamaged:
    """Of what this node's store had, so many entries were damaged, and so many last writes are gone: others are asked."""

    entries: int
    lost_writes: int


@attrs.frozen
class PeerRefused:
    """What a peer asked, or answered, was refused; `unsaid` more were since the last such fact."""

    peer: str
    reason: str
    unsaid: int = 0


@attrs.frozen
class AddressFailed:
    """An address to begin with has led to no node of the DHT; it is tried again. Told once for each reason."""

    address: str
    reason: str


@attrs.frozen
class ContactAdded:
    """A peer has answered and stands in the routing table."""

    peer: str
    bucket: int


@attrs.frozen
class ContactDropped:
    """A peer does not answer any more and has left the routing table."""

    peer: str
    reason: str


@attrs.frozen
class RegisterDisputed:
    """A register is not as it should be; `key` is in hex.

    `equivocation`: its publisher proposed two things under one ballot. `split`: it was created on both sides of a partition.
    """

    key: str
    publisher: str
    kind: Literal["equivocation", "split"]
    text: str
