"""Multicast on the local network (mDNS, RFC 6762): saying that this node is there, and hearing who else is.

zeroconf does the protocol, in a thread of its own that Trio never waits for; what it hears comes here through bounded
queues. What an announcement says, and which are believed, stands in `neighbours.py`. Needs the extra `lan`.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import ipaddress
import logging
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

import trio

from prime.actor.groups import one_error
from prime.errors import DecodeError, MissingExtraError, UnreachableError
from prime.transport.neighbours import (
    ANNOUNCERS_MAX,
    SERVICE,
    Announcement,
    Gone,
    Seen,
    read_announcement,
    write_announcement,
)

CALL_S: Final = 10.0
"""How long zeroconf may take to announce something; it first asks whether the name is free."""
LOOK_UP_S: Final = 1.0
"""How long whoever announces a name has to say what it means."""
LOOK_UPS_MAX: Final = 8
"""At the same time: names that nobody explains must not hold up the others."""
CLOSE_S: Final = 3.0

log = logging.getLogger(__name__)


class Lan:
    """This node's ears and mouth on the local network. Make one with `open_lan`."""

    def __init__(self, library: Any, zeroconf: Any, token: trio.lowlevel.TrioToken) -> None:
        self._library = library
        self._zeroconf = zeroconf
        self._token = token
        self._service: Any = None
        self._lock = threading.Lock()
        self._changes: dict[str, bool] = {}
        self._changed = trio.Event()
        self._limiter = trio.CapacityLimiter(LOOK_UPS_MAX)
        self._looking_up = 0
        self._told, self._heard = trio.open_memory_channel[Seen | Gone](ANNOUNCERS_MAX)

    async def announce(self, announcement: Announcement) -> None:
        """Say this from now on, instead of what was said before. Raises `UnreachableError`."""
        hosts = [ipaddress.IPv4Address(host).packed for host, _ in announcement.addresses]
        service = self._library.ServiceInfo(
            SERVICE,
            f"{announcement.peer}.{SERVICE}",
            addresses=hosts,
            port=announcement.addresses[0][1],
            properties=write_announcement(announcement),
            server=f"{announcement.peer}.local.",
        )
        if self._service is None:
            await _call(self._register, service)
        else:
            service.name = self._service.name  # which is another one where somebody had taken ours
            await _call(self._zeroconf.update_service, service)
        self._service = service

    async def next(self) -> Seen | Gone:
        """Wait for the next thing that somebody says or says no more. Who listens too rarely misses some."""
        return await self._heard.receive()

    async def listen(self) -> None:
        """Hear until cancelled (`open_lan` runs it)."""
        browser = await _call(self._browse)
        try:
            async with trio.open_nursery() as nursery:
                while True:
                    await self._changed.wait()
                    for name, there in self._take_changes():
                        if not there:
                            self._tell(Gone(name))
                        elif self._looking_up < ANNOUNCERS_MAX:  # names come faster than anybody can explain them
                            self._looking_up += 1
                            nursery.start_soon(self._look_up, name)
        finally:
            await _bounded(browser.cancel)

    async def close(self) -> None:
        """Say that this node is gone, and stop; takes `CLOSE_S` at most."""
        if self._service is not None:
            await _bounded(self._zeroconf.unregister_service, self._service)
        await _bounded(self._zeroconf.close)

    def _register(self, service: Any) -> None:
        self._zeroconf.register_service(service, allow_name_change=True)

    def _browse(self) -> Any:
        return self._library.ServiceBrowser(self._zeroconf, SERVICE, handlers=[self._notice])

    def _notice(self, *, name: str, state_change: Any, **_: object) -> None:
        """Take in a change; called in zeroconf's thread."""
        there = state_change is not self._library.ServiceStateChange.Removed
        with self._lock:
            if name not in self._changes and len(self._changes) >= ANNOUNCERS_MAX:
                return
            self._changes[name] = there
        with contextlib.suppress(trio.RunFinishedError):
            self._token.run_sync_soon(self._wake, idempotent=True)

    def _wake(self) -> None:
        self._changed.set()

    def _take_changes(self) -> list[tuple[str, bool]]:
        self._changed = trio.Event()
        with self._lock:
            changes, self._changes = self._changes, {}
        return list(changes.items())

    async def _look_up(self, name: str) -> None:
        try:
            record = await trio.to_thread.run_sync(self._record, name, abandon_on_cancel=True, limiter=self._limiter)
        finally:
            self._looking_up -= 1
        try:
            self._tell(Seen(name, read_announcement(record)))
        except DecodeError as error:
            log.debug("%s announces nothing of use: %s", name, error)

    def _record(self, name: str) -> Mapping[bytes, bytes | None]:
        """Return the text record of a name; empty if nobody explains it in time. Blocks."""
        try:
            found = self._zeroconf.get_service_info(SERVICE, name, timeout=int(LOOK_UP_S * 1000))
        except Exception as error:  # noqa: BLE001 (border: what strangers sent is being read)
            log.debug("%s could not be looked up: %r", name, error)
            return {}
        record: Mapping[bytes, bytes | None] = found.properties if found is not None else {}
        return record

    def _tell(self, event: Seen | Gone) -> None:
        with contextlib.suppress(trio.WouldBlock, trio.BrokenResourceError):
            self._told.send_nowait(event)


@asynccontextmanager
async def open_lan() -> AsyncIterator[Lan]:
    """Listen on the local network until the block ends. Raises `MissingExtraError`, `UnreachableError`."""
    library = await trio.to_thread.run_sync(_import_zeroconf)
    zeroconf = await _call(functools.partial(library.Zeroconf, ip_version=library.IPVersion.V4Only, use_asyncio=False))
    lan = Lan(library, zeroconf, trio.lowlevel.current_trio_token())
    try:
        async with one_error(), trio.open_nursery() as nursery:
            nursery.start_soon(lan.listen)
            yield lan
            nursery.cancel_scope.cancel()
    finally:
        await lan.close()


def own_interfaces() -> tuple[ipaddress.IPv4Interface, ...]:
    """Return this machine's IPv4 addresses with their networks, loopback excepted."""
    adapters = importlib.import_module("ifaddr").get_adapters()  # what zeroconf itself asks
    found = [(ip.ip, ip.network_prefix) for adapter in adapters for ip in adapter.ips if ip.is_IPv4]
    interfaces = (ipaddress.IPv4Interface(f"{host}/{prefix}") for host, prefix in found)
    return tuple(interface for interface in interfaces if not interface.ip.is_loopback)


def _import_zeroconf() -> Any:
    try:
        library = importlib.import_module("zeroconf")
    except ImportError as error:
        raise MissingExtraError(
            "Finding nodes on the local network needs zeroconf, which is not installed.",
            hint="Run: pip install 'prime-actors[lan]', or leave transport.mdns off.",
        ) from error
    logger = logging.getLogger("zeroconf")
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.CRITICAL)  # it reports each stranger's malformed packet
    return library


async def _call(call: Callable[..., Any], *arguments: object) -> Any:
    """Do something of zeroconf's in a thread. Raises `UnreachableError`."""
    with trio.move_on_after(CALL_S):
        try:
            return await trio.to_thread.run_sync(call, *arguments, abandon_on_cancel=True)
        except Exception as error:  # border: zeroconf raises its own and the system's
            raise UnreachableError(
                f"The local network cannot be used: {str(error) or type(error).__name__}.",
                hint="Is there an interface with multicast? Else leave transport.mdns off, and use --join.",
            ) from error
    raise UnreachableError(f"The local network took longer than {CALL_S:g} s.", hint="Try again, or use --join.")


async def _bounded(call: Callable[..., Any], *arguments: object) -> None:
    """Do one of zeroconf's closings; what goes wrong in it is of no interest any more."""
    with trio.move_on_after(CLOSE_S / 3, shield=True):
        try:
            await trio.to_thread.run_sync(call, *arguments, abandon_on_cancel=True)
        except Exception as error:  # noqa: BLE001 (border, as above)
            log.debug("closing raised %r", error)
