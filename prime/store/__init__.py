"""Durable state that survives a crash at any byte: an append-only journal, and events by key with snapshots."""

from prime.store.events import MemoryEventStore, SqliteEventStore
from prime.store.journal import FileJournal, MemoryJournal

__all__ = ["FileJournal", "MemoryEventStore", "MemoryJournal", "SqliteEventStore"]
