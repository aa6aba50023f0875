"""A transport by its name: Prime's own four, and those that installed packages add through an entry point.

A package offers one in its `pyproject.toml`, and its name then works wherever Prime takes the name of a transport::

    [project.entry-points."prime.transports"]
    websocket = "prime_websocket:make_transport"

The entry point is a `Factory`: it is called with the address to listen on (empty: the transport's own choice) and the
dial deadline, and returns a `prime.transport.contract.Transport` whose `name` is the entry point's. It is loaded only when
its name is asked for, so a broken package harms nobody who does not use it.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from types import MappingProxyType
from typing import Final, Protocol

from prime.errors import ConfigError, PrimeError
from prime.transport.contract import DIAL_TIMEOUT_S, Transport

GROUP: Final = "prime.transports"
"""The entry-point group of transports."""


class Factory(Protocol):
    """What an entry point of the group is: makes a transport from the address to listen on and the dial deadline."""

    def __call__(self, address: str, *, dial_timeout_s: float) -> Transport:
        """Return the transport; it opens nothing yet. An empty `address` is the transport's own choice."""
        ...


def transport_named(name: str, address: str = "", *, dial_timeout_s: float = DIAL_TIMEOUT_S) -> Transport:
    """Return the transport of that name, to listen at `address` (empty: its own choice).

    Raises `ConfigError` for a name that nothing installed offers (the error lists those that are), for one that two
    packages offer, for a package whose transport cannot be used, and for `unix` without an address.
    """
    own = _OWN.get(name)
    return own(address, dial_timeout_s=dial_timeout_s) if own else _offered(name, address, dial_timeout_s)


def transport_names() -> tuple[str, ...]:
    """Return the names that `transport_named` knows: Prime's own, then those of installed packages, sorted."""
    return (*_OWN, *sorted({each.name for each in entry_points(group=GROUP)} - set(_OWN)))


def _memory(address: str, *, dial_timeout_s: float) -> Transport:
    from prime.transport.memory import Memory

    return Memory(address, dial_timeout_s=dial_timeout_s)


def _unix(address: str, *, dial_timeout_s: float) -> Transport:
    from prime.transport.unix import Unix

    if not address:
        raise ConfigError("A local socket needs a path to listen at.", hint="Give its address, /unix/PATH.")
    return Unix(address, dial_timeout_s=dial_timeout_s)


def _tcp(address: str, *, dial_timeout_s: float) -> Transport:
    from prime.transport.tcp import Tcp

    return Tcp(address, dial_timeout_s=dial_timeout_s) if address else Tcp(dial_timeout_s=dial_timeout_s)


def _libp2p(address: str, *, dial_timeout_s: float) -> Transport:
    from prime.transport.libp2p import Libp2p

    return Libp2p(address, dial_timeout_s=dial_timeout_s) if address else Libp2p(dial_timeout_s=dial_timeout_s)


_OWN: Final[Mapping[str, Factory]] = MappingProxyType(
    {"memory": _memory, "unix": _unix, "tcp": _tcp, "libp2p": _libp2p}
)


def _offered(name: str, address: str, dial_timeout_s: float) -> Transport:
    offers = tuple(entry_points(group=GROUP, name=name))
    if not offers:
        raise ConfigError(
            f"There is no transport {name!r}; installed are {', '.join(transport_names())}.",
            hint=f"Correct the name, or install the package that offers it (entry points of {GROUP!r}).",
        )
    if len({offer.value for offer in offers}) > 1:
        raise ConfigError(
            f"Several packages offer a transport {name!r}: {', '.join(sorted(map(_source, offers)))}.",
            hint="Uninstall all but one of them.",
        )
    return _made(offers[0], address, dial_timeout_s)


def _made(offer: EntryPoint, address: str, dial_timeout_s: float) -> Transport:
    """Let a package make its transport; whatever is wrong with the package is an error that names it."""
    try:
        transport: Transport = offer.load()(address, dial_timeout_s=dial_timeout_s)
        fault = _fault(transport, offer.name)
    except PrimeError:
        raise
    except Exception as error:
        raise _broken(offer, f"{type(error).__name__}: {error}") from error
    if fault:
        raise _broken(offer, fault)
    return transport


def _fault(transport: Transport, name: str) -> str:
    """Say what a package's transport lacks at first sight, or return an empty text."""
    if not callable(getattr(transport, "open", None)):
        return f"what it makes is a {type(transport).__name__} without `open`"
    return "" if transport.name == name else f"its transport calls itself {transport.name!r}"


def _broken(offer: EntryPoint, why: str) -> ConfigError:
    return ConfigError(
        f"The transport {offer.name!r} of {_source(offer)} cannot be used: {why}.",
        hint="Update or reinstall that package; `prime.testing.transport` checks a transport against the contract.",
    )


def _source(offer: EntryPoint) -> str:
    package = offer.dist
    return f"{package.name} {package.version} ({offer.value})" if package is not None else offer.value
