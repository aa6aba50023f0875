"""What a user chooses to speak libp2p: `Libp2p("/ip4/127.0.0.1/tcp/0")`."""

from __future__ import annotations

import importlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import attrs
import trio

from prime.errors import ConfigError, MissingExtraError
from prime.transport.contract import BACKLOG_MAX, DIAL_TIMEOUT_S, require_trio
from prime.transport.identity import KeyPair
from prime.transport.multiaddr import Address, TcpPlace, parse_address
from prime.transport.sockets import keep_freed_memory
from prime.transport.tcp import listen_place
from prime.transport.yamux import YamuxLimits

if TYPE_CHECKING:
    from prime.transport.libp2p.endpoint import Libp2pEndpoint

PROTOCOL: Final = "/prime/actor/1"


@attrs.frozen
class Libp2p:
    """The libp2p transport (extra `libp2p`): `address` is where to listen, port 0 for any free one.

    `via` are standard libp2p relays (circuit relay v2) through which this node shall be dialled, each with its `/p2p/`.
    `limits` is what each connected peer may use: streams, and memory for what it has sent and nobody has read.
    """

    address: str = "/ip4/127.0.0.1/tcp/0"
    backlog_max: int = BACKLOG_MAX
    dial_timeout_s: float = DIAL_TIMEOUT_S
    limits: YamuxLimits = attrs.field(factory=YamuxLimits)
    via: tuple[str, ...] = attrs.field(default=(), kw_only=True)

    @property
    def name(self) -> str:
        """`libp2p`."""
        return "libp2p"

    @asynccontextmanager
    async def open(self, key: KeyPair) -> AsyncIterator[Libp2pEndpoint]:
        """See `Transport.open`."""
        require_trio()
        keep_freed_memory()
        place = listen_place(self.address, key.peer)
        if place.kind not in {"ip4", "ip6"}:
            raise ConfigError(
                f"libp2p listens at addresses, not at names: {self.address}.", hint="Write /ip4/… or /ip6/…."
            )
        relays = tuple(map(_relay, self.via))
        await trio.to_thread.run_sync(_import_libp2p)  # seconds of work, during which other actors go on
        from prime.transport.libp2p.endpoint import open_endpoint

        async with open_endpoint(self, key, place, relays) as endpoint:
            yield endpoint


def _relay(text: str) -> Address:
    address = parse_address(text)
    if not isinstance(address.place, TcpPlace) or address.peer is None:
        raise ConfigError(f"{text} is no address of a relay.", hint="Write /ip4/HOST/tcp/PORT/p2p/ID.")
    return address


def _import_libp2p() -> None:
    try:
        importlib.import_module("libp2p")
    except ImportError as error:
        raise MissingExtraError(
            f"The libp2p transport needs a package that is not installed: {error.name or error}.",
            hint="Run: pip install 'prime-actors[libp2p]', or choose the tcp transport, which needs nothing more.",
        ) from error
