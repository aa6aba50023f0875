"""Durable state: an append-only journal that survives a crash at any byte."""

from prime.store.journal import FileJournal, MemoryJournal

__all__ = ["FileJournal", "MemoryJournal"]
