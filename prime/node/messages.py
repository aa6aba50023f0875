"""What a node's own user orders of its part in the DHT, over the control socket. Tags 0x360-0x367.

A key is a text here, as a person writes it: `prime.dht.name` says how it is read, `prime.dht.ipfs.name` one of libp2p's DHT.
"""

from __future__ import annotations

from typing import Annotated

from prime.dht.messages import KeyBytes
from prime.dht.record import SIZE_BYTES_MAX, VALUE_BYTES_MAX
from prime.wire import Ask, Size, message, record

DHT_PATH = "/node/dht"
"""Where a node that is in the DHT takes its user's orders."""

SealedValue = Annotated[bytes, Size(0, SIZE_BYTES_MAX)]
Value = Annotated[bytes, Size(0, VALUE_BYTES_MAX)]


@record
class RecordShown:
    """A record as its reader sees it. `salt` is `None` for an immutable one; times in ms since 1970 and in seconds.

    `holders` and `asked` are there for one that was just published: how many hold it, of how many that were asked.
    """

    key: KeyBytes
    publisher: str
    salt: bytes | None
    seq: int
    created_ms: int
    ttl_s: int
    value: Value
    holders: int = 0
    asked: int = 0


@record
class PeerShown:
    """A peer that was found, and the addresses that it signed."""

    peer: str
    addresses: tuple[str, ...]


@message(tag=0x360)
class ShowRecord(Ask[RecordShown]):
    """Look a record up. `critical`: over more disjoint paths, where a lie would cost most.

    `register`: that of a name, as most of its electors have it now.
    """

    key: str
    critical: bool = False
    register: bool = False


@message(tag=0x361)
class PublishRecord(Ask[RecordShown]):
    """Publish a value: immutable, or under a `name` of this node's own. A `ttl_s` of 0 is the node's own.

    With an `if_seq` of 0 or more into the register of the name, if that is the version there; 0 is the empty one.
    """

    value: Value
    name: str = ""
    ttl_s: int = 0
    if_seq: int = -1


@message(tag=0x362)
class WithdrawRecord(Ask[RecordShown]):
    """Remove what this node has published under a name; with an `if_seq` of 0 or more, what is in its register."""

    name: str
    if_seq: int = -1


@message(tag=0x363)
class OfferKey(Ask[int]):
    """Tell others, now and again from now on, that this node has what the key names; the answer is how many took it.

    With `ends` it tells no more.
    """

    key: str
    ends: bool = False


@message(tag=0x364)
class ShowProviders(Ask[tuple[PeerShown, ...]]):
    """Look up who has what the key names, up to a number of them."""

    key: str
    count_max: int = 20


@message(tag=0x365)
class ShowPeers(Ask[tuple[PeerShown, ...]]):
    """Look up a peer by its id, or the peers nearest to a key."""

    target: str


@message(tag=0x366)
class ShowValue(Ask[SealedValue]):
    """Look the best value of a key of libp2p's DHT up: `ipfs:/pk/PEER`, `ipfs:/prime/HEX`."""

    key: str
