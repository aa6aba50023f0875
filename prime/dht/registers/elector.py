"""One elector of all the registers that chose this node: what it has promised, and what it accepted. Pure.

The acceptor of CASPaxos (Rystsov, "CASPaxos: Replicated State Machines without logs", 2018, section 2.1). It takes no
ballot below the one that it promised, and shows what it accepted last; both are signed by the publisher, so it need not
be believed. What it says holds across crashes: `Keep` comes before the `Answer` of the same step, and nothing of a step
counts before the shell has said `Kept`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Final, Literal

import attrs

from prime.dht.key import Key
from prime.dht.registers.proposal import Call, Electors, Proposal, Register, Seat, outranks

HELD_MS: Final = 90 * 24 * 3600 * 1000
"""How long a register is kept after its publisher last proposed anything."""
BURIED_MS: Final = 7 * 24 * 3600 * 1000
"""How long one that has ended is refused before it is forgotten: more than clocks are apart, so no two lives meet."""
AHEAD_MS_MAX: Final = 24 * 3600 * 1000
"""How far ahead of this node's clock a proposal may have been made; far less than what is buried."""
REGISTERS_MAX: Final = 1024
PUBLISHER_REGISTERS_MAX: Final = 64
GROUP_REGISTERS_MAX: Final = 128
"""Registers that peers of one IP group brought here: keys cost nothing, so the publisher alone bounds nobody."""


@attrs.frozen
class Standing:
    """Where an elector stands with one register: what it promised last, by call, and what it accepted last."""

    register: Register
    promised: Call | None = None
    accepted: Proposal | None = None
    promised_ms: int = 0
    """Its own clock, when it promised last (ms since 1970)."""
    group: str = ""
    """Against what it counts: the IP group of whoever first asked, or that peer; empty for this node itself."""

    @property
    def floor(self) -> Call | Proposal | None:
        """What no smaller ballot is taken after."""
        if self.promised is not None and self.accepted is not None:
            return self.promised if outranks(self.promised, self.accepted) else self.accepted
        return self.promised or self.accepted

    @property
    def touched_ms(self) -> int:
        """When its publisher last did anything here, as far as this elector knows."""
        return self.promised_ms if self.accepted is None else max(self.accepted.stamp_ms, self.promised_ms)


# ---------------------------------------------------------------------------------------------------- what it is asked


@attrs.frozen
class Look:
    """Show where you stand with the register of this key."""

    key: Key


@attrs.frozen
class Prepare:
    """Promise to take no ballot below this call's. `newest`: the newest proposal that the caller knows of.

    One that is new to the term learns from it what the term began with. `group`: see `Standing`.
    """

    call: Call
    newest: Proposal | None = None
    group: str = ""


@attrs.frozen
class Accept:
    """Accept this proposal, whoever hands it on; `group` as with `Prepare`."""

    proposal: Proposal
    group: str = ""


@attrs.frozen
class Kept:
    """The standing of the last `Keep` is on the disk."""

    standing: Standing


Question = Look | Prepare | Accept


# ---------------------------------------------------------------------------------------------------- what it answers


@attrs.frozen
class Shown:
    """An elector's answer: from which store, and what it promised and accepted last, with this question.

    `refused`: a greater ballot is promised. `unable`: it votes on this register in no case; `why` says so.
    """

    outcome: Literal["shown", "promised", "accepted", "refused", "unable"]
    store: bytes
    promised: Call | None = None
    accepted: Proposal | None = None
    why: str = ""


@attrs.frozen
class Keep:
    """Write this to the disk, and say `Kept`; then carry out the rest of the step."""

    standing: Standing


@attrs.frozen
class Answer:
    """Answer the question."""

    shown: Shown


@attrs.frozen
class Report:
    """What somebody should hear of: `equivocation` (one ballot, two proposals) or `split` (two registers of one key)."""

    kind: Literal["equivocation", "split"]
    register: Register
    text: str


Command = Keep | Answer | Report


class Elector:
    """The standings of one store."""

    def __init__(
        self,
        seat: Seat,
        standings: Iterable[Standing] = (),
        *,
        registers_max: int = REGISTERS_MAX,
        publisher_registers_max: int = PUBLISHER_REGISTERS_MAX,
        group_registers_max: int = GROUP_REGISTERS_MAX,
    ) -> None:
        self.seat = seat
        self._standings = {standing.register.key: standing for standing in standings}
        self._counts = Counter(standing.register.publisher for standing in self._standings.values())
        self._max = registers_max
        self._groups = Counter(standing.group for standing in self._standings.values())
        self._publisher_max = publisher_registers_max
        self._group_max = group_registers_max

    @property
    def standings(self) -> tuple[Standing, ...]:
        """All of them."""
        return tuple(self._standings.values())

    def step(self, event: Question | Kept, now_ms: int) -> tuple[Command, ...]:
        """Take a question or the end of a write; `now_ms` is the wall clock (ms since 1970)."""
        match event:
            case Kept(standing):
                self._install(standing)
                return ()
            case Look(key):
                known, empty = self._standings.get(key), Answer(Shown("shown", self.seat.store))
                return (empty if known is None else self._shown(known, "shown"),)
            case Prepare(call, newest, group):
                return self._buried(call, group, now_ms) or self._prepare(call, newest, group, now_ms)
            case Accept(proposal, group):
                return self._buried(proposal, group, now_ms) or self._accept(proposal, group, now_ms)

    def ended(self, now_ms: int) -> tuple[Register, ...]:
        """Return the registers that ended so long ago that they are to be forgotten."""
        forgotten_ms = now_ms - HELD_MS - BURIED_MS
        return tuple(one.register for one in self._standings.values() if one.touched_ms <= forgotten_ms)

    def forget(self, registers: Iterable[Register]) -> None:
        """Forget registers, once they are taken from the disk."""
        for register in registers:
            if (gone := self._standings.pop(register.key, None)) is not None:
                self._counts[register.publisher] -= 1
                self._groups[gone.group] -= 1

    def _found(self, register: Register, group: str) -> Standing:
        return self._standings.get(register.key) or Standing(register, group=group)

    def _install(self, standing: Standing) -> None:
        if standing.register.key not in self._standings:
            self._counts[standing.register.publisher] += 1
            self._groups[standing.group] += 1
        self._standings[standing.register.key] = standing

    # ---- what is refused whatever the ballot

    def _buried(self, asked: Call | Proposal, group: str, now_ms: int) -> tuple[Command, ...]:
        register = asked.register
        standing = self._found(register, group)
        if standing.floor is None and len(self._standings) >= self._max:
            return (self._unable(standing, f"it keeps {self._max} registers already"),)
        if standing.floor is None and self._counts[register.publisher] >= self._publisher_max:
            return (self._unable(standing, f"it keeps {self._publisher_max} registers of this publisher already"),)
        if standing.floor is None and group and self._groups[group] >= self._group_max:
            return (self._unable(standing, f"{self._group_max} registers came from {group}: that is its quota"),)
        if standing.floor is not None and now_ms >= standing.touched_ms + HELD_MS:
            return (self._unable(standing, "nobody wrote to the register for 90 days: it has ended"),)
        return ()

    # ---- the two phases

    def _prepare(self, call: Call, newest: Proposal | None, group: str, now_ms: int) -> tuple[Command, ...]:
        standing = self._found(call.register, group)
        floor = standing.floor
        if floor is not None and floor.ballot == call.ballot and floor.root == call.root:
            return (self._shown(standing, "promised"),)  # it came twice
        if not outranks(call, floor):
            return (self._shown(standing, "refused"),)
        accepted = self._entering(standing, call, newest)
        if call.ballot.term:
            electors = None if accepted is None else electors_in(call, accepted)
            if electors is None:
                return (self._unable(standing, "it does not know this term of the register"),)
            if self.seat not in electors.seats:
                return (self._unable(standing, "it is no elector of this term"),)
        kept = attrs.evolve(standing, promised=call, accepted=accepted, promised_ms=now_ms)
        return (*self._split(standing, call), Keep(kept), self._shown(kept, "promised"))

    def _entering(self, standing: Standing, call: Call, newest: Proposal | None) -> Proposal | None:
        """Return what it has accepted as it enters the call's term: at least what the term began with.

        A newer proposal of the same term counts as if it had been asked to accept that just before.
        """
        own, floor = standing.accepted, standing.floor
        if newest is None or electors_in(call, newest) is None:
            return own
        if own is None or electors_in(call, own) is None:
            return newest
        is_due = floor is None or _is_called(floor, newest) or outranks(newest, floor)
        return newest if outranks(newest, own) and is_due else own

    def _accept(self, proposal: Proposal, group: str, now_ms: int) -> tuple[Command, ...]:
        standing = self._found(proposal.register, group)
        floor, own = standing.floor, standing.accepted
        if own is not None and (own.ballot, own.root) == (proposal.ballot, proposal.root):
            return self._accept_again(standing, own, proposal)
        if floor is not None and not (_is_called(floor, proposal) or outranks(proposal, floor)):
            return (self._shown(standing, "refused"),)
        if why := self._why_not(proposal, now_ms):
            return (self._unable(standing, why),)
        kept = attrs.evolve(standing, accepted=proposal)
        return (*self._split(standing, proposal), Keep(kept), self._shown(kept, "accepted"))

    def _accept_again(self, standing: Standing, own: Proposal, proposal: Proposal) -> tuple[Command, ...]:
        """Take what came twice for one; its publisher may not propose two things under one ballot."""
        if own.content == proposal.content:
            return (self._shown(standing, "accepted"),)
        text = f"its publisher proposed two things under one ballot: {proposal.ballot}"
        return (Report("equivocation", proposal.register, text), self._unable(standing, text))

    def _why_not(self, proposal: Proposal, now_ms: int) -> str:
        if self.seat not in proposal.voters.seats:
            return "it is no elector of this term"
        if proposal.stamp_ms > now_ms + AHEAD_MS_MAX:
            return "the proposer's clock is more than a day ahead of this elector's"
        return "the proposal is more than 90 days old" if now_ms >= proposal.stamp_ms + HELD_MS else ""

    def _split(self, standing: Standing, asked: Call | Proposal) -> tuple[Command, ...]:
        floor = standing.floor
        if floor is None or not (floor.ballot.term and asked.ballot.term) or floor.root == asked.root:
            return ()
        text = "it was created twice, on both sides of a partition: the versions of one of the two are lost"
        return (Report("split", asked.register, text),)

    # ---- answers

    def _shown(self, standing: Standing, outcome: Literal["shown", "promised", "accepted", "refused"]) -> Answer:
        return Answer(Shown(outcome, self.seat.store, standing.promised, standing.accepted))

    def _unable(self, standing: Standing, why: str) -> Answer:
        return Answer(Shown("unable", self.seat.store, standing.promised, standing.accepted, why))


def electors_in(call: Call, known: Proposal) -> Electors | None:
    """Return the electors of a call's term, if a proposal says who they are: one of that term, or the one that began it."""
    if known.ballot.term == call.ballot.term and (known.root, known.begun) == (call.root, call.begun):
        return known.electors
    begins = known.ballot.term + 1 == call.ballot.term and known.content == call.begun
    return known.following if begins else None


def _is_called(floor: Call | Proposal, proposal: Proposal) -> bool:
    return (floor.ballot, floor.root, floor.begun) == (proposal.ballot, proposal.root, proposal.begun)
