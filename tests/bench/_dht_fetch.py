"""A model fetched from three providers against one, and against what the disk takes: the DHT bench's `fetch`.

Each provider is a process that serves the same file from where it lies. `fetch` lets them send as fast as they can; where
three are no quicker than one, `limit` names what is: the disk, where they bring what it takes, or the processor, where its
cores are busy throughout. In `fetch_paced` each sends at most `PACE_BYTES_PER_S`, as a home's line does: three lines carry more.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
PATHS = [str(HERE), str(HERE.parents[1])]
sys.path[:0] = PATHS
os.environ["PYTHONPATH"] = os.pathsep.join([*PATHS, os.environ.get("PYTHONPATH", "")])

import trio  # noqa: E402
from _report import say  # noqa: E402

import prime  # noqa: E402
from prime.dht.blob.blobs import open_blobs  # noqa: E402
from prime.dht.blob.fetching import fetch_blob  # noqa: E402
from prime.store.blobs import BlobStore  # noqa: E402
from prime.store.manifest import CHUNK_BYTES, ContentId  # noqa: E402

LISTEN = "/ip4/127.0.0.1/tcp/0"
PROVIDERS = 3
PACE_BYTES_PER_S = 40e6
CASES = ("fetch", "fetch_paced")
REACH = 1.5
LIMIT = 0.85
"""A share of what the disk takes, or of the time of all cores, from which on it is the limit."""


async def provide(file: Path, folder: Path, bytes_per_s: float, chunk_bytes: int) -> None:
    """Serve a file until standard input closes."""
    async with (
        prime.open_system(transport=prime.Tcp(LISTEN)) as system,
        open_blobs(system, folder, bytes_per_s=bytes_per_s) as blobs,
    ):
        blob = await blobs.store.add_file(file, chunk_bytes=chunk_bytes)
        print(json.dumps([system.addresses[0], blob.content.hex()]), flush=True)
        await trio.to_thread.run_sync(sys.stdin.readline)


@contextlib.contextmanager
def providers(file: Path, folder: Path, bytes_per_s: float, chunk_bytes: int) -> Iterator[tuple[list[str], ContentId]]:
    """Run the providers; yield their addresses, and what they provide."""
    started = [
        subprocess.Popen(
            [sys.executable, __file__, str(file), str(folder / str(number)), str(bytes_per_s), str(chunk_bytes)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(PROVIDERS)
    ]
    try:
        told = [json.loads(process.stdout.readline()) for process in started if process.stdout is not None]
        yield [address for address, _ in told], ContentId(bytes.fromhex(told[0][1]))
    finally:
        for process in started:
            process.kill()
            process.wait()


async def fetched(addresses: list[str], content: ContentId, folder: Path) -> float:
    """Fetch it from these providers into a file, and return how long that took, in seconds."""
    async with prime.open_system(transport=prime.Tcp()) as system:
        peers = [await system.network.dial(address) for address in addresses]  # type: ignore[union-attr]

        async def find() -> list[str]:
            return peers

        with tempfile.TemporaryDirectory(dir=folder) as place:
            store = await BlobStore.open(Path(place) / "blobs")
            started = time.perf_counter()
            await fetch_blob(system, store, content, find, to=Path(place) / "model")
            return time.perf_counter() - started


async def disk(file: Path, folder: Path, chunk_bytes: int) -> float:
    """Return how long the disk takes to be given the same bytes, hashed, without any network."""
    with tempfile.TemporaryDirectory(dir=folder) as place:
        store = await BlobStore.open(Path(place) / "blobs")
        manifest = (await store.add_file(file, chunk_bytes=chunk_bytes)).manifest
        started = time.perf_counter()
        draft = await store.draft(manifest, Path(place) / "model")
        for page in range(manifest.pages):
            assert not await draft.missing(page)
        await draft.finish()
        return time.perf_counter() - started


def busy() -> tuple[float, float]:
    """Return the time that this machine's cores have worked, and all of it, in ticks since it started."""
    ticks = [int(word) for word in Path("/proc/stat").read_text(encoding="ascii").splitlines()[0].split()[1:9]]
    return sum(ticks) - ticks[3] - ticks[4], sum(ticks)


def limit_of(rates: dict[str, float], share_busy: float) -> str:
    """Return what three providers cannot be quicker than, or nothing."""
    if rates["three"] >= LIMIT * rates["disk"]:
        return "the disk"
    return "the processor" if share_busy >= LIMIT else ""


def measure(case: str, size_bytes: int, pairs: int, chunk_bytes: int = CHUNK_BYTES) -> dict[str, Any]:
    """Return a case's result: the rate from three providers, against one, in turns."""
    pace = PACE_BYTES_PER_S if case == "fetch_paced" else float("inf")
    size_bytes = size_bytes // 4 if case == "fetch_paced" else size_bytes
    with tempfile.TemporaryDirectory(prefix="prime-bench-") as text:
        folder = Path(text)
        file = folder / "model"
        with file.open("wb") as out:
            for _ in range(size_bytes >> 20):
                out.write(secrets.token_bytes(1 << 20))
        with providers(file, folder, pace, chunk_bytes) as (addresses, content):
            found: dict[str, list[float]] = {"one": [], "three": [], "disk": []}
            shares = []
            for _ in range(pairs):
                found["one"].append(trio.run(fetched, addresses[:1], content, folder))
                before = busy()
                found["three"].append(trio.run(fetched, addresses, content, folder))
                worked, passed = (now - then for now, then in zip(busy(), before, strict=True))
                shares.append(worked / max(passed, 1))
                found["disk"].append(trio.run(disk, file, folder, chunk_bytes))
    rates = {name: size_bytes / 1e6 / statistics.median(times) for name, times in found.items()}
    ratio = statistics.median(one / three for one, three in zip(found["one"], found["three"], strict=True))
    share_busy = statistics.median(shares)
    limit = limit_of(rates, share_busy)
    told = ", ".join(f"{name} {rate:.0f} MB/s" for name, rate in rates.items())
    say(f"{case}: {told}; cores {share_busy:.0%} busy; the limit: {limit or 'none was met'}")
    return {
        "case": case,
        "value": rates["three"],
        "unit": "MB/s",
        "against": "one provider",
        "ratio": ratio,
        "reach": REACH,
        "size_bytes": size_bytes,
        "chunk_bytes": chunk_bytes,
        "one_MB_per_s": rates["one"],
        "disk_MB_per_s": rates["disk"],
        "cores_busy": share_busy,
        "limit": limit,
    }


if __name__ == "__main__":
    trio.run(provide, Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4]))
