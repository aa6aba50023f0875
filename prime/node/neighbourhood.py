"""A node on its local network: it says that it is there, and finds the others of its run without being told an address.

For the DHT it hears everybody who speaks its transport, of whatever run: who takes part in none announces none.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import trio

from prime.actor import System
from prime.config import Config
from prime.errors import ConfigError
from prime.node.links import links_of
from prime.transport import neighbours as core
from prime.transport.mdns import Lan, open_lan, own_interfaces
from prime.transport.multiaddr import TcpPlace, parse_address


class Neighbourhood:
    """The local network, as one node of a run uses it. Make one with `open_neighbourhood`.

    `on_address` is told where a neighbour can be dialled, as often as it says so.
    """

    def __init__(
        self, lan: Lan, system: System, config: Config, on_address: Callable[[str], None] = lambda _: None
    ) -> None:
        self._lan = lan
        self._on_address = on_address
        self._config = config
        self._system = system
        self._run = core.run_digest(config.train.run if "trainer" in config.node.roles else "")
        links = links_of(system)
        self._transport = links.transport_name if links is not None else ""
        everywhere = config.transport.listen.startswith("/ip4/0.0.0.0/")
        self._hosts = _near_hosts(system.addresses, everywhere=everywhere)

    async def announce(self, *, member: bool) -> None:
        """Say where this node listens, and whether it is in a network or looks for one. Raises `UnreachableError`."""
        await self._lan.announce(core.Announcement(self._system.peer, self._run, self._transport, member, self._hosts))

    async def look(self, say: Callable[[str], None]) -> tuple[str, ...]:
        """Return the addresses of members of the run; none if this node shall found its network."""
        networks = (interface.network for interface in own_interfaces())
        wait_s = self._config.transport.mdns_wait_s
        newcomer = core.Newcomer(self._system.peer, self._run, self._transport, networks, wait_s)
        commands, wake_at = newcomer.step(core.Begin(), trio.current_time()), math.inf
        while True:
            for command in commands:
                match command:
                    case core.WakeAt(at):
                        wake_at = at
                    case core.Found():
                        say(f"nobody on the local network is in {self._config.train.run!r} yet: this node is the first")
                        return ()
                    case core.Join(contacts):
                        return tuple(_multiaddr(*contact) for contact in contacts)
            event = await self._next(wake_at)
            if isinstance(event, core.Woke):
                wake_at = math.inf
            commands = newcomer.step(event, trio.current_time())

    async def _next(self, wake_at: float) -> core.Event:
        with trio.move_on_at(wake_at):
            event = await self._lan.next()
            self._pass_on(event)
            return event
        return core.Woke()

    async def listen(self) -> None:
        """Go on telling where neighbours are until cancelled."""
        while True:
            self._pass_on(await self._lan.next())

    def _pass_on(self, event: core.Seen | core.Gone) -> None:
        if not isinstance(event, core.Seen):
            return
        said = event.announcement
        if said.transport == self._transport and said.peer != self._system.peer:
            networks = (interface.network for interface in own_interfaces())
            for host, port in core.near_addresses(said, networks):
                self._on_address(_multiaddr(host, port, said.peer))


@asynccontextmanager
async def open_neighbourhood(
    system: System, config: Config, on_address: Callable[[str], None] = lambda _: None
) -> AsyncIterator[Neighbourhood]:
    """Say on the local network that this node is there and looks for its run, until the block ends.

    Raises `MissingExtraError`, `UnreachableError`, and `ConfigError` for a node that listens to its own machine only.
    """
    async with open_lan() as lan:
        neighbourhood = Neighbourhood(lan, system, config, on_address)
        await neighbourhood.announce(member=False)
        yield neighbourhood


def _near_hosts(addresses: tuple[str, ...], *, everywhere: bool) -> tuple[tuple[str, int], ...]:
    """Return where neighbours can dial this node, as host and port. Raises `ConfigError` if nowhere."""
    places = [place for place in (parse_address(each).place for each in addresses) if isinstance(place, TcpPlace)]
    own = [str(interface.ip) for interface in own_interfaces()]
    if everywhere:
        named = [(host, places[0].port) for host in own if places]
    else:
        named = [(place.host, place.port) for place in places if place.host in own]
    if not named:
        raise ConfigError(
            f"Nobody on the local network can dial {', '.join(addresses) or 'this node'}.",
            hint="Listen on all of this machine's addresses (transport.listen, or --listen): /ip4/0.0.0.0/tcp/0.",
        )
    return tuple(named[: core.ADDRESSES_MAX])


def _multiaddr(host: str, port: int, peer: str) -> str:
    return f"{TcpPlace('ip4', host, port)}/p2p/{peer}"
