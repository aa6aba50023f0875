"""No message can be read on the wire between two machines, whatever the transport; and the test would see one."""

from __future__ import annotations

import importlib.util
import secrets
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

import prime
from prime.errors import UnreachableError
from prime.testing.transport import Detour, detour_tcp, detour_unix, knock_tcp
from prime.transport.contract import Transport

EXAMPLE = Path(__file__).parents[2] / "examples" / "07_websocket" / "prime_websocket.py"
MARK = secrets.token_hex(32)


@prime.message(tag=0x7D90)
class Say(prime.Ask[str]):
    text: str
    beside: prime.Payload


class Parrot(prime.Actor[Say]):
    @prime.on(Say)
    def say(self, m: Say) -> str:
        return m.text + MARK[::-1]


def websockets() -> Transport:
    spec = importlib.util.spec_from_file_location("prime_websocket", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault("prime_websocket", module)
    spec.loader.exec_module(module)
    return module.WebSockets()


async def overheard(make: Callable[[], Transport], way: Callable[[str], Any]) -> Detour:
    """Let two systems ask each other over a wire that is read, and return what passed on it."""
    with trio.fail_after(30):
        async with (
            prime.open_system(transport=make()) as far,
            prime.open_system(transport=make()) as near,
            far.supervisor("s") as sup,
            way(far.addresses[0]) as detour,
        ):
            await sup.spawn(Parrot, "parrot")
            near.learn(far.peer, (detour.address,))
            parrot = near.ref(far.peer, "/s/parrot", Parrot)
            payload = memoryview(MARK.encode() * 100)
            assert await parrot.ask(Say(MARK, payload), timeout=10) == MARK + MARK[::-1]
            return detour


def shows(passed: bytearray, text: str) -> bool:
    return any(text.encode()[start : start + 16] in passed for start in range(0, len(text), 16))


@pytest.mark.parametrize("name", ["tcp", "libp2p", "websocket"])
async def test_what_actors_tell_each_other_cannot_be_read_between_machines(name: str) -> None:
    pytest.importorskip({"libp2p": "libp2p", "websocket": "wsproto"}.get(name, "ssl"))
    makes: dict[str, Callable[[], Transport]] = {"tcp": prime.Tcp, "libp2p": prime.Libp2p, "websocket": websockets}
    detour = await overheard(makes[name], detour_tcp)
    assert len(detour.sent) > 100 * len(MARK)
    assert len(detour.answered) > 2 * len(MARK)
    for passed in (detour.sent, detour.answered):
        assert not shows(passed, MARK)
        assert not shows(passed, MARK[::-1])
        assert b"/s/parrot" not in passed


async def test_the_same_look_reads_all_of_a_local_socket(tmp_path: Path) -> None:
    """It stays within the kernel, and shows here that what is looked for would be found."""
    sockets = iter("ab")
    detour = await overheard(lambda: prime.Unix(tmp_path / next(sockets)), detour_unix)
    assert shows(detour.sent, MARK) and b"/s/parrot" in detour.sent
    assert shows(detour.answered, MARK[::-1])


# ------------------------------------------------------------------ libp2p, with those who speak nothing that encrypts

HELLO = "/multistream/1.0.0"
BARE = ["/plaintext/1.0.0", "/plaintext/2.0.0", "/secio/1.0.0"]


def line(text: str) -> bytes:
    """Return a message of multistream-select: its length, the text, a line feed."""
    return bytes([len(text) + 1]) + text.encode() + b"\n"


async def hear(stream: trio.SocketStream) -> str:
    size = (await stream.receive_some(1))[0]
    data = b""
    while len(data) < size:
        data += await stream.receive_some(size - len(data))
    return data.decode().removesuffix("\n")


@pytest.mark.parametrize("protocol", BARE)
async def test_who_asks_libp2p_for_a_bare_connection_is_told_no(protocol: str) -> None:
    pytest.importorskip("libp2p")
    with trio.fail_after(20):
        async with (
            prime.Libp2p().open(prime.KeyPair.generate()) as endpoint,
            await knock_tcp(endpoint.addresses[0]) as stream,
        ):
            await stream.send_all(line(HELLO) + line(protocol))
            assert await hear(stream) == HELLO
            assert await hear(stream) == "na"


async def test_a_dial_to_who_offers_nothing_but_bare_connections_ends_without_one() -> None:
    pytest.importorskip("libp2p")
    asked: list[str] = []

    async def refuse_all_but_bare(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.send_all(line(HELLO))
            with suppress(trio.BrokenResourceError, IndexError):
                while True:
                    asked.append(await hear(stream))
                    await stream.send_all(b"" if asked[-1] == HELLO else line(asked[-1] if asked[-1] in BARE else "na"))

    with trio.fail_after(20):
        async with prime.Libp2p(dial_timeout_s=2).open(prime.KeyPair.generate()) as endpoint, trio.open_nursery() as n:
            (listener,) = await n.start(partial(trio.serve_tcp, refuse_all_but_bare, 0, host="127.0.0.1"))
            with pytest.raises(UnreachableError):
                await endpoint.dial(f"/ip4/127.0.0.1/tcp/{listener.socket.getsockname()[1]}")
            n.cancel_scope.cancel()
    assert asked[0] == HELLO and len(asked) > 1
    assert set(asked[1:]) <= {"/tls/1.0.0", "/noise"}
