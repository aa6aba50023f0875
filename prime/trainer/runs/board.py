"""The runs that a node knows: what it hears, what it passes on, and which one it takes part in. Pure.

Each node speaks for itself: of one node's words the latest counts, and one that came from it directly beats what others
pass on. What is known is bounded by run, by who brought it and by member. The shell, `prime.node.notices`, carries the
commands out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

import attrs

from prime.errors import NotFoundError, RefusedError, UsageError
from prime.trainer.metadata import TrainingConfig
from prime.trainer.round.names import base_name, lineage
from prime.trainer.round.validity import addresses_fault, fit_addresses
from prime.trainer.runs.acceptance import Acceptance
from prime.trainer.runs.messages import RunMember, RunNotice, RunsKnown, Standing, run_name

RUNS_MAX: Final = 64
RUNS_OF_PEER_MAX: Final = 16
"""Runs that one peer may bring to this node's knowledge."""
MEMBERS_MAX: Final = 128
NAME_CHARACTERS_MAX: Final = 64
TEXT_CHARACTERS_MAX: Final = 400
STALE_S: Final = 30.0
"""A member that is not heard of for this long is not counted on."""
FORGET_S: Final = 600.0
"""A run of which nobody speaks for this long is forgotten."""
AGAIN_S: Final = 30.0
"""After a run could not be reached, how long until it is tried again."""

ACTIVE: Final = ("joining", "member")


# ------------------------------------------------------------------------------------------------------------- events


@attrs.frozen
class Heard:
    """`sender` tells of a run."""

    sender: str
    notice: RunNotice


@attrs.frozen
class Stood:
    """This node's own standing in a run: `again` lets it try once more, after a while."""

    run: str
    standing: Standing
    why: str = ""
    round: int = 0
    again: bool = False


@attrs.frozen
class Succeeded:
    """This node goes on in the `successor` of a run that it took part in."""

    run: str
    successor: str


@attrs.frozen
class Freed:
    """This node is done with the run that it took part in, and may take another."""


@attrs.frozen
class Linked:
    """There is a link to a peer now."""

    peer: str


@attrs.frozen
class Beat:
    """Time passed: say again where this node stands. `stamp_ms` is its clock, `addresses` where it listens."""

    stamp_ms: int
    addresses: tuple[str, ...]


Event = Heard | Stood | Succeeded | Freed | Linked | Beat


# ----------------------------------------------------------------------------------------------------------- commands


@attrs.frozen
class PassOn:
    """Tell of a run: to one peer, or to all but those in `besides`."""

    notice: RunNotice
    to: str = ""
    besides: tuple[str, ...] = ()


@attrs.frozen
class Take:
    """Take part in this run now."""

    notice: RunNotice


@attrs.frozen
class Complain:
    """What an operator should read."""

    text: str


Command = PassOn | Take | Complain


# --------------------------------------------------------------------------------------------------------- the board


@attrs.define
class _Word:
    """What is known of one member, when it was heard, and whether from itself."""

    member: RunMember
    heard_at: float
    direct: bool


@attrs.define
class _Known:
    run: str
    founder: str
    nonce: str
    settings: TrainingConfig
    brought_by: str
    words: dict[str, _Word]
    heard_at: float
    not_before: float = 0.0
    contested: set[str] = attrs.Factory(set)

    def notice(self, now: float) -> RunNotice:
        words = sorted(self.words.values(), key=lambda word: word.member.peer)
        members = tuple(_aged(word.member, round(max(0.0, now - word.heard_at), 3)) for word in words)
        return RunNotice(self.run, self.founder, self.nonce, self.settings, members)

    @property
    def name(self) -> str:
        return base_name(self.run)


class Board:
    """What the node `peer`, called `name`, knows of runs.

    With `waits` it takes part in none that it hears of before it has entered its own, or is `Freed`: it may be in one already.
    """

    def __init__(self, peer: str, name: str, acceptance: Acceptance, stamp_ms: int = 0, *, waits: bool = False) -> None:
        self.peer = peer
        self._waits = waits
        self.taking = ""
        """The run that this node takes part in."""
        self._name = name
        self._acceptance = acceptance
        self._stamp_ms = stamp_ms
        self._addresses: tuple[str, ...] = ()
        self._known: dict[str, _Known] = {}

    # -------------------------------------------------------------------------------------------------- what is asked

    def known(self, now: float) -> RunsKnown:
        """Return every run, with how long ago each member was heard of: the one taken part in, then the latest first."""
        latest = list(self._known.values())[::-1]
        latest.sort(key=lambda known: known.run != self.taking)
        return RunsKnown(self.peer, self.taking, tuple(known.notice(now) for known in latest))

    def find(self, name: str) -> str:
        """Return the full name of the run that a name means; empty: the one this node takes part in.

        Raises `NotFoundError`, and `UsageError` where several have that name.
        """
        return found_run(self.known(0.0), name)

    def submit(self, name: str, settings: TrainingConfig, nonce: str, now: float) -> RunNotice:
        """Found a run here. Raises `RefusedError` where this node is in another, or knows a living run of that name.

        Also for a run that no node would take.
        """
        if self.taking:
            raise RefusedError(
                f"this node takes part in the run {self.taking}, and takes part in one at a time",
                hint=f"submit to another node, or wait for its end, or end it: prime train stop {self.taking}",
            )
        rival = next((known for known in self._known.values() if known.name == name and self._lives(known, now)), None)
        if rival is not None:
            raise RefusedError(
                f"there is a run called {name}, {rival.run} of node {rival.founder}",
                hint="choose another name (--name), or end that one with `prime train stop`",
            )
        self._make_room(now)
        if len(self._known) >= RUNS_MAX:
            raise RefusedError(f"this node knows {RUNS_MAX} living runs", hint="end some of them first")
        notice = RunNotice(run_name(name, self.peer, nonce, settings), self.peer, nonce, settings, ())
        if fault := notice_fault(notice):
            raise RefusedError(f"a run called {name!r} cannot be: {fault}", hint="choose another name (--name)")
        if refusal := self._acceptance.data_refusal(settings):
            hint = "name it, `prime config set runs.data PATH`, start the node again, and submit the run again"
            raise RefusedError(f"this node cannot take part in the run: {refusal}", hint=hint)
        return self.enter(notice, now)

    def enter(self, notice: RunNotice, now: float) -> RunNotice:
        """Take part in a run: its own, or one that it was in before it was started again. Returns the notice of it."""
        known = _Known(notice.run, notice.founder, notice.nonce, notice.settings, self.peer, {}, now)
        self._known[notice.run] = known
        self.taking, self._waits = notice.run, False
        self._stand(known, Stood(notice.run, "joining"), now)
        return known.notice(now)

    # ------------------------------------------------------------------------------------------------- what happens

    def step(self, event: Event, now: float) -> list[Command]:
        """Take one event at the clock reading `now` (monotonic seconds); return what to do, in order."""
        match event:
            case Heard(sender, notice):
                return [*self._hear(sender, notice, now), *self._take(now)]
            case Stood():
                return list(self._stood(event, now))
            case Succeeded(run, successor):
                return list(self._succeeded(run, successor, now))
            case Freed():
                self.taking, self._waits = "", False
                return list(self._take(now))
            case Linked(peer):
                return [PassOn(known.notice(now), to=peer) for known in self._known.values()]
            case Beat(stamp_ms, addresses):
                return [*self._beat(stamp_ms, addresses, now), *self._take(now)]

    def _hear(self, sender: str, notice: RunNotice, now: float) -> Iterator[Command]:
        known = self._known.get(notice.run)
        if known is None:
            if fault := notice_fault(notice) or self._excess(sender, now):
                yield Complain(f"{sender} tells of a run that is not noted: {fault}")
                return
            known = _Known(notice.run, notice.founder, notice.nonce, notice.settings, sender, {}, now)
            self._known[notice.run] = known
        elif known.settings != notice.settings:
            if sender not in known.contested and len(known.contested) < MEMBERS_MAX:
                known.contested.add(sender)  # it tells of it every other second
                yield Complain(f"{sender} tells of run {notice.run} with other settings: not noted")
            return
        news = [member for member in notice.members[:MEMBERS_MAX] if self._note(known, sender, member, now)]
        if news:
            yield PassOn(known.notice(now), besides=(sender,))

    def _note(self, known: _Known, sender: str, member: RunMember, now: float) -> bool:
        """Note one member's word; tell whether it says something new, which others should hear too."""
        if member.peer == self.peer or member_fault(member):
            return False
        word, direct = known.words.get(member.peer), member.peer == sender
        if word is None and len(known.words) >= MEMBERS_MAX:
            return False
        if word is not None and not self._beats(word, member, now, direct=direct):
            return False
        known.words[member.peer] = _Word(member, now - member.age_s, direct)
        known.heard_at = now
        return word is None or _said(word.member) != _said(member)

    def _beats(self, word: _Word, member: RunMember, now: float, *, direct: bool) -> bool:
        if direct != word.direct and now - word.heard_at < STALE_S:
            return direct
        return member.stamp_ms > word.member.stamp_ms

    def _succeeded(self, run: str, successor: str, now: float) -> Iterator[Command]:
        known = self._known.get(run)
        if known is None:
            return
        yield from self._stood(Stood(run, "left", f"goes on in {successor}"), now)
        yield PassOn(self.enter(RunNotice(successor, known.founder, known.nonce, known.settings, ()), now))

    def _stood(self, event: Stood, now: float) -> Iterator[Command]:
        known = self._known.get(event.run)
        if known is None:
            return
        if event.again:
            known.not_before = now + AGAIN_S
        before = known.words.get(self.peer)
        self._stand(known, event, now)
        if before is None or _said(before.member) != _said(known.words[self.peer].member):
            yield PassOn(known.notice(now))

    def _stand(self, known: _Known, event: Stood, now: float) -> None:
        why = event.why[:TEXT_CHARACTERS_MAX]
        self._stamp_ms += 1
        member = RunMember(self.peer, self._name, self._addresses, event.standing, why, event.round, self._stamp_ms)
        known.words[self.peer] = _Word(member, now, direct=True)
        known.heard_at = now

    def _beat(self, stamp_ms: int, addresses: tuple[str, ...], now: float) -> Iterator[Command]:
        self._stamp_ms = max(self._stamp_ms, stamp_ms)
        self._addresses = fit_addresses(addresses)
        self._make_room(now)
        known = self._known.get(self.taking)
        if known is not None:
            said = known.words[self.peer].member
            self._stand(known, Stood(known.run, said.standing, said.why, said.round), now)
            yield PassOn(known.notice(now))

    # ------------------------------------------------------------------------------------------------ what to take

    def _take(self, now: float) -> Iterator[Command]:
        """Take part in the run that was heard of first among those that wait for members; name what keeps from others."""
        for known in list(self._known.values()):
            if self.taking or self._waits:
                return
            if not self._is_open(known, now):
                continue
            if refusal := self._acceptance.refusal(known.settings):
                yield from self._stood(Stood(known.run, "cannot", refusal), now)
                continue
            self.taking = known.run
            self._stand(known, Stood(known.run, "joining"), now)
            yield PassOn(known.notice(now))
            yield Take(known.notice(now))

    def _is_open(self, known: _Known, now: float) -> bool:
        own = known.words.get(self.peer)
        if own is not None and not (own.member.standing == "cannot" and known.not_before > 0):
            return False
        return now >= known.not_before and self._lives(known, now)

    def _lives(self, known: _Known, now: float) -> bool:
        """Tell whether somebody takes part in a run, and nobody has come to its end."""
        words = known.words.values()
        fresh = [word.member.standing for word in words if now - word.heard_at < STALE_S]
        return "done" not in fresh and any(standing in ACTIVE for standing in fresh)

    # ------------------------------------------------------------------------------------------------------ bounds

    def _excess(self, sender: str, now: float) -> str:
        self._make_room(now)
        if len(self._known) >= RUNS_MAX:
            return f"{RUNS_MAX} are known"
        if sum(known.brought_by == sender for known in self._known.values()) >= RUNS_OF_PEER_MAX:
            return f"it has told of {RUNS_OF_PEER_MAX} already"
        return ""

    def _make_room(self, now: float) -> None:
        silent = [run for run, known in self._known.items() if now - known.heard_at > FORGET_S and run != self.taking]
        for run in silent:
            del self._known[run]


def found_run(runs: RunsKnown, name: str) -> str:
    """Return the full name of the run that `name` means among those known.

    An empty one means the run that is taken part in, or the only one there is; of several of a name the one that is
    taken part in, or the last successor. Raises `NotFoundError`, and `UsageError` where several are left.
    """
    names = [notice.run for notice in runs.runs]
    if name in names:
        return name
    fitting = [run for run in names if not name or name == base_name(run)]
    if runs.taking and (not name or runs.taking in fitting):
        return runs.taking
    fitting = _latest(fitting)
    if len(fitting) > 1:
        raise UsageError(f"{len(fitting)} runs fit: {', '.join(fitting)}", hint="name one of them in full")
    if not fitting:
        known = (
            f"runs known there: {', '.join(names)}"
            if names
            else "no run is known there; `prime train submit` founds one"
        )
        raise NotFoundError(f"there is no run {name}".rstrip(), hint=known)
    return fitting[0]


def _latest(names: list[str]) -> list[str]:
    """Leave out the runs that have a successor."""
    last = dict(sorted(map(lineage, names)))
    return [run for run in names if lineage(run)[1] == last[lineage(run)[0]]]


def notice_fault(notice: RunNotice) -> str:
    """Say why this cannot be a run."""
    name = base_name(notice.run)
    plain = name.replace("-", "").replace("_", "").replace(".", "")
    if not plain.isalnum() or name[0] == "." or len(name) > NAME_CHARACTERS_MAX:
        return f"its name has letters, digits, -, _ and . only, no . first, and {NAME_CHARACTERS_MAX} at most"
    if not _short((notice.founder, notice.nonce, notice.settings.model, notice.settings.data)):
        return "a text in it is too long"
    if lineage(notice.run)[0] != run_name(name, notice.founder, notice.nonce, notice.settings):
        return "its name is not that of its settings"
    return ""


def member_fault(member: RunMember) -> str:
    """Say why this cannot be a member's word."""
    if fault := addresses_fault(member.addresses):
        return fault
    if not _short((member.peer, member.name, member.why)) or member.round < 0 or not 0 <= member.age_s < FORGET_S:
        return "a text is too long, or a figure is none"
    return ""


def _aged(member: RunMember, age_s: float) -> RunMember:
    return attrs.evolve(member, age_s=age_s)  # type: ignore[misc]  # a @record is an attrs class


def _short(texts: Iterable[str]) -> bool:
    return all(len(text) <= TEXT_CHARACTERS_MAX for text in texts)


def _said(member: RunMember) -> tuple[object, ...]:
    """Return what others should hear at once; a round's number can wait for the next beat."""
    return (member.standing, member.why, member.addresses)
