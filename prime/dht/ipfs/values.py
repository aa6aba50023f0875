"""The values that a node holds for peers of `/ipfs/kad/1.0.0`, within quotas. Pure; times are ms since 1970.

Nobody fills it alone: of one group of addresses it takes so many values, and when the bytes run out, the group that has
the most here gives up its oldest.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from typing import Final

import attrs

from prime.dht.ipfs.namespaces import Namespaces
from prime.dht.settings import DhtSettings
from prime.errors import RefusedError

AGE_MS_MAX: Final = 48 * 3600 * 1000
"""How long a value is held after it came last (libp2p specifications, "kad-dht")."""
OWN_GROUP: Final = ""
"""What this node itself stores counts against no quota."""
_ROW_BYTES: Final = 128


@attrs.frozen
class Held:
    """A value, when it came, and from which group of addresses."""

    value: bytes
    received_ms: int
    group: str


class Values:
    """Values by key, each the best that was offered."""

    def __init__(self, settings: DhtSettings, namespaces: Namespaces) -> None:
        self._settings = settings
        self._namespaces = namespaces
        self._held: OrderedDict[bytes, Held] = OrderedDict()  # the one that came longest ago first
        self._counts: Counter[str] = Counter()
        self._sizes: Counter[str] = Counter()
        self.size_bytes = 0

    def __len__(self) -> int:
        return len(self._held)

    def get(self, key: bytes, now_ms: int) -> Held | None:
        """Return what is held under a key and still valid."""
        held = self._held.get(key)
        if held is None:
            return None
        try:
            self._namespaces.validate(key, held.value, now_ms)
        except RefusedError:
            self._drop(key)
            return None
        if now_ms >= held.received_ms + AGE_MS_MAX:
            self._drop(key)
            return None
        return held

    def put(self, key: bytes, value: bytes, group: str, now_ms: int) -> Held:
        """Hold a value, and return how it is held. Raises `RefusedError`: not valid, not the best, or beyond a quota."""
        self._namespaces.validate(key, value, now_ms)
        held = self.get(key, now_ms)
        if held is not None and held.value != value and self._namespaces.best(key, [held.value, value]) != value:
            raise RefusedError("a better value is held", hint="get the value, and put one that follows it")
        group = group if held is None or group == OWN_GROUP else held.group
        if held is None and group != OWN_GROUP and self._counts[group] >= self._settings.group_records_max:
            raise RefusedError(f"{self._counts[group]} values came from {group}: that is its quota", hint="ask others")
        self._drop(key)
        self._make_room(len(key) + len(value) + _ROW_BYTES)
        found = self._held[key] = Held(value, now_ms, group)
        self._count(key, found, 1)
        return found

    def sweep(self, now_ms: int) -> None:
        """Forget what is too old."""
        while self._held:
            key, held = next(iter(self._held.items()))
            if now_ms < held.received_ms + AGE_MS_MAX:
                return
            self._drop(key)

    def _make_room(self, size_bytes: int) -> None:
        while self.size_bytes + size_bytes > self._settings.store_bytes_max and self._held:
            heaviest = max(self._sizes, key=lambda group: (group != OWN_GROUP, self._sizes[group]))
            self._drop(next(key for key, held in self._held.items() if held.group == heaviest))

    def _drop(self, key: bytes) -> None:
        held = self._held.pop(key, None)
        if held is not None:
            self._count(key, held, -1)

    def _count(self, key: bytes, held: Held, sign: int) -> None:
        size_bytes = sign * (len(key) + len(held.value) + _ROW_BYTES)
        self.size_bytes += size_bytes
        self._counts[held.group] += sign
        self._sizes[held.group] += size_bytes
        if not self._counts[held.group]:
            del self._counts[held.group], self._sizes[held.group]
