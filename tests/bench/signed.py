"""Signed messages on one core: to bytes, back, with payloads, and asked between two systems.

Run: python tests/bench/signed.py [--json] [--pairs 5] [--cases sign,open]

Rates are medians; ours and what it is compared with take turns. `sign` and `open` are all that a message goes through, the
bare Ed25519 is of the same bytes.
"""

from __future__ import annotations

import argparse
import hashlib
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # a fresh checkout needs no installation

import trio
from _blocks import rate, rate_sync
from _report import machine, say, show

import prime
from prime import Actor, Ask, KeyPair, Memory, Payload, on
from prime.transport.peer import verify
from prime.transport.signing import KeySignatory
from prime.wire import dumps, from_plain, loads, signed, to_plain
from prime.wire.message import sign
from prime.wire.signed import DOMAIN

BATCH = 200
IN_FLIGHT = 16
MIB = 2**20
PAYLOAD_BYTES = 8 * MIB
KEY = KeyPair.from_seed(bytes(range(32)))
SIGNATORY = KeySignatory(KEY)


@prime.message(tag=0x7B71, signed=True)
class Vote(Ask[int]):
    """A small message."""

    number: int
    name: str
    digest: bytes


@prime.message(tag=0x7B72)
class Plain(Ask[int]):
    """The same without a signature."""

    number: int
    name: str
    digest: bytes


@prime.message(tag=0x7B73, signed=True)
class Chunk:
    """A big one."""

    data: Payload


class Box(Actor[Vote | Plain]):
    """Answers."""

    @on(Vote)
    def vote(self, m: Vote) -> int:
        """Take a signed one, and look who signed it."""
        return m.number if self.ctx.signed(m).signer else 0

    @on(Plain)
    def plain(self, m: Plain) -> int:
        """Take one that is not signed."""
        return m.number


FIELDS = (1_234_567, "swarm/coordinator", bytes(range(32)))
SIGNED = sign(Vote(*FIELDS), SIGNATORY)
BYTES = dumps(to_plain(SIGNED, []))
SEALED = DOMAIN + signed(SIGNED).sealed
SIGNATURE = signed(SIGNED).signature
PEER = KEY.peer
DATA = bytes(PAYLOAD_BYTES)
BIG = sign(Chunk(memoryview(DATA)), SIGNATORY)


def times(call: Callable[[], object], size: int = 1, batch: int = BATCH) -> Callable[[], float]:
    """Return what measures how many of `size` a call does a second."""

    def block() -> None:
        for _ in range(batch):
            call()

    return lambda: rate_sync(block, batch * size)


async def ask_rate(kind: type[Vote | Plain]) -> float:
    """Return asks a second between two systems of this process, `IN_FLIGHT` at once."""
    memory = Memory()
    async with (
        prime.open_system(transport=memory, key=KEY) as near,
        prime.open_system(transport=memory) as far,
        far.supervisor("s") as supervisor,
    ):
        near.learn(far.peer, far.addresses)
        await supervisor.spawn(Box, "box")
        ref = near.ref(far.peer, "/s/box", Box)

        async def ask_some() -> None:
            for _ in range(BATCH // IN_FLIGHT):
                await ref.ask(kind(*FIELDS), timeout=30)

        async def batch() -> None:
            async with trio.open_nursery() as nursery:
                for _ in range(IN_FLIGHT):
                    nursery.start_soon(ask_some)

        return await rate(batch, BATCH // IN_FLIGHT * IN_FLIGHT)


def verify_chunk() -> None:
    """Verify a big message, as it comes."""
    payloads: list[memoryview] = []
    from_plain(to_plain(BIG, payloads), payloads)


CASES: dict[str, tuple[Callable[[], float], Callable[[], float], str, str]] = {
    "sign": (
        times(lambda: dumps(to_plain(Vote(*FIELDS), [], SIGNATORY, PEER))),
        times(lambda: KEY.sign(SEALED)),
        "messages/s",
        "bare Ed25519",
    ),
    "open": (
        times(lambda: from_plain(loads(BYTES))),
        times(lambda: verify(PEER, SEALED, SIGNATURE)),
        "messages/s",
        "bare Ed25519",
    ),
    "open_payload": (
        times(verify_chunk, PAYLOAD_BYTES // MIB, 4),
        times(lambda: hashlib.sha256(DATA).digest(), PAYLOAD_BYTES // MIB, 4),
        "MiB/s",
        "bare SHA-256",
    ),
    "ask_signed": (
        lambda: trio.run(ask_rate, Vote),
        lambda: trio.run(ask_rate, Plain),
        "asks/s",
        "the same ask without a signature",
    ),
}


def main() -> None:
    """Run the bench."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("--pairs", type=int, default=5, help="blocks of each, in turns")
    parser.add_argument("--cases", default=",".join(CASES), help="some of them, separated by commas")
    arguments = parser.parse_args()
    before, results = machine(), []
    for case in arguments.cases.split(","):
        ours, theirs, unit, against = CASES[case]
        pairs = [(ours(), theirs()) for _ in range(arguments.pairs)]
        value = statistics.median(mine for mine, _ in pairs)
        ratio = statistics.median(mine / other for mine, other in pairs)
        results.append({"case": case, "value": value, "unit": unit, "against": against, "ratio": ratio})
        say(f"{case}: {value:,.0f} {unit}")
    show("signed", results, before, as_json=arguments.json)


if __name__ == "__main__":
    main()
