"""Admission: who may link with this node, and how much each may use. Pure; what asks and refuses is in `gate.py`.

Three borders, the cheapest first. The *entrance* knows only where a connection comes from: it bounds how many of one
source prove themselves at once and how often they come, before a byte of theirs is read. Behind the proof the *peer* is
known: it is on the deny list or not on the allow list, comes too often, or the user's hook says no. A peer that is linked
uses messages and bytes at most at a rate: what is over it is not dropped, but its credit comes later.
"""

from __future__ import annotations

import ipaddress
import math
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from typing import Final

import attrs

from prime.actor.contract import PeerId
from prime.errors import ConfigError
from prime.transport.multiaddr import LayeredPlace, TcpPlace, parse_once
from prime.transport.peer import parse_peer
from prime.transport.rates import Book, Bucket

WAITING_MAX: Final = 256
"""Connections that wait until they may prove themselves, from all sources."""
IP6_PREFIX_BITS: Final = 64
"""One subscriber of IPv6 has at least this network for itself (RFC 6177), so it counts as one source."""

Source = str
"""Where a connection comes from: an IPv4 address, the /64 of an IPv6 address, or empty: from this machine's own user."""


@attrs.frozen
class AdmissionLimits:
    """What one peer, and one source of connections, may use. Rates are per second; `math.inf` is no limit."""

    messages_per_s: float = attrs.field(default=math.inf, validator=attrs.validators.gt(0))
    bytes_per_s: float = attrs.field(default=math.inf, validator=attrs.validators.gt(0))
    """What a linked peer may send over time, in tells and asks; bursts of two seconds' worth come at once."""
    peer_connects_per_s: float = attrs.field(default=20.0, validator=attrs.validators.gt(0))
    source_connects_per_s: float = attrs.field(default=50.0, validator=attrs.validators.gt(0))
    """How often a peer, proved, and a source, not yet proved, may come; bursts of four seconds' worth come at once."""
    source_proving_max: int = attrs.field(default=16, validator=attrs.validators.ge(1))
    """How many of one source may prove who they are at the same time; more wait their turn."""
    peer_greetings_max: int = attrs.field(default=4, validator=attrs.validators.ge(1))
    """How many connections of one peer may be without a HELLO at the same time."""


BURST_S: Final = 2.0
COMING_BURST_S: Final = 4.0


@attrs.frozen
class Caller:
    """Who wants to link with this node, as the admission hook sees it: the proved peer and the transport it came by."""

    peer: PeerId
    transport: str
    address: str = ""
    """Where it comes from, as a multiaddr without `/p2p/`; empty where the transport does not tell."""


Verdict = bool | str | None
"""What a hook says: `True` or `None` lets the caller in; `False`, or a text that says why, does not."""

Hook = Callable[[Caller], Verdict | Awaitable[Verdict]]


class Admission:
    """Who may link with a node. Pass it to `open_system`, and keep it to change it while the node runs.

    With `allow` only these peers may link, in either direction; without, all may that are not in `deny`, which holds peer
    ids, and addresses or networks that connections are not taken from (`192.0.2.7`, `2001:db8::/32`). `hook` is asked
    about each caller that passes, within `hook_timeout_s` seconds (a caller begins anew after 2): a function, or an async
    one. One that fails or is late lets nobody in. Raises `ConfigError` for what is neither a peer id nor a network.
    """

    def __init__(
        self,
        *,
        allow: Iterable[str] = (),
        deny: Iterable[str] = (),
        hook: Hook | None = None,
        hook_timeout_s: float = 1.0,
        limits: AdmissionLimits | None = None,
    ) -> None:
        self.hook = hook
        self.hook_timeout_s = hook_timeout_s
        self.limits = limits or AdmissionLimits()
        self._allowed = {parse_peer(who) for who in allow}
        self._listed = bool(self._allowed)
        self._denied: dict[PeerId, str] = {}
        self._networks: dict[_Network, None] = {}
        self._sources: Counter[_Key] = Counter()
        self._listeners: dict[Callable[[], None], None] = {}
        for who in deny:
            self._deny(who, "")

    @property
    def allowed(self) -> frozenset[PeerId] | None:
        """The only peers that may link; `None` if any may that is not denied."""
        return frozenset(self._allowed) if self._listed else None

    @property
    def denied(self) -> frozenset[str]:
        """The peers and networks that are denied."""
        return frozenset((*self._denied, *map(str, self._networks)))

    def allow(self, who: str) -> None:
        """Let a peer link from now on, or take connections from a network: it is denied no more.

        A peer is on the allow list from now on, if there is one.
        """
        if not _is_peer(who):
            network = _network(who)
            if network in self._networks:
                del self._networks[network]
                self._sources -= Counter([_key(network)])
            return
        peer = parse_peer(who)
        self._denied.pop(peer, None)
        if self._listed:
            self._allowed.add(peer)

    def deny(self, who: str, why: str = "") -> None:
        """Deny a peer, whose link ends now, or a network, from which no further connections are taken."""
        self._deny(who, why)
        for listener in tuple(self._listeners):
            listener()

    def subscribe(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Call `listener` whenever somebody was denied; returns a function that ends that."""
        self._listeners[listener] = None
        return lambda: _discard(self._listeners, listener)

    def refusal(self, peer: PeerId) -> str:
        """Return why a peer may not link, or an empty text."""
        if peer in self._denied:
            why = self._denied[peer]
            return f"this node denies the peer: {why}" if why else "this node denies the peer"
        if self._listed and peer not in self._allowed:
            return "the peer is not on the allow list of this node"
        return ""

    def denies_source(self, source: Source) -> bool:
        """Tell whether no connections are taken from a source."""
        if not self._networks or not source:
            return False
        return any(key in self._sources for key in _keys_around(ipaddress.ip_network(source)))

    def _deny(self, who: str, why: str) -> None:
        if _is_peer(who):
            self._denied[parse_peer(who)] = why
            return
        network = _network(who)
        if network not in self._networks:
            self._networks[network] = None
            self._sources[_key(network)] += 1


_Network = ipaddress.IPv4Network | ipaddress.IPv6Network


_Key = tuple[int, int, int]
"""A network as its version, the length of its prefix and that prefix: found at once among a hundred thousand."""


def _key(network: _Network) -> _Key:
    """Return what a denied network is found by. Of an IPv6 source only its /64 is known: an address there denies that."""
    bits = network.prefixlen if network.version == 4 else min(network.prefixlen, IP6_PREFIX_BITS)
    return network.version, bits, int(network.network_address) >> (network.max_prefixlen - bits)


def _keys_around(network: _Network) -> Iterator[_Key]:
    """Return the keys of all networks that hold this one."""
    number = int(network.network_address)
    for bits in range(network.prefixlen + 1):
        yield network.version, bits, number >> (network.max_prefixlen - bits)


def _is_peer(text: str) -> bool:
    return text.startswith("12D3")


def _network(text: str) -> _Network:
    """Return the network in a text; one of IPv4 in IPv6 clothes is what it is, as the sources are."""
    try:
        network = ipaddress.ip_network(text, strict=False)
        plain = getattr(network.network_address, "ipv4_mapped", None)
        if plain is None or network.prefixlen < 96:
            return network
        return ipaddress.IPv4Network((plain, network.prefixlen - 96))
    except ValueError as error:
        raise ConfigError(
            f"{text!r} is neither a peer id nor a network", hint="Write 12D3KooW…, 192.0.2.7 or 2001:db8::/32."
        ) from error


def _discard(listeners: dict[Callable[[], None], None], listener: Callable[[], None]) -> None:
    listeners.pop(listener, None)


def source_of(host: str) -> Source:
    """Return the source that a socket's host counts as; an IPv4 address in IPv6 clothes is what it is."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return ""
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    return str(ipaddress.ip_network((address, IP6_PREFIX_BITS), strict=False))


def source_at(remote: str) -> Source:
    """Return what the other end of a connection counts as; through a relay, and within this machine, it is not known."""
    place = parse_once(remote).place if remote else None
    return source_of(place.host) if isinstance(place, TcpPlace | LayeredPlace) else ""


def gives_way(sources: Sequence[Source], newcomer: Source) -> int | None:
    """Return which of those that take all places, oldest first, makes room for one of the source `newcomer`.

    That is the last of the source that has the most; none, if the newcomer would make its own source as big.
    """
    counts = Counter(sources)
    fullest = max(counts, key=lambda source: counts[source], default=newcomer)
    if counts[fullest] <= counts[newcomer] + 1:
        return None
    return len(sources) - 1 - sources[::-1].index(fullest)


class Toll:
    """What a peer pays for each message, over all its links: when its credit may go back."""

    __slots__ = ("_bytes", "_messages", "due")

    def __init__(self, limits: AdmissionLimits) -> None:
        self._messages = Bucket(limits.messages_per_s, BURST_S)
        self._bytes = Bucket(limits.bytes_per_s, BURST_S)
        self.due = -math.inf
        """Before this time no message of the peer's counts as taken."""

    def pay(self, now: float, size_bytes: int) -> None:
        """Pay for a message that has come."""
        self.due = max(self._messages.owe(now, 1), self._bytes.owe(now, size_bytes))


# ---------------------------------------------------------------------------------------------------------- entrance


@attrs.frozen
class Prove:
    """Let this connection prove itself now."""

    ticket: int


@attrs.frozen
class Shut:
    """Close this connection; `why` says for what, in a word or two."""

    ticket: int
    why: str


@attrs.define(eq=False)
class _Line:
    """The connections of one source: those that prove themselves, oldest first, and those that wait for it."""

    proving: dict[int, None] = attrs.field(factory=dict)
    waiting: deque[int] = attrs.field(factory=deque)

    def __len__(self) -> int:
        return len(self.proving) + len(self.waiting)


class Entrance:
    """Who of those that have not proved themselves may go on to do so. A ticket is one connection.

    At most `proving_max` do at once, of one source at most what the limits say, and `WAITING_MAX` more wait; sources take
    turns. Where all places are taken a newcomer takes one of the source that has the most, unless it is of that source
    itself: so who stalls, from however few sources, keeps out nobody else.
    """

    def __init__(self, admission: Admission, proving_max: int) -> None:
        self._admission = admission
        self._proving_max = proving_max
        self._lines: dict[Source, _Line] = {}
        self._sources: dict[int, Source] = {}
        self._proving = 0
        self._comings: Book[Source] = Book(admission.limits.source_connects_per_s, COMING_BURST_S)

    def __len__(self) -> int:
        return len(self._sources)

    def arrive(self, ticket: int, source: Source, now: float) -> list[Prove | Shut]:
        """Hear that a connection was opened."""
        if self._admission.denies_source(source):
            return [Shut(ticket, "denied")]
        if source and not self._comings.take(source, now):
            return [Shut(ticket, "too often")]
        made: list[Prove | Shut] = []
        if len(self._sources) >= self._proving_max + WAITING_MAX:
            heaviest = self._heaviest()
            if len(heaviest) <= len(self._lines.get(source, ())) + 1:
                return [Shut(ticket, "crowded")]
            made.append(self._evict(heaviest))
        self._sources[ticket] = source
        self._lines.setdefault(source, _Line()).waiting.append(ticket)
        return made + self._go_on()

    def leave(self, ticket: int) -> list[Prove | Shut]:
        """Hear that a connection has proved itself, or has failed to; nothing for one that was shut out."""
        if ticket not in self._sources:
            return []
        self._forget(ticket)
        return self._go_on()

    def _forget(self, ticket: int) -> None:
        source = self._sources.pop(ticket)
        line = self._lines[source]
        if ticket in line.proving:
            del line.proving[ticket]
            self._proving -= 1
        else:
            line.waiting.remove(ticket)
        if not line:
            del self._lines[source]

    def _heaviest(self) -> _Line:
        return max(self._lines.values(), key=len)

    def _evict(self, line: _Line) -> Shut:
        """Shut out who came last of a source, or, where nobody waits, who has been at it the longest."""
        ticket = line.waiting[-1] if line.waiting else next(iter(line.proving))
        self._forget(ticket)
        return Shut(ticket, "crowded")

    def _go_on(self) -> list[Prove | Shut]:
        """Let those prove themselves for whom there is a place; a source that has none takes one of the fullest."""
        made: list[Prove | Shut] = []
        while (line := self._next()) is not None:
            if self._proving >= self._proving_max:
                fullest = max(self._lines.values(), key=lambda each: len(each.proving))
                if line.proving or len(fullest.proving) < 2:
                    break
                oldest = next(iter(fullest.proving))
                self._forget(oldest)
                made.append(Shut(oldest, "crowded"))
            ticket = line.waiting.popleft()
            line.proving[ticket] = None
            self._proving += 1
            made.append(Prove(ticket))
        return made

    def _next(self) -> _Line | None:
        """Return the line with somebody waiting whose source proves the fewest."""
        lines = [line for source, line in self._lines.items() if line.waiting and self._has_room(source, line)]
        return min(lines, key=lambda line: len(line.proving), default=None)

    def _has_room(self, source: Source, line: _Line) -> bool:
        return not source or len(line.proving) < self._admission.limits.source_proving_max
