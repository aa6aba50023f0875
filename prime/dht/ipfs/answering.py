"""The actor at `/ipfs/kad`: it answers streams of `/ipfs/kad/1.0.0`, joins that DHT, and keeps up what this node put there.

What is known and held lives beside it, so that a lost actor loses nothing; a new one answers again at once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from random import Random
from typing import TYPE_CHECKING, Any, Final

import trio

from prime.actor import Actor, on
from prime.actor.contract import PeerId
from prime.dht import bootstrap as core
from prime.dht.contact import Contact
from prime.dht.ipfs.asking import ASKING_ERRORS
from prime.dht.ipfs.desk import Asker
from prime.dht.ipfs.facts import NotKeptUp
from prime.dht.ipfs.message import PROTOCOL, REQUEST_BYTES_MAX, Kind, Message, pack, read_message
from prime.dht.ipfs.streams import Messages
from prime.dht.key import BITS, Key, bucket_of, key_of
from prime.errors import PrimeError, RefusedError
from prime.transport.contract import Channel
from prime.transport.peer import peer_bytes
from prime.wire import message

if TYPE_CHECKING:
    from prime.dht.ipfs.ipfs import Ipfs

SUPERVISOR: Final = "ipfs"
NAME: Final = "kad"
READ_S: Final = 10.0
"""How long a stream may be silent between its requests, and a request may take to come."""
WRITE_S: Final = 10.0
SWEEP_S: Final = 60.0
LOOK_S: Final = 1.0
"""How soon a new connection is noticed."""
ERRANDS_MAX: Final = 8
"""Peers that are asked at a time who they are, or whether they live."""
PREFIX_BITS_MAX: Final = 11
"""Nearer to the own key no bytes are sought that fall into a bucket, as that takes long: its own lookup shows who is there."""


@message
class Sweep:
    """Time has passed."""


@message
class LookAround:
    """There may be new connections."""


class IpfsActor(Actor[Sweep | LookAround]):
    """Answers, joins and keeps up."""

    def __init__(self, ipfs: Ipfs) -> None:
        self._ipfs = ipfs
        self._connected: set[PeerId] = set()
        self._stop: Callable[[], None] = _nothing

    async def started(self) -> None:
        """Answer from now on, unless this node is a client."""
        if self._ipfs.server:
            self._stop = self._ipfs.asking.protocols.answer(PROTOCOL, self._serve)
        for task in (self._join, self._do_errands, self._keep_up):
            self.ctx.start_soon(task)
        self.ctx.every(SWEEP_S, Sweep())
        self.ctx.every(LOOK_S, LookAround())

    async def stopping(self) -> None:
        """Answer no more."""
        self._stop()

    @on(Sweep)
    def sweep(self, _: Sweep) -> None:
        """Forget what has had its time."""
        self._ipfs.desk.sweep(self._ipfs.asking.wall_ms())

    @on(LookAround)
    def look_around(self, _: LookAround) -> None:
        """Have each peer asked what it is that was not connected before: one that answers requests need not make any."""
        asking = self._ipfs.asking
        connected = set(asking.protocols.peers)
        for peer in connected - self._connected:
            if peer not in asking.desk.table:
                asking.meet(peer)
        self._connected = connected

    # ---- answering

    async def _serve(self, channel: Channel) -> None:
        """Answer the requests of one stream, one after another. What it raises resets the stream."""
        ipfs, messages = self._ipfs, Messages(channel)
        asker = Asker(channel.peer, channel.remote)
        most = min(REQUEST_BYTES_MAX, ipfs.desk.settings.request_bytes_max)
        while (data := await messages.receive(most, READ_S)) is not None:
            try:
                answer = self._answer(asker, data)
            except PrimeError:
                ipfs.refused += 1
                raise
            ipfs.served += 1
            if answer is not None:
                await messages.send(pack(answer), WRITE_S)

    def _answer(self, asker: Asker, data: bytes) -> Message | None:
        ipfs = self._ipfs
        if not ipfs.rates.take(asker.peer, trio.current_time()):
            raise RefusedError(f"{asker.peer} asks too often", hint="ask more slowly, or other nodes")
        request = read_message(data)
        stranger = Contact(asker.peer, (), 0, b"")
        if ipfs.desk.table.heard(stranger, trio.current_time(), seen_at=asker.seen_at):
            ipfs.asking.meet(asker.peer)
        return ipfs.desk.answer(asker, request, ipfs.asking.wall_ms())

    # ---- joining

    async def _join(self) -> None:
        """Carry out what the core of joining says. An incarnation's requests end with it, so the next begins anew."""
        joining = self._ipfs.new_joining()
        events, arriving = trio.open_memory_channel[core.Event](64)
        async with trio.open_nursery() as nursery:
            event: core.Event = core.Woken()
            while True:
                for command in joining.step(event, trio.current_time()):
                    nursery.start_soon(self._obey, command, events)
                if joining.phase in {"first", "merged"}:
                    self._ipfs.has_joined.set()
                event = core.Woken()
                with trio.move_on_at(joining.wakes_at):
                    event = await arriving.receive()

    async def _obey(self, command: core.Command, events: trio.MemorySendChannel[core.Event]) -> None:
        match command:
            case core.IntroduceToAll():
                found = [await self._asked(contact) for contact in self._ipfs.told_of]
                await events.send(core.Introduced(sum(found)))
            case core.IntroduceTo(contact):
                await self._asked(contact)
            case core.LookUp(bucket):
                await events.send(core.LookedUp(bucket, await self._looked_up(bucket)))

    async def _asked(self, contact: Contact) -> bool:
        """Ask a peer for those near this node, and tell whether it answered; then it is in the table, if it may."""
        asking = self._ipfs.asking
        try:
            await asking.ask(contact, Message(Kind.FIND_NODE, peer_bytes(asking.desk.peer)))
            if contact.peer not in asking.desk.table:
                await asking.find_out(contact.peer, has_answered=True)
        except ASKING_ERRORS:
            return False
        return True

    async def _looked_up(self, bucket: int) -> int:
        """Look up bytes whose key is in a bucket, or the own id; return how many peers answered."""
        ipfs = self._ipfs
        own = ipfs.desk.table.own
        key = peer_bytes(ipfs.desk.peer) if bucket == core.OWN else bytes_in(own, bucket, ipfs.random)
        if key is None:
            ipfs.desk.table.looked_up(Key(own ^ 1 << bucket), trio.current_time())
            return 0
        starts = ipfs.told_of if bucket == core.OWN else ()
        looked = await ipfs.asking.look_up(key, Message(Kind.FIND_NODE, key), starts=starts)
        return len(looked.heard)

    # ---- errands

    async def _do_errands(self) -> None:
        """Ask newcomers what they are, and doubtful contacts whether they live; then do what else there is."""
        asking = self._ipfs.asking
        limit = trio.CapacityLimiter(ERRANDS_MAX)
        async with trio.open_nursery() as nursery:
            while True:
                await asking.news.wait()
                asking.news = trio.Event()
                while asking.doubtful or asking.newcomers or asking.chores:
                    await limit.acquire_on_behalf_of(errand := object())
                    nursery.start_soon(self._errand, self._next_errand(), limit, errand)

    def _next_errand(self) -> Callable[[], Awaitable[Any]]:
        asking = self._ipfs.asking
        if asking.doubtful:
            contact = asking.doubtful.pop(next(iter(asking.doubtful)))
            return lambda: asking.ask(contact, Message(Kind.FIND_NODE, peer_bytes(contact.peer)))
        if not asking.newcomers:
            return asking.chores.popleft()
        peer = next(iter(asking.newcomers))
        has_answered = asking.newcomers.pop(peer)
        return lambda: asking.find_out(peer, has_answered=has_answered)

    async def _errand(self, act: Callable[[], Awaitable[Any]], limit: trio.CapacityLimiter, errand: object) -> None:
        try:
            await act()
        except ASKING_ERRORS:
            return
        finally:
            limit.release_on_behalf_of(errand)

    async def _keep_up(self) -> None:
        """Put and provide anew what this node has put and provides, as often as the settings say."""
        ipfs = self._ipfs
        while True:
            await trio.sleep(ipfs.desk.settings.republish_s)
            for key, value in tuple(ipfs.published.items()):
                await self._again(ipfs.put_value, key, value)
            for multihash in tuple(ipfs.provided):
                await self._again(ipfs.provide, multihash)

    async def _again(self, act: Callable[..., Awaitable[Any]], *arguments: bytes) -> None:
        try:
            await act(*arguments)
        except PrimeError as error:
            self.ctx.emit(NotKeptUp(arguments[0], str(error)))


def bytes_in(own: Key, bucket: int, random: Random) -> bytes | None:
    """Return bytes in the form of a peer id whose key falls into a bucket; `None` for a bucket that few fall into."""
    if bucket < BITS - 1 - PREFIX_BITS_MAX:
        return None
    for _ in range(8 << (BITS - bucket)):
        drawn = b"\x12\x20" + hashlib.sha256(random.randbytes(16)).digest()
        if bucket_of(own, key_of(drawn)) == bucket:
            return drawn
    return None


def _nothing() -> None:
    """Stop nothing."""
