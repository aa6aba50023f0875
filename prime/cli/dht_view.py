"""The DHT as one node sees it, in lines for a person."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from prime.cli.words import many

if TYPE_CHECKING:
    from prime.dht.messages import BucketFill, DhtStatus, IpfsStatus


def dht_lines(found: DhtStatus) -> Iterator[str]:
    """Yield what `prime status` shows."""
    yield f"  dht: {_standing(found)}, {many(found.contacts, 'peer')} in the table{_fill(found)}"
    yield (
        f"       holds {many(found.records, 'record')} ({size(found.record_bytes)}) and {many(found.providers, 'provider')}; "
        f"publishes {found.published}, provides {found.provided}"
    )
    times = found.lookups
    if times.count:
        yield (
            f"       {many(times.count, 'lookup')}, p50 {duration(times.p50_s)}, p99 {duration(times.p99_s)}, "
            f"{times.hops_mean:.1f} hops; {times.failed} found nothing"
        )


def stats_lines(found: DhtStatus) -> Iterator[str]:
    """Yield what `prime dht stats` shows: the same, and the table bucket by bucket."""
    yield from (line.removeprefix("  ") for line in dht_lines(found))
    if found.sight:
        yield f"     {found.sight}"
    yield f"     answered {many(found.served, 'request')} of others, refused {found.refused}"
    if found.ipfs is not None:
        yield from _ipfs_lines(found.ipfs)
    for fill in found.table:
        yield f"     bucket {fill.bucket:>3}  {'#' * min(fill.contacts, 64)} {fill.contacts}"


def _ipfs_lines(found: IpfsStatus) -> Iterator[str]:
    yield (
        f"     in libp2p's DHT {'a server' if found.server else 'a client'}, {many(found.contacts, 'peer')} in the table; "
        f"holds {many(found.values, 'value')} ({size(found.value_bytes)}) and {many(found.providers, 'provider')}; "
        f"answered {many(found.served, 'request')}, refused {found.refused}"
    )


def _standing(found: DhtStatus) -> str:
    match found.phase:
        case "merged":
            return "merged" if found.server else "merged, as a client"
        case "first":
            return "the first node"
        case phase:
            return phase or "starting"


def _fill(found: DhtStatus) -> str:
    return f" ({' '.join(_runs(found.table))})" if found.table else ""


def _runs(table: tuple[BucketFill, ...]) -> Iterator[str]:
    """Yield the buckets from the farthest to the nearest, each as BUCKET:CONTACTS."""
    for fill in sorted(table, key=lambda each: -each.bucket):
        yield f"{fill.bucket}:{fill.contacts}"


def size(size_bytes: float) -> str:
    """Return a number of bytes in the unit that suits it."""
    for unit in ("B", "KiB", "MiB"):
        if size_bytes < 1024:
            return f"{size_bytes:.0f} {unit}" if unit == "B" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1024
    return f"{size_bytes:.1f} GiB"


def duration(seconds: float) -> str:
    """Return a time in the unit that suits it."""
    return f"{seconds:.1f} s" if seconds >= 1 else f"{seconds * 1e3:.1f} ms"
