"""Where a node's records can be kept: one file each, all of them a `prime.dht.backend.Backend`."""

from prime.dht.backends.memory import MemoryBackend

__all__ = ["MemoryBackend"]
