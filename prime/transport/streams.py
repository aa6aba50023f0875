"""Streams of other protocols than the actors', within what the admission of a node allows: those are no links, but peers all the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from prime.actor.contract import PeerId
from prime.errors import RefusedError
from prime.transport.admission import Caller
from prime.transport.contract import Channel, Identified, Protocols, StreamHandler
from prime.transport.gate import Gate


class AdmittedStreams:
    """The `Protocols` of an endpoint, for peers that the gate lets in, whoever opens the stream."""

    def __init__(self, endpoint: Protocols, gate: Gate, transport: str) -> None:
        self._endpoint = endpoint
        self._gate = gate
        self._transport = transport

    @property
    def peers(self) -> tuple[PeerId, ...]:
        """See `Protocols.peers`."""
        return tuple(peer for peer in self._endpoint.peers if not self._gate.admission.refusal(peer))

    def answer(
        self, protocol: str, handler: StreamHandler, *, streams_max: int = 256, peer_streams_max: int = 16
    ) -> Callable[[], None]:
        """See `Protocols.answer`. Streams of peers that may not link are reset."""

        async def admitted(channel: Channel) -> None:
            why = self._gate.admission.refusal(channel.peer)
            why = why or await self._gate.hook_refusal(Caller(channel.peer, self._transport, channel.remote))
            if why:
                raise RefusedError(f"a stream of {channel.peer}: {why}", hint="Change the admission of this node.")
            await handler(channel)

        return self._endpoint.answer(protocol, admitted, streams_max=streams_max, peer_streams_max=peer_streams_max)

    async def open_stream(self, protocol: str, peer: PeerId, addresses: Sequence[str] = ()) -> Channel:
        """See `Protocols.open_stream`; raises `RefusedError`, too."""
        self._gate.check(peer)
        return await self._endpoint.open_stream(protocol, peer, addresses)

    async def identify(self, peer: PeerId, addresses: Sequence[str] = ()) -> Identified:
        """See `Protocols.identify`; raises `RefusedError`, too."""
        self._gate.check(peer)
        return await self._endpoint.identify(peer, addresses)
