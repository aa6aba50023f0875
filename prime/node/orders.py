"""What a node's user orders of the DHT, carried out: by the node's actor, or by a program that is a client for a moment."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

from prime.actor import Actor, Later, on
from prime.dht.ipfs.name import PREFIX, is_ipfs, read_multihash, read_value_key
from prime.dht.key import to_bytes
from prime.dht.name import RUN, read_key, read_peer, run_key, run_salt, salt_of, split_name
from prime.dht.record import mutable_key
from prime.dht.registers.proposal import Register
from prime.errors import NotFoundError, PrimeError, RefusedError, UsageError
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
from prime.trainer.round.names import base_name

if TYPE_CHECKING:
    from prime.dht.contact import Contact
    from prime.dht.dht import Dht
    from prime.dht.ipfs.ipfs import Ipfs
    from prime.dht.record import Record
    from prime.dht.registers.proposal import Version

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
            return await _get(dht, order)
        case PublishRecord():
            return await _publish(dht, order)
        case WithdrawRecord():
            return await _withdraw(dht, order)
        case OfferKey():
            return await _offer(dht, order)
        case ShowProviders(key, count_max):
            return _peers(await dht.find_providers(read_key(key, dht.peer), count_max=count_max))
        case ShowPeers(target):
            return _peers(await _find(dht, target))


async def _get(dht: Dht, order: ShowRecord) -> RecordShown:
    if order.register:
        return await _read_register(dht, order.key)
    if order.key.startswith(RUN):
        return _shown(await _run_record(dht, order.key.removeprefix(RUN), critical=order.critical))
    return _shown(await dht.get(read_key(order.key, dht.peer), critical=order.critical))


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
    others = (contact.peer for contact in await dht.find_providers(run_key(name)))
    for peer in (dht.peer, *others):
        with contextlib.suppress(NotFoundError):
            return await dht.get(mutable_key(peer, run_salt(base_name(name))), critical=critical)
    raise NotFoundError(f"nobody takes part in a run {name}", hint="`prime train status` lists the runs that are known")


async def _publish(dht: Dht, order: PublishRecord) -> RecordShown:
    if order.if_seq >= 0:
        return await _write_register(dht, order.name, order.if_seq, order.value)
    salt = salt_of(order.name) if order.name else None
    put = await dht.put(order.value, salt=salt, ttl_s=order.ttl_s or None)
    return _shown(put.record, len(put.holders), put.asked)


async def _withdraw(dht: Dht, order: WithdrawRecord) -> RecordShown:
    if order.if_seq >= 0:
        return await _write_register(dht, order.name, order.if_seq, None)
    put = await dht.remove(salt_of(order.name))
    return _shown(put.record, len(put.holders), put.asked)


async def _read_register(dht: Dht, text: str) -> RecordShown:
    peer, name = split_name(text)
    register = Register(peer or dht.peer, salt_of(name))
    return _version(register, await dht.read_register(register.publisher, register.salt))


async def _write_register(dht: Dht, name: str, if_seq: int, value: bytes | None) -> RecordShown:
    register = Register(dht.peer, salt_of(name))
    return _version(register, await dht.compare_and_set(register.salt, if_seq, value))


def _version(register: Register, version: Version) -> RecordShown:
    value = version.value or b""
    return RecordShown(
        to_bytes(register.key), register.publisher, register.salt, version.seq, version.created_ms, 0, value
    )


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
