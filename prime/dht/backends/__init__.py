"""Where a node's records can be kept: one class each, all of them a `prime.dht.backend.Backend`."""

from prime.dht.backends.memory import MemoryBackend
from prime.dht.backends.sqlite import SqliteBackend

__all__ = ["MemoryBackend", "SqliteBackend"]
