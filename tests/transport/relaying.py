"""A transport whose every connection is a circuit through one relay, for the suite that all transports pass."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import anyio
import attrs
import trio

from prime.actor.contract import PeerId
from prime.actor.groups import one_error
from prime.errors import WorldError
from prime.transport.contract import BACKLOG_MAX, DIAL_TIMEOUT_S, Channel, Endpoint, Transport
from prime.transport.identity import KeyPair
from prime.transport.relay import ledger
from prime.transport.relay.dialler import Dialler
from prime.transport.relay.hop import Hop
from prime.transport.relay.limits import RelayLimits
from prime.transport.relay.preface import PREFACE

ROOMY = RelayLimits(circuits_per_peer_max=64, circuit_bytes_per_s=2**30, relay_bytes_per_s=2**30)


async def until(ready: Callable[[], object], within_s: float = 10.0) -> None:
    """Wait until something out of reach has happened."""
    with trio.fail_after(within_s):
        while not ready():  # noqa: ASYNC110 - nobody tells
            await trio.sleep(0.01)


class Relay:
    """A relay without actors: whoever opens a `Relayed` transport has a slot and is told in a call of a function."""

    def __init__(self, endpoint: Endpoint, nursery: trio.Nursery, limits: RelayLimits = ROOMY) -> None:
        self.endpoint = endpoint
        self.nursery = nursery
        self.facts: deque[object] = deque(maxlen=32)  # the last ones: thousands of circuits leave nothing here
        self.targets: dict[str, Callable[[ledger.Offer], object]] = {}
        self.hop = Hop(limits, offer=self.offer, linked=self.targets.__contains__, emit=self.facts.append)
        self.wrap: Callable[[Channel], Channel] = lambda channel: channel

    @property
    def address(self) -> str:
        return self.endpoint.addresses[0]

    async def offer(self, offer: ledger.Offer) -> None:
        self.targets[offer.target](offer)

    async def serve(self) -> None:
        while True:
            self.nursery.start_soon(self.enter, await self.endpoint.accept())

    async def enter(self, channel: Channel) -> None:
        with suppress(anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
            if await channel.receive(1) == PREFACE:
                await self.hop.enter(self.wrap(channel))


@asynccontextmanager
async def open_relay(transport: Transport, limits: RelayLimits = ROOMY) -> AsyncIterator[Relay]:
    """Run a relay that listens over `transport`."""
    async with transport.open(KeyPair.generate()) as endpoint, trio.open_nursery() as nursery:
        relay = Relay(endpoint, nursery, limits)
        nursery.start_soon(relay.serve)
        try:
            yield relay
        finally:
            relay.hop.close()
            nursery.cancel_scope.cancel()


@attrs.frozen
class Relayed:
    """Reaches others, and is reached, only through `relay`."""

    relay: Relay
    inner: Transport
    backlog_max: int = BACKLOG_MAX
    dial_timeout_s: float = DIAL_TIMEOUT_S
    punched: bool = False
    emit: Callable[[object], None] = lambda _fact: None

    @property
    def name(self) -> str:
        return self.inner.name

    @asynccontextmanager
    async def open(self, key: KeyPair) -> AsyncIterator[Endpoint]:
        async with one_error(), self.inner.open(key) as inner, trio.open_nursery() as nursery:
            endpoint = RelayedEndpoint(self, inner, key, nursery)
            self.relay.targets[key.peer] = endpoint.offered
            self.relay.hop.feed(ledger.Wants(key.peer))
            try:
                yield endpoint
            finally:
                del self.relay.targets[key.peer]
                endpoint.close()
                nursery.cancel_scope.cancel()


class RelayedEndpoint:
    def __init__(self, transport: Relayed, inner: Endpoint, key: KeyPair, nursery: trio.Nursery) -> None:
        self._transport = transport
        self._inner = inner
        self._nursery = nursery
        self._dialler = Dialler(
            inner,
            key,
            timeout_s=transport.dial_timeout_s,
            spawn=nursery.start_soon if transport.punched else None,
            emit=transport.emit,
        )
        self._arrived, self._waiting = trio.open_memory_channel[Channel](transport.backlog_max)
        self._closed = False

    @property
    def peer(self) -> PeerId:
        return self._inner.peer

    @property
    def addresses(self) -> tuple[str, ...]:
        return (f"{self._transport.relay.address}/p2p-circuit/p2p/{self.peer}",)

    async def dial(self, address: str, peer: PeerId | None = None) -> Channel:
        if self._closed:
            raise anyio.ClosedResourceError
        return await self._dialler.dial(address, peer)

    async def accept(self) -> Channel:
        try:
            return await self._waiting.receive()
        except (trio.ClosedResourceError, trio.EndOfChannel):
            raise anyio.ClosedResourceError from None

    def offered(self, offer: ledger.Offer) -> None:
        if self._arrived.statistics().current_buffer_used < self._transport.backlog_max:
            self._nursery.start_soon(self._take_up, offer)

    async def _take_up(self, offer: ledger.Offer) -> None:
        with suppress(WorldError):
            channel = await self._dialler.take_up(self._transport.relay.address, offer.circuit, offer.token)
            await self._arrived.send(channel)

    def close(self) -> None:
        self._closed = True
        self._dialler.close()
        self._arrived.close()
        self._waiting.close()
