"""A node as it asks others on `/ipfs/kad/1.0.0`: one request on a stream, and lookups made of many.

Whom an answer names is believed as far as the peer that answered may vouch (`nodes`), and gets into the table only once
it has answered itself. Nothing waits longer than its deadline, and who lies is one voice of many.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Final

import anyio
import attrs
import trio

from prime.actor.contract import PeerId
from prime.dht.contact import Contact
from prime.dht.groups import counted_group
from prime.dht.ipfs.desk import Desk
from prime.dht.ipfs.message import ANSWER_BYTES_MAX, PROTOCOL, Kind, Message, Node, pack, read_message
from prime.dht.ipfs.nodes import hearsay, node_of, read_node
from prime.dht.ipfs.streams import Messages
from prime.dht.key import key_of
from prime.dht.lookup import (
    Answered,
    Begun,
    Command,
    Event,
    Failed,
    Finished,
    Lookup,
    Nearest,
    Outcome,
    Peer,
    Want,
    Woken,
)
from prime.errors import DeadlineError, LinkLostError, PrimeError, RefusedError, RemoteProtocolError, UnreachableError
from prime.transport.contract import Channel, Identified, Protocols, let_go
from prime.transport.peer import peer_bytes

STARTS_PER_PATH: Final = 8
NEWCOMERS_MAX: Final = 256
"""Peers that wait to be asked who they are; more are met another time."""
CHORES_MAX: Final = 64
IDENTIFY_PAUSES_S: Final = (0.1, 0.4)
_STREAM_ERRORS: Final = (anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.EndOfStream)
ASKING_ERRORS: Final = (PrimeError, *_STREAM_ERRORS)
"""What asking a peer may raise; none of it is this node's fault."""


@attrs.frozen
class Heard:
    """The answer of a peer that was seen at `seen_at`, and whom it names: those that can be dialled and it may vouch for."""

    contact: Contact
    seen_at: str
    message: Message
    path: int = 0

    @property
    def closer(self) -> tuple[Contact, ...]:
        """The peers that it says are closer."""
        return self._read(self.message.closer)

    @property
    def providers(self) -> tuple[Contact, ...]:
        """The peers that it says have what was asked for."""
        return self._read(self.message.providers)

    def _read(self, nodes: Iterable[Node]) -> tuple[Contact, ...]:
        found = (read_node(node, self.seen_at) for node in nodes)
        return tuple(contact for contact in found if contact is not None)


@attrs.frozen
class Looked:
    """What a lookup heard, from the nearest peer on; `outcome` is `None` where it was ended as enough was heard."""

    heard: tuple[Heard, ...]
    outcome: Outcome | None


class Asking:
    """Requests to other peers. `wall_ms` returns ms since 1970."""

    def __init__(self, protocols: Protocols, desk: Desk, wall_ms: Callable[[], int]) -> None:
        self.protocols = protocols
        self.desk = desk
        self.wall_ms = wall_ms
        self.newcomers: dict[PeerId, bool] = {}
        """Who is to be asked what it is, and whether it has answered a request already."""
        self.doubtful: dict[PeerId, Contact] = {}
        """Who is to be asked whether it lives, as another waits for its place in the table."""
        self.chores: deque[Callable[[], Awaitable[object]]] = deque()
        """What else is to be done when there is time."""
        self.news = trio.Event()
        """Set when there is somebody or something among these."""

    # ---- one request

    async def ask(self, contact: Contact, request: Message) -> Heard:
        """Ask a peer, and note in the table what came of it. Raises one of `ASKING_ERRORS`."""
        try:
            heard = await self._ask(contact, request)
        except (RefusedError, RemoteProtocolError):
            raise
        except ASKING_ERRORS:
            self.desk.table.failed(contact.peer, trio.current_time())
            raise
        self._has_answered(heard)
        return heard

    async def _ask(self, contact: Contact, request: Message) -> Heard:
        request_s = self.desk.settings.request_s
        with trio.move_on_after(request_s):
            try:
                return await self._ask_once(contact, request)
            except LinkLostError:  # of two connections that were made at the same time, peers end one
                return await self._ask_once(contact, request)
        raise DeadlineError(f"{contact.peer} did not answer within {request_s:g} s", hint="ask another")

    async def _ask_once(self, contact: Contact, request: Message) -> Heard:
        channel = await self.protocols.open_stream(PROTOCOL, contact.peer, contact.addresses)
        try:
            return await self._converse(channel, contact, request)
        finally:
            await let_go(channel)

    async def _converse(self, channel: Channel, contact: Contact, request: Message) -> Heard:
        request_s = self.desk.settings.request_s
        messages = Messages(channel)
        try:
            await messages.send(pack(request), request_s)
            data = await messages.receive(ANSWER_BYTES_MAX, request_s)
        except _STREAM_ERRORS as error:
            raise _ended(contact.peer, str(error)) from error
        if data is None:
            raise _ended(contact.peer, "")
        answer = read_message(data)
        if answer.kind is not request.kind:
            raise RemoteProtocolError(f"{contact.peer} answered something else", hint="it is broken: ask another")
        return Heard(contact, channel.remote, answer)

    async def announce(self, contact: Contact, multihash: bytes) -> bool:
        """Say to a peer that this node has what a multihash names; tell whether it has taken that.

        ADD_PROVIDER has no answer, and how a stream ends says nothing (js-libp2p resets good ones, too). So it is asked for
        the providers behind it: who refuses has reset the stream by then. Raises one of `ASKING_ERRORS`.
        """
        with trio.move_on_after(self.desk.settings.request_s):
            channel = await self.protocols.open_stream(PROTOCOL, contact.peer, contact.addresses)
            try:
                own = node_of(self.desk.contact, channel.remote)
                if own is not None:
                    said = Message(Kind.ADD_PROVIDER, multihash, providers=(own,))
                    return await self._is_taken(Messages(channel), said)
            finally:
                await let_go(channel)
        return False

    async def _is_taken(self, messages: Messages, said: Message) -> bool:
        request_s = self.desk.settings.request_s
        await messages.send(pack(said) + pack(Message(Kind.GET_PROVIDERS, said.key)), request_s)
        while (data := await messages.receive(ANSWER_BYTES_MAX, request_s)) is not None:
            if read_message(data).kind is Kind.GET_PROVIDERS:
                return True  # of some implementations the other one is answered, too
        return False

    # ---- who is who

    def _has_answered(self, heard: Heard) -> None:
        known = self.desk.table.get(heard.contact.peer)
        if known is None:
            self.meet(heard.contact.peer, has_answered=True)
        else:
            self._seat(known, heard.seen_at)

    def _seat(self, contact: Contact, seen_at: str) -> None:
        doubtful = self.desk.table.answered(contact, trio.current_time(), seen_at=seen_at)
        if doubtful is not None:
            self.doubtful[doubtful.peer] = doubtful
            self.news.set()

    def meet(self, peer: PeerId, *, has_answered: bool = False) -> None:
        """Have a connected peer asked what it is, unless there are too many."""
        if peer != self.desk.peer and (peer in self.newcomers or len(self.newcomers) < NEWCOMERS_MAX):
            self.newcomers[peer] = self.newcomers.get(peer, False) or has_answered
            self.news.set()

    def do_later(self, chore: Callable[[], Awaitable[object]]) -> None:
        """Have something done that nobody waits for, unless there is too much of that. It raises nothing."""
        if len(self.chores) < CHORES_MAX:
            self.chores.append(chore)
            self.news.set()

    async def find_out(self, peer: PeerId, *, has_answered: bool) -> None:
        """Ask a connected peer what it is; one that answers requests gets into the table. Raises `ASKING_ERRORS`."""
        contact, said = await self.identify(peer)
        self.desk.note(contact)
        if PROTOCOL not in said.protocols or not contact.addresses:
            return  # a client, which answers nobody, or one that nobody could dial
        if not has_answered:
            await self._ask(contact, Message(Kind.FIND_NODE, peer_bytes(self.desk.peer)))
        self._seat(contact, said.remote)

    async def identify(self, peer: PeerId, addresses: Sequence[str] = ()) -> tuple[Contact, Identified]:
        """Return where a peer says that it is, as far as it may, and all else it says. Raises `ASKING_ERRORS`."""
        with trio.move_on_after(self.desk.settings.request_s):
            said = await self._identify(peer, addresses)
            return hearsay(peer, said.addresses, said.remote, self.wall_ms()), said
        raise DeadlineError(f"{peer} did not say who it is", hint="ask another")

    async def _identify(self, peer: PeerId, addresses: Sequence[str]) -> Identified:
        """Ask a peer what it is, again where it is connected and did not say: js-libp2p answers one at a time, py-libp2p asks too."""
        for pause_s in IDENTIFY_PAUSES_S:
            try:
                return await self.protocols.identify(peer, addresses)
            except (RemoteProtocolError, UnreachableError):
                if peer not in self.protocols.peers:
                    raise
            await trio.sleep(pause_s)
        return await self.protocols.identify(peer, addresses)

    # ---- many requests

    async def look_up(
        self,
        key: bytes,
        request: Message,
        *,
        want: Want | None = None,
        starts: Iterable[Contact] = (),
        enough: Callable[[Heard], bool] | None = None,
    ) -> Looked:
        """Ask nearer and nearer peers the same, until those nearest to the key have answered, or `enough` was heard."""
        settings, place = self.desk.settings, key_of(key)
        near = self.desk.table.closest(place, STARTS_PER_PATH * settings.paths)
        wanted = Nearest(place) if want is None else want
        now = trio.current_time()
        lookup = Lookup(wanted, settings, [*near, *starts], own=self.desk.peer, now=now)
        self.desk.table.looked_up(place, now)
        run = _Run(self, lookup, request, enough)
        await run.go()
        heard = sorted(run.heard.values(), key=lambda each: each.contact.key ^ place)
        return Looked(tuple(heard), lookup.outcome)


class _Run:
    """One lookup as it goes."""

    def __init__(
        self, asking: Asking, lookup: Lookup, request: Message, enough: Callable[[Heard], bool] | None
    ) -> None:
        self._asking = asking
        self._lookup = lookup
        self._request = request
        self._enough = enough
        self._events, self._arriving = trio.open_memory_channel[Event](1 << 10)
        self.heard: dict[PeerId, Heard] = {}
        self._is_enough = False

    async def go(self) -> None:
        async with trio.open_nursery() as nursery:
            event: Event = Begun()
            while not self._is_enough:
                for command in self._lookup.step(event, trio.current_time()):
                    self._obey(command, nursery)
                if self._lookup.outcome is not None:
                    break
                event = await self._next()
            nursery.cancel_scope.cancel()

    async def _next(self) -> Event:
        with trio.move_on_at(self._lookup.wakes_at):
            return await self._arriving.receive()
        return Woken()

    def _obey(self, command: Command, nursery: trio.Nursery) -> None:
        if not isinstance(command, Finished):
            nursery.start_soon(self._ask, command.contact, command.path)

    async def _ask(self, contact: Contact, path: int) -> None:
        await self._events.send(await self._outcome_of(contact, path))

    async def _outcome_of(self, contact: Contact, path: int) -> Event:
        want = self._lookup.want
        try:
            if isinstance(want, Peer) and contact.peer == want.peer:
                found, said = await self._asking.identify(contact.peer, contact.addresses)
                return self._found(found, said)
            heard = attrs.evolve(await self._asking.ask(contact, self._request), path=path)
            self._is_enough = self._enough is not None and self._enough(heard)  # a user's namespace may judge in it
        except ASKING_ERRORS as error:
            return Failed(contact.peer, forged=isinstance(error, RemoteProtocolError))
        self.heard[contact.peer] = heard
        group = counted_group(heard.seen_at)
        return Answered(contact.peer, heard.closer, providers=heard.providers, group=group)

    def _found(self, contact: Contact, said: Identified) -> Event:
        """Take note of the peer that was looked for: it has proved that it is there, whatever it speaks."""
        self._asking.desk.note(contact)
        self.heard[contact.peer] = Heard(contact, said.remote, Message(Kind.FIND_NODE))
        return Answered(contact.peer)


def _ended(peer: PeerId, lost: str) -> RefusedError | LinkLostError:
    """Return the error of a stream that ended: its peer has reset it, or its connection was `lost`, which says why."""
    if lost:
        return LinkLostError(f"the connection with {peer} was lost: {lost}", hint="ask it again, or another")
    return RefusedError(f"{peer} ended the stream without an answer", hint="it refuses the request, or is overloaded")


async def with_each(contacts: Iterable[Contact], at_once: int, act: Callable[[Contact], Awaitable[None]]) -> None:
    """Do the same with each contact, so many at once."""
    limit = trio.CapacityLimiter(at_once)

    async def one(contact: Contact) -> None:
        async with limit:
            await act(contact)

    async with trio.open_nursery() as nursery:
        for contact in contacts:
            nursery.start_soon(one, contact)
