"""A hole: a direct TCP connection of two nodes behind routers, which both dial at the same moment.

A router that gives a port of this machine the same port outside for all that it dials, as most homes' do, lets in what
comes from where this machine has just dialled. So both ends dial the place where a third node sees the other, each from
the very port that its own connection to that node was made from; each router takes the other's attempt for an answer. TCP
allows two attempts to meet (RFC 9293 section 3.5, figure 8). Routers with another port for each destination ("symmetric")
cannot be punched.

How the two agree on the moment, and on one of several connections, is their protocol's matter: `relay/punch.py` over
Prime's own relay, `libp2p/punch.py` over standard ones.
"""

from __future__ import annotations

import socket as os_socket
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from ipaddress import ip_address
from typing import Final, Generic, TypeVar

import anyio
import trio

from prime.errors import PrimeError
from prime.transport.multiaddr import Place, TcpPlace
from prime.transport.tcp import shared_socket

CANDIDATES_MAX: Final = 4
"""Places that are dialled: they come from the other end."""
CALLERS_MAX: Final = 8
"""Callers that prove themselves at a time: strangers may come by the thousand."""
STRANGERS_MAX: Final = 2
"""Connections to one candidate that stood and were not the peer's: whoever is there is left alone then."""
ATTEMPT_S: Final = 1.0
"""How long one attempt waits before a fresh one: TCP would ask again only after 1, 3 and 7 seconds."""
PAUSE_S: Final = 0.15
"""Between the first refusal and the next attempt; the pauses grow up to that of an attempt that hears nothing."""
PAUSE_GROWTH: Final = 1.2

_T = TypeVar("_T")


def may_be_dialled(place: Place, own: Place | None = None) -> bool:
    """Tell whether a peer's word may have an end at `own` dial `place`: not what only this machine, or a link, can reach.

    Loopback is fair between two ends that are both seen there.
    """
    if not isinstance(place, TcpPlace) or place.kind not in {"ip4", "ip6"} or not place.port:
        return False
    address = ip_address(place.host)
    address = getattr(address, "ipv4_mapped", None) or address
    if address.is_loopback:
        return isinstance(own, TcpPlace) and ip_address(own.host).is_loopback
    return not (address.is_unspecified or address.is_link_local or address.is_multicast or address.is_reserved)


class Hole(Generic[_T]):
    """Attempts to connect from the port of `own`, from both sides at once, for `within_s` seconds.

    `prove` makes something of a socket that is connected, in bounded time, or raises.
    """

    def __init__(
        self, own: TcpPlace, prove: Callable[[trio.socket.SocketType], Awaitable[_T]], within_s: float
    ) -> None:
        self._own = own
        self._prove = prove
        self._within_s = within_s
        self._found: list[_T] = []
        self._places = trio.Semaphore(CALLERS_MAX)
        self._through = trio.Event()

    async def open(self, candidates: Sequence[TcpPlace]) -> _T | None:
        """Return what came of the first attempt that stands; `None` if none did in time."""
        with trio.move_on_after(self._within_s):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._listen, nursery)
                for place in candidates[:CANDIDATES_MAX]:
                    if may_be_dialled(place, self._own):
                        nursery.start_soon(self._knock, place)
                await self._through.wait()
                nursery.cancel_scope.cancel()
        return self._found[0] if self._found else None

    def _socket(self, kind: str) -> trio.socket.SocketType:
        return shared_socket(os_socket.AF_INET6 if kind == "ip6" else os_socket.AF_INET, self._own.port)

    async def _listen(self, nursery: trio.Nursery) -> None:
        """Take in what comes from behind the same router, or from one that lets everything in."""
        with suppress(OSError), self._socket(self._own.kind) as listener:
            listener.listen(CALLERS_MAX)
            while True:
                await self._places.acquire()
                nursery.start_soon(self._try_caller, (await listener.accept())[0])

    async def _try_caller(self, socket: trio.socket.SocketType) -> None:
        try:
            await self._try(socket)
        finally:
            self._places.release()

    async def _knock(self, place: TcpPlace) -> None:
        """Attempt again and again: what is dropped or refused at first may be let in once the other side has dialled."""
        pause_s, strangers = PAUSE_S, 0
        while strangers < STRANGERS_MAX:
            try:
                with trio.fail_after(ATTEMPT_S):
                    socket = await self._dial(place)
            except trio.TooSlowError:
                continue
            except OSError:
                await trio.sleep(pause_s)
                pause_s = min(pause_s * PAUSE_GROWTH, ATTEMPT_S)
            else:
                await self._try(socket)
                strangers += 1

    async def _dial(self, place: TcpPlace) -> trio.socket.SocketType:
        socket = self._socket(place.kind)
        try:
            await socket.connect((place.host, place.port))
        except BaseException:
            socket.close()
            raise
        return socket

    async def _try(self, socket: trio.socket.SocketType) -> None:
        done = False
        try:
            self._found.append(await self._prove(socket))
            done = True
            self._through.set()
        except (
            OSError,
            PrimeError,
            trio.TooSlowError,
            anyio.BrokenResourceError,
            anyio.ClosedResourceError,
            anyio.EndOfStream,
        ):
            pass  # somebody else, or an attempt that came to nothing
        finally:
            if not done:
                socket.close()
