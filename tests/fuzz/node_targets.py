"""A hostile peer linked with a whole node: its frames go through the link's shell, the short ways included, to an actor."""

from __future__ import annotations

import contextlib
from typing import Any

import anyio
import trio
import trio.testing

import prime
from prime.transport import frames as fr
from prime.transport.facts import LinkDown
from prime.transport.identity import KeyPair
from prime.transport.memory import Memory
from prime.transport.pieces import FEATURE
from prime.wire import dumps
from prime.wire.frame import pack
from tests.fuzz.link_targets import _frame
from tests.fuzz.target import Script, Target, chunks

HERE, FOE = (KeyPair.from_seed(bytes([n]) * 32) for n in (51, 52))
PATHS = ("/s/counter", "/s/nobody", "/s/counter/long/enough/for/two/bytes/of/its/length")
TAGS = (0x7D13, 0x7D14, 0x7D15, 0x7DFF)


@prime.message(tag=0x7D13)
class Note:
    number: int


@prime.message(tag=0x7D14)
class Count(prime.Ask[int]):
    number: int


@prime.message(tag=0x7D15)
class Load:
    data: prime.Payload


class Counter(prime.Actor[Note | Count | Load]):
    """Counts what it hears."""

    def __init__(self) -> None:
        self.heard = 0

    @prime.on(Note, Load)
    def hear(self, _: Note | Load) -> None:
        self.heard += 1

    @prime.on(Count)
    def count(self, _: Count) -> int:
        return self.heard


def node(data: bytes) -> None:
    """Whatever frames come, an error of ours ends no link: what ends one is what the peer broke."""
    script = Script(data)
    cuts = list(script.take(script.byte() % 4))
    said = b"".join(_said(script, seq) for seq in range(1, 40) if script)
    trio.run(_attack, list(chunks(said, cuts)), clock=trio.testing.MockClock(autojump_threshold=0))


def _said(script: Script, seq: int) -> bytes:
    """Return a frame: messages mostly, with numbers that rise mostly."""
    what = script.byte()
    if what >= 0xE0:
        return script.take(what & 31)
    path, body = PATHS[what % 3], [TAGS[what // 3 % 4], script.number()]
    number = seq if what & 64 else script.number()
    kind = script.byte() % 24
    frame: fr.Frame
    if kind in (2, 18, 19):
        frame = fr.Ask(path, number, body, script.byte(), script.number() if what & 32 else None)
    elif kind in (1, 20, 21):
        frame = fr.Tell(path, number, body, numbered=(script.byte(), number, 1) if what & 128 else None)
    else:
        frame = _frame(kind % 18, number, path, script)
    payloads = [memoryview(bytes(script.byte() * 64)) for _ in range(script.byte() % 2)]
    return b"".join(pack(dumps(frame.plain()), payloads))


async def _attack(pieces: list[bytes]) -> None:
    memory = Memory()
    facts: list[Any] = []
    async with (
        prime.open_system(transport=memory, key=HERE) as system,
        memory.open(FOE) as endpoint,
        system.supervisor("s") as supervisor,
    ):
        system.subscribe(facts.append)
        counter = await supervisor.spawn(Counter, "counter")
        channel = await endpoint.dial(system.addresses[0], system.peer)
        hello = fr.Hello(1, "foe", (FEATURE,), fr.Allowance(), (), 77, 5, 0)
        with contextlib.suppress(anyio.BrokenResourceError, anyio.ClosedResourceError), trio.move_on_after(5):
            await channel.send(b"".join(pack(dumps(hello.plain()))))
            for piece in pieces:
                await channel.send(piece)
                await trio.lowlevel.checkpoint()
            await trio.sleep(0.1)
        assert await counter.ask(Count(1), timeout=5) >= 0
        await channel.aclose()
        await trio.sleep(0.1)
    for fact in facts:
        assert not (isinstance(fact, LinkDown) and "internal error" in fact.reason), fact.reason


def _seeds() -> tuple[bytes, ...]:
    tells = bytes([72, 5, 20, 0] * 8)
    asks = b"".join(bytes([64 + 32 + 3, 5, 2, number, 50, 0]) for number in range(8))
    every = b"".join(bytes([64, 1, kind, 1, 2, 3, 0]) for kind in range(24))
    return tuple(head + body for body in (tells, asks, every, asks + every) for head in (b"\x00", b"\x02\x07\x01"))


TARGETS = (Target("node", node, (), _seeds(), dear=True),)
