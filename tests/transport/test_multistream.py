"""multistream-select without sockets: both sides, what they refuse, and bytes that are no talk at all."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from prime.errors import RemoteProtocolError
from prime.transport import multistream
from prime.transport.multistream import LIST, PROPOSALS_MAX, REFUSAL, VERSION, line, proposal, read_line


class Said:
    """What was sent, and an other side that has said everything already."""

    def __init__(self, heard: bytes = b"") -> None:
        self.said = b""
        self._heard = heard

    async def send(self, data: bytes) -> None:
        await trio.lowlevel.checkpoint()
        self.said += data

    async def receive(self, max_bytes: int) -> bytes:
        await trio.lowlevel.checkpoint()
        if not self._heard:
            raise EOFError
        part, self._heard = self._heard[:max_bytes], self._heard[max_bytes:]
        return part

    @property
    def rest(self) -> bytes:
        return self._heard


async def test_the_known_protocol_is_proposed_with_the_greeting() -> None:
    wire = Said(line(VERSION) + line("/a") + b"what follows is not ours")
    assert await multistream.propose(wire.send, wire.receive, ("/a",)) == "/a"
    assert wire.said == proposal("/a") == b"\x13/multistream/1.0.0\n\x03/a\n"
    assert wire.rest == b"what follows is not ours"


async def test_the_next_protocol_is_proposed_after_a_refusal() -> None:
    wire = Said(line(VERSION) + line(REFUSAL) + line("/b"))
    assert await multistream.propose(wire.send, wire.receive, ("/a", "/b")) == "/b"
    assert wire.said == proposal("/a") + line("/b")


@pytest.mark.parametrize(
    ("heard", "why"),
    [
        (line(VERSION) + line(REFUSAL) * 2, "none of /a, /b"),
        (line(VERSION) + line("/c"), "answered '/c'"),
        (line("/multistream/2.0.0"), "not /multistream/1.0.0"),
        (b"GET / HTTP/1.1\r\n\r\n" + bytes(100), "multistream"),
        (b"\x00", "0 bytes"),
        (b"\xff\xff", "32767 bytes"),
        (b"\x04/ab/", "no end"),
        (b"\x02\xff\n", "no text"),
    ],
)
async def test_a_dialler_names_what_is_wrong(heard: bytes, why: str) -> None:
    wire = Said(heard)
    with pytest.raises(RemoteProtocolError, match=why):
        await multistream.propose(wire.send, wire.receive, ("/a", "/b"))


async def test_a_listener_takes_the_first_protocol_that_it_has() -> None:
    wire = Said(line(VERSION) + line("/x") + line("/b") + b"rest")
    assert await multistream.answer(wire.send, wire.receive, ("/a", "/b")) == "/b"
    assert wire.said == line(VERSION) + line(REFUSAL) + line("/b")
    assert wire.rest == b"rest"


async def test_a_listener_says_what_it_has() -> None:
    wire = Said(line(VERSION) + line(LIST) + line("/a"))
    assert await multistream.answer(wire.send, wire.receive, ("/a", "/b")) == "/a"
    assert wire.said == line(VERSION) + b"\x09\x03/a\n\x03/b\n\n" + line("/a")


async def test_a_listener_does_not_listen_for_ever() -> None:
    wire = Said(line(VERSION) + line("/x") * (PROPOSALS_MAX + 1))
    with pytest.raises(RemoteProtocolError, match="none of /a"):
        await multistream.answer(wire.send, wire.receive, ("/a",))
    assert wire.rest == line("/x")


@pytest.mark.parametrize("size", [1, 127, 128, 1000])
async def test_a_line_may_be_as_long_as_it_says(size: int) -> None:
    text = "x" * (size - 1)
    assert await read_line(Said(line(text)).receive) == text


@pytest.mark.parametrize("side", [multistream.propose, multistream.answer], ids=["propose", "answer"])
@given(heard=st.binary(max_size=200))
def test_any_bytes_are_an_agreement_or_an_error(side: Callable[..., object], heard: bytes) -> None:
    async def talk() -> None:
        wire = Said(heard)
        try:
            assert await side(wire.send, wire.receive, ("/a",)) == "/a"
        except (RemoteProtocolError, EOFError):
            assert len(wire.said) < 100

    trio.run(talk)
