"""py-libp2p's host, made with its public options and kept from what it would do by itself.

It gives identify, ping, the peer store, connection gates and what else speaks over a libp2p connection. Connections are
made and muxed by Prime; its own transport (`Places`) stands in for py-libp2p's TCP, so that what py-libp2p dials by
itself goes the same way. Its traps, each with its rule here:

- *An exception in a stream handler ends the host.* The host's handler is wrapped.
- *Failed dials block a peer for a minute, retry with delays and log errors; a good one waits 250 ms.* Prime's dials pass
  it by and hand their connection over.
- *Its listener shares the port with any other process of the user, and keeps a task and a slot of each connection until
  the host ends.* The listener is Prime's.
- *The muxer given to it is ignored.* See `muxer`.
- *Each peer that ever left is remembered, so as not to be dialled again.* Nobody is, so nobody is remembered.
- *Plaintext and secio are on offer, connections are rate-limited, unknown peers are dialled to fill a quota.* All off.
- *It reports each stranger's failed handshake, some through the root logger.* It logs only if asked to.
"""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import trio
from libp2p import new_host
from libp2p.abc import IListener, ITransport
from libp2p.network.config import ConnectionConfig
from libp2p.rcmgr import ResourceManager
from libp2p.transport.exceptions import OpenConnectionError
from multiaddr import Multiaddr

from prime.actor.contract import PeerId
from prime.errors import ConfigError, PrimeError
from prime.transport.multiaddr import Address, TcpPlace, parse_address

CLOSE_TIMEOUT_S = 5.0
STREAMS_MAX = 1 << 20
"""py-libp2p's own count of streams, past which it waits for ever; Prime's limit is per connection, and an error."""

log = logging.getLogger(__name__)


def make_host(keys: Any, security: dict[str, Any], places: Places, timeout_s: float) -> Any:
    """Return a host that is not yet running."""
    quieten()
    host = new_host(
        key_pair=keys,
        sec_opt=security,
        muxer_opt={},
        transports=[places],
        connection_config=_connection_config(timeout_s),
        resource_manager=_resource_manager(),
        disable_identify_address_discovery=True,
    )
    network = host.get_network()
    network.set_stream_handler(_guarded(network.common_stream_handler))
    network.auto_connector.record_disconnect = _forget
    return host


@asynccontextmanager
async def running(host: Any, place: TcpPlace) -> AsyncIterator[None]:
    """Run the host in a shielded task: its closing must not be cancelled, or tasks of it stay."""
    ready, stop = trio.Event(), trio.Event()
    async with trio.open_nursery() as nursery:
        # `nursery.start`, cancelled, would wait for the end of the shielded task, which waits to be told to stop.
        nursery.start_soon(_run_host, host, place, ready, stop)
        try:
            await ready.wait()
            yield
        finally:
            stop.set()


async def _run_host(host: Any, place: TcpPlace, ready: trio.Event, stop: trio.Event) -> None:
    with trio.CancelScope(shield=True) as scope:
        async with host.run([Multiaddr(str(place))]):
            ready.set()
            await stop.wait()
            scope.deadline = trio.current_time() + CLOSE_TIMEOUT_S
            await _close_host(host)


async def _close_host(host: Any) -> None:
    """Close what `run` would only cancel, which leaves sockets open; each connection takes 0.1 s."""
    async with trio.open_nursery() as nursery:
        for connection in host.get_network().get_connections():
            nursery.start_soon(settle, connection.close)
    await settle(host.close)


async def settle(call: Callable[..., Awaitable[Any]], *arguments: Any) -> None:
    """Do one of py-libp2p's closings; what goes wrong in it is of no interest any more."""
    try:
        await call(*arguments)
    except Exception as error:  # noqa: BLE001 (border: py-libp2p raises whatever its layers raise)
        log.debug("closing raised %r", error)


def quieten() -> None:
    """Let py-libp2p log only if asked to, with `LIBP2P_DEBUG`."""
    if os.environ.get("LIBP2P_DEBUG"):
        return
    for name in ("libp2p", "libp2p.network.auto_connector"):
        logger = logging.getLogger(name)
        if logger.level < logging.CRITICAL:
            logger.setLevel(logging.CRITICAL)
    root = logging.getLogger()
    if not_from_libp2p not in root.filters:
        root.addFilter(not_from_libp2p)


def not_from_libp2p(record: logging.LogRecord) -> bool:
    """Filter what py-libp2p logs through the root logger."""
    libp2p_s_own = f"{os.sep}site-packages{os.sep}libp2p{os.sep}"
    return libp2p_s_own not in record.pathname


def _connection_config(timeout_s: float) -> Any:
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
    """Bound connections; no rates, no breakers, no limit on the memory of a process that trains."""
    from libp2p.rcmgr.manager import ResourceLimits

    return ResourceManager(
        limits=ResourceLimits(max_streams=STREAMS_MAX),
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
            await settle(stream.reset)

    return handle_and_survive


def _forget(_peer: Any) -> None:
    """Keep nothing of a peer that left."""


class Places(ITransport):
    """TCP as Prime does it, for py-libp2p: what it dials comes secured and muxed, and its listener is Prime's."""

    def __init__(self, dial: Callable[[TcpPlace, PeerId | None], Awaitable[Any]], bound: tuple[TcpPlace, ...]) -> None:
        self._dial = dial
        self._bound = bound

    async def dial(self, maddr: Any) -> Any:
        """Return a muxed connection to whoever answers there."""
        try:
            address = parse_address(str(maddr))
            if not isinstance(address.place, TcpPlace):
                raise ConfigError(f"{maddr} is no TCP address.", hint="Dial it over the transport that it names.")
            return await self._dial(address.place, address.peer)
        except PrimeError as error:
            raise OpenConnectionError(str(error)) from error

    def create_listener(self, handler_function: Any) -> Listening:  # noqa: ARG002 - callers are Prime's to receive
        """Return the listener."""
        return Listening(self._bound)

    def can_dial(self, maddr: Any) -> bool:
        """Tell whether an address is a plain TCP one."""
        try:
            return isinstance(parse_address(str(maddr)).place, TcpPlace)
        except ConfigError:
            return False

    def can_listen(self, maddr: Any) -> bool:
        """Tell whether an address is a plain TCP one."""
        return self.can_dial(maddr)

    def protocols(self) -> list[str]:
        """Return the names of the protocols in its addresses."""
        return ["tcp"]


class Listening(IListener):
    """Where this node listens, for py-libp2p to tell others; the endpoint accepts, and closes."""

    def __init__(self, bound: tuple[TcpPlace, ...]) -> None:
        self._bound = bound

    async def listen(self, maddr: Any) -> None:
        """Listen: the endpoint does already."""

    def get_addrs(self) -> tuple[Any, ...]:
        """Return the addresses with their real port."""
        return tuple(Multiaddr(str(Address(each))) for each in self._bound)

    async def close(self) -> None:
        """Close: the endpoint does."""
