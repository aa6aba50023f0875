"""What is computed for a handshake is done as work that may have to wait, and nothing is waited for within it."""

from __future__ import annotations

import socket as os_socket
from collections.abc import Iterator
from contextlib import contextmanager

import anyio
import pytest
import trio

pytest.importorskip("libp2p")

from libp2p.crypto.ed25519 import create_new_key_pair

from prime.errors import RemoteProtocolError
from prime.transport import multistream
from prime.transport.contract import Buffer
from prime.transport.identity import KeyPair
from prime.transport.libp2p import security
from prime.transport.libp2p.security import NOISE, TLS, Secured, Security
from prime.transport.sockets import READ_BYTES_MAX, Wire
from prime.transport.tls import open_credentials

OWN, CALLER = (KeyPair.from_seed(bytes([seed]) * 32) for seed in (31, 32))


class Work:
    """Counts, and knows whether it is being done."""

    def __init__(self) -> None:
        self.done = 0
        self.under_way = False

    async def __aenter__(self) -> None:
        await trio.lowlevel.checkpoint()
        assert not self.under_way
        self.under_way = True

    async def __aexit__(self, *_: object) -> None:
        assert self.under_way
        self.under_way = False
        self.done += 1


class Watched(Wire):
    """A socket that nobody waits for while work is done."""

    def __init__(self, socket: trio.socket.SocketType, work: Work) -> None:
        super().__init__(socket)
        self.work = work

    async def receive(self, max_bytes: int = READ_BYTES_MAX) -> bytes:
        assert not self.work.under_way
        return await super().receive(max_bytes)

    async def send_some(self, data: Buffer) -> int:
        assert not self.work.under_way
        return await super().send_some(data)


@contextmanager
def securities() -> Iterator[tuple[Security, Security]]:
    with open_credentials(OWN) as own, open_credentials(CALLER) as callers:
        yield (
            Security(create_new_key_pair(OWN.private_bytes()), own, lambda _: None),
            Security(create_new_key_pair(CALLER.private_bytes()), callers, lambda _: None),
        )


@pytest.mark.parametrize("protocol", [TLS, str(NOISE)])
async def test_a_handshake_is_computed_as_work_and_waits_outside_of_it(
    protocol: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    near, far = map(trio.socket.from_stdlib_socket, os_socket.socketpair())
    work, secured = Work(), list[Secured]()
    with near, far, securities() as (own, caller):
        async with trio.open_nursery() as nursery:

            async def accept() -> None:
                secured.append(await own.accept(Watched(near, work), work))

            nursery.start_soon(accept)
            if protocol != TLS:
                monkeypatch.setattr(security, "TLS", "/none/1.0.0")
            dialled = await caller.dial(Wire(far), lambda _: None)
        assert (dialled.peer, secured[0].peer) == (OWN.peer, CALLER.peer)
        assert work.done >= 2
        assert not work.under_way


@pytest.mark.parametrize("protocol", [TLS, str(NOISE)])
async def test_work_ends_where_a_caller_talks_nonsense(protocol: str) -> None:
    near, far = map(trio.socket.from_stdlib_socket, os_socket.socketpair())
    work = Work()
    with near, securities() as (own, _):
        async with trio.open_nursery() as nursery:

            async def accept() -> None:
                with pytest.raises((RemoteProtocolError, anyio.BrokenResourceError)):
                    await own.accept(Watched(near, work), work)

            nursery.start_soon(accept)
            wire = Wire(far)
            await multistream.propose(wire.send_all, wire.receive, (protocol,))
            await wire.send_all(b"\x00\x10" + bytes(1000))
            wire.end()
        far.close()
    assert work.done
    assert not work.under_way
