"""The aggregator: the actor that carries out what the round's core decides, and holds the bytes.

On every node at `/train/aggregator`. It encodes what the trainer contributes, streams chunks to the owners of the
parts, stores what it owns, reduces, votes after an fsync, and tells the trainer the outcome. The core's ordering law
(`commands.py`) is kept because the commands of a step are carried out one after the other inside one handler.
"""

from __future__ import annotations

import functools
import itertools
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import attrs
import trio

from prime.actor import Actor, Down, Ref, on
from prime.actor.contract import Journal
from prime.errors import DecodeError, LocalProtocolError, NotFoundError, RefusedError
from prime.trainer.outer.fragments import Fragments
from prime.trainer.round import commands as cmd
from prime.trainer.round import messages as msg
from prime.trainer.round.journal import refounded
from prime.trainer.round.partition import cuts
from prime.trainer.round.records import read_record, write_record
from prime.trainer.round.round import RoundCore
from prime.trainer.round.status import Status, phase_of
from prime.trainer.round.terms import DEFAULT_TERMS, Terms
from prime.trainer.round.timing import Timing
from prime.trainer.round.validity import view_fault
from prime.trainer.round.view import Member, Share, View
from prime.trainer.swarm import plans
from prime.trainer.swarm.audit import AuditCase, offer_fault, open_offer
from prime.trainer.swarm.carry import Ledgers
from prime.trainer.swarm.dispatch import Job, Outlet
from prime.trainer.swarm.meter import Meter
from prime.trainer.swarm.numbers import Numbers
from prime.trainer.swarm.parts import Assembly, Encoded, chunks, digest, digest_of
from prime.trainer.swarm.tally import NOTHING, Spent, Tally, tally_of
from prime.transport.facts import LinkDown, LinkUp
from prime.wire import message, signed_bytes

AGGREGATOR_PATH = "/train/aggregator"

JOURNAL_BYTES_MAX = 64 << 20
"""Beyond this the next decision replaces the journal: it says all that a restart needs."""

_INLINE_BYTES = 1 << 20
"""Numeric work on less than this stays on the loop: a thread would cost more than it saves."""


@message
class _Wake:
    """The core asked to be woken."""


@message
class _LookAgain:
    """It is time to look whether a member that was down is back."""

    peer: str


@message
class _PartReduced:
    round: int
    part: int
    seal: bytes
    hash: bytes
    data: Encoded


@message
class _PartMultiplied:
    round: int
    part: int
    seal: bytes
    entries: tuple[float, ...]


@attrs.frozen
class SwarmPlan:
    """How this node takes part in a run: as founder, or through contacts."""

    run: str
    member: Member
    found: bool
    contacts: tuple[str, ...]
    nodes_min: int
    timing: Timing
    terms: Terms = DEFAULT_TERMS


@attrs.frozen
class Facts:
    """What an operator should read: `text` in words."""

    text: str


@attrs.define
class RoundBytes:
    """Everything one round needs, by part: own contribution, what others sent here, results by hash."""

    view: View
    cuts: tuple[slice, ...]
    own: dict[int, Encoded] = attrs.Factory(dict)
    own_hashes: tuple[bytes, ...] = ()
    incoming: dict[tuple[int, str, bytes], Assembly] = attrs.Factory(dict)
    held: dict[tuple[int, str], Encoded] = attrs.Factory(dict)
    held_hashes: dict[tuple[int, str], bytes] = attrs.Factory(dict)
    results: dict[tuple[int, bytes], Encoded] = attrs.Factory(dict)
    offers: dict[str, bytes] = attrs.Factory(dict)

    @property
    def parts(self) -> int:
        """Return how many parts the vector is cut into: one for each member."""
        return len(self.cuts)


Heard = (
    msg.Report
    | msg.Prepare
    | msg.Promise
    | msg.Nack
    | msg.Seal
    | msg.Propose
    | msg.Ready
    | msg.Commit
    | msg.Query
    | msg.Stored
    | msg.Fetch
    | msg.Beat
    | msg.Refuse
    | msg.Join
    | msg.Leave
    | msg.End
    | msg.Chunk
    | msg.Announce
    | msg.Missing
    | msg.Vouch
    | msg.ShowPart
    | msg.ShowChunk
    | plans.Begin
    | plans.FurtherContacts
    | plans.StateHeld
    | plans.Contribute
    | plans.LeaveSwarm
    | plans.EndSwarm
    | plans.GetRound
    | Down
)


class Aggregator(Actor[Heard]):
    """One node's part in the rounds of one run. `report` takes each outcome for the trainer.

    `numbers` says what a vector is and how its parts become bytes.
    """

    def __init__(
        self,
        plan: SwarmPlan,
        journal: Journal,
        report: Callable[[plans.Outcome], None],
        numbers: Numbers[Any],
        spent: Spent | None = None,
    ) -> None:
        self._spent = spent if spent is not None else Spent()
        self._plan = plan
        self._journal = journal
        self._report = report
        self._numbers = numbers
        self._core: RoundCore | None = None
        self._fragments = Fragments(1)
        self._rounds: dict[int, RoundBytes] = {}
        self._recovered: dict[int, tuple[msg.Accepted, list[memoryview]]] = {}
        self._ledgers: Ledgers[Any] = Ledgers(self._fragment_of)
        self._outlets: dict[str, Outlet] = {}
        self._watched: dict[str, float] = {}
        self._looking: set[str] = set()
        self._linked: set[str] = set()
        self._unsubscribe: Callable[[], None] = lambda: None
        self._birth: dict[type, msg.Record] = {}
        self._wake: Any = None
        self._events: deque[cmd.Event] = deque()
        self._stepping = False
        self._vote: tuple[msg.Accepted, list[memoryview]] | None = None
        self._pending: plans.Contribute | None = None
        self.journal_bytes_max = JOURNAL_BYTES_MAX
        self._meter = Meter()
        self.float32_bytes = 0

    async def started(self) -> None:
        """Learn when links come and go."""
        self._unsubscribe = self.ctx.system.subscribe(self._observe)
        self.ctx.start_soon(self._beat)

    async def stopping(self) -> None:
        """Learn no more."""
        self._unsubscribe()

    async def _beat(self) -> None:
        """Send the round's heartbeats, whatever the core's commands are waiting for."""
        while True:
            await trio.sleep(self._plan.timing.beat_s)
            for beat in self._core.beats() if self._core is not None else ():
                self._outlet(beat.to).send(beat.message)

    # ------------------------------------------------------------------------------------------- from the trainer

    @on(plans.Begin)
    async def begin(self, m: plans.Begin) -> None:
        """Found the run, join it, or go on as the member that this journal remembers."""
        if self._core is not None:
            return
        self._fragments = Fragments(m.elements, m.fragments)
        core = self._core = self._made()
        core.settings = m.settings
        self._stepping = True
        await self._carry_out(core.start(self.ctx.now()))
        self._stepping = False
        if core.seat is None:
            await self._step(cmd.JoinRun(self._plan.contacts))

    @on(plans.FurtherContacts)
    async def further_contacts(self, m: plans.FurtherContacts) -> None:
        """Ask these peers too, as long as this node is not in the run."""
        self._plan = attrs.evolve(self._plan, contacts=(*self._plan.contacts, *m.peers))
        if self._core is not None and self._core.joining:
            await self._step(cmd.JoinRun(m.peers))

    def _made(self) -> RoundCore:
        plan, records = self._plan, []
        for data in self._journal.records():
            record, payloads = read_record(data)
            records.append(record)
            if isinstance(record, msg.Born):
                self._birth[msg.Born] = record
            if isinstance(record, msg.Accepted):
                self._recovered[record.round] = (record, payloads)
            if isinstance(record, msg.Decided):
                self._learn(record.value.next_view)
        if records:
            return self._remade(records)
        if plan.found:
            return RoundCore.found(plan.member, plan.run, plan.timing, nodes_min=plan.nodes_min, terms=plan.terms)
        return RoundCore.join(plan.member, plan.run, plan.timing, terms=plan.terms)

    def _remade(self, records: list[msg.Record]) -> RoundCore:
        plan = self._plan
        core = RoundCore.recover(
            plan.member,
            plan.run,
            plan.timing,
            records,
            nodes_min=plan.nodes_min,
            founder=plan.found,
            terms=plan.terms,
        )
        if core.previous is not None:  # the last outcome may still have to be applied, or served
            self._open_round(core.previous.round, core.previous.view)
        return core

    @on(plans.StateHeld)
    async def state_held(self, m: plans.StateHeld) -> None:
        """Note which state contributions start from."""
        await self._step(cmd.StateReady(m.round, m.state_hash))
        await self._contribute_pending()

    @on(plans.Contribute)
    async def contribute(self, m: plans.Contribute) -> None:
        """Encode and freeze this node's contribution; a later one for the same round changes nothing.

        From here on it is this actor's to keep, but for an abort: one that its round does not take is carried.
        """
        core = self._core
        if core is None:
            return
        if m.round < core.round:
            self._missed(core, m)
            return
        rnd, base = self._rounds.get(m.round), core.own_base
        if rnd is None or base is None or core.seat is None or core.seat.restarted:
            self._pending = m  # until the round can take it, or is over
            return
        if rnd.own:
            return
        ledger = self._ledgers.of(m.round)
        frozen = ledger.freeze(m.round, m.delta, m.weight)
        encode = functools.partial(self._encoded, frozen.y, rnd.cuts)
        began = self.ctx.now()
        encoded, hashes = await self._compute(encode, self._numbers.size_bytes(self._elements_of(m.round)))
        self._spent.add("encode", self.ctx.now() - began)
        rnd.own, rnd.own_hashes = dict(enumerate(encoded)), hashes
        if self._numbers.feeds_back:
            ledger.encoded(m.round, tuple(self._pieces(rnd, encoded)))
        signed = self._signed_offer(rnd, m.round, frozen.weight, base[1], hashes)
        await self._step(cmd.Contributed(m.round, msg.Offer(frozen.weight, base[1], hashes, signed)))

    def _signed_offer(
        self, rnd: RoundBytes, round_: int, weight: float, base: bytes, hashes: tuple[bytes, ...]
    ) -> bytes:
        offer = msg.SignedOffer(self._plan.run, rnd.view.epoch, round_, weight, base, hashes)
        signed = rnd.offers[self._plan.member.peer] = signed_bytes(self.ctx.system.sign(offer))
        return signed

    async def _contribute_pending(self) -> None:
        """Look again at a contribution that could not be taken when it came."""
        pending, self._pending = self._pending, None
        if pending is not None:
            await self.contribute(pending)

    def _missed(self, core: RoundCore, m: plans.Contribute) -> None:
        """Keep what came too late for its round; after an abort the trainer still has it, in its next delta."""
        value = core.decisions.get(m.round)
        if value is None or not value.aborted:
            self._ledgers.of(m.round).miss(m.delta, m.weight)

    @on(plans.LeaveSwarm)
    async def leave(self, _: plans.LeaveSwarm) -> None:
        """Ask to be left out of the next view."""
        await self._step(cmd.LeaveRun())

    @on(plans.EndSwarm)
    async def end(self, _: plans.EndSwarm) -> None:
        """Ask for the end of the run."""
        await self._step(cmd.EndRun())

    @on(plans.GetRound)
    def get_round(self, _: plans.GetRound) -> Status:
        """Answer how the round stands."""
        return self.status()

    def succession(self) -> tuple[str, list[msg.Record]]:
        """Return the successor of the run, and the journal of its founder: this node alone, with the state that it holds.

        Raises `RefusedError` where a majority is there, or this node has nothing to go on from.
        """
        core = self._core
        if core is None or core.seat is None or core.own_base is None:
            raise RefusedError(
                "this node is in no view of the run, or holds no state of it",
                hint="run the command on a member that trained: `prime status` shows phase and members",
            )
        if not core.stalled:
            raise RefusedError(
                f"run {core.run!r} is not below a majority: there is nothing to recover from",
                hint="wait until `prime status` says that it cannot commit; a node that died is left out by itself",
            )
        known = [read_record(data)[0] for data in self._journal.records()]
        return refounded(known, core.me, core.own_base[0])

    @property
    def is_sending(self) -> bool:
        """Whether bytes of a round wait to be sent, or are on their way out."""
        return any(outlet.has_bulk for outlet in self._outlets.values())

    @property
    def rate_bytes_s(self) -> int:
        """Return what this node can send, as far as a round has measured it; 0 before."""
        return (self._core.rate_bytes_s or 0) if self._core is not None else 0

    @property
    def nodes_min(self) -> int:
        """Return how many nodes the first round waits for."""
        return self._plan.nodes_min

    def status(self) -> Status:
        """Return how the round stands."""
        if self._core is None:
            return Status(self._plan.run, 0, 0, "starting", "", "", (), (), (), (), "")
        return self._core.status()

    def tally(self) -> Tally:
        """Return how many chunks of the round under way are here."""
        core = self._core
        rnd = self._rounds.get(core.round) if core is not None else None
        if rnd is None:
            return NOTHING
        sizes = [len(self._chunks(rnd, part)) for part in range(rnd.parts)]
        partial = [(part, peer, len(found.found)) for (part, peer, _), found in rnd.incoming.items()]
        own = rnd.view.peers().index(self._plan.member.peer)
        return tally_of(sizes, own, rnd.held, partial, [part for part, _ in rnd.results])

    # ------------------------------------------------------------------------------------------- from the members

    @on(
        msg.Report,
        msg.Prepare,
        msg.Promise,
        msg.Nack,
        msg.Seal,
        msg.Propose,
        msg.Ready,
        msg.Commit,
        msg.Query,
        msg.Stored,
        msg.Fetch,
        msg.Beat,
        msg.Refuse,
    )
    async def hear(self, m: Any) -> None:
        """Give the core what another member says; a message in another's name is not heard."""
        if m.sender != self.ctx.sender:
            self.ctx.emit(Facts(f"{self.ctx.sender} sent a {type(m).__name__} in another's name: ignored"))
            return
        self._rewatch(m.sender)
        if isinstance(m, msg.Report) and m.offer is not None and not self._is_signed(m, m.offer):
            return
        await self._step(cmd.Received(m))
        if isinstance(m, msg.Commit):
            self._meet(m)

    def _meet(self, commit: msg.Commit) -> None:
        """Learn where the members are that a contact named: each has to hear our wish, as each leads a round now and then."""
        core = self._core
        view = commit.value.next_view
        if core is not None and core.joining and commit.sender in core.contacts and not view_fault(view):
            self._learn(view)

    def _is_signed(self, m: msg.Report, offer: msg.Offer) -> bool:
        """Tell whether a member's offer stands under its signature, and is the one that it signed before."""
        rnd = self._rounds.get(m.round)
        if rnd is None or m.run != self._plan.run or m.epoch != rnd.view.epoch:
            return True  # of another round or run: the core says so
        if not self._keep_offer(rnd, m.sender, m.round, offer.signed):
            return False
        said = open_offer(offer.signed)
        return (said.weight, said.base, said.parts) == (offer.weight, offer.base, offer.parts)

    @on(msg.Vouch)
    def vouch(self, m: msg.Vouch) -> None:
        """Keep a contributor's signed offer beside the chunks that it signed for."""
        rnd = self._rounds.get(m.round)
        if rnd is not None and m.run == self._plan.run and m.epoch == rnd.view.epoch and m.sender == self.ctx.sender:
            self._keep_offer(rnd, m.sender, m.round, m.offer)

    def _keep_offer(self, rnd: RoundBytes, sender: str, round_: int, signed: bytes) -> bool:
        """Keep a member's offer, once: two that differ are a lie. `False` for one that is no evidence against it."""
        if rnd.offers.get(sender) == signed:
            return True
        fault = offer_fault(signed, self._plan.run, rnd.view.epoch, round_, sender)
        if not fault and rnd.view.find(sender) is None:
            fault = "it is no member"
        if not fault and sender in rnd.offers:
            fault = "it signed another one before: both are evidence against it"
        if fault:
            self.ctx.emit(Facts(f"the offer of {sender} to round {round_} is refused: {fault}"))
            return False
        rnd.offers[sender] = signed
        return True

    # ---------------------------------------------------------------------------------------------------- evidence

    def audit_case(self) -> AuditCase | None:
        """Return what an audit of the last decided round needs; `None` where it was aborted, or is not known here."""
        core = self._core
        seat = core.previous if core is not None else None
        if core is None or seat is None or seat.round not in core.decisions or seat.round not in self._rounds:
            return None
        value, rnd = core.decisions[seat.round], self._rounds[seat.round]
        if value.aborted:
            return None
        deciding = seat.proposal
        return AuditCase(
            run=self._plan.run,
            value=value,
            view=seat.view,
            owners=deciding.owners if deciding is not None and not deciding.holders else seat.owners,
            leader=deciding.sender if deciding is not None else "",
            rule=self._plan.terms.rule,
            chunks=tuple(self._chunks(rnd, part) for part in range(rnd.parts)),
            numbers=self._numbers,
        )

    @on(msg.ShowPart)
    def show_part(self, m: msg.ShowPart) -> msg.ShownPart:
        """Answer with the signed offers that a part was reduced on."""
        rnd = self._shown(m)
        return msg.ShownPart(tuple(rnd.offers.get(peer, b"") for peer in m.contributors))

    @on(msg.ShowChunk)
    def show_chunk(self, m: msg.ShowChunk) -> msg.ShownChunk:
        """Answer with a chunk of a contribution that is held here."""
        held = self._shown(m).held.get((m.part, m.contributor), ())
        if not 0 <= m.index < len(held):
            raise NotFoundError(
                f"no chunk {m.index} of {m.contributor}'s part {m.part} of round {m.round} is held here",
                hint="ask the part's owner, before the round after the next is decided",
            )
        return msg.ShownChunk(held[m.index])

    def _shown(self, m: msg.ShowPart | msg.ShowChunk) -> RoundBytes:
        rnd = self._rounds.get(m.round)
        if rnd is None or m.run != self._plan.run:
            raise NotFoundError(f"round {m.round} of {m.run} is not kept here", hint="the last decided round is")
        if self.ctx.sender is not None and rnd.view.find(self.ctx.sender) is None:
            raise RefusedError("what members contributed is shown to members", hint="ask from a member of the round")
        return rnd

    @on(msg.Join, msg.Leave, msg.End)
    async def hear_wish(self, m: msg.Join | msg.Leave | msg.End) -> None:
        """Give the core a wish to join, to leave or to end the run, from the node whose wish it is."""
        if m.member.peer != self.ctx.sender:
            return
        self.ctx.system.learn(m.member.peer, m.member.addresses)
        await self._step(cmd.Received(m))

    @on(Down)
    async def down(self, m: Down) -> None:
        """Note that a member's aggregator ended, or that the link to it was lost."""
        self._watched.pop(m.peer, None)
        if m.peer in self._outlets:
            self._outlets[m.peer].drop_bulk()
        self._look_later(m.peer)
        await self._step(cmd.PeerDown(m.peer))

    @on(_LookAgain)
    async def look_again(self, m: _LookAgain) -> None:
        """Watch a member that is down once more: while nobody contributes, none of them would say that it is back.

        It is, once the watch of its aggregator has stood for a while.
        """
        self._looking.discard(m.peer)
        if self._core is None or m.peer not in self._core.roster.down:
            return
        since = self._watched.get(m.peer)
        if since is not None and m.peer in self._linked and self.ctx.now() - since >= self._plan.timing.suspect_s:
            await self._step(cmd.PeerUp(m.peer))
            return
        self._rewatch(m.peer)
        self._look_later(m.peer)

    def _look_later(self, peer: str) -> None:
        if peer not in self._looking:
            self._looking.add(peer)
            self.ctx.after(self._plan.timing.suspect_s, _LookAgain(peer), overtake=True)

    def _observe(self, fact: Any) -> None:
        if isinstance(fact, LinkUp):
            self._linked.add(fact.peer)
        elif isinstance(fact, LinkDown):
            self._linked.discard(fact.peer)

    # --------------------------------------------------------------------------------------------------- the bytes

    @on(msg.Chunk)
    async def chunk(self, m: msg.Chunk) -> None:
        """Store one chunk of a contribution (from its contributor) or of a result (from anyone who has it)."""
        rnd = self._round_of(m)
        if rnd is None or (m.contributor and m.contributor != m.sender) or self._contradicts(rnd, m):
            return
        if self._has(rnd, m.part, m.contributor, m.hash):
            await self._note_whole(m.round, m.part, m.contributor, m.hash)
            return
        key = (m.part, m.contributor, m.hash)
        assembly = rnd.incoming.get(key)
        if assembly is None:
            self._make_room(rnd, key)
            assembly = rnd.incoming[key] = Assembly(len(self._chunks(rnd, m.part)))
        try:
            self._check(rnd, m)
            assembly.add(m.index, m.data, digest(m.data))
        except DecodeError as error:
            self.ctx.emit(Facts(f"{m.sender}: part {m.part} of round {m.round} is refused: {error}"))
            return
        if not assembly.is_whole:
            return
        rnd.incoming.pop(key, None)
        if assembly.digest() == m.hash:
            self._store(rnd, m.part, m.contributor, m.hash, assembly.encoded())
            await self._note_whole(m.round, m.part, m.contributor, m.hash)

    def _check(self, rnd: RoundBytes, m: msg.Chunk) -> None:
        """Raise `DecodeError` for a chunk that is none: a contribution that no codec wrote would stop the round's sum."""
        chunks_ = self._chunks(rnd, m.part)
        if not 0 <= m.index < len(chunks_):
            raise DecodeError(f"a part of {len(chunks_)} chunks has no chunk {m.index}")
        if m.contributor:
            self._numbers.check(m.data, chunks_[m.index])

    @on(msg.Announce)
    async def announce(self, m: msg.Announce) -> None:
        """Answer which chunks of a part are still wanted."""
        rnd = self._round_of(m)
        if rnd is None or (m.contributor and m.contributor != m.sender) or self._contradicts(rnd, m):
            return
        if self._has(rnd, m.part, m.contributor, m.hash):
            await self._note_whole(m.round, m.part, m.contributor, m.hash)
            return
        count = len(self._chunks(rnd, m.part))
        if not count and m.hash == digest_of(()):
            self._store(rnd, m.part, m.contributor, m.hash, ())
            await self._note_whole(m.round, m.part, m.contributor, m.hash)
            return
        assembly = rnd.incoming.get((m.part, m.contributor, m.hash))
        wanted = assembly.missing if assembly is not None else tuple(range(count))
        head = (m.run, m.epoch, m.round, self._plan.member.peer)
        self._outlet(m.sender).send(msg.Missing(*head, m.part, m.contributor, m.hash, wanted))

    @on(msg.Missing)
    def missing(self, m: msg.Missing) -> None:
        """Send the chunks that the other side still wants."""
        rnd = self._round_of(m)
        if rnd is None:
            return
        data = rnd.own.get(m.part) if m.contributor == self._plan.member.peer else None
        if not m.contributor:
            data = rnd.results.get((m.part, m.hash))
        if data is not None:
            wanted = tuple(sorted(set(m.indexes) & set(range(len(data)))))
            self._stream(m.round, rnd, m.part, m.contributor, data, m.hash, m.sender, wanted)

    def _round_of(self, m: msg.Chunk | msg.Announce | msg.Missing) -> RoundBytes | None:
        """Return the round a message of bytes belongs to, if it is one of ours and the message fits it."""
        rnd = self._rounds.get(m.round)
        if rnd is None or m.run != self._plan.run or m.sender != self.ctx.sender or m.epoch != rnd.view.epoch:
            return None
        if rnd.view.find(m.sender) is None or not 0 <= m.part < rnd.parts:
            return None
        return rnd

    def _contradicts(self, rnd: RoundBytes, m: msg.Chunk | msg.Announce) -> bool:
        """Tell whether a contributor names other bytes for a part than those it has already sent whole."""
        held = rnd.held_hashes.get((m.part, m.contributor))
        if held is None or held == m.hash:
            return False
        self.ctx.emit(
            Facts(f"{m.sender} contradicts its own contribution to part {m.part} of round {m.round}: ignored")
        )
        return True

    def _make_room(self, rnd: RoundBytes, key: tuple[int, str, bytes]) -> None:
        """Bound what one round can hold: each member may have one contribution and a few results on the way."""
        part, contributor, _ = key
        rivals = [k for k in rnd.incoming if k[:2] == (part, contributor)]
        if len(rivals) >= (1 if contributor else 4):
            rnd.incoming.pop(rivals[0])

    def _has(self, rnd: RoundBytes, part: int, contributor: str, hash_: bytes) -> bool:
        if contributor:
            return (part, contributor) in rnd.held
        return (part, hash_) in rnd.results

    def _store(self, rnd: RoundBytes, part: int, contributor: str, hash_: bytes, data: Encoded) -> None:
        if contributor:
            rnd.held[part, contributor] = data
            rnd.held_hashes[part, contributor] = hash_
        else:
            rnd.results[part, hash_] = data

    async def _note_whole(self, round_: int, part: int, contributor: str, hash_: bytes) -> None:
        if contributor:
            await self._step(cmd.PartHeld(round_, contributor, part, hash_))
        else:
            await self._step(cmd.ResultHeld(round_, part, hash_))

    # ---------------------------------------------------------------------------------------------------- the core

    @on(_Wake)
    async def wake(self, _: _Wake) -> None:
        """Time passed."""
        self._wake = None
        await self._step(cmd.Tick())

    @on(_PartReduced)
    async def part_reduced(self, m: _PartReduced) -> None:
        """Keep the bytes of an own part that is reduced now, and tell the core."""
        rnd = self._rounds.get(m.round)
        if rnd is not None:
            rnd.results[m.part, m.hash] = m.data
            await self._step(cmd.Reduced(m.round, m.part, m.seal, m.hash))

    @on(_PartMultiplied)
    async def part_multiplied(self, m: _PartMultiplied) -> None:
        """Tell the core the inner products over an own part."""
        await self._step(cmd.GramReady(m.round, m.part, m.seal, m.entries))

    async def _step(self, event: cmd.Event) -> None:
        """Take one event to the core and carry its commands out; an event of those commands waits its turn.

        Otherwise its commands would overtake the rest of this step, and a vote could leave before its fsync.
        """
        if self._core is None:
            return  # before `Begin` it is nobody's: what matters is sent again
        self._events.append(event)
        if self._stepping:
            return
        self._stepping = True
        while self._events:
            await self._carry_out(self._core.step(self._events.popleft(), self.ctx.now()))
        self._stepping = False

    async def _carry_out(self, commands: list[cmd.Command]) -> None:
        for command in commands:
            await self._do(command)
        if self._core is not None:
            self._spent.enter(phase_of(self._core), self.ctx.now())
        self._arm()

    def _arm(self) -> None:
        if self._wake is not None:
            self._wake.cancel()
            self._wake = None
        now = self.ctx.now()
        due = self._core.next_wakeup(now) if self._core is not None else None
        if due is not None:
            self._wake = self.ctx.after(max(due - now, 0.01), _Wake())

    async def _do(self, command: cmd.Command) -> None:
        match command:
            case cmd.Persist(record):
                await self._persist(record)
            case cmd.Send(to, message_):
                self._outlet(to).send(message_)
            case cmd.Transfer(round_, part, to):
                await self._transfer(round_, part, to)
            case cmd.Multiply():
                self.ctx.start_soon(self._multiply, command)
            case cmd.Reduce():
                self.ctx.start_soon(self._reduce, command)
            case cmd.SendResult(round_, part, hash_, to):
                self._send_result(round_, part, hash_, to)
            case cmd.EnterView():
                await self._enter(command)
            case cmd.Apply() | cmd.Keep() | cmd.Settle() | cmd.CatchUp():
                await self._settle(command)
            case _:
                self._tell(command)

    def _tell(self, command: cmd.Command) -> None:
        match command:
            case cmd.Outside(round_, reason, rejoining):
                self._report(plans.LeftView(round_, reason, rejoining))
            case cmd.Ended(round_):
                self._report(plans.RunEnded(round_))
            case cmd.Stalled(round_, reason, hint):
                self._report(plans.RoundStalled(round_, reason, hint))
            case cmd.Resumed(round_):
                self._report(plans.RoundResumed(round_))
            case cmd.Warn(text):
                self.ctx.emit(Facts(text))

    async def _persist(self, record: msg.Record) -> None:
        payloads: list[memoryview] = []
        if isinstance(record, msg.Accepted):
            rnd = self._rounds[record.round]
            parts = [rnd.results[part, hash_] for part, hash_ in enumerate(record.value.parts)]
            payloads = [chunk for part in parts for chunk in part]
            self._vote = (record, payloads)
        if isinstance(record, msg.Decided) and self._journal.size_bytes > self.journal_bytes_max:
            await self._journal.replace(self._compacted(record))
            return
        if isinstance(record, msg.Born | msg.Booted):
            self._birth[type(record)] = record
        await self._journal.append(write_record(record, payloads))

    def _compacted(self, decided: msg.Decided) -> list[bytes]:
        """Return all that a restart still needs: who we are, the decision, and the bytes we voted for."""
        records = [write_record(record, []) for record in self._birth.values()]
        rnd = self._rounds.get(decided.value.round)
        if rnd is not None and self._vote is not None and self._vote[0].round == decided.value.round:
            records.append(write_record(msg.Entered(decided.value.round, rnd.view, decided.value.state_round), []))
            records.append(write_record(*self._vote))
        return [*records, write_record(decided, [])]

    async def _settle(self, command: cmd.Apply | cmd.Keep | cmd.Settle | cmd.CatchUp) -> None:
        match command:
            case cmd.Keep(value):
                self._ledgers.of(value.round).abort(value.round)
                self._report(plans.RoundAborted(value))
            case cmd.Apply(value, included):
                rnd = self._rounds[value.round]
                encoded = [rnd.results[part, hash_] for part, hash_ in enumerate(value.parts)]
                join = functools.partial(self._joined, rnd, encoded, self._elements_of(value.round))
                aggregate = await self._compute(join, self._numbers.size_bytes(self._elements_of(value.round)))
                self._report(plans.RoundCommitted(value, aggregate, included))
                await self._commit(value.round, included=included)
            case cmd.Settle(value, included):
                await self._settle_unseen(value.round, known=True, included=included)
            case cmd.CatchUp(round_, view, value, included, reason, base):
                await self._settle_unseen(round_, known=value is not None, included=included)
                self._report(plans.StateMissed(round_, view, reason, base))

    async def _settle_unseen(self, round_: int, *, known: bool, included: bool) -> None:
        frozen = self._ledgers.in_flight()
        if frozen is None:
            return
        if known and frozen.round == round_:
            await self._commit(round_, included=included)
        else:
            self._ledgers.of(frozen.round).lose(frozen.round)

    async def _commit(self, round_: int, *, included: bool) -> None:
        """Settle what is in flight; what its bytes left out is computed only now that the round took them."""
        ledger, residual = self._ledgers.of(round_), None
        frozen = ledger.frozen
        if included and frozen is not None and frozen.encoded is not None:
            work = functools.partial(self._numbers.residual, frozen.y, frozen.encoded)
            residual = await self._compute(work, self._numbers.size_bytes(self._elements_of(round_)))
        ledger.commit(round_, included=included, residual=residual)

    def _open_round(self, round_: int, view: View) -> None:
        parts = cuts(self._elements_of(round_), view.members, self._numbers.grain)
        rnd = self._rounds[round_] = RoundBytes(view, parts)
        recovered = self._recovered.pop(round_, None)
        if recovered is not None:
            vote, payloads = recovered
            rest = iter(payloads)
            for part, hash_ in enumerate(vote.value.parts):
                rnd.results[part, hash_] = tuple(itertools.islice(rest, len(self._chunks(rnd, part))))

    def _elements_of(self, round_: int) -> int:
        """Return how many elements the vector of a round has: those of its fragment."""
        return self._fragments.elements_of(round_)

    def _fragment_of(self, round_: int) -> int:
        return self._fragments.of_round(round_)

    def _chunks(self, rnd: RoundBytes, part: int) -> tuple[slice, ...]:
        return chunks(rnd.cuts[part], self._numbers.chunk_elements)

    def _learn(self, view: View) -> None:
        for member in view.members:
            if member.peer != self._plan.member.peer:
                self.ctx.system.learn(member.peer, member.addresses)

    async def _enter(self, command: cmd.EnterView) -> None:
        round_, view = command.round, command.view
        self._open_round(round_, view)
        for old in [r for r in self._rounds if r < round_ - 1]:
            del self._rounds[old]
        self._learn(view)
        self._close_outlets(view)
        for peer in view.peers():
            if peer != self._plan.member.peer:
                self._rewatch(peer)
        rate_bytes_s = self._meter.next_round(self.ctx.now())
        if rate_bytes_s is not None:
            await self._step(cmd.RateMeasured(rate_bytes_s))
        self._report(plans.ViewEntered(round_, view, command.state_round, command.chosen))
        await self._contribute_pending()

    # -------------------------------------------------------------------------------------------- numbers and bytes

    def _encoded(self, y: Any, parts: tuple[slice, ...]) -> tuple[list[Encoded], tuple[bytes, ...]]:
        size = self._numbers.chunk_elements
        encoded = [tuple(self._numbers.encode(y, cut) for cut in chunks(part, size)) for part in parts]
        return encoded, tuple(map(digest_of, encoded))

    def _pieces(self, rnd: RoundBytes, encoded: list[Encoded]) -> Iterator[tuple[slice, memoryview]]:
        """Yield the chunks of a whole vector, each with its place."""
        for part, pieces in enumerate(encoded):
            yield from zip(self._chunks(rnd, part), pieces, strict=True)

    def _reduced(
        self, inputs: list[Encoded], shares: tuple[Share, ...], cuts: tuple[slice, ...]
    ) -> tuple[Encoded, bytes]:
        weights = [share.counts for share in shares]
        rows = zip(*inputs, strict=True)
        rule = self._plan.terms.rule
        data = tuple(self._numbers.reduce(row, weights, cut, rule) for row, cut in zip(rows, cuts, strict=True))
        return data, digest_of(data)

    def _multiplied(self, inputs: list[Encoded], cuts: tuple[slice, ...]) -> tuple[float, ...]:
        """Return the inner products over a part: the sum of its chunks', in their order."""
        total = [0.0] * (len(inputs) * (len(inputs) + 1) // 2)
        for row, cut in zip(zip(*inputs, strict=True), cuts, strict=True):
            total = [a + b for a, b in zip(total, self._numbers.multiply(row, cut), strict=True)]
        return tuple(total)

    def _joined(self, rnd: RoundBytes, encoded: list[Encoded], elements: int) -> Any:
        room = self._numbers.room(elements)
        for cut, piece in self._pieces(rnd, encoded):
            room.decode(piece, cut)
        return room.vector()

    async def _multiply(self, command: cmd.Multiply) -> None:
        rnd = self._rounds.get(command.round)
        if rnd is None:
            return
        inputs = [rnd.held[command.part, share.peer] for share in command.shares]
        part = rnd.cuts[command.part]
        try:
            work = functools.partial(self._multiplied, inputs, self._chunks(rnd, command.part))
            entries = await self._compute(work, self._numbers.size_bytes(part.stop - part.start) * len(inputs))
        except DecodeError as error:
            self.ctx.emit(Facts(f"round {command.round}, part {command.part}: {error}"))
            return
        await self.ctx.self_ref.tell(_PartMultiplied(command.round, command.part, command.seal, entries))

    async def _reduce(self, command: cmd.Reduce) -> None:
        rnd = self._rounds.get(command.round)
        if rnd is None:
            return
        inputs = [rnd.held[command.part, share.peer] for share in command.shares]
        part = rnd.cuts[command.part]
        try:
            work = functools.partial(self._reduced, inputs, command.shares, self._chunks(rnd, command.part))
            data, hash_ = await self._compute(work, self._numbers.size_bytes(part.stop - part.start))
        except (DecodeError, LocalProtocolError) as error:
            self.ctx.emit(Facts(f"round {command.round}, part {command.part}: {error}"))
            return
        await self.ctx.self_ref.tell(_PartReduced(command.round, command.part, command.seal, hash_, data))

    async def _compute(self, work: Callable[[], Any], size_bytes: int) -> Any:
        """Run numeric work: short work here, long work in a thread (the engines release the GIL)."""
        return work() if size_bytes < _INLINE_BYTES else await trio.to_thread.run_sync(work)

    async def _transfer(self, round_: int, part: int, to: str) -> None:
        rnd = self._rounds[round_]
        data = rnd.own.get(part)
        if data is None:
            return
        me = self._plan.member.peer
        hash_ = rnd.own_hashes[part]
        if to == me:
            rnd.held[part, me] = data
            await self._step(cmd.PartHeld(round_, me, part, hash_))
            return
        head = (self._plan.run, rnd.view.epoch, round_, me)
        self._outlet(to).send(msg.Vouch(*head, rnd.offers[me]))
        self._offer(round_, rnd, part, me, data, hash_, to)

    def _send_result(self, round_: int, part: int, hash_: bytes, to: str) -> None:
        rnd = self._rounds.get(round_)
        data = rnd.results.get((part, hash_)) if rnd is not None else None
        if rnd is not None and data is not None:
            self._offer(round_, rnd, part, "", data, hash_, to)

    def _offer(
        self, round_: int, rnd: RoundBytes, part: int, contributor: str, data: Encoded, hash_: bytes, to: str
    ) -> None:
        """Send all bytes the first time; afterwards announce them, so that only what is missing travels again."""
        outlet = self._outlet(to)
        if data and outlet.first_time((round_, part, contributor, hash_)):
            self._stream(round_, rnd, part, contributor, data, hash_, to, tuple(range(len(data))))
        else:
            head = (self._plan.run, rnd.view.epoch, round_, self._plan.member.peer)
            outlet.send(msg.Announce(*head, part, contributor, hash_))

    def _stream(
        self,
        round_: int,
        rnd: RoundBytes,
        part: int,
        contributor: str,
        data: Encoded,
        hash_: bytes,
        to: str,
        wanted: tuple[int, ...],
    ) -> None:
        head = (self._plan.run, rnd.view.epoch, round_, self._plan.member.peer)
        chunks_ = self._chunks(rnd, part)

        async def send(ref: Ref[Any]) -> None:
            for index in wanted:
                if round_ not in self._rounds:
                    return
                await ref.tell(msg.Chunk(*head, part, contributor, hash_, index, data[index]))
                self._meter.sent(len(data[index]))
                self.float32_bytes += self._numbers.size_bytes(chunks_[index].stop - chunks_[index].start)

        self._outlet(to).send_bulk(Job((round_, part, contributor, hash_), self._metered(send)))

    def _metered(self, send: Callable[[Ref[Any]], Awaitable[None]]) -> Callable[[Ref[Any]], Awaitable[None]]:
        async def metered(ref: Ref[Any]) -> None:
            self._meter.begin(self.ctx.now())
            try:
                await send(ref)
            finally:
                self._meter.end(self.ctx.now())

        return metered

    # ------------------------------------------------------------------------------------------------------- peers

    def _outlet(self, peer: str) -> Outlet:
        outlet = self._outlets.get(peer)
        if outlet is None:
            outlet = Outlet(
                self.ctx.system.ref(peer, AGGREGATOR_PATH, Aggregator), lambda text: self.ctx.emit(Facts(text))
            )
            self._outlets[peer] = outlet
            self.ctx.start_soon(outlet.run)
        return outlet

    def _close_outlets(self, view: View) -> None:
        """End the ways out to those who are no members, do not ask to be, and have had all they were sent."""
        core = self._core
        others = () if core is None else (*core.contacts, *core.roster.joining)
        before = [rnd.view for rnd in self._rounds.values()]
        stay = {*others, *(peer for known in (view, *before) for peer in known.peers())}
        for peer in [p for p, outlet in self._outlets.items() if p not in stay and outlet.is_idle]:
            self._outlets.pop(peer).close()

    def _rewatch(self, peer: str) -> None:
        """Watch a member of the present view, again after it was down and is heard once more."""
        seat = self._core.seat if self._core is not None else None
        if seat is not None and peer not in self._watched and seat.view.find(peer) is not None:
            self._watched[peer] = self.ctx.now()
            self.ctx.watch(self.ctx.system.ref(peer, AGGREGATOR_PATH, Aggregator))
