"""The network as the runtime sees it: one link to each peer, dialled on first use, over whatever transport was chosen.

`Links` implements `prime.actor.contract.Network`. What a link may do is decided by the pure core in `link.py`; here is
who is linked with whom: listening, dialling (one dial a peer at a time), the address book, and two dials that cross.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from random import Random
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, TypeVar

import trio

from prime.actor.contract import Clock, Inbound, PeerId, Tracer
from prime.actor.deadlines import Deadlines, Timer
from prime.actor.facts import DeadLetter
from prime.actor.slots import SLOW, Slot
from prime.errors import (
    ActorUsageError,
    ConfigError,
    DeadlineError,
    LinkLostError,
    PrimeError,
    UnreachableError,
    WorldError,
)
from prime.transport import frames as fr
from prime.transport import link as core
from prime.transport import pieces
from prime.transport.admission import Admission, gives_way, source_at
from prime.transport.callers import Callers, Relaying
from prime.transport.carrier import Carrier, Receipt
from prime.transport.contract import Channel, Endpoint, Guarded, Protocols, Shared, Transport, innermost, let_go
from prime.transport.delivery import Window
from prime.transport.dialling import ANSWER_S, CROSSING_S, FRESH_S, Dial, Race, directly_first, refusal
from prime.transport.facts import LinkDown, LinkUp, SignedRefused
from prime.transport.gate import Gate
from prime.transport.identity import KeyPair
from prime.transport.link import LinkLimits, Standing, Verdict, judge
from prime.transport.multiaddr import CircuitPlace, parse_address
from prime.transport.reachability import Judge
from prime.transport.replay import Bounds, ReplayWindows
from prime.transport.series import FEATURE, Inbox, Post
from prime.transport.signing import KeySignatory, wall_clock_s
from prime.transport.streams import AdmittedStreams
from prime.transport.turns import Turns
from prime.wire import to_plain
from prime.wire.codec import Codec
from prime.wire.message import signed_or_none, unsigned
from prime.wire.signed import Signatory

if TYPE_CHECKING:
    from prime.transport.relay.dialler import Dialler

__all__ = ["LinkLimits", "Links"]

_V = TypeVar("_V")

TELLS_PER_TURN: Final = 64
"""Tells between two checkpoints of a sender whose messages never have to wait."""
HOLD_S: Final = 0.5
"""How long a peer's HELLO is held for a dial of ours that wins over it but has not got through."""


class _SystemClock:
    """Trio's own clock."""

    current_time = staticmethod(trio.current_time)


class Links:
    """The links of one node. `serve` must run for any of the others to work.

    `emit` gets the facts (`LinkUp`, `LinkDown`, `DeadLetter`). `instance` names this run of the node to its peers; a
    simulation passes its own. With `vouched`, a peer is believed when it says for whom it hands a message on: only right
    where every peer is this same program, as between a process and its parent. The parent's side is `housed`: what its
    process signs counts as made here. `signatory` signs for the node, and `wall_s`, seconds since 1970 (UTC), says how
    old is what others signed. `admission` says who may link, and how much each may use. Without `punch` no hole is
    punched where a link goes through a relay.
    """

    def __init__(
        self,
        transport: Transport,
        key: KeyPair,
        *,
        limits: LinkLimits | None = None,
        emit: Callable[[Any], None] | None = None,
        version: str = "",
        features: Sequence[str] = (),
        clock: Clock | None = None,
        instance: int | None = None,
        vouched: bool = False,
        housed: bool = False,
        tracer: Tracer | None = None,
        signatory: Signatory | None = None,
        wall_s: Callable[[], float] = wall_clock_s,
        admission: Admission | None = None,
        punch: bool = True,
    ) -> None:
        self._transport = transport
        self.vouched = vouched
        self._housed = housed
        self._tracer = tracer
        self._punch = punch
        self._key = key
        self._limits = limits or LinkLimits()
        self._emit = emit or (lambda _fact: None)
        self._gate = Gate(admission or Admission(), self._emit, transport.name)
        self._callers = Callers(self._gate, self._limits, transport.name, self._host_caller)
        self._version = version
        self._features = (*features, FEATURE, pieces.FEATURE)
        self._clock = clock or _SystemClock()
        self._instance = secrets.randbits(62) + 1 if instance is None else instance
        self._peer = key.peer
        self._wall_s = wall_s
        self.signatory: Signatory = signatory or KeySignatory(key, wall_s)
        self._replays = ReplayWindows(self._peer, _bounds(self._limits))
        self._links_made = 0
        self._said: fr.Hello | None = None
        self._endpoint: Endpoint | None = None
        self._nursery: trio.Nursery | None = None
        self._inbound: Inbound | None = None
        self._closing = trio.Event()
        self._up: dict[PeerId, Carrier] = {}
        self._dials: dict[PeerId, Dial] = {}
        self._held: dict[PeerId, Carrier] = {}
        self._carriers: dict[Carrier, None] = {}
        self._greetings: dict[Carrier, Timer] = {}
        self._book: dict[PeerId, tuple[str, ...]] = {}
        self._previous: dict[PeerId, int] = {}
        self._tells = 0
        self._random = Random(self._instance)  # noqa: S311 - spreads attempts, and is the same in each simulated run
        self._inboxes: dict[PeerId, Inbox] = {}
        window = Window(self._limits.reliable_messages, self._limits.reliable_bytes, self._limits.reliable_give_up_s)
        self._post = Post(self, window, self._clock.current_time, self._start_task, self._random, self.signatory)
        self._sent_bytes: dict[int, int] = {}
        self._received_bytes: dict[int, int] = {}
        self._circuits: Dialler | None = None
        self._announced: dict[str, tuple[str, ...]] = {}
        self.reachability: Judge | None = None
        """What this node knows of how others reach it; `None` unless it finds out."""
        self.timers, self.turns = Deadlines(), Turns()
        self.replies: dict[type, tuple[Any, Codec]] = {}
        self.dead_letters = 0
        self.signed_refused = 0
        """Signed messages, and answers, that were refused: false, replayed, too old, or for another node."""

    # ---- what others may read

    @property
    def peer(self) -> PeerId:
        """This node's own id."""
        return self._peer

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where this node can be dialled, also through relays; empty before `serve` has started."""
        announced = (address for addresses in self._announced.values() for address in addresses)
        return tuple(dict.fromkeys((*self.listening, *announced))) if self.listening else ()

    @property
    def listening(self) -> tuple[str, ...]:
        """Where the endpoint itself listens, or a router does for it."""
        return () if self._endpoint is None else self._endpoint.addresses

    def announce(self, source: str, addresses: tuple[str, ...]) -> None:
        """Say in every HELLO from now on that this node can also be dialled at these; `source` is who found that out."""
        self._announced[source] = addresses

    def announced(self, source: str) -> tuple[str, ...]:
        """Return what was announced last by `source`."""
        return self._announced.get(source, ())

    async def knock(self, address: str, peer: PeerId) -> None:
        """Connect to an address anew and hang up, once `peer` has proved that it is there. Raises as `Endpoint.dial`.

        Over a transport whose channels share a connection it only shows that somebody listens: see `contract.Shared`.
        """
        endpoint = innermost(self._open_endpoint())
        if isinstance(endpoint, Shared):
            await endpoint.knock(address, peer)
        else:
            await (await endpoint.dial(address, peer)).aclose()

    @property
    def circuits(self) -> Dialler:
        """What makes circuits through relays. Raises `LinkLostError` unless this network serves."""
        endpoint = self._open_endpoint()
        if self._circuits is None:
            from prime.transport.relay.dialler import Dialler  # most nodes go through no relay, and need no TLS for it

            spawn = self._start_task if self._punch else None
            self._circuits = Dialler(endpoint, self._key, timeout_s=self._limits.dial_s, spawn=spawn, emit=self._emit)
        return self._circuits

    @property
    def protocols(self) -> Protocols | None:
        """What carries streams of other protocols, with peers that may link; `None` where the endpoint has none, or yet."""
        if self._endpoint is None:
            return None
        endpoint = innermost(self._endpoint)
        if not isinstance(endpoint, Protocols):
            return None
        return AdmittedStreams(endpoint, self._gate, self._transport.name)

    @property
    def transport_name(self) -> str:
        """The name of the transport under these links."""
        return self._transport.name

    @property
    def peers(self) -> tuple[PeerId, ...]:
        """Return the peers whose link is up."""
        return tuple(self._up)

    def carrier(self, peer: PeerId) -> Carrier | None:
        """Return the link with a peer if it is up, for who hands on messages with slots of its own."""
        return self._up.get(peer)

    @property
    def sent_bytes(self) -> Mapping[int, int]:
        """Whole frames handed to streams, in bytes by message tag; answers count as their ask, 0 is link traffic."""
        return MappingProxyType(self._sent_bytes)

    @property
    def received_bytes(self) -> Mapping[int, int]:
        """As `sent_bytes`, for frames received; tags unknown here count as 0."""
        return MappingProxyType(self._received_bytes)

    @property
    def relaying(self) -> Relaying | None:
        """What serves callers that want no link but a circuit; `None`: this node relays for nobody."""
        return self._callers.relaying

    @relaying.setter
    def relaying(self, relaying: Relaying | None) -> None:
        self._callers.relaying = relaying

    @property
    def admission(self) -> Admission:
        """Who may link with this node; may be changed while it runs."""
        return self._gate.admission

    @property
    def turned_away(self) -> Mapping[str, int]:
        """Callers that proved who they are and were turned away, by a word for why."""
        return self._gate.refused

    def sizes(self) -> dict[str, int]:
        """Count what is remembered, by table, over all links: what a leak test looks at."""
        counted = {
            "links": len(self._up),
            "streams": len(self._carriers),
            "dials": len(self._dials),
            "held": len(self._held),
            "greetings": len(self._greetings),
            "signers": len(self._replays),
            **self._post.sizes(),
        }
        for carrier in self._carriers:
            for name, size in carrier.sizes().items():
                counted[name] = counted.get(name, 0) + size
        return counted

    # ---- the life of the network

    async def serve(self, inbound: Inbound, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """See `Network.serve`. Cancelled, it says BYE on every link, within `farewell_s`, and returns."""
        if self._endpoint is not None:
            raise ActorUsageError("this network already serves", hint="Call `serve` once; make another `Links`.")
        async with self._transport.open(self._key) as endpoint, trio.open_nursery() as nursery:
            self._endpoint, self._inbound, self._closing = endpoint, inbound, trio.Event()
            if isinstance(endpoint, Guarded):
                endpoint.guard(self._gate.admission)
            unsubscribe = self._gate.admission.subscribe(self._admission_changed)
            farewell = trio.CancelScope()
            await nursery.start(self._host_links, farewell)
            farewell.shield = True  # not before: a start that is cancelled waits for its task, which nobody would end
            try:
                task_status.started()
                await self._accept(endpoint)
            finally:
                unsubscribe()
                self._endpoint = None
                if self._circuits is not None:
                    self._circuits.close()
                    self._circuits = None
                self._say_goodbye()
                farewell.deadline = trio.current_time() + self._limits.farewell_s

    async def _host_links(
        self, farewell: trio.CancelScope, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Own every task of every link; outlive the cancel of `serve` until the goodbyes are said."""
        with farewell:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                nursery.start_soon(self.timers.run)
                task_status.started()
                await self._closing.wait()
                self._nursery = None
                await self._drained()
                nursery.cancel_scope.cancel()

    async def _drained(self) -> None:
        for carrier in tuple(self._carriers):
            await carrier.ended.wait()

    def _say_goodbye(self) -> None:
        self._closing.set()
        for dial in tuple(self._dials.values()):
            dial.scope.cancel()
        for carrier in tuple(self._carriers):
            carrier.close(fr.Reason.SHUTDOWN, "the node shut down")

    async def _accept(self, endpoint: Endpoint) -> None:
        while True:
            self._receive(await endpoint.accept(), sorts=True)

    def _receive(self, channel: Channel, *, sorts: bool) -> None:
        if self._nursery is not None:  # else this node shuts down, and its endpoint with it
            now = self._clock.current_time()
            self._callers.receive(channel, self._nursery, self._greetings, now, sorts=sorts)

    def _host_caller(self, channel: Channel, heard: bytes) -> None:
        if self._nursery is not None:
            self._host(channel, dialled=False, heard=heard)

    def _admission_changed(self) -> None:
        """End the links with peers that are denied now."""
        for carrier in tuple(self._carriers):
            why = self._gate.admission.refusal(carrier.peer)
            if why:
                carrier.close(fr.Reason.REFUSED, why)
        for peer, dial in tuple(self._dials.items()):
            if self._gate.admission.refusal(peer):
                dial.scope.cancel()

    def take_in(self, channel: Channel) -> None:
        """Make a link of a channel whose peer dialled, as of one from the endpoint: it came by another way."""
        self._receive(channel, sorts=False)

    def _host(self, channel: Channel, *, dialled: bool, address: str = "", heard: bytes = b"") -> Carrier:
        """Make a link of a stream and start its tasks; `heard` was read from it before."""
        nursery, inbound = self._serving()
        hello = self._hello(channel.peer)
        link = core.Link(channel.peer, hello, self._limits, self._clock.current_time(), dialled=dialled)
        toll = self._gate.toll(channel.peer)
        carrier = Carrier(
            channel, link, self, inbound, self._clock, self._limits, dialled=dialled, address=address, toll=toll
        )
        carrier.heard = heard
        self._carriers[carrier] = None
        self._greetings[carrier] = self._limit_greeting(carrier, self._limits.greeting_s)
        nursery.start_soon(self._run, carrier)
        if dialled:
            carrier.feed(core.Start())
        return carrier

    def _serving(self) -> tuple[trio.Nursery, Inbound]:
        if self._nursery is None or self._inbound is None:
            raise ActorUsageError(
                "this network is not serving: it has not started, or it has shut down",
                hint="Run `await nursery.start(links.serve, inbound)` first.",
            )
        return self._nursery, self._inbound

    def _hello(self, peer: PeerId) -> fr.Hello:
        self._links_made += 1
        said, addresses = self._said, self.addresses[: fr.ADDRESSES_MAX]
        if said is None or said.addresses != addresses:
            version, features = self._version[:64], self._features[: fr.FEATURES_MAX]
            said = self._said = fr.Hello(
                fr.PROTOCOL_VERSION, version, features, self._limits.allowance, addresses, self._instance, 0, 0
            )
        link_id = (self._instance + self._links_made) % fr.ID_MAX + 1
        return said.numbered(self._instance, link_id, self._previous.get(peer, 0))

    async def _run(self, carrier: Carrier) -> None:
        try:
            await carrier.run()
        finally:
            self._carriers.pop(carrier, None)

    def _limit_greeting(self, carrier: Carrier, within_s: float, *, held: bool = False) -> Timer:
        return self.timers.at(trio.current_time() + within_s, lambda: self._greeting_late(carrier, held=held))

    def _greeting_late(self, carrier: Carrier, *, held: bool) -> None:
        if carrier.hello is not None and not held:  # it waits for the outcome of our own dial
            self._greetings[carrier] = self._limit_greeting(carrier, self._limits.dial_s, held=True)
        else:
            carrier.close(fr.Reason.PROTOCOL, f"no HELLO within {self._limits.greeting_s:g} s")

    # ---- what carriers tell

    def greeted(self, carrier: Carrier, hello: fr.Hello) -> None:
        """See `Owner.greeted`: a link that we dialled goes up by itself, the peer's waits for the verdict."""
        if not carrier.dialled:
            self._settle(carrier, hello)
        elif hello.link_id != carrier.link.link_id:
            carrier.close(fr.Reason.PROTOCOL, "HELLO names another link")

    def _settle(self, carrier: Carrier, hello: fr.Hello) -> None:
        peer = carrier.peer
        standing = self._up.get(peer)
        verdict = judge(self._peer, peer, hello, _standing(standing), dialling=peer in self._dials)
        if verdict is Verdict.DUPLICATE or peer == self._peer:
            carrier.close(fr.Reason.DUPLICATE, "there is a link already")
        elif verdict is Verdict.HOLD:
            self._hold(carrier)
        elif standing is None and len(self._up) >= self._limits.links_max and not self._make_room(carrier):
            carrier.close(fr.Reason.OVERLOAD, f"this node has {len(self._up)} links, the most it keeps")
        else:
            if standing is not None:
                standing.close(fr.Reason.REPLACED, "the peer opened a newer link")
            carrier.source = source_at(carrier.remote)
            carrier.feed(core.Admit())

    def _make_room(self, newcomer: Carrier) -> bool:
        """End the last link of the source that has the most, so that few addresses with many keys keep out nobody."""
        accepted = [each for each in self._up.values() if not each.dialled]
        last = gives_way([each.source for each in accepted], source_at(newcomer.remote))
        if last is None:
            return False
        accepted[last].close(fr.Reason.OVERLOAD, "links are few, and those from where this one comes are the most")
        return True

    def _hold(self, carrier: Carrier) -> None:
        earlier = self._held.pop(carrier.peer, None)
        self._held[carrier.peer] = carrier
        if earlier is not None:
            earlier.close(fr.Reason.DUPLICATE, "the peer dialled again")
        self.timers.at(trio.current_time() + HOLD_S, lambda: self._hold_late(carrier))

    def _hold_late(self, carrier: Carrier) -> None:
        """Take the peer's link if ours does not get through: perhaps only the peer can reach the other."""
        dial = self._dials.get(carrier.peer)
        if self._held.get(carrier.peer) is carrier and dial is not None and dial.carrier is None:
            dial.scope.cancel()

    def came_up(self, carrier: Carrier) -> None:
        """See `Owner.came_up`."""
        peer = carrier.peer
        dial, standing = self._dials.get(peer), self._up.get(peer)
        if standing is not None:
            if dial is None or dial.carrier is not carrier or dial.instead_of is not standing:
                # The peer's own dial was admitted while ours was under way.
                carrier.close(fr.Reason.DUPLICATE, "there is a link already")
                return
            standing.close(fr.Reason.REPLACED, "it was silent, and a newer link was opened")
        self._up[peer] = carrier
        self._remember(self._previous, peer, carrier.link.link_id)
        if carrier.hello is not None:
            self._learn_from_peer(peer, carrier.hello.addresses, carrier.address)
            self.inbox(peer).receiver.renew(carrier.hello.instance)
        self._post.link_changed(peer)
        self._emit(LinkUp(peer, carrier.address, self._transport.name, carrier.relayed))
        if dial is not None:
            dial.done.set()
            if not carrier.dialled:
                dial.scope.cancel()

    def went_down(self, carrier: Carrier, cause: str) -> None:
        """See `Owner.went_down`."""
        peer = carrier.peer
        if self._held.get(peer) is carrier:
            del self._held[peer]
        if self._up.get(peer) is carrier:
            del self._up[peer]
            self._keep_last(peer)
            self._post.link_changed(peer)
            self._emit(LinkDown(peer, cause))

    def _remember(self, table: dict[PeerId, _V], peer: PeerId, value: _V) -> None:
        """Put an entry last. When the table is full the oldest goes of which there is no link: strangers make no linked peer forgotten."""
        table.pop(peer, None)
        table[peer] = value
        if len(table) > self._limits.peers_max:
            del table[next((each for each in table if each not in self._up), next(iter(table)))]

    def _keep_last(self, peer: PeerId) -> None:
        """Let what is known of a peer count as new: its link has just ended, and may be resumed."""
        tables: tuple[dict[PeerId, Any], ...] = (self._book, self._previous, self._inboxes)
        for table in tables:
            if peer in table:
                table[peer] = table.pop(peer)

    def doubted(self, carrier: Carrier) -> None:
        """See `Owner.doubted`."""
        carrier.doubt()
        if self._nursery is not None and self._up.get(carrier.peer) is carrier:
            self._nursery.start_soon(self._probe, carrier)

    async def _probe(self, doubted: Carrier) -> None:
        """Try to put a new link in the place of one in doubt, again and again while it is."""
        peer = doubted.peer
        while doubted.link.doubtful and self._nursery is not None and self.known_addresses(peer):
            dial = self._dials.get(peer) or self._start_dial(peer, instead_of=doubted)
            await dial.done.wait()
            await trio.sleep(self._random.uniform(0.5, 1.0) * FRESH_S)

    def settled(self, carrier: Carrier) -> None:
        """See `Owner.settled`."""
        timer = self._greetings.pop(carrier, None)
        if timer is not None:
            timer.cancel()

    def count(self, *, sent: bool, tag: int, size_bytes: int) -> None:
        """See `Owner.count`."""
        table = self._sent_bytes if sent else self._received_bytes
        table[tag] = table.get(tag, 0) + size_bytes

    def drop(self, fact: DeadLetter) -> None:
        """See `Owner.drop`."""
        self.dead_letters += 1
        self._emit(fact)

    def take(self, message: Any, peer: PeerId) -> Any:
        """See `Owner.take`."""
        signed = signed_or_none(message)
        if signed is None or self.vouched:  # in a process: its parent has looked
            return message
        if self._housed:
            return unsigned(message) if signed.signer == peer else message
        self._replays.take(type(message).__name__, signed, peer, int(self._wall_s() * 1000))
        return message

    def put_back(self, message: Any) -> None:
        """See `Owner.put_back`."""
        signed = signed_or_none(message)
        if signed is not None:
            self._replays.put_back(signed)

    def answer_from(self, value: Any, peer: PeerId) -> Any:
        """See `Owner.answer_from`."""
        signed = signed_or_none(value) if self._housed else None
        return value if signed is None or signed.signer != peer else unsigned(value)

    def refused(self, peer: PeerId, error: PrimeError) -> None:
        """See `Owner.refused`."""
        self.signed_refused += 1
        self._emit(SignedRefused(peer, str(error)))

    # ---- reliable delivery

    async def tell_reliably(self, peer: PeerId, path: str, message: Any) -> None:
        """See `Network.tell_reliably`."""
        if peer == self._peer:
            await self._serving()[1].deliver(path, message, slot=None, deadline=None, sender=peer)
        else:
            self._serving()
            await self._post.tell(peer, path, message, None if self._tracer is None else self._context(path, message))

    async def flush(self, peer: PeerId, path: str, *, timeout_s: float) -> None:
        """See `Network.flush`."""
        await self._post.flush(peer, path, timeout_s)

    def _start_task(self, task: Callable[[], Awaitable[None]]) -> None:
        self._serving()[0].start_soon(task)

    def inbox(self, peer: PeerId) -> Inbox:
        """See `Owner.inbox`."""
        inbox = self._inboxes.get(peer)
        if inbox is None:
            inbox = Inbox()
            self._remember(self._inboxes, peer, inbox)
        return inbox

    def acknowledge(self, peer: PeerId) -> None:
        """See `Owner.acknowledge`."""
        inbox, carrier = self._inboxes.get(peer), self._up.get(peer)
        if inbox is None or carrier is None or carrier.hello is None or not inbox.receiver.owes:
            return
        for instance, series, number, again in inbox.receiver.acknowledgements():
            if instance == carrier.hello.instance:
                carrier.feed(core.Acknowledge(series, number, again))

    def acknowledged(self, peer: PeerId, series: int, number: int, again: str) -> None:
        """See `Owner.acknowledged`."""
        self._post.acknowledged(peer, series, number, again)

    # ---- the address book

    def learn(self, peer: PeerId, addresses: Sequence[str]) -> None:
        """See `Network.learn`."""
        if addresses and peer != self._peer:
            self._remember(self._book, peer, tuple(dict.fromkeys(addresses))[: fr.ADDRESSES_MAX])

    def known_addresses(self, peer: PeerId) -> tuple[str, ...]:
        """Return where a peer may be dialled, best first; empty if nothing is known."""
        return self._book.get(peer, ())

    def _learn_from_peer(self, peer: PeerId, addresses: Iterable[str], dialled: str) -> None:
        """Believe a proved peer about itself and nobody else; the address that worked stays first."""
        own = [address for address in addresses if _names(address, peer)]
        if dialled:
            own.insert(0, dialled)
        self.learn(peer, own)

    # ---- dialling

    async def dial(self, address: str) -> PeerId:
        """See `Network.dial`. A peer that is linked already is not dialled again if the address names it."""
        wanted = parse_address(address).peer
        if wanted is None:
            return await self._dial_stranger(address)
        if wanted != self._peer:
            self.learn(wanted, (address, *self.known_addresses(wanted)))
            await self.link_to(wanted)
        return wanted

    async def _dial_stranger(self, address: str) -> PeerId:
        self._serving()
        channel = await self._open_channel(address)
        peer = channel.peer
        if peer == self._peer or peer in self._up or peer in self._dials or self._gate.admission.refusal(peer):
            await channel.aclose()
        else:
            self.learn(peer, (address, *self.known_addresses(peer)))
            self._start_dial(peer, channel, address)
        if peer != self._peer:
            await self.link_to(peer)
        return peer

    async def _open_channel(self, address: str, peer: PeerId | None = None) -> Channel:
        endpoint = self._open_endpoint()
        if not isinstance(parse_address(address).place, CircuitPlace):
            return await endpoint.dial(address, peer)
        try:
            return await self.circuits.dial(address, peer)
        except UnreachableError as error:
            try:
                return await endpoint.dial(address, peer)  # through a relay of its own kind, if it knows one
            except UnreachableError:
                raise error from None

    def _open_endpoint(self) -> Endpoint:
        if self._endpoint is None:
            raise LinkLostError("this network has shut down", hint="Send before the block of its system ends.")
        return self._endpoint

    async def link_to(self, peer: PeerId) -> Carrier:
        """Return the link with a peer, dialling if there is none. Raises `UnreachableError`, `RefusedError`."""
        if peer not in self._up:
            dial = self._dials.get(peer) or self._start_dial(peer)
            await dial.done.wait()
            if peer not in self._up:
                dial.outcome()
        return self._linked(peer)

    def _linked(self, peer: PeerId) -> Carrier:
        carrier = self._up.get(peer)
        if carrier is None:
            raise LinkLostError(f"the link to {peer} was lost as soon as it was up", hint="Try again.")
        return carrier

    def _start_dial(
        self, peer: PeerId, channel: Channel | None = None, address: str = "", instead_of: Carrier | None = None
    ) -> Dial:
        nursery, _ = self._serving()
        self._gate.check(peer)
        dial = self._dials[peer] = Dial(peer, instead_of)
        nursery.start_soon(self._dial, dial, channel, address)
        return dial

    async def _dial(self, dial: Dial, channel: Channel | None, address: str) -> None:
        peer = dial.peer
        dial.error = UnreachableError(
            f"{peer} did not answer within {self._limits.dial_s:g} s at {_list(self.known_addresses(peer))}",
            hint="Check that the node runs and that its address can be reached from here.",
        )
        try:
            dial.scope.deadline = trio.current_time() + self._limits.dial_s
            with dial.scope:
                if channel is not None:
                    await self._greet(dial, channel, address, math.inf)
                else:
                    await self._try_addresses(dial)
        except (WorldError, ConfigError) as error:
            dial.error = error
        finally:
            del self._dials[peer]
            dial.done.set()
            self._settle_held(peer)

    def _settle_held(self, peer: PeerId) -> None:
        held = self._held.pop(peer, None)
        if held is not None and held.hello is not None:
            self._settle(held, held.hello)

    async def _try_addresses(self, dial: Dial) -> None:
        """Open a channel and say HELLO on it; begin anew where no answer comes."""
        patience_s = ANSWER_S
        while True:
            opened = await Race(
                dial.peer,
                directly_first(self.known_addresses(dial.peer)),
                self._attempt_for(dial),
                self._random,
                lambda: dial.wanted,
            ).run()
            if opened is None or await self._greet(dial, *opened, patience_s):
                return
            patience_s *= 2

    def _attempt_for(self, dial: Dial) -> Callable[[str], Awaitable[Channel]]:
        return lambda address: self._open_channel(address, dial.peer)

    async def _greet(self, dial: Dial, channel: Channel, address: str, patience_s: float) -> bool:
        """Say HELLO on a stream we dialled and wait until the link is up, this one or one that crossed it.

        Returns `False` where no answer came within `patience_s`.
        """
        if dial.scope.cancel_called:  # by the end of this node, say: then nothing is hosted any more
            await let_go(channel)
            return True
        carrier = dial.carrier = self._host(channel, dialled=True, address=address)
        try:
            with trio.move_on_after(patience_s):
                await carrier.settled.wait()
        finally:
            dial.carrier = None
            if not carrier.settled.is_set():
                carrier.close(fr.Reason.DUPLICATE, "the dial was given up")
                answered = False
            else:
                answered = True
        if not answered:
            return False
        if carrier.reason is fr.Reason.DUPLICATE and dial.peer not in self._up:
            with trio.move_on_after(CROSSING_S):
                await dial.done.wait()
        if dial.peer not in self._up:
            raise refusal(dial.peer, address, carrier)
        return True

    # ---- messages

    async def tell(self, peer: PeerId, path: str, message: Any) -> None:
        """See `Network.tell`."""
        if peer == self._peer:
            await self._serving()[1].deliver(path, message, slot=None, deadline=None, sender=peer)
            return
        payloads: list[memoryview] = []
        body = to_plain(message, payloads, self.signatory, peer)
        carrier = self._up.get(peer)
        trace = None if self._tracer is None else self._context(path, message)
        if carrier is None or payloads or trace or not carrier.tell_now(path, type(message), body):
            await self.submit(carrier or await self.link_to(peer), path, body, payloads, trace=trace)
        self._tells += 1
        if self._tells >= TELLS_PER_TURN:
            self._tells = 0
            await trio.lowlevel.checkpoint()

    async def submit(
        self,
        carrier: Carrier,
        path: str,
        body: list[Any],
        payloads: list[memoryview],
        numbered: tuple[int, int, int] | None = None,
        *,
        trace: str | None = None,
    ) -> None:
        """Send a tell, waiting until it is on its way."""
        receipt = Receipt()
        token = carrier.submit(path, body, payloads, receipt, trace=trace, numbered=numbered)
        if not receipt.done:
            try:
                await receipt.wait()
            finally:
                carrier.withdraw(token)
            return
        receipt.raise_if_failed()
        await trio.lowlevel.checkpoint_if_cancelled()

    async def ask(self, peer: PeerId, path: str, message: Any, *, timeout_s: float, chain: tuple[str, ...] = ()) -> Any:
        """See `Network.ask`."""
        if not timeout_s > 0:
            raise DeadlineError(
                f"an ask of {path} with {timeout_s:g} s left was not sent", hint="give a timeout above 0 seconds"
            )
        if peer == self._peer:
            return await self._ask_self(path, message, timeout_s, chain)
        payloads: list[memoryview] = []
        body = to_plain(message, payloads, self.signatory, peer)
        carrier = self._up.get(peer)
        if carrier is None:
            started = trio.current_time()
            carrier = await self._link_in_time(peer, path, timeout_s)
            timeout_s -= trio.current_time() - started
        slot = Slot()
        trace = None if self._tracer is None else self._context(path, message)
        token = 0 if payloads or trace else carrier.ask_now(path, type(message), body, slot, timeout_s, chain)
        if not token:
            token = carrier.ask(path, body, payloads, slot, type(message), timeout_s, trace=trace, chain=chain)
        try:
            return await slot.wait()
        finally:
            carrier.withdraw(token)

    def _context(self, path: str, message: Any) -> str | None:
        """Return what the tracer lets travel with a message; one that no frame may carry is left out."""
        trace = None if self._tracer is None else self._tracer.sending(path, type(message).__name__)
        return trace if trace is None or len(trace) <= fr.PATH_CHARS_MAX else None

    async def _link_in_time(self, peer: PeerId, path: str, timeout_s: float) -> Carrier:
        with trio.move_on_after(timeout_s):
            return await self.link_to(peer)
        raise DeadlineError(
            f"no link to {peer} within {timeout_s:g} s to ask {path}",
            hint="Check that the node runs, or give the ask a longer timeout.",
        )

    async def _ask_self(self, path: str, message: Any, timeout_s: float, chain: tuple[str, ...]) -> Any:
        _, inbound = self._serving()
        slot = Slot()
        deadline = None if timeout_s == math.inf else trio.current_time() + timeout_s
        with trio.move_on_after(timeout_s):
            await inbound.deliver(path, message, slot=slot, deadline=deadline, sender=self._peer, chain=chain)
            return await slot.wait()
        raise DeadlineError(f"no reply from {path} on this node within {timeout_s:g} s", hint=SLOW)

    def watch(self, peer: PeerId, path: str, notify: Callable[[str], None]) -> Callable[[], None]:
        """See `Network.watch`. A peer that cannot be reached counts as down."""
        nursery, inbound = self._serving()
        if peer == self._peer:
            return inbound.watch_path(path, notify)
        carrier = self._up.get(peer)
        if carrier is not None:
            return carrier.watch(path, notify)
        watch = _FarWatch(notify)
        nursery.start_soon(self._watch_when_linked, peer, path, watch)
        return watch.stop

    async def _watch_when_linked(self, peer: PeerId, path: str, watch: _FarWatch) -> None:
        try:
            carrier = await self.link_to(peer)
        except PrimeError as error:
            watch.fire(f"unreachable: {error}")
        except trio.Cancelled:
            watch.fire("link lost: this node shut down")
            raise
        else:
            watch.start(carrier, path)


class _FarWatch:
    """A watch whose link is still being dialled."""

    def __init__(self, notify: Callable[[str], None]) -> None:
        self._notify: Callable[[str], None] | None = notify
        self._unwatch: Callable[[], None] | None = None

    def start(self, carrier: Carrier, path: str) -> None:
        if self._notify is not None:
            self._unwatch = carrier.watch(path, self.fire)

    def fire(self, reason: str) -> None:
        notify, self._notify = self._notify, None
        if notify is not None:
            notify(reason)

    def stop(self) -> None:
        self._notify = None
        if self._unwatch is not None:
            self._unwatch()


def _bounds(limits: LinkLimits) -> Bounds:
    ages_ms = int(limits.signed_age_s * 1000), int(limits.signed_ahead_s * 1000)
    return Bounds(*ages_ms, limits.signers_max, limits.signers_by_peer_max)


def _standing(carrier: Carrier | None) -> Standing | None:
    if carrier is None or carrier.hello is None:
        return None
    return Standing(carrier.dialled, carrier.link.link_id, carrier.hello.instance)


def _names(address: str, peer: PeerId) -> bool:
    """Tell whether a text is an address, and of no other peer."""
    try:
        return parse_address(address).peer in {None, peer}
    except ConfigError:
        return False


def _list(addresses: Sequence[str]) -> str:
    return ", ".join(addresses) or "any address"
