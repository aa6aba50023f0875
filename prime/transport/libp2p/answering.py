"""A protocol of a room above, on this side's end of the streams that peers open for it."""

from __future__ import annotations

import logging
from collections import Counter
from typing import Any

import anyio
import trio

from prime.actor.contract import PeerId
from prime.errors import PrimeError
from prime.transport import multistream
from prime.transport.contract import StreamHandler
from prime.transport.libp2p.connection import MuxedChannel

log = logging.getLogger(__name__)


class Answering:
    """Runs a handler on each stream: so many at a time, none of which harms another, until it is stopped."""

    def __init__(self, protocol: str, handler: StreamHandler, streams_max: int, peer_streams_max: int) -> None:
        self.greeting = multistream.proposal(protocol)
        """The first bytes of a stream whose opener knows what it wants, and of the answer."""
        self._protocol = protocol
        self._handler = handler
        self._streams_max = streams_max
        self._peer_streams_max = peer_streams_max
        self._of_peers: Counter[PeerId] = Counter()
        self._scopes: set[trio.CancelScope] = set()
        self._stopped = False

    def stop(self) -> None:
        """End every stream, and take no more."""
        self._stopped = True
        for scope in self._scopes:
            scope.cancel()

    async def receive(self, stream: Any) -> None:
        """Serve a stream whose protocol py-libp2p has negotiated."""
        await self.serve(stream.muxed_stream.channel)

    async def serve(self, channel: MuxedChannel) -> None:
        """Have the handler speak on a stream."""
        full = len(self._scopes) >= self._streams_max or self._of_peers[channel.peer] >= self._peer_streams_max
        if full or self._stopped:
            channel.reset()
            return
        self._of_peers[channel.peer] += 1
        scope, well = trio.CancelScope(), False
        self._scopes.add(scope)
        try:
            with scope:
                well = await self._handle(channel)
        finally:
            if well:
                channel.close_nowait()
            else:
                channel.reset()
            self._scopes.remove(scope)
            self._of_peers -= Counter([channel.peer])

    async def _handle(self, channel: MuxedChannel) -> bool:
        """Speak; tell whether that went well."""
        try:
            await self._handler(channel)
        except (PrimeError, OSError, anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError) as error:
            log.debug("a stream of %s for %s ended: %r", channel.peer, self._protocol, error)
        except Exception:  # border: the handler is a room's or a user's, and its fault must not end the host
            log.exception("what answers %s failed on a stream of %s", self._protocol, channel.peer)
        else:
            return True
        return False
