"""The one contract of all transports: a channel of bytes to a peer whose identity was proved.

Above this contract nothing knows sockets; below it nothing knows messages. A transport is a small configuration object
that a user passes (`prime.Tcp("/ip4/127.0.0.1/tcp/0")`); `open` turns it into an endpoint that listens and dials; each
connection is a channel. The conformance suite in `prime.testing.transport` holds every transport to what is written here.

The byte contract is anyio's `ByteStream`, made exact in the places that anyio leaves open:

- `receive` returns at least one byte, or raises `anyio.EndOfStream` after the peer's `send_eof` or `aclose`,
  `anyio.BrokenResourceError` if the connection broke, `anyio.ClosedResourceError` after (or during) our own `aclose`,
  and `anyio.BusyResourceError` while another task receives. A cancelled `receive` loses no byte.
- `send` returns when the bytes are handed on (never proof that the peer read them) and waits while the peer does not
  read. A cancelled `send` has sent nothing, or everything, or the channel is broken: a part of one send is never
  followed by bytes of another.
- `send_eof` ends our direction; the other stays open. `aclose` ends both, is idempotent, and is bounded in time.
- The end of a stream is no proof that all arrived (libp2p shows a reset as an end): the layer above sends lengths.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol, TypeAlias, runtime_checkable

import anyio.abc
import attrs
import trio

from prime.actor.contract import PeerId
from prime.errors import WrongBackendError
from prime.transport.admission import Admission
from prime.transport.identity import KeyPair

Buffer: TypeAlias = bytes | bytearray | memoryview
"""What `Channel.send` takes; it may be reused as soon as `send` has returned."""

DIAL_TIMEOUT_S = 10.0
"""How long a dial may take, from the first packet to the proved identity, unless the transport is told otherwise."""

CLOSE_TIMEOUT_S = 1.0
"""How long `Channel.aclose` may take to say goodbye before it just lets go."""

BACKLOG_MAX = 64
"""How many proved inbound channels may wait for `accept`, and how many may be proving themselves."""


class Channel(anyio.abc.ByteStream):
    """A stream of bytes in both directions, to a peer whose identity was proved."""

    @property
    @abstractmethod
    def peer(self) -> PeerId:
        """The proved identity of the other side."""

    @property
    def relayed(self) -> bool:
        """Whether the bytes go through a relay just now."""
        return False

    @property
    def remote(self) -> str:
        """Where the other side's bytes come from, as seen here: an address without `/p2p/`; empty if unknown."""
        return ""

    @abstractmethod
    async def receive(self, max_bytes: int = 65536) -> bytes:
        """Return between 1 and `max_bytes` bytes; see the module's text for the ways it ends."""

    async def receive_into(self, room: memoryview) -> int:
        """As `receive`, into the beginning of `room`, which has at least a byte; return how many bytes those are.

        A transport that can have them there without a copy does; while it waits, `room` is its own.
        """
        data = await self.receive(len(room))
        room[: len(data)] = data
        return len(data)

    @abstractmethod
    async def send(self, item: Buffer) -> None:
        """Send all bytes of `item` (one-dimensional, contiguous); see the module's text for cancellation."""

    def doubt(self) -> None:
        """Hear that nothing comes back on this channel: a dial must not go over a connection that it shares, until it does.

        Nothing to do for a channel with a connection of its own.
        """

    def send_nowait(self, item: Buffer) -> int:  # noqa: ARG002 - a transport may know better
        """Hand on what can be handed on without waiting and return how many bytes of `item` that were; 0 is no error.

        Only while no `send` is under way. What is left must be sent next.
        """
        return 0


class Endpoint(Protocol):
    """An opened transport: it listens, and it dials."""

    @property
    def peer(self) -> PeerId:
        """This side's own id."""
        ...

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where others can dial it: multiaddr texts with the real port and `/p2p/<own id>`."""
        ...

    async def dial(self, address: str, peer: PeerId | None = None) -> Channel:
        """Open a channel to whoever answers at `address`.

        The identity expected is `peer`, or else the `/p2p/` part of the address, or else any. Raises `ConfigError`
        (no multiaddr, or its `/p2p/` part contradicts `peer`), `UnreachableError` (nobody answered within the
        transport's dial deadline, or not with its protocol, or the address belongs to another transport),
        `WrongPeerError`, and `anyio.ClosedResourceError` once the endpoint is closed.
        """
        ...

    async def accept(self) -> Channel:
        """Wait for the next inbound channel whose peer has proved its identity.

        Inbound connections that fail to prove one are dropped without a trace here. Raises
        `anyio.ClosedResourceError` once the endpoint is closed.
        """
        ...


@runtime_checkable
class Guarded(Protocol):
    """An endpoint that lets an admission say whose connections may prove themselves; others bound them on their own."""

    def guard(self, admission: Admission) -> None:
        """Ask `admission` from now on; called once, before the first `accept`."""
        ...


@runtime_checkable
class Shared(Protocol):
    """An endpoint whose channels to one peer share a connection, so that `dial` need not connect anew."""

    async def knock(self, address: str, peer: PeerId) -> None:
        """Connect to `address` anew, see that somebody listens there, and hang up. Raises as `Endpoint.dial`."""
        ...


StreamHandler: TypeAlias = Callable[[Channel], Awaitable[None]]
"""Speaks on one stream. The stream is closed when it returns, and reset when it raises."""


@attrs.frozen
class Identified:
    """What a peer says of itself: the protocols whose streams it answers, and where it listens.

    `remote` is where its bytes come from, as seen here; empty if unknown.
    """

    protocols: tuple[str, ...]
    addresses: tuple[str, ...]
    remote: str = ""


@runtime_checkable
class Protocols(Protocol):
    """An endpoint whose connections also carry streams of other protocols than the actors', each by its name.

    Programs that are not Prime speak them; a room above needs to know no more of libp2p than this.
    """

    @property
    def peers(self) -> tuple[PeerId, ...]:
        """Those with whom there is a connection now, whoever opened it."""
        ...

    def answer(
        self, protocol: str, handler: StreamHandler, *, streams_max: int = 256, peer_streams_max: int = 16
    ) -> Callable[[], None]:
        """Have `handler` speak on each stream that a peer opens for `protocol`, until what is returned is called.

        Streams beyond so many in all, or of one peer, are reset. Nothing that a handler raises harms another stream.
        """
        ...

    async def open_stream(self, protocol: str, peer: PeerId, addresses: Sequence[str] = ()) -> Channel:
        """Open a stream over the connection with a peer, or else over one that is dialled at these addresses, in turn.

        Raises `UnreachableError` (also where the peer does not speak the protocol), `WrongPeerError`, `ConfigError`, and
        `anyio.ClosedResourceError` once the endpoint is closed. A channel that breaks as its connection was lost says why in
        the text of its `anyio.BrokenResourceError`; of one that the peer has reset the text is empty.
        """
        ...

    async def identify(self, peer: PeerId, addresses: Sequence[str] = ()) -> Identified:
        """Ask a peer what it says of itself. Raises as `open_stream`, and `RemoteProtocolError`."""
        ...


@runtime_checkable
class Wrapping(Protocol):
    """An endpoint around another one, which may know more than this one passes on."""

    @property
    def inner(self) -> Endpoint:
        """The endpoint within."""
        ...


def innermost(endpoint: Endpoint) -> Endpoint:
    """Return the endpoint that connects, whatever is around it."""
    while isinstance(endpoint, Wrapping):
        endpoint = endpoint.inner
    return endpoint


class Transport(Protocol):
    """What a user chooses: how this node's bytes travel. Immutable; opening it does the work."""

    @property
    def name(self) -> str:
        """The name by which it is chosen: `memory`, `unix`, `tcp`, `libp2p`, or that of a package's own."""
        ...

    def open(self, key: KeyPair) -> AbstractAsyncContextManager[Endpoint]:
        """Listen as the owner of `key` until the context is left; channels still open are closed then.

        Entering raises `WrongBackendError` outside Trio, `AddressInUseError`, `ConfigError` (an address that cannot
        be listened on) and `MissingExtraError`.
        """
        ...


async def let_go(channel: Channel) -> None:
    """Close a channel on the way out, also where the caller is cancelled; not for long, whatever its `aclose` does."""
    with trio.CancelScope(shield=True, deadline=trio.current_time() + 3 * CLOSE_TIMEOUT_S):
        await channel.aclose()


def require_trio() -> None:
    """Raise `WrongBackendError` unless a Trio event loop runs the caller."""
    if not trio.lowlevel.in_trio_run():
        raise WrongBackendError(
            "Prime was started under another event loop than Trio's.",
            hint='Prime runs on Trio: start it with trio.run(main) or anyio.run(main, backend="trio").',
        )
