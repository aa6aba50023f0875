"""libp2p streams: Noise and Yamux over TCP by py-libp2p, for networks that speak libp2p, protocol `/prime/actor/1`.

The only file that imports libp2p, and only when an endpoint is opened. py-libp2p 0.8 has traps; each has its rule here:

- *A write that is cancelled while the socket is blocked kills the whole connection*, and so does a read, which sends
  window updates. So no task of a user ever touches a stream: two tasks of its own move bytes between it and two bounded
  pipes, and a caller that is cancelled leaves a pipe. Dials run in a task of their own for the same reason. A write that
  is stuck past its deadline closes the connection.
- *A sender that waits 5 s for the receiver's window is reset.* So the writer itself waits until the window has room,
  however long that takes, and only then writes; a slow reader slows its sender and loses nothing.
- *A frame of the default size makes two Noise messages.* The writer makes frames that fill exactly one.
- *An exception in a stream handler ends the host.* The host's handler is wrapped.
- *Failed dials block a peer for a minute, retry with delays and log errors.* Connections are made here, step by step,
  and then handed to the swarm.
- *The listener shares its port with any other process of the user.* The port is probed first.
- *A remote reset may read as an end.* It is shown as broken where it can be told.
- *A stream's receive window grows to 16 MiB, unread.* It stops at 4 MiB.
- *Plaintext and secio are on offer, connections are rate-limited, unknown peers are dialled to fill a quota.* All off.
"""

from __future__ import annotations

import importlib
import logging
import os
import socket as os_socket
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import attrs
import trio

from prime.actor.contract import PeerId
from prime.actor.groups import one_error
from prime.errors import ConfigError, MissingExtraError, PrimeError, UnreachableError, WrongPeerError
from prime.transport.contract import BACKLOG_MAX, CLOSE_TIMEOUT_S, DIAL_TIMEOUT_S, Buffer, Channel, require_trio
from prime.transport.identity import KeyPair
from prime.transport.multiaddr import Address, TcpPlace, parse_address
from prime.transport.peer import parse_peer
from prime.transport.pipe import Pipe
from prime.transport.tcp import cannot_listen, dial_socket, listen_place, places_of

PROTOCOL = "/prime/actor/1"
FRAME_BYTES = 65519 - 12  # plaintext of the largest Noise message, less a Yamux header
PIPE_BYTES_MAX = 1 << 18
WINDOW_BYTES_MAX = 1 << 22  # of a stream; py-libp2p would let it grow to 16 MiB
STREAMS_PER_PEER_MAX = 200  # outbound; the 257th would wait for ever without an error
WRITE_TIMEOUT_S = 30.0  # of one frame whose window is open: past it, nobody reads the connection
LINGER_S = 10.0  # how long a closed channel waits for the other side to close, before it resets the stream
LINGER_BYTES_MAX = 1 << 20  # and how much it reads and drops meanwhile

_WINDOW_POLL_MIN_S = 0.001
_WINDOW_POLL_MAX_S = 0.02
_HOST_CLOSE_TIMEOUT_S = 5.0
_LONG_AGO = 1e-9  # on Trio's clock, and not 0, which Yamux reads as "never"

log = logging.getLogger(__name__)


class Libp2pChannel(Channel):
    """One stream. `run` moves its bytes and must run in a task that no user can cancel."""

    def __init__(self, stream: Any, peer: PeerId) -> None:
        self._stream = stream
        self._muxed = stream.muxed_stream
        self._peer = peer
        self._inward = Pipe(PIPE_BYTES_MAX)
        self._outward = Pipe(PIPE_BYTES_MAX)
        self._sent = trio.Event()
        self._closed = trio.Event()

    @property
    def peer(self) -> PeerId:
        """The peer that the Noise handshake proved."""
        return self._peer

    async def receive(self, max_bytes: int = 65536) -> bytes:
        """See `Channel.receive`."""
        return await self._inward.get(max_bytes)

    async def send(self, item: Buffer) -> None:
        """See `Channel.send`; returns when the bytes are in this side's buffer of 256 KiB."""
        await self._outward.put(item)

    async def send_eof(self) -> None:
        """See `Channel.send_eof`."""
        await self._outward.finish()

    async def aclose(self) -> None:
        """See `Channel.aclose`; sends what is buffered, if the other side takes it soon."""
        self.close_nowait()
        with trio.move_on_after(CLOSE_TIMEOUT_S, shield=True):
            await self._sent.wait()
        if not self._sent.is_set():
            self._outward.tear()
        await trio.lowlevel.checkpoint()

    def close_nowait(self) -> None:
        """As `aclose`, for an endpoint that ends."""
        self._outward.end(closed=True)
        self._inward.abandon()
        self._closed.set()

    async def run(self) -> None:
        """Move bytes until both directions have ended, then give the stream back."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._linger)
                async with trio.open_nursery() as pumps:
                    pumps.start_soon(self._pump_in)
                    pumps.start_soon(self._pump_out)
                nursery.cancel_scope.cancel()
        finally:
            self._break()
            with trio.move_on_after(CLOSE_TIMEOUT_S, shield=True):
                await _settle(self._stream.close)

    async def _pump_in(self) -> None:
        try:
            while True:
                await self._inward.put(await self._muxed.read(FRAME_BYTES))
                self._cap_window()
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            await self._drain()  # closed here; the other side may still be sending
        except Exception as error:  # noqa: BLE001 (border: py-libp2p raises whatever its layers raise)
            self._input_ended(error)

    def _cap_window(self) -> None:
        """Keep Yamux from growing this stream's receive window further: a peer may fill all of it unread."""
        if self._muxed.target_recv_window >= WINDOW_BYTES_MAX:
            self._muxed.epoch_start = _LONG_AGO  # it grows only when the last update was a moment ago

    def _input_ended(self, error: Exception) -> None:
        from libp2p.stream_muxer.exceptions import MuxedStreamEOF

        reset = self._muxed.reset_received or self._muxed.conn.event_shutting_down.is_set()
        if isinstance(error, MuxedStreamEOF) and not reset:
            self._inward.end()
            return
        self._inward.tear()
        self._outward.abandon()

    async def _drain(self) -> None:
        """Drop what still comes in, so that the peer's last bytes of a normal goodbye do not turn into a reset."""
        dropped = 0
        try:
            while dropped < LINGER_BYTES_MAX:
                dropped += len(await self._muxed.read(FRAME_BYTES))
        except Exception as error:  # noqa: BLE001 (border, as above)
            log.debug("the stream to %s ended: %r", self._peer, error)
            return
        await self._reset()

    async def _linger(self) -> None:
        await self._closed.wait()
        await trio.sleep(LINGER_S)
        await self._reset()

    async def _pump_out(self) -> None:
        try:
            while True:
                frame = await self._next_frame()
                await self._window(len(frame))
                await self._bounded(self._muxed.write, frame)
        except anyio.EndOfStream:
            await self._bounded(self._muxed.close)  # Yamux: closes our direction only
        except anyio.BrokenResourceError:
            await self._reset()  # a send was cancelled half-way, or the goodbye took too long
        except Exception as error:  # noqa: BLE001 (border, as above)
            log.debug("the stream to %s broke: %r", self._peer, error)
            self._break()
            await self._reset()
        finally:
            self._sent.set()

    async def _next_frame(self) -> bytes:
        """Return up to one Noise message's worth, joining what small sends have left."""
        parts = [await self._outward.get(FRAME_BYTES)]
        room = FRAME_BYTES - len(parts[0])
        while room and (part := self._outward.get_nowait(room)):
            parts.append(part)
            room -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def _window(self, size: int) -> None:
        """Wait until the other side's window takes `size` bytes. Yamux tells nobody when it does, so this polls."""
        pause_s = _WINDOW_POLL_MIN_S
        while self._muxed.send_window < size:
            if self._outward.broken or self._muxed.closed or self._muxed.send_closed:
                raise anyio.BrokenResourceError
            await trio.sleep(pause_s)
            pause_s = min(2 * pause_s, _WINDOW_POLL_MAX_S)

    async def _bounded(self, call: Any, *arguments: Any) -> None:
        """Write within the deadline, or close the connection, which is beyond use then."""
        with trio.move_on_after(WRITE_TIMEOUT_S) as scope:
            await call(*arguments)
        if scope.cancelled_caught:
            await _settle(self._muxed.conn.secured_conn.close)
            raise anyio.BrokenResourceError

    async def _reset(self) -> None:
        self._break()
        try:
            await self._bounded(self._muxed.reset)
        except Exception as error:  # noqa: BLE001 (border, as above)
            log.debug("the stream to %s was gone before its reset: %r", self._peer, error)

    def _break(self) -> None:
        if not self._inward.ended:
            self._inward.tear()
        self._outward.abandon()


@attrs.frozen
class Libp2p:
    """The libp2p transport (extra `libp2p`): `address` is where to listen, port 0 for any free one."""

    address: str = "/ip4/127.0.0.1/tcp/0"
    backlog_max: int = BACKLOG_MAX
    dial_timeout_s: float = DIAL_TIMEOUT_S

    @property
    def name(self) -> str:
        """`libp2p`."""
        return "libp2p"

    @asynccontextmanager
    async def open(self, key: KeyPair) -> AsyncIterator[Libp2pEndpoint]:
        """See `Transport.open`."""
        require_trio()
        place = listen_place(self.address, key.peer)
        if place.kind not in {"ip4", "ip6"}:
            raise ConfigError(
                f"libp2p listens at addresses, not at names: {self.address}.", hint="Write /ip4/… or /ip6/…."
            )
        await trio.to_thread.run_sync(_import_libp2p)  # seconds of work, during which other actors go on
        _probe_port(place, self.address)
        host = _make_host(key, self.dial_timeout_s)
        async with one_error(), _running(host, place, self.address) as places, trio.open_nursery() as nursery:
            endpoint = Libp2pEndpoint(self, key.peer, host, places, nursery)
            try:
                yield endpoint
            finally:
                endpoint.close_nowait()
                nursery.cancel_scope.cancel()


class Libp2pEndpoint:
    """An opened libp2p host."""

    def __init__(
        self, transport: Libp2p, peer: PeerId, host: Any, places: tuple[TcpPlace, ...], nursery: trio.Nursery
    ) -> None:
        self._transport = transport
        self._peer = peer
        self._host = host
        self._nursery = nursery
        self._dialling: dict[PeerId, trio.Lock] = {}
        self._streams: Counter[PeerId] = Counter()
        self._arrived, self._waiting = trio.open_memory_channel[Libp2pChannel](transport.backlog_max)
        self._channels: set[Libp2pChannel] = set()
        self._closed = False
        self.addresses = tuple(str(Address(place, peer)) for place in places)
        host.set_stream_handler(PROTOCOL, self._receive)

    @property
    def peer(self) -> PeerId:
        """This side's own id."""
        return self._peer

    async def dial(self, address: str, peer: PeerId | None = None) -> Channel:
        """See `Endpoint.dial`. Streams to one peer share a connection: an open one is used, whatever the address."""
        if self._closed:
            raise anyio.ClosedResourceError
        wanted = parse_address(address).expecting(peer)
        if not isinstance(wanted.place, TcpPlace):
            raise UnreachableError(f"{address} is no TCP address.", hint="Dial it over the transport that it names.")
        attempt = _Attempt()
        self._nursery.start_soon(self._attempt, wanted, wanted.place, attempt)
        try:
            await attempt.done.wait()
        except trio.Cancelled:
            attempt.given_up = True
            raise
        return attempt.result()

    async def accept(self) -> Channel:
        """See `Endpoint.accept`."""
        try:
            return await self._waiting.receive()
        except (trio.ClosedResourceError, trio.EndOfChannel):
            raise anyio.ClosedResourceError from None

    def close_nowait(self) -> None:
        """Stop accepting and close every channel."""
        self._closed = True
        self._arrived.close()
        self._waiting.close()
        for channel in tuple(self._channels):
            channel.close_nowait()

    async def _receive(self, stream: Any) -> None:
        """Handle an inbound stream for as long as it lives."""
        channel = Libp2pChannel(stream, parse_peer(str(stream.muxed_conn.peer_id)))
        try:
            with trio.fail_after(self._transport.dial_timeout_s):
                await self._arrived.send(channel)
        except (trio.TooSlowError, trio.ClosedResourceError, trio.BrokenResourceError):
            await stream.reset()
            return
        await self._keep(channel)

    async def _keep(self, channel: Libp2pChannel) -> None:
        self._channels.add(channel)
        try:
            await channel.run()
        finally:
            self._channels.discard(channel)

    async def _attempt(self, wanted: Address, place: TcpPlace, attempt: _Attempt) -> None:
        """Dial, then move the channel's bytes: all in this task, which the dialler cannot cancel."""
        try:
            with trio.move_on_after(self._transport.dial_timeout_s):
                attempt.channel = await self._connect(wanted, place)
            attempt.error = self._too_slow(wanted)
        except PrimeError as error:
            attempt.error = error
        finally:
            attempt.done.set()
        if attempt.channel:
            await self._serve_dialled(attempt.channel, given_up=attempt.given_up)

    async def _serve_dialled(self, channel: Libp2pChannel, *, given_up: bool) -> None:
        self._streams[channel.peer] += 1
        try:
            if given_up:
                channel.close_nowait()
            await self._keep(channel)
        finally:
            self._streams[channel.peer] -= 1

    async def _connect(self, wanted: Address, place: TcpPlace) -> Libp2pChannel:
        if wanted.peer is None:
            peer = await self._open_connection(place, None)
            return await self._open_stream(peer)
        self._check_streams(wanted.peer)
        async with self._dialling.setdefault(wanted.peer, trio.Lock()):
            if not self._connected(wanted.peer):
                await self._open_connection(place, wanted.peer)
                return await self._open_stream(wanted.peer)
        try:
            return await self._open_stream(wanted.peer)
        except UnreachableError:  # that connection had died unnoticed: once more, with a new one
            await self._open_connection(place, wanted.peer)
            return await self._open_stream(wanted.peer)

    def _check_streams(self, peer: PeerId) -> None:
        if self._streams[peer] >= STREAMS_PER_PEER_MAX:
            raise UnreachableError(
                f"{STREAMS_PER_PEER_MAX} streams to {peer} are open already.",
                hint="Close some; keep streams long-lived.",
            )

    def _connected(self, peer: PeerId) -> bool:
        connections = self._host.get_network().get_connections(_peer_object(peer))
        return any(not each.is_closed and not each.muxed_conn.event_shutting_down.is_set() for each in connections)

    async def _open_connection(self, place: TcpPlace, expected: PeerId | None) -> PeerId:
        """Connect, prove identities, and hand the connection to the swarm; return who answered."""
        socket = await dial_socket(place)
        try:
            return await self._upgrade(socket, place, expected)
        except PrimeError:
            socket.close()
            raise
        except Exception as error:  # border: py-libp2p raises whatever its layers raise
            socket.close()
            raise UnreachableError(
                f"{place} does not speak libp2p with Noise and Yamux: {str(error) or type(error).__name__}.",
                hint="Check host and port, and that both sides chose the same transport.",
            ) from error
        except BaseException:
            socket.close()
            raise

    async def _upgrade(self, socket: trio.socket.SocketType, place: TcpPlace, expected: PeerId | None) -> PeerId:
        from libp2p.io.trio import TrioTCPStream
        from libp2p.network.connection.raw_connection import RawConnection

        network = self._host.get_network()
        raw = RawConnection(TrioTCPStream(trio.SocketStream(socket)), True)
        _, noise = await network.upgrader.security_multistream.select_transport_and_protocol(raw, True)
        # Without an expected peer the handshake still proves who answers; so a wrong one can be named.
        secured = await noise.get_pattern().handshake_outbound(raw, None)
        peer = parse_peer(str(secured.get_remote_peer()))
        if expected not in {None, peer}:
            raise WrongPeerError(
                f"At {place} answers {peer}, not {expected}.",
                hint="Correct the address, or find out why that machine has another key.",
            )
        muxed = await network.upgrader.upgrade_connection(secured, secured.get_remote_peer())
        await network.add_conn(muxed, direction="outbound")
        return peer

    async def _open_stream(self, peer: PeerId) -> Libp2pChannel:
        """Open a stream on the connection to `peer`; one that does not answer closes the connection."""
        try:
            return Libp2pChannel(await self._host.new_stream(_peer_object(peer), [PROTOCOL]), peer)
        except Exception as error:  # border, as above
            await self._disconnect(peer)
            raise UnreachableError(
                f"{peer} opened no stream for {PROTOCOL}: {str(error) or type(error).__name__}.",
                hint="Is a Prime node of the same major version running there?",
            ) from error
        except trio.Cancelled:
            with trio.CancelScope(shield=True):
                await self._disconnect(peer)
            raise

    async def _disconnect(self, peer: PeerId) -> None:
        with trio.move_on_after(CLOSE_TIMEOUT_S):
            await _settle(self._host.disconnect, _peer_object(peer))

    def _too_slow(self, wanted: Address) -> UnreachableError:
        return UnreachableError(
            f"{wanted} did not answer within {self._transport.dial_timeout_s:g} s.",
            hint="Check that the node runs, and that no firewall drops what goes there.",
        )


class _Attempt:
    """What a dial's own task leaves for the caller."""

    def __init__(self) -> None:
        self.done = trio.Event()
        self.channel: Libp2pChannel | None = None
        self.error: PrimeError | None = None
        self.given_up = False

    def result(self) -> Libp2pChannel:
        if self.channel:
            return self.channel
        raise self.error or anyio.ClosedResourceError()


async def _settle(call: Any, *arguments: Any) -> None:
    """Do one of py-libp2p's closings; what goes wrong in it is of no interest any more."""
    try:
        await call(*arguments)
    except Exception as error:  # noqa: BLE001 (border: py-libp2p raises whatever its layers raise)
        log.debug("closing raised %r", error)


def _import_libp2p() -> None:
    try:
        importlib.import_module("libp2p")
    except ImportError as error:
        raise MissingExtraError(
            f"The libp2p transport needs a package that is not installed: {error.name or error}.",
            hint="Run: pip install 'prime-actors[libp2p]', or choose the tcp transport, which needs nothing more.",
        ) from error
    _quieten()


def _quieten() -> None:
    """Let py-libp2p log only if asked to: it reports each stranger's failed handshake, some through the root logger."""
    if os.environ.get("LIBP2P_DEBUG"):
        return
    for name in ("libp2p", "libp2p.network.auto_connector"):
        logger = logging.getLogger(name)
        if logger.level < logging.CRITICAL:
            logger.setLevel(logging.CRITICAL)
    root = logging.getLogger()
    if _not_from_libp2p not in root.filters:
        root.addFilter(_not_from_libp2p)


def _not_from_libp2p(record: logging.LogRecord) -> bool:
    return f"{os.sep}libp2p{os.sep}" not in record.pathname


def _make_host(key: KeyPair, timeout_s: float) -> Any:
    from libp2p import create_yamux_muxer_option, new_host
    from libp2p.crypto.ed25519 import create_new_key_pair
    from libp2p.crypto.x25519 import create_new_key_pair as create_noise_key_pair
    from libp2p.security.noise.transport import PROTOCOL_ID, Transport

    keys = create_new_key_pair(key.private_bytes())
    host = new_host(
        key_pair=keys,
        sec_opt={PROTOCOL_ID: Transport(keys, noise_privkey=create_noise_key_pair().private_key)},
        muxer_opt=create_yamux_muxer_option(),
        connection_config=_connection_config(timeout_s),
        resource_manager=_resource_manager(),
        disable_identify_address_discovery=True,
    )
    network = host.get_network()
    network.set_stream_handler(_guarded(network.common_stream_handler))
    return host


def _connection_config(timeout_s: float) -> Any:
    from libp2p.network.config import ConnectionConfig

    return ConnectionConfig(
        max_connections_per_peer=1,
        min_connections=0,  # no dialling of strangers to fill a quota
        low_watermark=0,
        dial_timeout=timeout_s,
        inbound_upgrade_timeout=timeout_s,
        outbound_upgrade_timeout=timeout_s,
        inbound_stream_protocol_negotiation_timeout=timeout_s,
        outbound_stream_protocol_negotiation_timeout=timeout_s,
    )


def _resource_manager() -> Any:
    """Bound connections and streams; no rates, no breakers, no limit on the memory of a process that trains."""
    from libp2p.rcmgr import ResourceManager

    return ResourceManager(
        enable_metrics=False,
        enable_memory_limits=False,
        enable_circuit_breaker=False,
        enable_graceful_degradation=False,
        enable_rate_limiting=False,
    )


def _guarded(handle: Any) -> Any:
    async def handle_and_survive(stream: Any) -> None:
        try:
            await handle(stream)
        except Exception as error:  # noqa: BLE001 (border: an exception that leaves a handler ends the host)
            log.debug("an inbound stream ended: %r", error)
            await _settle(stream.reset)

    return handle_and_survive


@asynccontextmanager
async def _running(host: Any, place: TcpPlace, address: str) -> AsyncIterator[tuple[TcpPlace, ...]]:
    """Run the host in a shielded task: its closing must not be cancelled, or its listener stays open."""
    stop = trio.Event()
    async with trio.open_nursery() as nursery:
        bound = await nursery.start(_run_host, host, place, stop)
        try:
            if not bound:
                raise ConfigError(
                    f"Cannot listen at {address}.", hint="Name an address of this machine and a free port."
                )
            yield tuple(each for host_, port in bound for each in places_of(place, host_, port))
        finally:
            stop.set()


async def _run_host(
    host: Any, place: TcpPlace, stop: trio.Event, task_status: trio.TaskStatus[list[tuple[str, int]]]
) -> None:
    from multiaddr import Multiaddr

    with trio.CancelScope(shield=True) as scope:
        async with host.run([Multiaddr(str(place))]):
            task_status.started([_bound(str(each)) for each in host.get_transport_addrs()])
            await stop.wait()
            scope.deadline = trio.current_time() + _HOST_CLOSE_TIMEOUT_S
            await _close_host(host)


async def _close_host(host: Any) -> None:
    """Close what `run` would only cancel, which leaves sockets and the port open; each connection takes 0.2 s."""
    async with trio.open_nursery() as nursery:
        for connection in host.get_network().get_connections():
            nursery.start_soon(_settle, connection.close)
    await _settle(host.close)


def _bound(address: str) -> tuple[str, int]:
    place = parse_address(address).place
    if not isinstance(place, TcpPlace):
        raise ConfigError(
            f"libp2p listens at {address}, which is no TCP address.", hint="/ip4/127.0.0.1/tcp/0 takes a free port."
        )
    return place.host, place.port


def _probe_port(place: TcpPlace, address: str) -> None:
    """Raise if a port is taken. libp2p would share it with whoever has it, and each would get half the callers."""
    family = os_socket.AF_INET6 if place.kind == "ip6" else os_socket.AF_INET
    with os_socket.socket(family, os_socket.SOCK_STREAM) as probe:
        probe.setsockopt(os_socket.SOL_SOCKET, os_socket.SO_REUSEADDR, 1)  # past connections of a stopped node are fine
        try:
            probe.bind((place.host, place.port))
        except OSError as error:
            raise cannot_listen(error, address) from error


def _peer_object(peer: PeerId) -> Any:
    from libp2p.peer.id import ID

    return ID.from_string(peer)
