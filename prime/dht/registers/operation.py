"""One read or write of a register, from its first question to its end. Pure.

The proposer of CASPaxos (Rystsov 2018, sections 2.1 to 2.3), over terms. Who has the publisher's key proposes; who has not
reads: what a quorum shows alike is read, and of what only some have accepted the reader hands copies to the others, as
the network might. A write that another was faster than ends in a `Conflict`; one that is cut off may have happened or
not, which the next operation settles: it finds and finishes what was begun.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, Literal

import attrs

from prime.actor.contract import PeerId
from prime.dht.registers.elector import HELD_MS, Accept, Look, Prepare, Question, Report, Shown
from prime.dht.registers.proposal import (
    MARK_BYTES,
    NONCE_BYTES,
    Ballot,
    Call,
    Electors,
    Proposal,
    Register,
    Seat,
    Version,
    outranks,
    quorum_of,
)

REFRESH_MS: Final = 24 * 3600 * 1000
"""A tended register is proposed anew this long after its last proposal, since it ends when nobody does for long."""
PAUSE_MIN_S: Final = 0.05
PAUSE_MAX_S: Final = 2.0


@attrs.frozen(kw_only=True)
class Habits:
    """How operations go: `electors` of a new register and how many `liars` of seven of them; times in seconds.

    `answer_s` is how long an answer is waited for, `operation_s` the whole operation. `tries` rounds in a row without a
    quorum end it.
    """

    electors: int = 7
    liars: int = 2
    answer_s: float = 5.0
    operation_s: float = 30.0
    tries: int = 3

    def liars_of(self, count: int) -> int:
        """Return how many of `count` electors may lie: under a third of them."""
        return min(self.liars, (count - 1) // 3)


# -------------------------------------------------------------------------------------------------------------- wishes


@attrs.frozen
class Read:
    """Say what is there."""


@attrs.frozen
class Write:
    """Put `value` (`None` removes) there, if the version there is `expected_seq`; 0 is a register that was never written."""

    expected_seq: int
    value: bytes | None


@attrs.frozen
class Tend:
    """Finish what was begun, put others in the place of electors that are `away` or have another store, and refresh it."""

    away: frozenset[PeerId] = frozenset()


Wish = Read | Write | Tend


# -------------------------------------------------------------------------------------------------------------- events


@attrs.frozen
class Begin:
    """Go."""


@attrs.frozen
class Found:
    """The answer to `Find`: the peers closest to the key as far as anybody knows, nearest first, and others who may know.

    Of `closest`, also those are named that may be away, so that an island is not taken for the whole.
    """

    closest: tuple[PeerId, ...]
    others: tuple[PeerId, ...] = ()


@attrs.frozen
class Answered:
    """`peer` answered the question of this round."""

    peer: PeerId
    round: int
    shown: Shown


@attrs.frozen
class Failed:
    """`peer` did not answer, or nothing of sense."""

    peer: PeerId
    round: int


@attrs.frozen
class Woken:
    """The time of `Wake` has come."""


Event = Begin | Found | Answered | Failed | Woken


# ------------------------------------------------------------------------------------------------------------ commands


@attrs.frozen
class Find:
    """Look up who is near the register's key, and say `Found`."""


@attrs.frozen
class Put:
    """Ask each of `peers` this question, and say `Answered` or `Failed` of each, with this round."""

    peers: tuple[PeerId, ...]
    question: Question
    round: int


@attrs.frozen
class Wake:
    """Say `Woken` at this time; of two, the later command holds."""

    at: float


@attrs.frozen
class End:
    """It is over; `term` is worth remembering for the next operation of this register."""

    outcome: Outcome
    term: Term | None


Command = Find | Put | Wake | End | Report


# ------------------------------------------------------------------------------------------------------------ outcomes


@attrs.frozen
class Settled:
    """A read: `version` is there, `None` where the register was never written. `away`: electors that did not answer."""

    version: Version | None
    away: tuple[PeerId, ...] = ()


@attrs.frozen
class Written:
    """The write took effect."""

    version: Version


@attrs.frozen
class Conflict:
    """The write did not and will not take effect: `version` is there (`None`: nothing was ever written)."""

    version: Version | None


@attrs.frozen
class Gone:
    """Not to be had now. `is_unknown`: the write may have taken effect, or may yet."""

    why: str
    is_unknown: bool = False


Outcome = Settled | Written | Conflict | Gone


# ------------------------------------------------------------------------------------------------------------- a term


@attrs.frozen
class Term:
    """One set of electors, which proposal's content began it, and that proposal or a later one of the term."""

    number: int
    root: bytes
    begun: bytes
    electors: Electors
    known: Proposal

    @classmethod
    def of(cls, proposal: Proposal) -> Term:
        """Return the term that a proposal belongs to; not for a creation's."""
        return cls(proposal.ballot.term, proposal.root, proposal.begun, proposal.electors, proposal)

    @classmethod
    def after(cls, proposal: Proposal) -> Term:
        """Return the term that a decided proposal began."""
        electors = proposal.following or proposal.electors
        return cls(proposal.ballot.term + 1, proposal.root_after, proposal.content, electors, proposal)

    @classmethod
    def shown_by(cls, shown: Shown) -> Term | None:
        """Return the newest term that, as an answer proves, has begun; `None` where that is none but a creation."""
        accepted, promised = shown.accepted, shown.promised
        if accepted is None:
            return None
        if promised is not None and promised.begun == accepted.content:
            return cls.after(accepted)
        return cls.of(accepted) if accepted.ballot.term else None

    def has(self, proposal: Proposal | None) -> bool:
        """Tell whether a proposal is of this term."""
        return proposal is not None and (proposal.root, proposal.begun) == (self.root, self.begun)

    def is_newer_than(self, other: Term | None) -> bool:
        """Tell which of two terms to go on in: that of the smaller root, then the later one."""
        if other is None or self.root == other.root:
            return other is None or self.number > other.number
        return self.root < other.root


class Operation:
    """One operation on `register`. `draw(n)` returns n random bytes; `sign` seals what it proposes; without the publisher's key it is `None`.

    `term` is what is remembered of the register, if anything. `step` takes seconds of a monotonic clock and the wall
    clock in ms since 1970.
    """

    def __init__(
        self,
        register: Register,
        wish: Wish,
        habits: Habits,
        draw: Callable[[int], bytes],
        *,
        sign: Callable[[Any], Any] | None,
        term: Term | None = None,
    ) -> None:
        self.register = register
        self._wish = wish
        self._habits = habits
        self._draw = draw
        self._sign = sign
        self._term = term
        self._mark = draw(MARK_BYTES)
        self._phase: Literal["new", "find", "look", "prepare", "accept", "spread", "pause", "over"] = "new"
        self._round = 0
        self._asked: tuple[PeerId, ...] = ()
        self._answers: dict[PeerId, Shown] = {}
        self._failed: set[PeerId] = set()
        self._closest: tuple[PeerId, ...] = ()
        self._counter = 0
        self._proposal: Proposal | None = None
        self._written: Version | None = None
        self._has_proposed = False
        self._creation: Proposal | None = None
        self._unable: set[PeerId] = set()
        self._change: tuple[Term, Electors] | None = None
        self._away: tuple[PeerId, ...] = ()
        self._seats = Electors(())
        self._call: Call
        self._short = 0
        self._lost = 0
        self._is_outbidding = False
        self._is_refreshing = False
        self._ends_at = 0.0
        self._now_ms = 0
        self._reported = False

    @property
    def is_over(self) -> bool:
        """Tell whether it has ended."""
        return self._phase == "over"

    @property
    def is_tending(self) -> bool:
        """Tell whether it is to find out which electors are away."""
        return isinstance(self._wish, Tend)

    def step(self, event: Event, now: float, now_ms: int) -> list[Command]:  # noqa: PLR0911 - one line for each event
        """Take an event; of an older round, or after the end, it changes nothing."""
        self._now_ms = now_ms
        match event:
            case Begin() if self._phase == "new":
                self._ends_at = now + self._habits.operation_s
                return self._again(now)
            case Found(closest, others) if self._phase == "find":
                self._closest = closest
                known = () if self._term is None else self._term.electors.peers()
                return self._look(list(dict.fromkeys((*closest, *others, *known))), now)
            case Answered(peer, round_, answer) if self._is_awaited(peer, round_):
                shown = self._answers[peer] = _unless_ended(answer, now_ms)
                return [*self._heard(shown), *self._judge(now, is_late=False)]
            case Failed(peer, round_) if self._is_awaited(peer, round_):
                self._failed.add(peer)
                return self._judge(now, is_late=False)
            case Woken() if self._phase == "pause":
                return self._again(now)
            case Woken() if self._phase not in ("new", "over"):
                return self._judge(now, is_late=True)
        return []

    def _is_awaited(self, peer: PeerId, round_: int) -> bool:
        is_open = self._phase in ("look", "prepare", "accept", "spread") and round_ == self._round
        return is_open and peer in self._asked and peer not in self._answers and peer not in self._failed

    # ---- the way through the phases

    def _again(self, now: float) -> list[Command]:
        """Begin, or begin anew: with what is known of the register, or by looking it up."""
        if now >= self._ends_at:
            return self._over(self._gone("it took longer than it may"))
        if self._term is None or self._short:
            self._phase = "find"
            return [Find(), Wake(self._ends_at)]
        if self._sign is not None and (isinstance(self._wish, Write) or self._change is not None):
            return self._prepare(now)
        return self._look(self._term.electors.peers(), now)

    def _ask(self, phase: Any, peers: Sequence[PeerId], question: Question, now: float) -> list[Command]:
        self._phase = phase
        self._round += 1
        self._asked = tuple(peers)
        self._answers, self._failed = {}, set()
        return [Put(self._asked, question, self._round), Wake(min(now + self._habits.answer_s, self._ends_at))]

    def _look(self, peers: Sequence[PeerId], now: float) -> list[Command]:
        if not peers:
            return self._over(self._gone("nobody is there to ask"))
        return self._ask("look", peers, Look(self.register.key), now)

    def _judge(self, now: float, *, is_late: bool) -> list[Command]:
        """Look at what has been answered so far; `is_late`: what has not, is waited for no more."""
        is_full = is_late or len(self._answers) + len(self._failed) == len(self._asked)
        match self._phase:
            case "look":
                return self._judge_look(now, is_full=is_full)
            case "prepare" if self._term is None:
                return self._judge_creation(now, is_full=is_full)
            case "prepare":
                return self._judge_prepare(now, is_full=is_full)
            case "accept" | "spread":
                return self._judge_accept(now, is_full=is_full)
            case "find" if is_late:
                return self._over(self._gone("who is near the register's key was not found in time"))
        return []

    def _pause(self, now: float) -> list[Command]:
        """Try again in a while: longer each time, and never as long as another who was in the way."""
        self._lost += 1
        self._is_outbidding = False
        pause_s = min(PAUSE_MIN_S * 2 ** min(self._lost, 10), PAUSE_MAX_S) * (0.5 + self._draw(1)[0] / 256)
        self._phase = "pause"
        return [Wake(min(now + pause_s, self._ends_at))]

    def _over(self, outcome: Outcome) -> list[Command]:
        self._phase = "over"
        return [End(outcome, self._term)]

    def _gone(self, why: str) -> Gone:
        return Gone(why, is_unknown=self._has_proposed)

    # ---- what answers teach

    def _heard(self, shown: Shown) -> list[Command]:
        """Learn of newer terms and greater ballots."""
        commands: list[Command] = []
        for one in (shown.promised, shown.accepted):
            if one is not None and (self._term is None or one.ballot.term <= self._term.number):
                self._counter = max(self._counter, one.ballot.counter)
        term = Term.shown_by(shown)
        if term is None or (self._term is not None and term.begun == self._term.begun):
            return commands
        if self._term is not None and term.root != self._term.root and not self._reported:
            self._reported = True
            text = "it was created twice, on both sides of a partition: the versions of one of the two are lost"
            commands.append(Report("split", self.register, text))
        if term.is_newer_than(self._term):
            self._enter(term)
        return commands

    def _enter(self, term: Term) -> None:
        self._term = term
        self._counter = max((one.ballot.counter for one in self._ballots(term)), default=0)

    def _ballots(self, term: Term) -> Iterable[Call | Proposal]:
        shown = (one for answer in self._answers.values() for one in (answer.promised, answer.accepted))
        return (one for one in (*shown, term.known) if one is not None and one.ballot.term == term.number)

    def _of_seats(self, term: Term) -> dict[PeerId, Shown]:
        """Return the answers that come from electors of a term, from the stores that it names, and of no other register."""
        there = term.electors.holds
        able = {peer: one for peer, one in self._answers.items() if one.outcome != "unable" and there(peer, one.store)}
        return {peer: one for peer, one in able.items() if not _is_apart(one, term)}

    def _top(self, term: Term, answers: Iterable[Shown]) -> Proposal | None:
        """Return the newest proposal of a term among answers; `None`: nothing since what the term began with."""
        top: Proposal | None = None
        for shown in answers:
            if term.has(shown.accepted) and shown.accepted is not None and outranks(shown.accepted, top):
                top = shown.accepted
        return top

    def _count(self, term: Term, answers: Iterable[Shown], top: Proposal | None) -> int:
        """Return how many hold just that: the same proposal of the same ballot, or what the term began with."""
        if top is None:
            return sum(not term.has(shown.accepted) for shown in answers)
        alike = (top.ballot, top.content)
        accepted = (shown.accepted for shown in answers if term.has(shown.accepted))
        return sum((one.ballot, one.content) == alike for one in accepted if one is not None)

    # ---- looking

    def _judge_look(self, now: float, *, is_full: bool) -> list[Command]:
        term = self._term
        if term is None:
            return self._nothing_shown(now) if is_full else []
        answers = self._of_seats(term)
        top = self._top(term, answers.values())
        has_quorum = len(answers) >= term.electors.quorum
        if isinstance(self._wish, Write):
            return self._prepare(now) if has_quorum or is_full else []
        waits = isinstance(self._wish, Tend) and not is_full
        if not waits and self._count(term, answers.values(), top) >= term.electors.quorum:
            return self._chosen(term, top, now)
        if not is_full:
            return []
        if not has_quorum:
            unasked = not set(term.electors.peers()) <= set(self._asked)
            return (
                self._look(term.electors.peers(), now)
                if unasked
                else self._too_few(term.electors, len(term.electors.seats) - len(answers), now)
            )
        return self._prepare(now) if self._sign is not None or top is None else self._accept_of(top, "spread", now)

    def _chosen(self, term: Term, top: Proposal | None, now: float) -> list[Command]:
        """Go on from what is decided: the newest version, or the next term."""
        if top is not None and top.following is not None:
            self._enter(Term.after(top))
            return self._again(now)
        proposal = top or term.known
        if term.has(proposal):
            self._term = attrs.evolve(term, known=proposal)
        self._short = 0
        return self._settle(term, proposal.version, now)

    def _settle(self, term: Term, version: Version, now: float) -> list[Command]:
        """End with a version that is decided, or do what else is wished."""
        there = version if version.seq else None
        match self._wish:
            case Read():
                return self._over(Settled(there))
            case Write():
                if self._written is not None and self._mark in (version.mark, *version.trail):
                    return self._over(Written(self._written))
                is_clear = not self._has_proposed or version.seq <= self._wish.expected_seq + 1 + len(version.trail)
                return self._over(Conflict(there) if is_clear else self._gone("others wrote many versions since"))
            case Tend():
                return self._tended(term, there, now)

    def _too_few(self, voters: Electors, absent: int, now: float) -> list[Command]:
        seats, quorum = len(voters.seats), voters.quorum
        return self._fall_short(f"{absent} of its {seats} electors do not vote, where {quorum} of them must", now)

    def _fall_short(self, why: str, now: float) -> list[Command]:
        """Look up anew who is there, or give up after some rounds."""
        self._short += 1
        unable = sorted({shown.why for shown in self._answers.values() if shown.outcome == "unable"})
        if self._short >= self._habits.tries:
            return self._over(self._gone("; ".join((why, *unable))))
        return self._pause(now)

    def _nothing_shown(self, now: float) -> list[Command]:
        """Nobody near the key has the register: say so, or create it, if enough of the closest were asked."""
        wanted = self._closest[: self._habits.electors]
        there = [peer for peer in wanted if peer in self._answers and self._answers[peer].outcome != "unable"]
        if len(wanted) - len(there) > self._absent_max(len(wanted)):
            why = f"of the {len(wanted)} peers closest to its key {len(there)} answer: it may be with the others"
            return self._fall_short(why, now)
        if isinstance(self._wish, Write) and self._wish.expected_seq == 0 and self._sign is not None:
            return self._call_creation(now)
        return self._over(Conflict(None) if isinstance(self._wish, Write) else Settled(None))

    def _absent_max(self, count: int) -> int:
        """Return how many of the closest may be away when a register is created, so that no second one can be."""
        liars = self._habits.liars_of(count)
        return max((quorum_of(count, liars) - liars - 1) // 2, 0)

    # ---- creation: term 0

    def _call_creation(self, now: float) -> list[Command]:
        """Ask all of those who would be its electors: who creates it elsewhere has asked one of them, too."""
        for shown in self._answers.values():
            if shown.accepted is not None and outranks(shown.accepted, self._creation):
                self._creation = shown.accepted
        there = {peer for peer, one in self._answers.items() if one.outcome == "shown"} - self._unable
        able = [peer for peer in self._closest if peer in there]
        seats = tuple(Seat(peer, self._answers[peer].store) for peer in able[: self._habits.electors])
        if not seats:
            return self._over(self._gone("none of the peers closest to its key keeps it"))
        self._seats = Electors(seats, self._habits.liars_of(len(seats)))
        return self._ask("prepare", self._seats.peers(), Prepare(self._called(0, b"", b"")), now)

    def _called(self, term: int, root: bytes, begun: bytes) -> Call:
        ballot = Ballot(term, self._counter + 1, self._draw(NONCE_BYTES))
        self._call = self._signed(Call(self.register, ballot, root, begun))
        self._counter = ballot.counter
        return self._call

    def _signed(self, draft: Any) -> Any:
        return draft if self._sign is None else self._sign(draft)

    def _judge_creation(self, now: float, *, is_full: bool) -> list[Command]:
        """Propose those who were asked, once all have promised, or whom another who creates it has proposed already."""
        unable = {peer for peer, shown in self._answers.items() if shown.outcome == "unable"}
        strangers = {peer for peer, shown in self._answers.items() if not self._seats.holds(peer, shown.store)}
        self._unable |= unable
        if unable or strangers or self._failed or (is_full and len(self._answers) < len(self._asked)):
            return self._fall_short("not all who would be its electors answer", now)
        if any(shown.outcome == "refused" for shown in self._answers.values()):
            return self._pause(now)
        if not is_full:
            return []
        top = self._creation
        for shown in self._answers.values():
            if shown.accepted is not None and outranks(shown.accepted, top):
                top = shown.accepted
        following = self._seats if top is None else top.following
        version = top.version if top is not None else Version(0, self._now_ms, None, self._draw(MARK_BYTES))
        return self._propose(Electors(()), version, following, now)

    # ---- other electors

    def _tended(self, term: Term, there: Version | None, now: float) -> list[Command]:
        """End, or put others in the place of those who are away; with one decision at most."""
        if self._sign is None or self._phase != "look" or self._change is not None:
            return self._over(Settled(there, self._away))
        if not set(term.electors.peers()) <= set(self._asked):
            return self._look(term.electors.peers(), now)
        seated = self._of_seats(term)
        self._away = tuple(peer for peer in term.electors.peers() if peer not in seated)
        gone = {peer for peer in self._away if peer in self._answers or peer in self._missed()}
        if not gone and len(term.electors.seats) >= self._habits.electors:
            self._is_refreshing = self._now_ms - term.known.stamp_ms >= REFRESH_MS
            return self._prepare(now) if self._is_refreshing else self._over(Settled(there, self._away))
        if not self._closest:
            self._phase = "find"
            return [Find(), Wake(self._ends_at)]
        self._change = (term, self._changed(term, gone))
        is_same = self._change[1] == term.electors
        return self._over(Settled(there, self._away)) if is_same else self._prepare(now)

    def _missed(self) -> frozenset[PeerId]:
        return self._wish.away if isinstance(self._wish, Tend) else frozenset()

    def _changed(self, term: Term, gone: set[PeerId]) -> Electors:
        """Return the electors with those in the place of `gone` who are nearest of all that answered; never fewer."""
        seats = {seat.peer: seat for seat in term.electors.seats if seat.peer not in gone}
        able = (peer for peer in self._closest if peer in self._answers and self._answers[peer].outcome == "shown")
        for peer in able:
            if peer not in self._missed() and len(seats) < self._habits.electors:
                seats.setdefault(peer, Seat(peer, self._answers[peer].store))
        for seat in term.electors.seats:
            if len(seats) < len(term.electors.seats):
                seats.setdefault(seat.peer, seat)
        return Electors(tuple(seats.values()), self._habits.liars_of(len(seats)))

    # ---- the two phases of a term

    def _prepare(self, now: float) -> list[Command]:
        term = self._term
        if term is None:
            return self._again(now)
        call = self._called(term.number, term.root, term.begun)
        return self._ask("prepare", term.electors.peers(), Prepare(call, term.known), now)

    def _judge_prepare(self, now: float, *, is_full: bool) -> list[Command]:
        term = self._term
        if term is None or term.begun != self._call.begun:  # another term has begun meanwhile
            return self._again(now)
        seated = self._of_seats(term)
        promises = [shown for shown in seated.values() if shown.outcome == "promised"]
        quorum = term.electors.quorum
        if len(promises) >= quorum:
            return self._promised(term, promises, now)
        return self._unless_lost(term.electors, list(seated.values()), len(promises), now, is_full=is_full)

    def _unless_lost(
        self, voters: Electors, seated: Iterable[Shown], count: int, now: float, *, is_full: bool
    ) -> list[Command]:
        """Wait on, unless a quorum can no longer be reached in this round: too few are there, or another was faster."""
        refusals = sum(shown.outcome == "refused" for shown in seated)
        seats, quorum = len(voters.seats), voters.quorum
        mute = sum(
            shown.outcome == "unable" or not voters.holds(peer, shown.store) for peer, shown in self._answers.items()
        )
        absent = seats - count - refusals if is_full else len(self._failed) + mute
        if absent > seats - quorum:
            return self._too_few(voters, absent, now)
        if not is_full and seats - refusals - absent >= quorum:
            return []
        return self._outbid(now)

    def _outbid(self, now: float) -> list[Command]:
        """Call a greater ballot at once, as the last one may just have been out of date; lost again, wait for a while."""
        if self._phase == "prepare" and not self._is_outbidding:
            self._is_outbidding = True
            return self._prepare(now)
        return self._pause(now)

    def _promised(self, term: Term, promises: list[Shown], now: float) -> list[Command]:
        top = self._top(term, promises)
        if top is not None and top.following is not None:
            return self._propose(term.electors, top.version, top.following, now)
        base = top or term.known
        is_decided = self._count(term, promises, top) >= term.electors.quorum
        return self._propose_after(term, base.version, now, is_decided=is_decided)

    def _propose_after(self, term: Term, version: Version, now: float, *, is_decided: bool) -> list[Command]:
        """Propose what is wished on top of a version, or that version again, so that it is decided."""
        wish = self._wish
        if self._change is not None and self._change[0].begun == term.begun:
            return self._propose(term.electors, version, self._change[1], now)
        if isinstance(wish, Write) and version.seq == wish.expected_seq:
            self._written = version.followed_by(wish.value, self._mark, self._now_ms)
            self._has_proposed = True
            return self._propose(term.electors, self._written, None, now)
        if is_decided and not self._is_refreshing:
            return self._settle(term, version, now)
        return self._propose(term.electors, version, None, now)

    def _propose(self, electors: Electors, version: Version, following: Electors | None, now: float) -> list[Command]:
        call = self._call
        draft = Proposal(self.register, call.ballot, call.root, call.begun, electors, version, following, self._now_ms)
        return self._accept_of(self._signed(draft), "accept", now)

    def _accept_of(self, proposal: Proposal, phase: Literal["accept", "spread"], now: float) -> list[Command]:
        self._proposal = proposal
        return self._ask(phase, proposal.voters.peers(), Accept(proposal), now)

    def _judge_accept(self, now: float, *, is_full: bool) -> list[Command]:
        proposal = self._proposal
        if proposal is None:
            return []
        voters = proposal.voters
        seated = {peer: shown for peer, shown in self._answers.items() if voters.holds(peer, shown.store)}
        count = sum(shown.outcome == "accepted" for shown in seated.values())
        if count >= voters.quorum:
            return self._accepted(proposal, now)
        return self._unless_lost(voters, list(seated.values()), count, now, is_full=is_full)

    def _accepted(self, proposal: Proposal, now: float) -> list[Command]:
        self._short = 0
        if not proposal.ballot.term or proposal.following is not None:
            self._enter(Term.after(proposal))
            return self._again(now)
        term = Term.of(proposal)
        self._term = term
        if self._written is not None and proposal.version.mark == self._mark:
            return self._over(Written(proposal.version))
        return self._settle(term, proposal.version, now)


def _unless_ended(shown: Shown, now_ms: int) -> Shown:
    """Return an answer, or that its elector has nothing to say: who shows what ended long ago may have kept it to deceive."""
    if shown.accepted is None or now_ms < shown.accepted.stamp_ms + HELD_MS:
        return shown
    return Shown("unable", shown.store, why="nobody wrote to the register for 90 days: it has ended")


def _is_apart(shown: Shown, term: Term) -> bool:
    """Tell whether an elector stands with another register of the key, created apart: it has not entered this term."""
    return any(
        one is not None and one.ballot.term and one.root != term.root for one in (shown.promised, shown.accepted)
    )
