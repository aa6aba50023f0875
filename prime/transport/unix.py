"""The local socket: between processes of one user on one machine, such as `prime status` and its node.

The file system authorises: a socket of mode 0600 in a folder of mode 0700, and the kernel's word that the other process
belongs to the same user (or to root). On top both sides prove their peer id by signing a fresh challenge, so that ids
mean the same here as everywhere. The bytes are not encrypted: they never leave the kernel.

Handshake: each side sends `MAGIC`, its public key (32 bytes) and a nonce (32 bytes); then each signs `MAGIC`, its role,
and both hellos, and sends the signature (64 bytes). The dialler signs last, so it never proves itself to a wrong peer.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import socket as os_socket
import stat
import struct
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path

import anyio
import attrs
import trio

from prime.actor.contract import PeerId
from prime.actor.groups import one_error
from prime.errors import AddressInUseError, ConfigError, UnreachableError, WrongPeerError
from prime.transport.admission import Admission
from prime.transport.contract import BACKLOG_MAX, DIAL_TIMEOUT_S, Buffer, Channel, require_trio
from prime.transport.identity import KeyPair
from prime.transport.multiaddr import Address, UnixPlace, parse_address
from prime.transport.peer import peer_from_public_key, verify
from prime.transport.sockets import Reception, Wire

MAGIC = b"/prime/unix/1\n"

_HELLO_BYTES = len(MAGIC) + 64
_SIGNATURE_BYTES = 64
_PATH_BYTES_MAX = 103  # sockaddr_un holds 104 bytes on macOS and 108 on Linux, with a closing zero
_KERNEL_BACKLOG = 64
_SOCKET_MODE = 0o600


class UnixChannel(Channel):
    """A local socket."""

    def __init__(self, wire: Wire, peer: PeerId, owner: set[UnixChannel]) -> None:
        self._wire = wire
        self._peer = peer
        self._ended = False
        self._owner = owner
        self._sending = anyio.ResourceGuard("sending to")
        self._receiving = anyio.ResourceGuard("receiving from")
        owner.add(self)

    @property
    def peer(self) -> PeerId:
        """The peer that signed our challenge."""
        return self._peer

    async def receive(self, max_bytes: int = 65536) -> bytes:
        """See `Channel.receive`."""
        with self._receiving:
            if self._wire.closed:
                await self._wire.check()
            data = await self._wire.receive(max_bytes)
            if not data:
                raise anyio.EndOfStream
            return data

    async def send(self, item: Buffer) -> None:
        """See `Channel.send`."""
        with self._sending:
            if self._ended or self._wire.closed:
                await self._wire.check()
                raise anyio.ClosedResourceError
            await self._wire.send_all(item)

    def send_nowait(self, item: Buffer) -> int:
        """See `Channel.send_nowait`."""
        return 0 if self._ended else self._wire.send_nowait(item)

    async def send_eof(self) -> None:
        """See `Channel.send_eof`."""
        with self._sending:
            await self._wire.check()
            self._ended = True
            self._wire.end()

    async def aclose(self) -> None:
        """See `Channel.aclose`."""
        self.close_nowait()
        await trio.lowlevel.checkpoint()

    def close_nowait(self) -> None:
        """As `aclose`, for an endpoint that ends."""
        self._owner.discard(self)
        self._wire.close()


_ADDRESSES = ("/unix/", "/memory/", "/ip4/", "/ip6/", "/dns/", "/dns4/", "/dns6/")
"""What begins so is an address: nobody who writes another transport's means a file of that name."""


@attrs.frozen
class Unix:
    """The local-socket transport: `path` is a file path, or `/unix/PATH`."""

    path: str | os.PathLike[str]
    backlog_max: int = BACKLOG_MAX
    dial_timeout_s: float = DIAL_TIMEOUT_S

    @property
    def name(self) -> str:
        """`unix`."""
        return "unix"

    @asynccontextmanager
    async def open(self, key: KeyPair) -> AsyncIterator[UnixEndpoint]:
        """See `Transport.open`. Makes the folder if it is missing; one that others may enter is a `ConfigError`."""
        require_trio()
        path = self._socket_path(key.peer)
        with ExitStack() as stack:
            stack.enter_context(_sole_owner(path))
            listener = stack.enter_context(_listening(path))
            endpoint = UnixEndpoint(self, key, UnixPlace(str(path)))
            stack.callback(endpoint.close_nowait)
            async with one_error(), trio.open_nursery() as nursery:
                nursery.start_soon(endpoint.reception.serve, listener)
                try:
                    yield endpoint
                finally:
                    nursery.cancel_scope.cancel()

    def _socket_path(self, peer: PeerId) -> Path:
        text = os.fspath(self.path)
        if text.startswith(_ADDRESSES):
            place = parse_address(text).expecting(peer).place
            if not isinstance(place, UnixPlace):
                raise ConfigError(f"{text!r} is the address of no local socket.", hint="Write /unix/PATH, or a path.")
            text = place.path
        path = Path(text).absolute()
        _check_length(path)
        return path


class UnixEndpoint:
    """An opened local-socket transport."""

    def __init__(self, transport: Unix, key: KeyPair, place: UnixPlace) -> None:
        self._transport = transport
        self._key = key
        self._channels: set[UnixChannel] = set()
        self.addresses = (str(Address(place, key.peer)),)
        self.reception = Reception(
            self._prove_caller, backlog_max=transport.backlog_max, timeout_s=transport.dial_timeout_s
        )

    @property
    def peer(self) -> PeerId:
        """This side's own id."""
        return self._key.peer

    async def dial(self, address: str, peer: PeerId | None = None) -> Channel:
        """See `Endpoint.dial`."""
        self.reception.check_open()
        wanted = parse_address(address).expecting(peer)
        if not isinstance(wanted.place, UnixPlace):
            raise UnreachableError(f"{address} is no local socket.", hint="Dial it over the transport that it names.")
        with trio.move_on_after(self._transport.dial_timeout_s):
            return await self._connect(wanted, wanted.place)
        raise UnreachableError(
            f"{address} did not answer within {self._transport.dial_timeout_s:g} s.",
            hint="The process that listens there hangs, or is not Prime.",
        )

    def guard(self, admission: Admission) -> None:
        """See `Guarded.guard`."""
        self.reception.guard(admission)

    async def accept(self) -> Channel:
        """See `Endpoint.accept`."""
        return await self.reception.accept()

    def close_nowait(self) -> None:
        """Stop accepting and close every channel."""
        self.reception.close()
        for channel in tuple(self._channels):
            channel.close_nowait()

    async def _connect(self, wanted: Address, place: UnixPlace) -> UnixChannel:
        socket = await _dial_socket(place)
        try:
            wire = Wire(socket)
            peer = await self._prove_to_listener(wire, wanted)
        except (anyio.BrokenResourceError, anyio.ClosedResourceError) as error:
            socket.close()
            raise _not_prime(place) from error
        except BaseException:
            socket.close()
            raise
        return UnixChannel(wire, peer, self._channels)

    async def _prove_to_listener(self, wire: Wire, wanted: Address) -> PeerId:
        _check_same_user(wire.socket)
        ours = self._hello()
        await wire.send_all(ours)
        theirs = await _receive_exactly(wire, _HELLO_BYTES)
        signature = await _receive_exactly(wire, _SIGNATURE_BYTES)
        peer = _check_proof(theirs, signature, _statement(b"listener", ours, theirs))
        if wanted.peer not in {None, peer}:
            raise WrongPeerError(f"At {wanted.place} answers {peer}, not {wanted.peer}.", hint="Correct the address.")
        await wire.send_all(self._key.sign(_statement(b"dialler", ours, theirs)))
        return peer

    async def _prove_caller(self, socket: trio.socket.SocketType) -> Channel:
        _check_same_user(socket)
        wire = Wire(socket)
        theirs = await _receive_exactly(wire, _HELLO_BYTES)
        ours = self._hello()
        await wire.send_all(ours + self._key.sign(_statement(b"listener", theirs, ours)))
        signature = await _receive_exactly(wire, _SIGNATURE_BYTES)
        peer = _check_proof(theirs, signature, _statement(b"dialler", theirs, ours))
        return UnixChannel(wire, peer, self._channels)

    def _hello(self) -> bytes:
        return MAGIC + self._key.public_bytes + secrets.token_bytes(32)


def _statement(role: bytes, dialler_hello: bytes, listener_hello: bytes) -> bytes:
    return MAGIC + role + dialler_hello + listener_hello


def _check_proof(hello: bytes, signature: bytes, statement: bytes) -> PeerId:
    if not hello.startswith(MAGIC):
        raise UnreachableError("The other process does not speak Prime's local protocol.", hint="Check the path.")
    peer = peer_from_public_key(hello[len(MAGIC) : len(MAGIC) + 32])
    if not verify(peer, statement, signature):
        raise WrongPeerError(f"The other process claims to be {peer} and cannot prove it.", hint="Do not trust it.")
    return peer


async def _receive_exactly(wire: Wire, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = await wire.receive(size - len(data))
        if not part:
            raise anyio.BrokenResourceError
        data += part
    return data


def _check_same_user(socket: trio.socket.SocketType) -> None:
    """Ask the kernel who the other process is, where the kernel tells (Linux); elsewhere the 0700 folder must do."""
    option = getattr(os_socket, "SO_PEERCRED", None)
    if option is None:
        return
    _, user, _ = struct.unpack("3i", socket.getsockopt(os_socket.SOL_SOCKET, option, struct.calcsize("3i")))
    if user not in {0, os.geteuid()}:
        raise WrongPeerError(
            f"The other process belongs to user {user}, not to user {os.geteuid()}.",
            hint="Run both as the same user: a local socket is for one user's processes.",
        )


async def _dial_socket(place: UnixPlace) -> trio.socket.SocketType:
    socket = trio.socket.socket(os_socket.AF_UNIX, os_socket.SOCK_STREAM)
    try:
        await socket.connect(place.path)
    except OSError as error:
        socket.close()
        raise UnreachableError(
            f"Nobody answers at {place}: {os.strerror(error.errno or 0).lower()}.",
            hint="Start the node whose control socket this is, or correct the path.",
        ) from error
    except BaseException:
        socket.close()
        raise
    return socket


def _not_prime(place: UnixPlace) -> UnreachableError:
    return UnreachableError(
        f"The process at {place} hung up during the handshake.",
        hint="It is not Prime, or belongs to another user.",
    )


def _check_length(path: Path) -> None:
    size = len(os.fsencode(path))
    if size > _PATH_BYTES_MAX:
        raise ConfigError(
            f"The socket path {path} has {size} bytes; the system allows {_PATH_BYTES_MAX}.",
            hint="Choose a shorter one.",
        )


@contextmanager
def _sole_owner(path: Path) -> Iterator[None]:
    """Hold a lock beside the socket for as long as we listen: the kernel drops it when a process dies, however."""
    _prepare_folder(path.parent)
    descriptor = os.open(path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, _SOCKET_MODE)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _in_use(path) from None
        yield
    finally:
        os.close(descriptor)


def _prepare_folder(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.stat()
    except OSError as error:
        raise ConfigError(
            f"The folder {folder} for the socket cannot be made: {os.strerror(error.errno or 0).lower()}.",
            hint="Name a path in a folder that you may write to.",
        ) from error
    mode = stat.S_IMODE(status.st_mode)
    if mode & 0o077 or status.st_uid != os.geteuid():
        raise ConfigError(
            f"Others may enter the folder {folder} of the socket (mode {mode:04o}, owner {status.st_uid}).",
            hint=f"Run: chmod 700 {folder}, or put the socket into a folder of your own.",
        )


@contextmanager
def _listening(path: Path) -> Iterator[trio.socket.SocketType]:
    _remove_stale(path)
    with os_socket.socket(os_socket.AF_UNIX, os_socket.SOCK_STREAM) as socket:
        try:
            socket.bind(str(path))
            path.chmod(_SOCKET_MODE)
            socket.listen(_KERNEL_BACKLOG)
        except OSError as error:
            raise _cannot_listen(path, error) from error
        try:
            yield trio.socket.from_stdlib_socket(socket)
        finally:
            with suppress(FileNotFoundError):
                path.unlink()


def _remove_stale(path: Path) -> None:
    """Remove the socket of a dead server. We hold the lock, so a live one would be another program's: ask it."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise ConfigError(
            f"{path} is there already and is no socket.", hint="Name another path; it was left untouched."
        )
    with os_socket.socket(os_socket.AF_UNIX, os_socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        if probe.connect_ex(str(path)) not in {errno.ECONNREFUSED, errno.ENOENT}:
            raise _in_use(path)
    path.unlink(missing_ok=True)


def _in_use(path: Path) -> AddressInUseError:
    return AddressInUseError(
        f"Another process listens at {path} already.", hint="Stop that node, or give this one another socket path."
    )


def _cannot_listen(path: Path, error: OSError) -> AddressInUseError | ConfigError:
    if error.errno == errno.EADDRINUSE:
        return _in_use(path)
    return ConfigError(f"Cannot listen at {path}: {os.strerror(error.errno or 0).lower()}.", hint="Name another path.")
