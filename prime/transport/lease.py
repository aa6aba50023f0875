"""A port of the router, held by a lease: when to ask, renew, try again and give up. Pure.

A router forgets what it promised when it restarts, and may get another public address at any time. So every renewal begins
with a search, and comes long before the lease ends (WANIPConnection:2, 2.3.16 and 2.5.2: leases are of seconds, the device
may drop them). A port that another machine of the network holds is left to it: the next ones are tried.

Ordering laws. Each `Search` gets one of `Found` and `Missing`, each `Map` one of `Granted`, `Taken` and `Denied`; until
then there is no further command but those of `Stop`. An `Announce` follows only a `Granted`; whatever is announced is
withdrawn once its lease has ended without a renewal.
"""

from __future__ import annotations

import ipaddress
from typing import Final, TypeAlias

import attrs

LEASE_S: Final = 1200
RENEW_S: Final = 300.0
"""Between two renewals: three may fail before the lease ends."""
RETRY_MIN_S: Final = 15.0
RETRY_MAX_S: Final = 600.0
PORTS_TRIED_MAX: Final = 8

_PORT_MAX: Final = 65535
_PORT_FREE_MIN: Final = 1024  # lower ones are often not given out


# ------------------------------------------------------------------------------------------------------------- events


@attrs.frozen
class Begin:
    """Hold a port from now on."""


@attrs.frozen
class Found:
    """A router answered; `host` is its public address, as it says."""

    host: str


@attrs.frozen
class Missing:
    """No router answered, or none that maps ports."""

    reason: str


@attrs.frozen
class Granted:
    """The router maps the port that was asked for."""


@attrs.frozen
class Taken:
    """The router maps that port to another machine."""


@attrs.frozen
class Denied:
    """The router refuses, or failed."""

    reason: str


@attrs.frozen
class Woke:
    """The time of the last `WakeAt` has come."""


@attrs.frozen
class Stop:
    """Hold no port any more."""


Event: TypeAlias = Begin | Found | Missing | Granted | Taken | Denied | Woke | Stop


# ----------------------------------------------------------------------------------------------------------- commands


@attrs.frozen
class Search:
    """Look for the router and ask for its public address."""


@attrs.frozen
class Map:
    """Ask the router to map its `port` for `lease_s`."""

    port: int
    lease_s: int = LEASE_S


@attrs.frozen
class Release:
    """Tell the router that its port is needed no more."""

    port: int


@attrs.frozen
class Announce:
    """This node can be dialled here; what was announced before is void."""

    host: str
    port: int


@attrs.frozen
class Withdraw:
    """What was announced is void."""


@attrs.frozen
class WakeAt:
    """Send `Woke` then."""

    at: float


@attrs.frozen
class Say:
    """Something changed that an operator wants to know."""

    text: str


Command: TypeAlias = Search | Map | Release | Announce | Withdraw | WakeAt | Say


class Lease:
    """The lease of one port. `port` is where this node listens, and what it would like to have outside."""

    def __init__(self, port: int) -> None:
        self._wanted = port
        self._host = ""
        self._port = port
        self._tried = 0
        self._held: Announce | None = None
        self._ends_at = 0.0
        self._failures = 0
        self._said = ""

    @property
    def held(self) -> Announce | None:
        """What is announced: where the router takes calls for this node."""
        return self._held

    def step(self, event: Event, now: float) -> list[Command]:
        """Take one event; see the module's text for the order of what comes back."""
        match event:
            case Begin() | Woke():
                return [Search()]
            case Found(host):
                return self._found(host, now)
            case Granted():
                return self._granted(now)
            case Taken():
                return self._taken(now)
            case Missing(reason) | Denied(reason):
                return self._failed(reason, now)
            case Stop():
                return self._stopped()

    def _found(self, host: str, now: float) -> list[Command]:
        if fault := _unusable(host):
            return [*self._withdraw(), *self._failed(fault, now)]
        self._host, self._tried = host, 0
        self._port = self._held.port if self._held is not None else self._wanted
        return [Map(self._port)]

    def _granted(self, now: float) -> list[Command]:
        place = Announce(self._host, self._port)
        commands: list[Command] = [] if place == self._held else [place]
        self._held, self._ends_at, self._failures = place, now + LEASE_S, 0
        said = self._say(f"the router passes on what comes to {self._host} port {self._port}")
        return [*commands, *said, WakeAt(now + RENEW_S)]

    def _taken(self, now: float) -> list[Command]:
        self._tried += 1
        if self._tried >= PORTS_TRIED_MAX:
            return self._failed(f"the router has given {PORTS_TRIED_MAX} ports from {self._wanted} on to others", now)
        withdrawn = self._withdraw()  # it was ours until the router restarted
        self._port = self._port + 1 if self._port < _PORT_MAX else _PORT_FREE_MIN
        return [*withdrawn, Map(self._port)]

    def _failed(self, reason: str, now: float) -> list[Command]:
        self._failures += 1
        pause_s = min(RETRY_MIN_S * 2 ** min(self._failures - 1, 10), RETRY_MAX_S)
        ended = self._withdraw() if self._held is not None and now >= self._ends_at else []
        if self._held is not None:
            pause_s = min(pause_s, max(self._ends_at - now, 0.0))
        return [*ended, *self._say(f"no port of the router: {reason}"), WakeAt(now + pause_s)]

    def _stopped(self) -> list[Command]:
        held = self._held
        return [] if held is None else [*self._withdraw(), Release(held.port)]

    def _withdraw(self) -> list[Command]:
        if self._held is None:
            return []
        self._held = None
        return [Withdraw()]

    def _say(self, text: str) -> list[Command]:
        if text == self._said:
            return []
        self._said = text
        return [Say(text)]


def _unusable(host: str) -> str:
    """Say why nobody outside could dial what a router calls its public address, or return an empty text."""
    if not host:
        return "it has no public address"
    try:
        address = ipaddress.IPv4Address(host)
    except ValueError:
        return f"it says that its public address is {host[:40]!r}"
    if not address.is_global:
        return f"its own address, {address}, is not public: it stands behind another router"
    return ""
