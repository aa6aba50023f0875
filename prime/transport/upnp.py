"""`Mapped`: a transport whose port the home router passes on, by UPnP (Internet Gateway Device protocol).

::

    prime.open_system(transport=Mapped(Tcp("/ip4/0.0.0.0/tcp/4001")))

While the endpoint is open the router is asked for a port and asked again long before its lease ends; when the endpoint
closes the port is given back. The mapped address stands among the endpoint's addresses for as long as it is held, so peers
hear of it; they prove this node's identity when they dial it, whatever the router said. Works with every transport that
listens on TCP. Needs miniupnpc (extra `lan`, also part of `libp2p`); what is decided stands in `lease.py`.

A router is whoever answers a multicast on the network first: use it where you trust the network, as at home.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final, Protocol

import attrs
import trio

from prime.actor.contract import PeerId
from prime.actor.groups import one_error
from prime.errors import ConfigError, MissingExtraError, PrimeError, RefusedError, UnreachableError
from prime.transport import lease as core
from prime.transport.admission import Admission
from prime.transport.contract import Channel, Endpoint, Guarded, Transport
from prime.transport.identity import KeyPair
from prime.transport.multiaddr import Address, TcpPlace, parse_address

SEARCH_S: Final = 1.0
"""How long routers have to answer a search; miniupnpc searches for each of about five kinds in turn."""
CALL_S: Final = 20.0
"""How long one exchange with a router may take in all."""
SETTLE_S: Final = 5.0
"""How long opening waits for the first answer, so that the mapped address is there from the start."""
RELEASE_S: Final = 3.0
"""How long closing waits for the router to take the port back; else its lease ends by itself."""

CALLS_MAX: Final = 2
"""Threads that wait for a router at a time: one that never ends its answer takes no more of this process than these."""

_DESCRIPTION: Final = "prime"

log = logging.getLogger(__name__)


class Router(Protocol):
    """What a lease needs of a router."""

    async def search(self) -> str:
        """Find it and return its public address as it says. Raises `UnreachableError`."""
        ...

    async def map(self, outer: int, inner: int, lease_s: int) -> None:
        """Map its port `outer` to this machine's port `inner`. Raises `UnreachableError`, and `RefusedError` if it is taken."""
        ...

    async def release(self, outer: int) -> None:
        """Undo `map`. Raises `UnreachableError`."""
        ...


@attrs.frozen
class Mapped:
    """A transport, and a port of the router for it; see the module's text.

    `on_change(text)` hears in words what becomes of it. `router` is for tests and for other protocols.
    """

    inner: Transport
    settle_s: float = SETTLE_S
    on_change: Callable[[str], None] | None = None
    router: Router | None = None

    @property
    def name(self) -> str:
        """The name of the transport within."""
        return self.inner.name

    @asynccontextmanager
    async def open(self, key: KeyPair) -> AsyncIterator[Endpoint]:
        """See `Transport.open`. Raises `ConfigError` also for a transport that listens where no router reaches."""
        router = self.router if self.router is not None else UpnpRouter()
        async with self.inner.open(key) as endpoint:
            mapped = _MappedEndpoint(endpoint)
            keeper = _Keeper(router, _inner_port(endpoint.addresses), mapped, self.on_change or log.info)
            async with one_error(), trio.open_nursery() as nursery:
                nursery.start_soon(keeper.run)
                with trio.move_on_after(self.settle_s):
                    await keeper.settled.wait()
                try:
                    yield mapped
                finally:
                    nursery.cancel_scope.cancel()


class _MappedEndpoint:
    """The endpoint within, and one more address while there is one."""

    def __init__(self, inner: Endpoint) -> None:
        self._inner = inner
        self.mapped = ""

    @property
    def peer(self) -> PeerId:
        return self._inner.peer

    @property
    def addresses(self) -> tuple[str, ...]:
        own = self._inner.addresses
        return (*own, self.mapped) if self.mapped and self.mapped not in own else own

    @property
    def inner(self) -> Endpoint:
        """See `Wrapping.inner`."""
        return self._inner

    def guard(self, admission: Admission) -> None:
        if isinstance(self._inner, Guarded):
            self._inner.guard(admission)

    async def dial(self, address: str, peer: PeerId | None = None) -> Channel:
        return await self._inner.dial(address, peer)

    async def accept(self) -> Channel:
        return await self._inner.accept()


class _Keeper:
    """Carries out what a lease commands, for as long as the endpoint is open."""

    def __init__(self, router: Router, port: int, endpoint: _MappedEndpoint, say: Callable[[str], None]) -> None:
        self._router = router
        self._port = port
        self._endpoint = endpoint
        self._say = say
        self._lease = core.Lease(port)
        self.settled = trio.Event()

    async def run(self) -> None:
        try:
            commands = self._lease.step(core.Begin(), trio.current_time())
            while True:
                commands = self._lease.step(await self._carry_out(commands), trio.current_time())
        finally:
            with trio.move_on_after(RELEASE_S, shield=True):
                await self._end()

    async def _carry_out(self, commands: list[core.Command]) -> core.Event:
        """Do all of one step; return what came of the last, the only one that waits."""
        event: core.Event = core.Woke()
        for command in commands:
            match command:
                case core.Search():
                    event = await self._search()
                case core.Map(port, lease_s):
                    event = await self._map(port, lease_s)
                case core.WakeAt(at):
                    self.settled.set()
                    await trio.sleep_until(at)
                case _:
                    self._tell(command)
        return event

    def _tell(self, command: core.Command) -> None:
        match command:
            case core.Announce(host, port):
                self._endpoint.mapped = str(Address(TcpPlace("ip4", host, port), self._endpoint.peer))
            case core.Withdraw():
                self._endpoint.mapped = ""
            case core.Say(text):
                self._say(text)

    async def _search(self) -> core.Event:
        try:
            return core.Found(await self._router.search())
        except UnreachableError as error:
            return core.Missing(str(error))

    async def _map(self, port: int, lease_s: int) -> core.Event:
        try:
            await self._router.map(port, self._port, lease_s)
        except RefusedError:
            return core.Taken()
        except UnreachableError as error:
            return core.Denied(str(error))
        return core.Granted()

    async def _end(self) -> None:
        for command in self._lease.step(core.Stop(), trio.current_time()):
            if isinstance(command, core.Release):
                try:
                    await self._router.release(command.port)
                except PrimeError as error:
                    log.debug("the port was not given back: %s", error)
            else:
                self._tell(command)


class UpnpRouter:
    """A router that speaks UPnP, through miniupnpc. Raises `MissingExtraError` without it."""

    def __init__(self) -> None:
        try:
            self._library: Any = importlib.import_module("miniupnpc")
        except ImportError as error:
            raise MissingExtraError(
                "Asking the router for a port needs miniupnpc, which is not installed.",
                hint="Run: pip install 'prime-actors[lan]', or leave transport.upnp off.",
            ) from error
        self._gateway: Any = None
        self._threads = trio.CapacityLimiter(CALLS_MAX)

    async def search(self) -> str:
        """See `Router.search`."""
        self._gateway = None
        gateway = self._library.UPnP()
        gateway.discoverdelay = int(SEARCH_S * 1000)
        host = await self._call(_discover, gateway)
        self._gateway = gateway
        return str(host)

    async def map(self, outer: int, inner: int, lease_s: int) -> None:
        """See `Router.map`."""
        gateway = self._found()
        try:
            await self._call(gateway.addportmapping, outer, "TCP", gateway.lanaddr, inner, _DESCRIPTION, "", lease_s)
        except UnreachableError as error:
            if "OnlyPermanentLeasesSupported" not in str(error):
                raise _sorted(error) from error
            await self._call(gateway.addportmapping, outer, "TCP", gateway.lanaddr, inner, _DESCRIPTION, "", 0)

    async def release(self, outer: int) -> None:
        """See `Router.release`."""
        await self._call(self._found().deleteportmapping, outer, "TCP")

    async def _call(self, call: Callable[..., Any], *arguments: object) -> Any:
        """Do one exchange in a thread, which is left behind if it takes too long. Raises `UnreachableError`."""
        with trio.move_on_after(CALL_S):
            try:
                return await trio.to_thread.run_sync(call, *arguments, abandon_on_cancel=True, limiter=self._threads)
            except UnreachableError:
                raise
            except Exception as error:  # border: miniupnpc raises bare exceptions with the router's words
                raise UnreachableError(f"the router says: {str(error)[:200]}", hint="Its log may say more.") from error
        raise UnreachableError(f"the router did not answer within {CALL_S:g} s", hint="Restart it.")

    def _found(self) -> Any:
        if self._gateway is None:
            raise UnreachableError("no router was found", hint="Search first.")
        return self._gateway


def _discover(gateway: Any) -> str:
    """Find the router and ask for its address; blocks."""
    found = 0
    with contextlib.suppress(Exception):  # where nobody answers miniupnpc raises one that says "Success"
        found = gateway.discover()
    if found < 1:
        raise UnreachableError("no router answers", hint="Switch UPnP on in the router.")
    gateway.selectigd()
    return str(gateway.externalipaddress())


def _sorted(error: UnreachableError) -> PrimeError:
    if "ConflictInMappingEntry" in str(error) or "ConflictWithOtherMechanisms" in str(error):
        return RefusedError("the router maps that port to another machine", hint="Try another.")
    return error


def _inner_port(addresses: tuple[str, ...]) -> int:
    """Return the port that the router shall pass calls on to. Raises `ConfigError` if no router could reach it."""
    for address in addresses:
        place = parse_address(address).place
        if isinstance(place, TcpPlace) and place.kind == "ip4" and not place.host.startswith("127."):
            return place.port
    raise ConfigError(
        f"A router cannot pass anything on to {', '.join(addresses) or 'this transport'}.",
        hint="Listen on all of this machine's addresses (transport.listen, or --listen): /ip4/0.0.0.0/tcp/4001.",
    )
