"""A node's part in the DHT: opened by its configuration, and its user's orders."""

from __future__ import annotations

import contextlib
import importlib
import json
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import attrs
import trio

from prime.actor import Actor, Later, on
from prime.config import Config, DhtConfig
from prime.dht.backends.memory import MemoryBackend
from prime.dht.backends.sqlite import SqliteBackend
from prime.dht.ipfs.name import PREFIX, is_ipfs, read_multihash, read_value_key
from prime.dht.key import to_bytes
from prime.dht.name import RUN, read_key, read_peer, run_key, run_salt, salt_of
from prime.dht.record import mutable_key
from prime.dht.settings import PRESETS, DhtSettings
from prime.errors import ConfigError, NotFoundError, PrimeError, RefusedError, UsageError
from prime.node.messages import (
    OfferKey,
    PeerShown,
    PublishRecord,
    RecordShown,
    ShowPeers,
    ShowProviders,
    ShowRecord,
    ShowValue,
    WithdrawRecord,
)
from prime.store.files import put_text
from prime.trainer.round.names import base_name
from prime.transport.links import Links
from prime.transport.multiaddr import parse_address
from prime.transport.reachability import Scope, scope_of_text

if TYPE_CHECKING:
    from prime.actor import System
    from prime.config import Places
    from prime.dht.backend import Backend
    from prime.dht.contact import Contact
    from prime.dht.dht import Dht
    from prime.dht.ipfs.ipfs import Ipfs
    from prime.dht.record import Record
    from prime.transport.identity import KeyPair


KNOWN: Final = "dht-peers.json"
"""The file in a node's folder that names whom it knew."""
KNOWN_MAX: Final = 64
KEEP_S: Final = 30.0
"""How often a node puts on its disk whom it knows."""
STORE: Final = "dht.sqlite"


@contextlib.asynccontextmanager
async def open_node_dht(system: System, key: KeyPair, config: Config, found: Places) -> AsyncIterator[Dht]:
    """Take part in the DHT as the configuration says, until the block ends.

    It begins with the addresses of `transport.join` and with whom this node knew when it ran last; one that answers is
    enough, and where none does, trying goes on. Raises `ConfigError` for settings or a backend that cannot be, and
    `WorldError` and `CorruptedError` of the backend.
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
            backend=open_backend(config.dht.backend, found.state),
            bootstrap=tuple(dict.fromkeys((*config.transport.join, *known))),
            server=server,
        ) as dht,
        in_ipfs(dht, system, config, settings, server=server),
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(_keep_known, dht, file)
        yield dht
        nursery.cancel_scope.cancel()


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


# ------------------------------------------------------------------------------------------------- the user's orders

ORDERS_MAX: Final = 32
"""Orders that are carried out at the same time."""

Order = ShowRecord | PublishRecord | WithdrawRecord | OfferKey | ShowProviders | ShowPeers | ShowValue


def of_ipfs(order: Order) -> bool:
    """Tell whether an order is about libp2p's DHT."""
    text = getattr(order, "key", "") or getattr(order, "target", "")
    return is_ipfs(text)


async def carry_out(dht: Dht, order: Order) -> Any:
    """Do what a user orders and return the answer of its kind. Raises as the methods of `Dht`, and `UsageError`."""
    if isinstance(order, ShowValue) or of_ipfs(order):
        return await _carry_out_in_ipfs(_ipfs_of(dht), order)
    return await _carry_out_in_own(dht, order)


async def _carry_out_in_own(dht: Dht, order: Order) -> Any:
    match order:
        case ShowRecord():
            return _shown(await _get(dht, order))
        case PublishRecord():
            return await _publish(dht, order)
        case WithdrawRecord(name):
            put = await dht.remove(salt_of(name))
            return _shown(put.record, len(put.holders), put.asked)
        case OfferKey():
            return await _offer(dht, order)
        case ShowProviders(key, count_max):
            return _peers(await dht.find_providers(read_key(key, dht.peer), count_max=count_max))
        case ShowPeers(target):
            return _peers(await _find(dht, target))


async def _get(dht: Dht, order: ShowRecord) -> Record:
    if order.key.startswith(RUN):
        return await _run_record(dht, order.key.removeprefix(RUN), critical=order.critical)
    return await dht.get(read_key(order.key, dht.peer), critical=order.critical)


def _ipfs_of(dht: Dht) -> Ipfs:
    """Return the node's part in libp2p's DHT. Raises `RefusedError` where it has none."""
    if dht.ipfs is None:
        raise RefusedError(
            "this node is not in libp2p's DHT",
            hint='set transport.kind = "libp2p" and leave dht.ipfs = true, and start it again',
        )
    return dht.ipfs


async def _carry_out_in_ipfs(ipfs: Ipfs, order: Order) -> Any:
    match order:
        case ShowValue(key):
            return await ipfs.get_value(read_value_key(key))
        case ShowProviders(key, count_max):
            return _peers(await ipfs.find_providers(read_multihash(key), count_max=count_max))
        case OfferKey(key, ends):
            return ipfs.stop_providing(read_multihash(key)) if ends else await ipfs.provide(read_multihash(key))
        case ShowPeers(target):
            peer = read_peer(target.removeprefix(PREFIX))
            return _peers(await ipfs.closest(read_value_key(target)) if peer is None else [await ipfs.find_peer(peer)])
    raise UsageError("such an order is not for libp2p's DHT", hint="`prime dht get ipfs:…` shows a value of it")


async def _offer(dht: Dht, order: OfferKey) -> int:
    key = read_key(order.key, dht.peer)
    if order.ends:
        await dht.stop_providing(key)
        return 0
    return await dht.provide(key)


async def _find(dht: Dht, target: str) -> tuple[Contact, ...]:
    peer = read_peer(target)
    return await dht.closest(read_key(target, dht.peer)) if peer is None else (await dht.find_peer(peer),)


async def _run_record(dht: Dht, name: str, *, critical: bool) -> Record:
    """Return what a member of a run has published of it. Raises `NotFoundError` where none has."""
    for provider in await dht.find_providers(run_key(name)):
        with contextlib.suppress(NotFoundError):
            return await dht.get(mutable_key(provider.peer, run_salt(base_name(name))), critical=critical)
    raise NotFoundError(f"nobody takes part in a run {name}", hint="`prime train status` lists the runs that are known")


async def _publish(dht: Dht, order: PublishRecord) -> RecordShown:
    salt = salt_of(order.name) if order.name else None
    put = await dht.put(order.value, salt=salt, ttl_s=order.ttl_s or None)
    return _shown(put.record, len(put.holders), put.asked)


def _shown(record: Record, holders: int = 0, asked: int = 0) -> RecordShown:
    return RecordShown(
        to_bytes(record.key),
        record.publisher,
        record.salt,
        record.seq,
        record.created_ms,
        record.ttl_s,
        record.value,
        holders,
        asked,
    )


def _peers(contacts: Iterable[Contact]) -> tuple[PeerShown, ...]:
    return tuple(PeerShown(contact.peer, contact.addresses) for contact in contacts)


class DhtActor(Actor[Order]):
    """At `/node/dht`: carries out what this node's own user orders, each order beside the others. `dht` is `None` outside it."""

    def __init__(self, dht: Dht | None) -> None:
        self._dht = dht
        self._busy = 0

    @on(ShowRecord)
    def show_record(self, m: ShowRecord) -> Later:
        """Look a record up."""
        return self._take(m)

    @on(PublishRecord)
    def publish_record(self, m: PublishRecord) -> Later:
        """Publish a value."""
        return self._take(m)

    @on(WithdrawRecord)
    def withdraw_record(self, m: WithdrawRecord) -> Later:
        """Remove what was published under a name."""
        return self._take(m)

    @on(OfferKey)
    def offer_key(self, m: OfferKey) -> Later:
        """Provide a key from now on, or no more."""
        return self._take(m)

    @on(ShowProviders)
    def show_providers(self, m: ShowProviders) -> Later:
        """Look up who provides a key."""
        return self._take(m)

    @on(ShowValue)
    def show_value(self, m: ShowValue) -> Later:
        """Look up a value in libp2p's DHT."""
        return self._take(m)

    @on(ShowPeers)
    def show_peers(self, m: ShowPeers) -> Later:
        """Look up a peer, or those nearest to a key."""
        return self._take(m)

    def _take(self, order: Order) -> Later:
        if self.ctx.sender not in (None, self.ctx.system.peer):
            raise RefusedError(
                "a node takes such orders only on its own machine",
                hint="run the command there, or as a client of the network: --join ADDRESS",
            )
        if self._dht is None:
            raise RefusedError("this node is not in the DHT", hint="remove dht.enabled = false, and start it again")
        if self._busy >= ORDERS_MAX:
            raise RefusedError(f"this node carries out {ORDERS_MAX} such orders already", hint="ask again in a moment")
        self._busy += 1
        later = self.ctx.defer()
        self.ctx.start_soon(self._carry_out, self._dht, order, later)
        return later

    async def _carry_out(self, dht: Dht, order: Order, later: Later) -> None:
        try:
            later.reply(await carry_out(dht, order))
        except UsageError as error:
            later.fail(RefusedError(str(error), hint=error.hint))
        except PrimeError as error:
            later.fail(error)
        finally:
            self._busy -= 1
