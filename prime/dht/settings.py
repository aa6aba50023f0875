"""What a DHT is tuned by, and three presets. Letters are Kademlia's: `k` contacts a bucket, `alpha` requests at a time. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import attrs

from prime.errors import ConfigError


@attrs.frozen(kw_only=True)
class DhtSettings:
    """How a node looks up, replicates and defends itself. Times are in seconds.

    ============================ =============================================================================================
    `k`                          contacts of a bucket, and of an answer (Kademlia 2.2)
    `alpha`                      requests of one path of a lookup that are under way at a time (Kademlia 2.3)
    `beta`                       closest contacts that must have answered before a lookup ends (go-libp2p)
    `paths`                      disjoint paths of a lookup; `paths_critical` where lies cost most (S/Kademlia 4.4)
    `replicas`                   holders that a record should have: the closest ones
    `agreeing`                   equal answers, from distinct paths, that a read waits for
    `request_s`, `lookup_s`      deadlines of one request and of a whole lookup
    `refresh_s`                  a bucket this long without a lookup is looked up
    `republish_s`                how often an owner publishes anew
    `replicate_s`                how often holders look for missing ones, and providers say anew what they have
    `ttl_s`                      how long a record holds unless it says otherwise
    `group_table_max`            contacts of one IP group in the table; `group_bucket_max` in one bucket
    `group_records_max`          records that peers of one IP group may have stored here
    `store_bytes_max`            bytes of records that a node holds
    `request_bytes_max`          bytes of one request
    `requests_per_s`             requests of one peer over time
    ============================ =============================================================================================
    """

    k: int = 20
    alpha: int = 3
    beta: int = 3
    paths: int = 3
    paths_critical: int = 8
    replicas: int = 20
    agreeing: int = 3
    request_s: float = 10.0
    lookup_s: float = 60.0
    refresh_s: float = 600.0
    republish_s: float = 22 * 3600.0
    replicate_s: float = 3600.0
    ttl_s: int = 48 * 3600
    group_table_max: int = 3
    group_bucket_max: int = 2
    group_records_max: int = 1024
    store_bytes_max: int = 64 << 20
    request_bytes_max: int = 64 << 10
    requests_per_s: float = 50.0

    def __attrs_post_init__(self) -> None:
        """Refuse what cannot work. Raises `ConfigError`."""
        if not (1 <= self.replicas <= self.k <= 256 and 1 <= self.beta <= self.k and self.alpha >= 1):
            raise ConfigError(
                f"a DHT of k = {self.k}, alpha = {self.alpha}, beta = {self.beta}, replicas = {self.replicas} cannot be",
                hint="1 <= replicas, beta <= k <= 256 and alpha >= 1",
            )
        if not (0 < self.request_s <= self.lookup_s and self.replicate_s > 0 and self.republish_s < self.ttl_s):
            raise ConfigError(
                f"records that hold {self.ttl_s} s and are published anew every {self.republish_s:g} s get lost",
                hint="republish_s must be under ttl_s, and request_s not over lookup_s",
            )

    @property
    def quorum(self) -> int:
        """Holders that a put needs: more than half of the replicas."""
        return self.replicas // 2 + 1


PRESETS: Final[Mapping[str, DhtSettings]] = MappingProxyType(
    {
        "lan": DhtSettings(
            replicas=3,
            ttl_s=24 * 3600,
            refresh_s=3600.0,
            republish_s=11 * 3600.0,
            group_table_max=256,
            group_bucket_max=256,
            group_records_max=1 << 16,
        ),
        "swarm": DhtSettings(),
        "large": DhtSettings(alpha=10),
    }
)
"""`lan`: a few machines that know each other. `swarm`: the internet. `large`: the internet, with thousands of nodes."""
