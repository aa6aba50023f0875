"""What the transports over operating-system sockets share: exact cancellation, and an entrance that strangers can't jam.

A `Wire` is a connected socket; a `Reception` accepts sockets, lets each prove its peer beside the others (bounded in
number and time), and queues the channels that result.
"""

from __future__ import annotations

import errno
import ipaddress
import itertools
import logging
import os
import socket as os_socket
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

import anyio
import attrs
import trio

from prime.errors import WorldError
from prime.transport.admission import Admission, Entrance, Prove, Shut, Source, source_of
from prime.transport.contract import Buffer, Channel
from prime.transport.multiaddr import TcpPlace

READ_BYTES_MIN = 1 << 16
READ_BYTES_MAX = 1 << 20
KEPT_BYTES = 8 << 20
UNSENT_BYTES_MAX = 1 << 14  # that the kernel takes of a TCP stream ahead of what is on its way

log = logging.getLogger(__name__)

_OUT_OF_DESCRIPTORS = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
_BREATHER_S = 0.1


class Wire:
    """A connected stream socket whose errors are anyio's and whose reads grow with the traffic."""

    def __init__(self, socket: trio.socket.SocketType) -> None:
        self.socket = socket
        self._read_bytes = READ_BYTES_MIN
        self._closed = False
        self._broken = False
        self._remote = ""

    async def receive(self, max_bytes: int = READ_BYTES_MAX) -> bytes:
        """Return what has arrived, at most `max_bytes`; empty at the end. A cancelled call loses nothing."""
        wanted = min(self._read_bytes, max_bytes)
        try:
            data: bytes = await self.socket.recv(wanted)
        except trio.ClosedResourceError:
            raise self._why_closed() from None
        except OSError as error:
            raise self._why_closed() from error
        if len(data) == self._read_bytes:
            self._read_bytes = min(2 * self._read_bytes, READ_BYTES_MAX)
        return data

    async def send_all(self, data: Buffer, *, begun: bool = False) -> None:
        """Send every byte. If it is cancelled after some were sent (or `begun`), the connection is broken."""
        rest = memoryview(data).cast("B")
        if not rest:
            await trio.lowlevel.checkpoint()
        try:
            while rest:
                sent = await self.send_some(rest)
                begun, rest = True, rest[sent:]
        except trio.Cancelled:
            if begun:
                self.tear()
            raise

    async def send_some(self, data: Buffer) -> int:
        """Send what the kernel takes, at least a byte, and return how much that was. Cancelled, it has sent nothing."""
        try:
            return await self.socket.send(data)
        except trio.ClosedResourceError:
            raise self._why_closed() from None
        except OSError as error:
            self._broken = True
            raise self._why_closed() from error

    def send_nowait(self, data: Buffer) -> int:
        """Hand the kernel what it takes without a wait; 0 also for a broken wire: the next `send_all` says why."""
        try:
            return 0 if self.closed else os.write(self.socket.fileno(), data)
        except OSError:
            return 0

    async def check(self) -> None:
        """Run the scheduler and cancellation once; raise if the wire is closed or broken."""
        await trio.lowlevel.checkpoint()
        if self._closed or self._broken:
            raise self._why_closed()

    def end(self) -> None:
        """Tell the other side that nothing more will be sent."""
        with suppress(OSError):  # it is gone already
            self.socket.shutdown(trio.socket.SHUT_WR)

    def tear(self) -> None:
        """Give the connection up because a part of the data is missing."""
        self._broken = True
        self.socket.close()

    def close(self) -> None:
        """Close the socket; idempotent."""
        self._closed = True
        self.socket.close()

    @property
    def closed(self) -> bool:
        """Whether `close` or `tear` was called."""
        return self._closed or self._broken

    @property
    def remote(self) -> str:
        """The other end of a TCP connection as an address; empty once it is gone, or where there is none."""
        if self.closed:
            return ""
        self._remote = self._remote or _place_text(self.socket.getpeername)  # it is asked for often, and never changes
        return self._remote

    @property
    def local(self) -> str:
        """As `remote`, for this end."""
        return _place_text(self.socket.getsockname)

    def _why_closed(self) -> Exception:
        return anyio.ClosedResourceError() if self._closed else anyio.BrokenResourceError()


def _place_text(name_of: Callable[[], object]) -> str:
    try:
        name = name_of()
    except OSError:
        return ""
    return str(tcp_place(*name[:2])) if isinstance(name, tuple) else ""


def keep_freed_memory() -> None:
    """Have the C library keep what is freed, up to twice `KEPT_BYTES`, for the next big frame.

    glibc gives the memory of big buffers back to the kernel when they are freed, and takes it anew for the next one, page
    by page: at 100 MB/s that is a third of a link's time. What it gives back it learns from the biggest buffer that was
    freed (mallopt(3), M_MMAP_THRESHOLD); this frees one, of which no page was touched. Other libraries do not mind.
    """
    bytes(KEPT_BYTES)  # and not a bytearray, which writes to each page


def tune(socket: trio.socket.SocketType | os_socket.socket) -> None:
    """Have small writes of a TCP socket sent at once, and few bytes wait in it: what is urgent goes behind all of them.

    Trio does the same with sockets that it dials.
    """
    socket.setsockopt(os_socket.IPPROTO_TCP, os_socket.TCP_NODELAY, 1)
    option = getattr(os_socket, "TCP_NOTSENT_LOWAT", None)
    if option is not None:
        with suppress(OSError):  # a system may know the name and not the option
            socket.setsockopt(os_socket.IPPROTO_TCP, option, UNSENT_BYTES_MAX)


def tcp_place(host: str, port: int) -> TcpPlace:
    """Return the place of a socket's name; an IPv4 address in IPv6 clothes is shown as what it is."""
    address = ipaddress.ip_address(host.partition("%")[0])
    plain = getattr(address, "ipv4_mapped", None) or address
    return TcpPlace(f"ip{plain.version}", str(plain), port)


@attrs.define(eq=False)
class _Caller:
    """A socket whose peer has not proved itself."""

    socket: trio.socket.SocketType
    scope: trio.CancelScope | None = None
    """Of the proof, once it has begun."""


class Doorway:
    """Accepts sockets, and lets each prove its peer beside the others, as far as the admission has it.

    `prove` does so, and owns the socket from then on; it is cancelled where another takes its place. An error that it
    lets through ends that one caller.
    """

    def __init__(self, prove: Callable[[trio.socket.SocketType], Awaitable[None]], *, proving_max: int) -> None:
        self._prove = prove
        self._proving_max = proving_max
        self._entrance = Entrance(Admission(), proving_max)
        self._tickets = itertools.count(1)
        self._callers: dict[int, _Caller] = {}

    def guard(self, admission: Admission) -> None:
        """Ask `admission` from now on; called before anybody has come."""
        self._entrance = Entrance(admission, self._proving_max)

    async def serve(self, listener: trio.socket.SocketType) -> None:
        """Accept until cancelled. A caller that is let in nowhere is hung up on without a word."""
        async with trio.open_nursery() as nursery:
            try:
                while True:
                    socket, source = await _next_socket(listener)
                    ticket = next(self._tickets)
                    self._callers[ticket] = _Caller(socket)
                    self._carry_out(self._entrance.arrive(ticket, source, trio.current_time()), nursery)
            finally:
                for caller in self._callers.values():
                    if caller.scope is None:
                        caller.socket.close()

    def _carry_out(self, commands: Sequence[Prove | Shut], nursery: trio.Nursery) -> None:
        for command in commands:
            caller = self._callers[command.ticket]
            if isinstance(command, Prove):
                caller.scope = trio.CancelScope()
                nursery.start_soon(self._receive, command.ticket, caller.socket, caller.scope, nursery)
            elif caller.scope is not None:
                caller.scope.cancel()
            else:
                del self._callers[command.ticket]
                caller.socket.close()

    async def _receive(
        self, ticket: int, socket: trio.socket.SocketType, scope: trio.CancelScope, nursery: trio.Nursery
    ) -> None:
        try:
            with scope:
                await self._prove(socket)
        except Exception:
            # A bug of ours, which some caller's bytes have found: it costs that caller the connection, not all others.
            log.exception("a caller was hung up on by an internal error; please report it")
            socket.close()
        finally:
            del self._callers[ticket]
            self._carry_out(self._entrance.leave(ticket), nursery)


class Reception:
    """Turns accepted sockets into proved channels, several at a time."""

    def __init__(
        self, prove: Callable[[trio.socket.SocketType], Awaitable[Channel]], *, backlog_max: int, timeout_s: float
    ) -> None:
        self._prove = prove
        self._timeout_s = timeout_s
        self._doorway = Doorway(self._receive, proving_max=backlog_max)
        self._proved, self._waiting = trio.open_memory_channel[Channel](backlog_max)
        self._closed = False

    def guard(self, admission: Admission) -> None:
        """See `Guarded.guard`."""
        self._doorway.guard(admission)

    async def serve(self, listener: trio.socket.SocketType) -> None:
        """Accept until cancelled."""
        await self._doorway.serve(listener)

    async def accept(self) -> Channel:
        """Return the next proved channel. Raises `anyio.ClosedResourceError` once closed."""
        try:
            return await self._waiting.receive()
        except (trio.ClosedResourceError, trio.EndOfChannel):
            raise anyio.ClosedResourceError from None

    def close(self) -> None:
        """Let `accept` and `check_open` fail, now and from now on."""
        self._closed = True
        self._proved.close()
        self._waiting.close()

    def check_open(self) -> None:
        """Raise `anyio.ClosedResourceError` once closed."""
        if self._closed:
            raise anyio.ClosedResourceError

    async def _receive(self, socket: trio.socket.SocketType) -> None:
        channel = await self._proved_channel(socket)
        if channel is None:
            return
        try:
            await self._proved.send(channel)
        except trio.BrokenResourceError:
            pass  # the endpoint has closed, and its channels with it
        except trio.Cancelled:
            with trio.CancelScope(shield=True):
                await channel.aclose()
            raise

    async def _proved_channel(self, socket: trio.socket.SocketType) -> Channel | None:
        """Let the caller prove its peer; close the socket of one that fails to, or takes too long."""
        channel = None
        try:
            with trio.move_on_after(self._timeout_s):
                channel = await self._prove(socket)
        except (WorldError, OSError, anyio.BrokenResourceError):
            pass  # a stranger's fault, and strangers are many: it concerns nobody here
        finally:
            if channel is None:
                socket.close()
        return channel


async def _next_socket(listener: trio.socket.SocketType) -> tuple[trio.socket.SocketType, Source]:
    """Return the next caller's socket and where it comes from; waits also while this process has no descriptor left."""
    while True:
        try:
            socket, name = await listener.accept()
        except OSError as error:
            if error.errno in _OUT_OF_DESCRIPTORS:
                await trio.sleep(_BREATHER_S)
            continue  # else: that caller hung up before we could answer
        return socket, source_of(name[0]) if isinstance(name, tuple) else ""
