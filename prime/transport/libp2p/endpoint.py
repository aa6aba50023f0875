"""An opened libp2p transport: it dials, accepts, and keeps one connection with each peer for all streams.

Every connection runs in the endpoint's nursery, whoever opened it. Streams of the actors' protocol are answered here;
those of other protocols are left to py-libp2p.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final

import anyio
import trio
from libp2p.crypto.ed25519 import create_new_key_pair

from prime.actor.contract import PeerId
from prime.actor.deadlines import Deadlines
from prime.actor.groups import one_error
from prime.errors import PrimeError, RefusedError, RemoteProtocolError, UnreachableError, WrongPeerError
from prime.transport import multistream
from prime.transport.admission import Admission
from prime.transport.contract import CLOSE_TIMEOUT_S, Channel, Identified, StreamHandler
from prime.transport.hole import Hole
from prime.transport.identity import KeyPair
from prime.transport.libp2p.answering import Answering
from prime.transport.libp2p.circuit import (
    HOP,
    STOP,
    Circuit,
    CircuitInfo,
    Slots,
    answer_circuit,
    ask_for_circuit,
    ask_for_reservation,
)
from prime.transport.libp2p.connection import Connection, MuxedChannel
from prime.transport.libp2p.host import Places, make_host, running, settle
from prime.transport.libp2p.muxer import Muxer, Upgrader, agree_on_yamux
from prime.transport.libp2p.punch import (
    AGREE_S,
    DCUTR,
    IDENTIFY,
    PROVE_S,
    PUNCH_S,
    ask_where_seen,
    ask_who,
    begin,
    follow,
)
from prime.transport.libp2p.security import Check, Line, Secured, Security, remote_of
from prime.transport.libp2p.transport import PROTOCOL, Libp2p
from prime.transport.multiaddr import Address, CircuitPlace, TcpPlace, parse_address
from prime.transport.sockets import Doorway, Wire, tcp_place, tune
from prime.transport.tcp import dial_shared_socket, dial_socket, open_listener, places_of
from prime.transport.tls import open_credentials
from prime.transport.turns import SHARE, Rested, Turns

GREETING: Final = multistream.proposal(PROTOCOL)
"""The first bytes of a stream that a Prime node opens, and of the answer."""

ANSWER_S: Final = 0.5
"""After how long without an answer on a new stream its connection is in doubt, and others are dialled beside it."""
TURN_S: Final = 0.2
"""How long a dial waits for another one to the same peer, whose connection it would use."""
PROOF_PART: Final = 2 / 3
"""How much of what a stranger costs is its proof; the rest is to mux its connection and to tell py-libp2p of it."""
_NOT_SPOKEN: Final = {
    PROTOCOL: "Is a Prime node of the same major version running there?",
    HOP: "It is no relay.",
}
BEGIN_S: Final = 0.5
"""How long a dial through a relay waits for the other end to begin to punch."""

log = logging.getLogger(__name__)


@asynccontextmanager
async def open_endpoint(
    transport: Libp2p, key: KeyPair, place: TcpPlace, relays: tuple[Address, ...]
) -> AsyncIterator[Libp2pEndpoint]:
    """Listen at `place`, and be dialled through `relays`. Raises `AddressInUseError`, or `ConfigError` for one that this machine can't listen on."""
    listener = await open_listener(place, transport.address)
    with listener, open_credentials(key) as credentials:
        bound = places_of(place, *listener.getsockname()[:2])
        async with one_error(), trio.open_nursery() as nursery:
            keys = create_new_key_pair(key.private_bytes())
            security = Security(keys, credentials, lambda made: nursery.start_soon(settle, made.close))
            endpoint = Libp2pEndpoint(transport, key.peer, security, bound, relays, nursery)
            endpoint.host = make_host(
                keys, security.options(), Places(endpoint.connect, bound), transport.dial_timeout_s
            )
            network = endpoint.host.get_network()
            network.upgrader = Upgrader(
                security.options(), endpoint.begin, lambda made: nursery.start_soon(settle, made.close)
            )
            async with running(endpoint.host, place):
                endpoint.start(listener)
                try:
                    yield endpoint
                finally:
                    await endpoint.aclose()
                    nursery.cancel_scope.cancel()


class Libp2pEndpoint:
    """An opened libp2p transport."""

    def __init__(
        self,
        transport: Libp2p,
        peer: PeerId,
        security: Security,
        bound: tuple[TcpPlace, ...],
        relays: tuple[Address, ...],
        nursery: trio.Nursery,
    ) -> None:
        self.host: Any = None
        """py-libp2p's host: what else than actors is spoken over libp2p."""
        self.addresses = tuple(str(Address(place, peer)) for place in bound)
        self._transport = transport
        self._peer = peer
        self._security = security
        self._nursery = nursery
        self._timers = Deadlines()
        self._turns, self._proofs = Turns(), Rested(SHARE * PROOF_PART)
        self._doorway = Doorway(self._receive_caller, proving_max=transport.backlog_max)
        self._dialling: dict[PeerId, trio.Lock] = {}
        self._connections: dict[PeerId, list[Muxer]] = {}
        self._arrived, self._waiting = trio.open_memory_channel[MuxedChannel](transport.backlog_max)
        self._reservations = Slots(relays, self._reserve, self._announce) if relays else None
        self._own = self.addresses
        self._answering: dict[str, Answering] = {}
        self._following: dict[PeerId, _Following] = {}
        self._closed = False

    @property
    def peer(self) -> PeerId:
        """This side's own id."""
        return self._peer

    @property
    def connections(self) -> tuple[Connection, ...]:
        """The connections that are open."""
        return tuple(muxer.connection for muxers in self._connections.values() for muxer in muxers)

    @property
    def peers(self) -> tuple[PeerId, ...]:
        """See `Protocols.peers`."""
        return tuple(self._connections)

    def start(self, listener: trio.socket.SocketType) -> None:
        """Begin to receive callers."""
        self.host.set_stream_handler(PROTOCOL, self._receive_slowly)
        self._nursery.start_soon(self._timers.run)
        self.host.set_stream_handler(DCUTR, self._follow)
        if self._reservations is not None:
            self.host.set_stream_handler(STOP, self._receive_offer)
            self._nursery.start_soon(self._reservations.run)
        self._nursery.start_soon(self._doorway.serve, listener)

    def guard(self, admission: Admission) -> None:
        """See `Guarded.guard`."""
        self._doorway.guard(admission)

    async def dial(self, address: str, peer: PeerId | None = None) -> Channel:
        """See `Endpoint.dial`. Streams to one peer share a connection: an open one is used, whatever the address."""
        if self._closed:
            raise anyio.ClosedResourceError
        wanted = parse_address(address).expecting(peer)
        way = self._way(wanted)
        with trio.move_on_after(self._transport.dial_timeout_s):
            return await self._dial(wanted.peer, way, direct=isinstance(wanted.place, TcpPlace))
        raise UnreachableError(
            f"{wanted} did not answer within {self._transport.dial_timeout_s:g} s.",
            hint="Check that the node runs, and that no firewall drops what goes there.",
        )

    async def knock(self, address: str, peer: PeerId) -> None:
        """See `Shared.knock`."""
        place = parse_address(address).expecting(peer).place
        if not isinstance(place, TcpPlace):
            raise UnreachableError(f"{address} is no TCP address.", hint="Knock at one that this node listens at.")
        (await dial_socket(place)).close()

    def answer(
        self, protocol: str, handler: StreamHandler, *, streams_max: int = 256, peer_streams_max: int = 16
    ) -> Callable[[], None]:
        """See `Protocols.answer`."""
        answering = self._answering[protocol] = Answering(protocol, handler, streams_max, peer_streams_max)
        self.host.set_stream_handler(protocol, answering.receive)

        def stop() -> None:
            answering.stop()
            if self._answering.get(protocol) is answering:
                del self._answering[protocol]
                self.host.remove_stream_handler(protocol)

        return stop

    async def open_stream(self, protocol: str, peer: PeerId, addresses: Sequence[str] = ()) -> MuxedChannel:
        """See `Protocols.open_stream`."""
        if self._closed:
            raise anyio.ClosedResourceError
        with trio.move_on_after(self._transport.dial_timeout_s):
            return await self._open_named(protocol, peer, addresses)
        raise UnreachableError(
            f"{peer} did not answer within {self._transport.dial_timeout_s:g} s.",
            hint="Check that it runs, and that no firewall drops what goes there.",
        )

    async def identify(self, peer: PeerId, addresses: Sequence[str] = ()) -> Identified:
        """See `Protocols.identify`."""
        channel = await self.open_stream(IDENTIFY, peer, addresses)
        try:
            with trio.fail_after(self._transport.dial_timeout_s):
                return await ask_who(channel)
        except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError, trio.TooSlowError) as error:
            raise RemoteProtocolError(f"{peer} did not say who it is: {type(error).__name__}") from error
        finally:
            channel.close_nowait()

    async def accept(self) -> Channel:
        """See `Endpoint.accept`."""
        try:
            return await self._waiting.receive()
        except (trio.ClosedResourceError, trio.EndOfChannel):
            raise anyio.ClosedResourceError from None

    async def aclose(self) -> None:
        """Stop accepting and close every connection, within the time that a goodbye may take."""
        self._closed = True
        self._arrived.close()
        self._waiting.close()
        with trio.move_on_after(2 * CLOSE_TIMEOUT_S, shield=True):
            async with trio.open_nursery() as nursery:
                for connection in self.connections:
                    nursery.start_soon(connection.aclose)
        for connection in self.connections:
            connection.break_off("the endpoint closed")

    # ---- dialling

    def _way(self, wanted: Address) -> Callable[[], Awaitable[Muxer]]:
        """Return what makes a connection to an address, direct or through a standard relay."""
        match wanted:
            case Address(TcpPlace() as place, peer):
                return partial(self.connect, place, peer)
            case Address(CircuitPlace(relay), str(peer)):
                return partial(self._connect_through, relay, peer)
        raise UnreachableError(f"{wanted} is no TCP address.", hint="Dial it over the transport that it names.")

    async def _open_named(self, protocol: str, peer: PeerId, addresses: Sequence[str]) -> MuxedChannel:
        """Open a stream of any protocol. Raises what the last of the addresses that were tried gave."""
        error = UnreachableError(f"{peer} is not connected, and no address of it is known.", hint="Give an address.")
        muxer = self._connected(peer)
        if muxer is not None:
            try:
                return await self._open_stream(muxer, protocol)
            except UnreachableError as failed:
                if not muxer.is_closed:
                    raise
                error = failed
        for wanted in [parse_address(address).expecting(peer) for address in addresses]:
            direct = isinstance(wanted.place, TcpPlace)
            try:
                return await self._dial(peer, self._way(wanted), direct=direct, protocol=protocol)
            except UnreachableError as failed:
                error = failed
        raise error

    async def _dial(
        self, peer: PeerId | None, way: Callable[[], Awaitable[Muxer]], *, direct: bool, protocol: str = PROTOCOL
    ) -> MuxedChannel:
        if peer is None:
            return await self._open_stream(await self._adopt(await way()), protocol)
        async with _turn(self._dialling, peer):
            muxer = self._connected(peer)
            if muxer is None or (direct and muxer.relayed):
                muxer = await self._made(peer, way)
                return await self._open_stream(muxer, protocol)
        if muxer.relayed and (following := self._following.get(peer)) is not None:
            await following.wait()
            muxer = self._instead_of(muxer)
        try:
            return await self._open_stream(muxer, protocol)
        except UnreachableError:
            if not muxer.is_closed:
                raise
        # That connection had died unnoticed: once more, with a new one.
        return await self._open_stream(await self._made(peer, way), protocol)

    async def _made(self, peer: PeerId, way: Callable[[], Awaitable[Muxer]]) -> Muxer:
        """Make a connection, and if it is a circuit, see whether the other end makes a direct one of it."""
        following = self._following.setdefault(peer, _Following())
        try:
            muxer = await self._adopt(await way())
            if muxer.relayed:
                await following.wait()
                return self._instead_of(muxer)
            return muxer
        finally:
            if self._following.get(peer) is following:
                del self._following[peer]

    def _instead_of(self, circuit: Muxer) -> Muxer:
        """Return the direct connection that was made of a circuit, which is left then; or the circuit."""
        best = self._connected(circuit.connection.peer) or circuit
        if not best.relayed:
            self._nursery.start_soon(circuit.connection.aclose)
        return best

    def _connected(self, peer: PeerId) -> Muxer | None:
        """Return the best connection with a peer: a direct one before a circuit, and the latest of those."""
        known = reversed(self._connections.get(peer, []))
        muxers = [muxer for muxer in known if not muxer.is_closed and muxer.connection.takes_streams]
        return min(muxers, key=lambda muxer: muxer.relayed, default=None)

    async def connect(self, place: TcpPlace, expected: PeerId | None, *, shared: bool = False) -> Muxer:
        """Connect, prove identities and begin to mux. Raises `UnreachableError` and `WrongPeerError`.

        `shared`: from a port that further connections can be made from, to punch a hole.
        """
        socket = await (dial_shared_socket if shared else dial_socket)(place)
        wire = Wire(socket)
        try:
            muxer = await self._upgrade(wire, _expecting(place, expected))
        except (RemoteProtocolError, anyio.BrokenResourceError, anyio.ClosedResourceError) as error:
            wire.close()
            raise UnreachableError(
                f"{place} does not speak libp2p with TLS or Noise and Yamux: {str(error) or type(error).__name__}.",
                hint="Check host and port, and that both sides chose the same transport.",
            ) from error
        except BaseException:
            wire.close()
            raise
        if shared:
            muxer.shared_place = tcp_place(*socket.getsockname()[:2])
        return muxer

    async def _upgrade(self, wire: Line, check: Check | None, made: CircuitInfo | None = None) -> Muxer:
        secured = await (self._security.dial(wire, check) if check else self._security.accept(wire, self._proofs))
        if not secured.muxed:
            await agree_on_yamux(secured.conduit, dialled=check is not None)
        return self._mux(secured, remote_of(wire), made, dialled=check is not None)

    async def _adopt(self, muxer: Muxer) -> Muxer:
        """Use a connection that this side opened, unless it turns out to have one with that peer already.

        One that the peer opened does not count: two that dial each other would each give up its own.
        """
        others = self._connections.get(muxer.connection.peer, ())
        for other in others:
            same = other is not muxer and other.is_initiator and other.relayed == muxer.relayed
            if same and not other.is_closed and other.connection.takes_streams:
                muxer.connection.close_nowait()
                return other
        self._nursery.start_soon(self._introduce, muxer)
        return muxer

    async def _open_stream(self, muxer: Muxer, protocol: str = PROTOCOL) -> MuxedChannel:
        """Open a stream; a connection on which nothing comes back at all has died, and is ended."""
        connection = muxer.connection
        try:
            channel = connection.open()
        except RefusedError as error:
            raise UnreachableError(f"{error} ({connection.peer}).", hint=error.hint) from error
        except anyio.BrokenResourceError as error:
            raise _no_stream(connection.peer, protocol, str(error)) from error
        alarm = self._timers.at(trio.current_time() + ANSWER_S, channel.doubt)
        try:
            await multistream.propose(channel.send, channel.receive, (protocol,))
        except (RemoteProtocolError, anyio.BrokenResourceError, anyio.EndOfStream, anyio.ClosedResourceError) as error:
            channel.reset()
            raise _no_stream(connection.peer, protocol, str(error) or type(error).__name__) from error
        except BaseException:
            channel.reset()
            raise
        finally:
            alarm.cancel()
        return channel

    # ---- circuits through standard relays

    async def _connect_through(self, relay: Address, peer: PeerId) -> Muxer:
        """Connect to a peer by a circuit through a relay; raises as `connect`, and `RefusedError`."""
        between = await self._relay(relay)
        channel = await self._open_stream(between, HOP)
        try:
            await ask_for_circuit(channel, peer)
            info = CircuitInfo(between.connection.peer, peer)
            return await self._upgrade(Circuit(channel), _expecting(f"{relay}/p2p-circuit", peer), info)
        except (RemoteProtocolError, anyio.BrokenResourceError, anyio.ClosedResourceError) as error:
            channel.reset()
            raise UnreachableError(
                f"{peer} does not speak libp2p behind {relay}: {str(error) or type(error).__name__}.",
                hint="Standard relays end a circuit early: try again, or use a relay with higher limits.",
            ) from error
        except BaseException:
            channel.reset()
            raise

    async def _relay(self, relay: Address) -> Muxer:
        """Return a connection to a relay that holes can be punched from, if need be a second one.

        Of two, py-libp2p knows the first: what the relay opens by itself comes that way.
        """
        if not isinstance(relay.place, TcpPlace) or relay.peer is None:
            raise UnreachableError(f"{relay} is no TCP address.", hint="Dial it over the transport that it names.")
        async with _turn(self._dialling, relay.peer):
            known = [muxer for muxer in self._connections.get(relay.peer, ()) if not muxer.is_closed]
            for muxer in known:
                if muxer.shared_place is not None and muxer.connection.takes_streams:
                    return muxer
            muxer = await self.connect(relay.place, relay.peer, shared=True)
            return muxer if known else await self._adopt(muxer)

    async def _reserve(self, relay: Address) -> tuple[PeerId, float, trio.Event]:
        muxer = self._connected(relay.peer) if relay.peer else None
        muxer = muxer or await self._relay(relay)
        channel = await self._open_stream(muxer, HOP)
        try:
            return muxer.connection.peer, await ask_for_reservation(channel), muxer.connection.ended
        finally:
            channel.close_nowait()

    def _announce(self, relays: tuple[str, ...]) -> None:
        self.addresses = (*self._own, *(f"{relay}/p2p-circuit/p2p/{self._peer}" for relay in relays))

    async def _receive_offer(self, stream: Any) -> None:
        """Take up a circuit, if it comes from a relay that keeps a slot for this node."""
        channel = stream.muxed_stream.channel
        muxer = None
        try:
            if self._reservations is not None and self._reservations.keeps(channel.peer):
                with trio.move_on_after(self._transport.dial_timeout_s):
                    info = CircuitInfo(channel.peer, await answer_circuit(channel))
                    muxer = await self._upgrade(Circuit(channel), None, info)
        except (PrimeError, anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.EndOfStream) as error:
            log.debug("a circuit through %s came to nothing: %r", channel.peer, error)
        finally:
            if muxer is None:
                channel.reset()
        if muxer is not None:
            self._nursery.start_soon(self._begin_punch, muxer, channel.peer)
            await self._introduce(muxer)
            await channel.over.wait()

    # ---- direct connections instead of circuits

    async def _begin_punch(self, circuit: Muxer, relay: PeerId) -> None:
        """Make a direct connection with the peer at the other end of a circuit that it asked for."""
        peer = circuit.connection.peer
        try:
            with trio.move_on_after(AGREE_S) as agreeing:
                own, seen = await self._punch_from(relay)
                channel = await self._open_stream(circuit, DCUTR)
                theirs = await begin(channel, seen)
            if not agreeing.cancelled_caught and theirs:
                await Hole(own, partial(self._prove_punched, peer, None), PUNCH_S).open(theirs)
        except (PrimeError, anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.EndOfStream) as error:
            log.debug("the circuit with %s stays: %r", peer, error)

    async def _follow(self, stream: Any) -> None:
        """Do the same as the end that dialled; only with a peer that is being dialled through a relay just now."""
        channel = stream.muxed_stream.channel
        following, circuit = self._following.get(channel.peer), stream.muxed_stream.muxed_conn
        if following is None or not circuit.relayed:
            channel.reset()
            return
        following.begun.set()
        try:
            with trio.move_on_after(AGREE_S) as agreeing:
                own, seen = await self._punch_from(circuit.secured_conn.relay)
                theirs = await follow(channel, seen)
            if not agreeing.cancelled_caught and theirs:
                check = _expecting("the hole", channel.peer)
                await Hole(own, partial(self._prove_punched, channel.peer, check), PUNCH_S).open(theirs)
        except (PrimeError, anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.EndOfStream) as error:
            log.debug("the circuit with %s stays: %r", channel.peer, error)
        finally:
            following.over.set()
            channel.finish()

    async def _punch_from(self, relay: PeerId) -> tuple[TcpPlace, list[TcpPlace]]:
        """Return the place to punch from, and where the other end shall dial. Raises `UnreachableError`."""
        muxer = next((each for each in self._connections.get(relay, ()) if each.shared_place), None)
        if muxer is None or muxer.shared_place is None:
            raise UnreachableError("The connection with the relay is from a port of its own.", hint="Use the circuit.")
        channel = await self._open_stream(muxer, IDENTIFY)
        try:
            seen = await ask_where_seen(channel)
        finally:
            channel.close_nowait()
        return muxer.shared_place, [place for place in (seen, muxer.shared_place) if place is not None]

    async def _prove_punched(self, peer: PeerId, check: Check | None, socket: trio.socket.SocketType) -> Muxer:
        with trio.fail_after(PROVE_S):
            muxer = await self._upgrade(Wire(socket), check)
        if muxer.connection.peer != peer:
            muxer.connection.close_nowait()
            raise RemoteProtocolError(f"another peer came through the hole for {peer}")
        self._nursery.start_soon(self._introduce, muxer)
        return muxer

    # ---- connections

    def begin(self, secured: Secured, dialled: bool, made: Any) -> Muxer:  # noqa: FBT001 - as py-libp2p calls it
        """Mux one of py-libp2p's own connections, `made`."""
        return self._mux(secured, made.get_remote_address(), made, dialled=dialled)

    def _mux(self, secured: Secured, remote: tuple[str, int] | None, made: Any, *, dialled: bool) -> Muxer:
        connection = Connection(
            secured.conduit,
            secured.peer,
            self._timers,
            dialled=dialled,
            greet=lambda channel: self._nursery.start_soon(self._greet, muxer, channel),
            limits=self._transport.limits,
            turns=self._turns,
        )
        connection.remote = str(tcp_place(*remote)) if remote else ""
        muxer = Muxer(connection, remote, made)
        connection.relayed = muxer.relayed
        self._connections.setdefault(secured.peer, []).append(muxer)
        self._nursery.start_soon(self._carry, muxer)
        if self._closed:
            connection.close_nowait()
        return muxer

    async def _carry(self, muxer: Muxer) -> None:
        """Carry a connection until it ends, or `aclose` ends it: who is cancelled may still have goodbyes to say."""
        try:
            with trio.CancelScope(shield=True):
                await muxer.connection.run()
        finally:
            peer = muxer.connection.peer
            self._connections[peer].remove(muxer)
            if not self._connections[peer]:
                del self._connections[peer]

    async def _introduce(self, muxer: Muxer) -> None:
        """Show a connection to py-libp2p, which closes it if it has too many."""
        direction = "outbound" if muxer.is_initiator else "inbound"
        try:
            await self.host.get_network().add_conn(muxer, direction=direction)
        except Exception as error:  # noqa: BLE001 (border: py-libp2p raises whatever its layers raise)
            log.debug("py-libp2p did not take the connection with %s: %r", muxer.connection.peer, error)
            muxer.connection.close_nowait()

    # ---- callers

    async def _receive_caller(self, socket: trio.socket.SocketType) -> None:
        muxer = None
        try:
            with trio.move_on_after(self._transport.dial_timeout_s):
                tune(socket)
                muxer = await self._upgrade(Wire(socket), None)
        except (PrimeError, OSError, anyio.BrokenResourceError, anyio.ClosedResourceError) as error:
            log.debug("a caller was not let in: %r", error)  # a stranger's fault, and strangers are many
        finally:
            if muxer is None:
                socket.close()
        if muxer is not None:
            self._nursery.start_soon(self._introduce, muxer)

    async def _greet(self, muxer: Muxer, channel: MuxedChannel) -> None:
        """See which protocol a new stream is for: those of rooms above are answered at once, others are py-libp2p's."""
        first = b""
        with trio.move_on_after(self._transport.dial_timeout_s):
            first = await channel.peek()
        if first.startswith(GREETING):
            await self._welcome(channel, GREETING, self._deliver)
            return
        for answering in tuple(self._answering.values()):
            if first.startswith(answering.greeting):
                await self._welcome(channel, answering.greeting, answering.serve)
                return
        if first:
            muxer.hand_over(channel)
        else:
            channel.reset()

    async def _welcome(
        self, channel: MuxedChannel, greeting: bytes, then: Callable[[MuxedChannel], Awaitable[None]]
    ) -> None:
        left = len(greeting)
        try:
            while left:
                left -= len(await channel.receive(left))
            await channel.send(greeting)
        except (anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.EndOfStream) as error:
            log.debug("a stream of %s ended at once: %r", channel.peer, error)
            return
        await then(channel)

    async def _receive_slowly(self, stream: Any) -> None:
        """Take over a stream whose protocol py-libp2p has negotiated, for as long as it lives."""
        channel = stream.muxed_stream.channel
        await self._deliver(channel)
        await channel.over.wait()

    async def _deliver(self, channel: MuxedChannel) -> None:
        try:
            with trio.fail_after(self._transport.dial_timeout_s):
                await self._arrived.send(channel)
        except (trio.TooSlowError, trio.ClosedResourceError, trio.BrokenResourceError):
            channel.reset()


class _Following:
    """A dial through a relay, while the other end may make a direct connection of it."""

    def __init__(self) -> None:
        self.begun = trio.Event()
        self.over = trio.Event()

    async def wait(self) -> None:
        """Wait until that is over, not for long if it does not begin."""
        with trio.move_on_after(BEGIN_S):
            await self.begun.wait()
        if self.begun.is_set():
            with trio.move_on_after(AGREE_S + PUNCH_S):
                await self.over.wait()


@asynccontextmanager
async def _turn(locks: dict[PeerId, trio.Lock], peer: PeerId) -> AsyncIterator[None]:
    """Let one task at a time connect to a peer; one that waits in vain goes ahead beside the others.

    Whoever connects may wait for an answer that never comes, while a fresh attempt would get through.
    """
    lock = locks.setdefault(peer, trio.Lock())
    with trio.move_on_after(TURN_S):
        await lock.acquire()
    held = lock.statistics().owner is trio.lowlevel.current_task()
    try:
        yield
    finally:
        if held:
            lock.release()
        if not lock.locked() and locks.get(peer) is lock:
            del locks[peer]


def _expecting(place: TcpPlace | str, expected: PeerId | None) -> Check:
    def check(answers: PeerId) -> None:
        if expected not in {None, answers}:
            raise WrongPeerError(
                f"At {place} answers {answers}, not {expected}.",
                hint="Correct the address, or find out why that machine has another key.",
            )

    return check


def _no_stream(peer: PeerId, protocol: str, why: str) -> UnreachableError:
    hint = _NOT_SPOKEN.get(protocol, "Ask a peer that speaks this protocol.")
    return UnreachableError(f"{peer} opened no stream for {protocol}: {why}.", hint=hint)
