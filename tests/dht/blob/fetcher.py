"""A node that takes part in a DHT and has blobs, driven line by line: a child process of `test_kills.py`.

Run: python fetcher.py FOLDER SEED [ADDRESS ...]. Lines in: `push FILE`, `pull CONTENT FILE`. Each answer is one line of JSON.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import trio

import prime
from prime.dht.blob.blobs import open_blobs
from prime.dht.blob.content import content_of, text_of
from prime.dht.dht import open_dht
from prime.dht.settings import PRESETS
from prime.errors import PrimeError


async def serve(folder: Path, seed: int, known: tuple[str, ...]) -> None:
    """Answer orders until standard input ends."""
    key = prime.KeyPair.from_seed(seed.to_bytes(32, "big"))
    async with (
        prime.open_system(transport=prime.Tcp("/ip4/127.0.0.1/tcp/0"), key=key) as system,
        open_dht(system, key, settings=PRESETS["lan"], bootstrap=known) as dht,
        open_blobs(system, folder, dht) as blobs,
    ):
        await dht.joined()
        tell({"address": system.addresses[0]})
        while line := await trio.to_thread.run_sync(sys.stdin.readline, abandon_on_cancel=True):
            match line.split():
                case ["push", file]:
                    tell({"content": text_of((await blobs.push(Path(file))).content)})
                case ["pull", content, file]:
                    try:
                        await blobs.pull(content_of(content), to=Path(file))
                        tell({"pulled": file})
                    except PrimeError as error:
                        tell({"error": str(error)})


def tell(answer: object) -> None:
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    trio.run(serve, Path(sys.argv[1]), int(sys.argv[2]), tuple(sys.argv[3:]))
