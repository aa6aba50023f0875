"""Blobs: bytes of any size by content id, in chunks that are fetched from several providers at once and checked as they come."""
