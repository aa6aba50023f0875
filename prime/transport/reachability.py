"""Whether others can dial this node, as a pure core: `step(event, now) -> commands`.

A node cannot know it of itself. So it asks the peers that it has links to, a few at a time, to dial it back, and believes
the majority of their latest answers. The three outcomes are *public* (others dial it), *relayed* (they cannot, but a relay
keeps a slot for it) and *client-only* (it reaches others, nobody reaches it); until somebody has answered it is unknown.
"""

from __future__ import annotations

import ipaddress
from collections import Counter
from enum import Enum
from typing import Final

import attrs

from prime.errors import ConfigError
from prime.transport.multiaddr import Place, TcpPlace, parse_address

WITNESSES_MAX: Final = 8
"""Peers whose latest answer counts."""
ASK_AGAIN_S: Final = 600.0
"""How long an answer counts before the same peer is asked again."""
ASK_FIRST_S: Final = 1.0
"""How long after a link came up its peer is asked: what binds a link at once is not held up."""
ASK_SILENT_S: Final = 60.0
"""How long a peer that gave no answer is left alone."""


class Reachability(Enum):
    """How others reach a node."""

    UNKNOWN = "unknown"
    PUBLIC = "public"
    RELAYED = "relayed"
    CLIENT_ONLY = "client-only"


class Scope(Enum):
    """From where an address can be dialled at all."""

    MACHINE = "this machine"
    LOCAL = "the local network"
    INTERNET = "the internet"


def scope_of(place: Place) -> Scope:
    """Return from where a place could be dialled, as far as its form tells."""
    if not isinstance(place, TcpPlace):
        return Scope.MACHINE
    if place.kind not in {"ip4", "ip6"}:
        return Scope.INTERNET
    address = ipaddress.ip_address(place.host)
    if address.is_loopback or address.is_unspecified:
        return Scope.MACHINE
    return Scope.INTERNET if address.is_global else Scope.LOCAL


@attrs.frozen
class Evidence:
    """What one peer said of one address. `text` says why it did not get through, or why it did not try."""

    peer: str
    address: str
    reached: bool
    text: str

    def __str__(self) -> str:
        outcome = f"reached {self.address}" if self.reached else f"did not reach {self.address or 'this node'}"
        return f"{self.peer} {outcome}" + (f": {self.text}" if self.text else "")


# ------------------------------------------------------------------------------------------------------------- events


@attrs.frozen
class Linked:
    """A link to a peer came up; `relayed` ones tell nothing, as the peer sees the relay."""

    peer: str
    relayed: bool


@attrs.frozen
class Unlinked:
    """The link to a peer ended."""

    peer: str


@attrs.frozen
class Heard:
    """A peer answered: where it sees this node, and what came of each address. No evidence: it does not dial back."""

    peer: str
    seen: str
    evidence: tuple[Evidence, ...]


@attrs.frozen
class Slots:
    """At so many relays this node has a slot now."""

    count: int


@attrs.frozen
class Moved:
    """This node listens elsewhere than before: what was found out does not hold any more."""


@attrs.frozen
class Tick:
    """Time has passed."""


Event = Linked | Unlinked | Heard | Slots | Moved | Tick


# ----------------------------------------------------------------------------------------------------------- commands


@attrs.frozen
class Ask:
    """Ask this peer to dial back; answer with `Heard`."""

    peer: str


@attrs.frozen
class Changed:
    """The outcome is another than before; `why` says it in words."""

    before: Reachability
    after: Reachability
    why: str


@attrs.frozen
class Found:
    """Others reach this node at these addresses, where the endpoint does not know that it listens: behind a router."""

    addresses: tuple[str, ...]


Command = Ask | Changed | Found


@attrs.define
class _Witness:
    due: float
    linked: bool = True
    asking: bool = False
    asked: bool = False
    seen: str = ""
    evidence: tuple[Evidence, ...] = ()

    @property
    def reached(self) -> bool:
        return any(each.reached for each in self.evidence)


class Judge:
    """What one node knows of its own reachability."""

    def __init__(self) -> None:
        self._witnesses: dict[str, _Witness] = {}
        self._slots = 0
        self._outcome = Reachability.UNKNOWN
        self._found: tuple[str, ...] = ()

    @property
    def outcome(self) -> Reachability:
        """Return how others reach this node, as far as is known."""
        return self._outcome

    @property
    def is_settled(self) -> bool:
        """Whether every peer that there is a link to was asked, and has answered or was silent for long."""
        return all(not each.asking and each.asked for each in self._witnesses.values() if each.linked)

    @property
    def evidence(self) -> tuple[Evidence, ...]:
        """Return what peers said, the latest of each."""
        return tuple(each for witness in self._witnesses.values() for each in witness.evidence)

    @property
    def seen(self) -> tuple[str, ...]:
        """Return where peers see this node's links come from, each once."""
        return tuple(dict.fromkeys(witness.seen for witness in self._witnesses.values() if witness.seen))

    @property
    def why(self) -> str:
        """Return the reason for the outcome, in words."""
        asked = [witness for witness in self._witnesses.values() if witness.evidence]
        reached = sum(witness.reached for witness in asked)
        if not asked:
            return "no peer has dialled back yet"
        if self._outcome is Reachability.PUBLIC:
            scope = max((scope_of_text(each.address) for each in self.evidence if each.reached), key=_width)
            return f"{reached} of {len(asked)} peers dialled this node, over {scope.value}"
        relays = f"; {self._slots} relay{'s keep' if self._slots > 1 else ' keeps'} a slot" if self._slots else ""
        return f"{len(asked) - reached} of {len(asked)} peers could not dial this node{relays}"

    def step(self, event: Event, now: float) -> list[Command]:
        """Take in what happened and return what to do."""
        match event:
            case Linked(peer, relayed=False):
                self._linked(peer, now)
            case Unlinked(peer) if peer in self._witnesses:
                self._witnesses[peer].linked = False
            case Heard():
                self._heard(event, now)
            case Slots(count):
                self._slots = count
            case Moved():
                for witness in self._witnesses.values():
                    witness.evidence, witness.due = (), now
            case Tick():
                return self._ask(now)
        return self._conclude()

    def _linked(self, peer: str, now: float) -> None:
        witness = self._witnesses.pop(peer, None) or _Witness(now + ASK_FIRST_S)
        witness.linked = True
        self._witnesses[peer] = witness
        while len(self._witnesses) > WITNESSES_MAX:
            idle = (name for name, each in self._witnesses.items() if not each.linked)
            del self._witnesses[next(idle, next(iter(self._witnesses)))]

    def _heard(self, event: Heard, now: float) -> None:
        witness = self._witnesses.get(event.peer)
        if witness is None:
            return
        witness.asking, witness.asked = False, True
        tried = bool(event.evidence)
        witness.due = now + (ASK_AGAIN_S if tried else ASK_SILENT_S)
        if tried:
            witness.seen, witness.evidence = event.seen, event.evidence

    def _ask(self, now: float) -> list[Command]:
        due = [
            (peer, each)
            for peer, each in self._witnesses.items()
            if each.linked and each.due <= now and not each.asking
        ]
        for _, witness in due:
            witness.asking = True
        return [Ask(peer) for peer, _ in due]

    def _conclude(self) -> list[Command]:
        asked = [witness for witness in self._witnesses.values() if witness.evidence]
        reached = sum(witness.reached for witness in asked)
        commands: list[Command] = []
        addresses = self._agreed(len(asked))
        if addresses != self._found:
            self._found = addresses
            commands.append(Found(addresses))
        before, self._outcome = self._outcome, self._judge(reached, len(asked))
        if before is not self._outcome:
            commands.append(Changed(before, self._outcome, self.why))
        return commands

    def _agreed(self, asked: int) -> tuple[str, ...]:
        """Return the addresses that at least half of those who answered reached: one peer's word moves nobody's dials."""
        reached = Counter(each.address for each in self.evidence if each.reached)
        return tuple(address for address, times in reached.items() if 2 * times >= asked)

    def _judge(self, reached: int, asked: int) -> Reachability:
        if asked and 2 * reached >= asked:
            return Reachability.PUBLIC
        if self._slots:
            return Reachability.RELAYED
        return Reachability.CLIENT_ONLY if asked else Reachability.UNKNOWN


def scope_of_text(address: str) -> Scope:
    """As `scope_of`, for an address as text; one that is none counts as this machine's."""
    try:
        return scope_of(parse_address(address).place)
    except ConfigError:
        return Scope.MACHINE


def _width(scope: Scope) -> int:
    return list(Scope).index(scope)
