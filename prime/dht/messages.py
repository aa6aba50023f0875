"""What the DHT's actors ask each other. Tags 0x300 to 0x31F, and 0x380 on for discovery, here; those of other parts stand in their own files.

`asker` is the sender's own contact, for who may be put into the table; `None` from a client, which answers nobody.
"""

from __future__ import annotations

from typing import Annotated, Literal

from prime.dht import contact, key
from prime.dht import record as records
from prime.wire import Ask, Size, message, record

ROUTING_PATH = "/dht/routing"
RECORDS_PATH = "/dht/records"
PROVIDERS_PATH = "/dht/providers"
DISCOVERY_PATH = "/dht/discovery"

KeyBytes = Annotated[bytes, Size(key.SIZE_BYTES, key.SIZE_BYTES)]
ContactBytes = Annotated[bytes, Size(1, contact.SIZE_BYTES_MAX)]
RecordBytes = Annotated[bytes, Size(1, records.SIZE_BYTES_MAX)]
Namespace = Annotated[str, Size(1, 64)]
ContactsBytes = Annotated[tuple[ContactBytes, ...], Size(0, 32)]


@record
class PeersFound:
    """The closest contacts to the key that the answering node knows, nearest first, itself and the asker left out."""

    closer: ContactsBytes


@message(tag=0x300)
class FindPeers(Ask[PeersFound]):
    """Name the contacts nearest to this key (FIND_NODE of Kademlia 2.3)."""

    target: KeyBytes
    asker: ContactBytes | None


@message(tag=0x301)
class Introduce(Ask[ContactBytes]):
    """Here is my contact; the answer is yours. Who answers is alive (PING of Kademlia 2.3)."""

    asker: ContactBytes | None


@record
class RecordFound:
    """The record that the answering node holds, and the closest contacts that it knows."""

    record: RecordBytes | None
    closer: ContactsBytes


@message(tag=0x302)
class GetRecord(Ask[RecordFound]):
    """Show the record of this key (FIND_VALUE of Kademlia 2.3)."""

    key: KeyBytes
    asker: ContactBytes | None


Outcome = Literal["stored", "older", "refused"]


@record
class RecordStored:
    """What became of a record: `held` is the one that counts there now, where that is another.

    `stored`: on the disk there. `older`: a later version is held. `refused`: `why` says so (quota, expired, …).
    """

    outcome: Outcome
    why: str = ""
    held: RecordBytes | None = None


@message(tag=0x303)
class StoreRecord(Ask[RecordStored]):
    """Hold this record, whoever hands it on: its publisher signed it. (STORE of Kademlia 2.3)."""

    record: RecordBytes


@record
class ProvidersFound:
    """Contacts that say that they have what the key names, and the closest contacts to the key."""

    providers: ContactsBytes
    closer: ContactsBytes


@message(tag=0x304)
class FindProviders(Ask[ProvidersFound]):
    """Name those who have what this key names."""

    key: KeyBytes
    asker: ContactBytes | None


@message(tag=0x305)
class Provide(Ask[None]):
    """The sender has what this key names, for `ttl_s` seconds from now; `contact` is its own. Refused for anybody else's."""

    key: KeyBytes
    contact: ContactBytes
    ttl_s: int


@message(tag=0x380)
class Register(Ask[int]):
    """Show the sender, whose contact this is, to who asks for the namespace. The answer is for how many seconds."""

    namespace: Namespace
    contact: ContactBytes
    ttl_s: int


@message(tag=0x381)
class Unregister(Ask[None]):
    """Show the sender no more."""

    namespace: Namespace


@record
class Discovered:
    """Contacts of some who registered, and the number to ask on with: the same again where there are no more."""

    contacts: ContactsBytes
    after: int


@message(tag=0x382)
class Discover(Ask[Discovered]):
    """Name those who registered under the namespace after this number; 0 begins."""

    namespace: Namespace
    after: int = 0


@record
class BucketFill:
    """How many contacts a bucket of the routing table has; `bucket` i is for distances from 2^i up to 2^(i+1)."""

    bucket: int
    contacts: int


@record
class LookupTimes:
    """The lookups of this node so far: how many, how many found nothing, and of the last thousand the times and hops."""

    count: int = 0
    failed: int = 0
    p50_s: float = 0.0
    p99_s: float = 0.0
    hops_mean: float = 0.0


@record
class IpfsStatus:
    """What a node knows and holds of libp2p's DHT now, beside Prime's own; as in `DhtStatus`."""

    server: bool
    contacts: int
    values: int
    value_bytes: int
    providers: int
    served: int
    refused: int


@record
class DhtStatus:
    """What a node of the DHT knows and holds now; sizes in bytes, `table` from the nearest bucket to the farthest.

    `joined`: it knows somebody, and has looked itself up since; `phase` is first, alone, joining or merged, and `sight` says
    so in words; `tries` counts how often it asked those it was told of. `served` counts the requests of other nodes that were
    answered, `refused` those that were not, and unusable answers.
    """

    peer: str
    server: bool
    joined: bool
    contacts: int
    table: tuple[BucketFill, ...]
    records: int
    record_bytes: int
    published: int
    provided: int
    providers: int
    lookups: LookupTimes
    served: int
    refused: int
    phase: str = ""
    sight: str = ""
    tries: int = 0
    ipfs: IpfsStatus | None = None
