"""A node's part in the DHT, opened by its configuration: what it is tuned by, where its records are, with whom it begins."""

from __future__ import annotations

import contextlib
import importlib
import json
from collections.abc import AsyncIterator, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import attrs
import trio

from prime.config import Config, DhtConfig
from prime.dht.backends.memory import MemoryBackend
from prime.dht.backends.sqlite import SqliteBackend
from prime.dht.settings import PRESETS, DhtSettings
from prime.errors import ConfigError, CorruptedError, PrimeError
from prime.node.meeting import meet
from prime.store.files import put_text
from prime.transport.facts import ReachabilityChanged
from prime.transport.links import Links
from prime.transport.multiaddr import parse_address
from prime.transport.reachability import Reachability, Scope, scope_of_text

if TYPE_CHECKING:
    from prime.actor import System
    from prime.config import Places
    from prime.dht.backend import Backend, Entry, Loaded, Removal
    from prime.dht.dht import Dht
    from prime.transport.identity import KeyPair


KNOWN: Final = "dht-peers.json"
"""The file in a node's folder that names whom it knew."""
KNOWN_MAX: Final = 64
KEEP_S: Final = 10.0
"""How often a node puts on its disk whom it knows."""
STORE: Final = "dht.sqlite"


@attrs.frozen
class StoreLost:
    """Nothing of what this node held could be read: it begins with an empty store, and gets back what others have."""

    text: str


class _BegunAnew:
    """A backend that is opened a second time, and empty, where nothing of it could be read the first time."""

    def __init__(self, inner: Backend, system: System) -> None:
        self._inner = inner
        self._system = system

    async def open(self) -> Loaded:
        """See `Backend.open`."""
        try:
            return await self._inner.open()
        except CorruptedError as error:
            self._system.emit(StoreLost(str(error)))
            return attrs.evolve(await self._inner.open(), lost_writes=1)

    async def write(self, changes: Sequence[Entry | Removal]) -> None:
        """See `Backend.write`."""
        await self._inner.write(changes)

    async def aclose(self) -> None:
        """See `Backend.aclose`."""
        await self._inner.aclose()


@contextlib.asynccontextmanager
async def open_node_dht(system: System, key: KeyPair, config: Config, found: Places) -> AsyncIterator[Dht]:
    """Take part in the DHT as the configuration says, until the block ends.

    It begins with the addresses of `transport.join` and with whom this node knew when it ran last; one that answers is
    enough, and where none does, trying goes on. A store of which nothing can be read is told of, and begun anew. Raises
    `ConfigError` for settings or a backend that cannot be, and `WorldError` of the backend.
    """
    from prime.dht.dht import open_dht

    settings = settings_of(config, system.addresses)
    server = not config.dht.client and bool(system.addresses)
    file = found.state / KNOWN
    known = await trio.to_thread.run_sync(_read_known, file)
    async with (
        open_dht(
            system,
            key,
            settings=settings,
            backend=_BegunAnew(open_backend(config.dht.backend, found.state), system),
            bootstrap=tuple(dict.fromkeys((*config.transport.join, *known))),
            rendezvous=config.dht.rendezvous,
            server=server,
        ) as dht,
        in_ipfs(dht, system, config, settings, server=server),
        trio.open_nursery() as nursery,
    ):
        unsubscribe = system.subscribe(lambda fact: _heed(dht, fact))
        nursery.start_soon(_keep_known, dht, file)
        for name in config.dht.meet_under:
            nursery.start_soon(meet, system, dht, name)
        yield dht
        unsubscribe()
        nursery.cancel_scope.cancel()


def _heed(dht: Dht, fact: object) -> None:
    """Answer nobody while nobody can dial this node: whoever had it in a table would wait for it in vain."""
    if isinstance(fact, ReachabilityChanged):
        dht.serve(others=fact.after != Reachability.CLIENT_ONLY.value)


@contextlib.asynccontextmanager
async def in_ipfs(
    dht: Dht, system: System, config: Config, settings: DhtSettings, *, server: bool
) -> AsyncIterator[None]:
    """Take part in libp2p's own DHT, too, where the configuration does not forbid it and the transport has streams.

    It begins with those addresses of `transport.join` that name a peer, and with whoever is connected.
    """
    network = system.network
    if not config.dht.ipfs or not isinstance(network, Links) or network.protocols is None:
        yield
        return
    from prime.dht.ipfs.ipfs import open_ipfs

    told = [address for address in config.transport.join if parse_address(address).peer is not None]
    async with open_ipfs(system, settings=settings, bootstrap=told, server=server) as ipfs:
        dht.ipfs = ipfs
        yield


async def _keep_known(dht: Dht, file: Path) -> None:
    """Put the addresses of whom this node knows on the disk, whenever they have changed; a disk that refuses ends nothing."""
    kept: list[str] = []
    while True:
        await trio.sleep(KEEP_S)
        addresses = [address for contact in dht.known()[:KNOWN_MAX] for address in contact.addresses]
        if addresses and addresses != kept:
            kept = addresses
            with contextlib.suppress(OSError):
                await trio.to_thread.run_sync(put_text, file, json.dumps(addresses, indent=1))


def _read_known(file: Path) -> list[str]:
    try:
        read = json.loads(file.read_text(encoding="utf-8"))
        return [str(parse_address(text)) for text in read]
    except (OSError, ValueError, TypeError, PrimeError):
        return []


def open_backend(name: str, folder: Path) -> Backend:
    """Return the backend of that name, with its files in `folder`. Raises `ConfigError` for one that is none."""
    match name:
        case "sqlite":
            return SqliteBackend(folder / STORE)
        case "memory":
            return MemoryBackend()
        case _:
            return _own_backend(name, folder)


def _own_backend(name: str, folder: Path) -> Backend:
    module, _, function = name.partition(":")
    try:
        backend: Backend = getattr(importlib.import_module(module), function)(folder)
    except (ImportError, AttributeError, TypeError) as error:
        raise ConfigError(
            f"dht.backend: {name} cannot be used ({error})",
            hint="name a function of an installed module that takes a folder and returns a `prime.dht.backend.Backend`",
        ) from error
    return backend


def settings_of(config: Config, addresses: Iterable[str]) -> DhtSettings:
    """Return what the [dht] section says, for a node with these `addresses`. Raises `ConfigError` for what cannot be.

    What is not said follows what is: replicas and beta are not over k, a request ends within its lookup, and a record is
    published anew as many times within its life as the preset says.
    """
    said = config.dht
    preset = PRESETS[_preset(config, addresses)]
    given = {field.name: value for field in attrs.fields(DhtSettings) if (value := getattr(said, field.name))}
    return attrs.evolve(preset, **{**_within(preset, said), **given})


def _within(preset: DhtSettings, said: DhtConfig) -> dict[str, float]:
    k, ttl_s = said.k or preset.k, said.ttl_s or preset.ttl_s
    return {
        "replicas": min(preset.replicas, k),
        "beta": min(preset.beta, k),
        "request_s": min(preset.request_s, said.lookup_s or preset.lookup_s),
        "republish_s": preset.republish_s * ttl_s / preset.ttl_s,
    }


def _preset(config: Config, addresses: Iterable[str]) -> str:
    if config.dht.preset != "auto":
        return config.dht.preset
    link = config.transport
    known = (*addresses, *link.join, *link.via, *link.via_libp2p)
    return "swarm" if any(scope_of_text(address) is Scope.INTERNET for address in known) else "lan"
