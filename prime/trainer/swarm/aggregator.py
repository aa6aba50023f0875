"""The aggregator: the actor that carries out what the round's core decides, and holds the bytes.

On every node at `/train/aggregator`. It encodes what the trainer contributes, streams chunks to the owners of the
parts, stores what it owns, reduces, votes after an fsync, and tells the trainer the outcome. The core's ordering law
(`commands.py`) is kept because the commands of a step are carried out one after the other inside one handler.
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import attrs
import trio

from prime.actor import Actor, Down, Ref, on
from prime.actor.contract import Journal
from prime.errors import DecodeError, LocalProtocolError, RefusedError, WorldError
from prime.trainer.outer.fragments import Fragments
from prime.trainer.round import commands as cmd
from prime.trainer.round import messages as msg
from prime.trainer.round.journal import refounded
from prime.trainer.round.round import RoundCore
from prime.trainer.round.status import Status, phase_of
from prime.trainer.round.terms import DEFAULT_TERMS, Terms
from prime.trainer.round.timing import Timing
from prime.trainer.round.validity import view_fault
from prime.trainer.round.view import Member, Value, View
from prime.trainer.swarm import plans
from prime.trainer.swarm.carry import Frozen, Ledgers
from prime.trainer.swarm.evidence import AuditCase, case_of, chunk_shown, shown_to
from prime.trainer.swarm.gather import gather, later
from prime.trainer.swarm.intake import Arrival, Intake
from prime.trainer.swarm.meter import Meter
from prime.trainer.swarm.numbers import Numbers
from prime.trainer.swarm.parts import Assembly, digest
from prime.trainer.swarm.recorder import Recorder
from prime.trainer.swarm.reduction import Reduction
from prime.trainer.swarm.stock import Key, Stock
from prime.trainer.swarm.streams import Streams
from prime.trainer.swarm.supply import Supply
from prime.trainer.swarm.tally import NOTHING, Spent, Tally
from prime.trainer.swarm.watches import Watches
from prime.trainer.swarm.work import batches, compute
from prime.wire import message, signed_bytes

AGGREGATOR_PATH = "/train/aggregator"

DISK_PAUSE_S = 1.0
"""After that a disk that refused a record is asked again."""


@message
class _Wake:
    """The core asked to be woken."""


@message
class _LookAgain:
    """It is time to look whether a member that was down is back."""

    peer: str


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
        self._report = report
        self._numbers = numbers
        self._core: RoundCore | None = None
        self._fragments = Fragments(1)
        self._rounds: dict[int, Stock] = {}
        self._ledgers: Ledgers[Any] = Ledgers(self._fragment_of)
        self._recorder = Recorder(journal, numbers)
        self._intake = Intake(numbers, self._note_whole, self._note_bad, self._recorder.spool)
        self._meter = Meter()
        self._streams = Streams(
            plan.run,
            plan.member.peer,
            self._told,
            lambda outlet: self.ctx.start_soon(outlet.run),
            lambda text: self.ctx.emit(Facts(text)),
            self._meter,
            self._now,
            self._sent,
        )
        self._supply = Supply(plan.member.peer, self._streams)
        self._reduction = Reduction(numbers, plan.terms.rule, self._recorder.spool)
        self._chunk_at: dict[str, float] = {}
        self._watches = Watches(lambda peer: self.ctx.watch(self.ctx.system.ref(peer, AGGREGATOR_PATH, Aggregator)))
        self._unsubscribe: Callable[[], None] = lambda: None
        self._wake: Any = None
        self._events: deque[cmd.Event] = deque()
        self._stepping = False
        self._pending: plans.Contribute | None = None
        self._refusal: plans.RoundStalled | None = None
        self._stall: plans.RoundStalled | None = None
        self.float32_bytes = 0

    @property
    def _me(self) -> str:
        return self._plan.member.peer

    async def started(self) -> None:
        """Learn when links come and go."""
        self._unsubscribe = self.ctx.system.subscribe(self._watches.observe)
        self.ctx.start_soon(self._intake.run)
        self.ctx.start_soon(self._recorder.spooler.run)
        self.ctx.start_soon(self._beat)

    async def stopping(self) -> None:
        """Learn no more."""
        self._unsubscribe()

    async def _beat(self) -> None:
        """Send the round's heartbeats, whatever the core's commands are waiting for."""
        while True:
            await trio.sleep(self._plan.timing.beat_s)
            if self._refusal is None:  # else the others are to go on without it
                for beat in self._core.beats() if self._core is not None else ():
                    self._streams.send(beat.to, beat.message)

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
        await self._take_events(core)
        if core.seat is None:
            await self._step(cmd.JoinRun(self._plan.contacts))

    @on(plans.FurtherContacts)
    async def further_contacts(self, m: plans.FurtherContacts) -> None:
        """Ask these peers too, as long as this node is not in the run."""
        self._plan = attrs.evolve(self._plan, contacts=(*self._plan.contacts, *m.peers))
        if self._core is not None and self._core.joining:
            await self._step(cmd.JoinRun(m.peers))

    def _made(self) -> RoundCore:
        plan, records = self._plan, self._recorder.recover()
        for record in records:
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
            self._open_round(core.previous.round, core.previous.view, core.previous.state_round)
        return core

    @on(plans.StateHeld)
    async def state_held(self, m: plans.StateHeld) -> None:
        """Note which state contributions start from."""
        await self._step(cmd.StateReady(m.round, m.state_hash))

    @on(plans.Contribute)
    async def contribute(self, m: plans.Contribute) -> None:
        """Freeze this node's contribution and begin to encode it; a later one for the same round changes nothing.

        From here on it is this actor's to keep, but for an abort: one that its round does not take is carried.
        """
        core = self._core
        if core is None:
            return
        if self._stepping:
            self._pending = m  # the round before may not be settled, nor the state noted that this one starts from
            return
        if m.round < core.round:
            self._missed(core, m)
            return
        stock, base = self._rounds.get(m.round), core.own_base
        if stock is None or base is None or core.seat is None or core.seat.restarted:
            self._pending = m  # until the round can take it, or is over
            return
        if not stock.own:
            frozen = self._ledgers.of(m.round).freeze(m.round, m.delta, m.weight)
            stock.own = {part: Assembly(len(cuts)) for part, cuts in enumerate(stock.chunks)}
            self.ctx.start_soon(self._scatter, stock, frozen, base[1])

    async def _contribute_pending(self) -> None:
        """Look again at a contribution that could not be taken when it came."""
        pending, self._pending = self._pending, None
        if pending is not None:
            await self.contribute(pending)

    async def _scatter(self, stock: Stock, frozen: Frozen[Any], base: bytes) -> None:
        """Encode a contribution, each chunk on its way to its owner while the next ones are made; then offer it."""
        began = self.ctx.now()
        for number, batch in enumerate(batches(_in_turns(stock, self._own_part(stock)))):
            size = self._numbers.size_bytes(sum(cut.stop - cut.start for _, _, cut in batch))
            for (part, index, _), data, hash_ in await compute(functools.partial(self._encoded, frozen.y, batch), size):
                stock.own[part].add(index, data)
                stock.own[part].hashes[index] = hash_
            stock.grow()
            if number == 0:  # not before: an engine may take seconds to be made, and the round's clocks begin here
                await self._step(cmd.Contributing(stock.round))
        self._spent.add("encode", self.ctx.now() - began)
        if self._numbers.feeds_back:
            self._ledgers.of(stock.round).encoded(stock.round, tuple(stock.pieces(stock.own)))
        hashes = tuple(stock.own[part].digest() for part in range(stock.parts))
        for part, hash_ in enumerate(hashes):
            if stock.contributions.get((part, self._me)) is stock.own[part]:
                await self._step(cmd.PartHeld(stock.round, self._me, part, hash_))
        signed = self._signed_offer(stock, frozen.weight, base, hashes)
        await self._step(cmd.Contributed(stock.round, msg.Offer(frozen.weight, base, hashes, signed)))
        if self._core is not None and self._core.seat is not None and self._core.round == stock.round:
            self._supply.vouch(stock, self._core.seat.owners)

    def _signed_offer(self, stock: Stock, weight: float, base: bytes, hashes: tuple[bytes, ...]) -> bytes:
        offer = msg.SignedOffer(self._plan.run, stock.view.epoch, stock.round, weight, base, hashes)
        signed = signed_bytes(self.ctx.system.sign(offer))
        stock.offers.put(self._me, signed)
        return signed

    def _encoded(self, y: Any, batch: tuple[_Place, ...]) -> list[tuple[_Place, memoryview, bytes]]:
        made = []
        for place in batch:
            try:
                data = self._numbers.encode(y, place[2])
            except LocalProtocolError as error:
                raise LocalProtocolError(f"from element {place[2].start} on: {error}", hint=error.hint) from error
            made.append((place, data, digest(data)))
        return made

    def _own_part(self, stock: Stock) -> int:
        return stock.view.peers().index(self._me)

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
        return refounded(self._recorder.records(), core.me, core.own_base[0])

    @property
    def is_sending(self) -> bool:
        """Whether bytes of a round wait to be sent, or are on their way out."""
        return self._streams.are_sending

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
        stock = self._rounds.get(self._core.round) if self._core is not None else None
        return NOTHING if stock is None else stock.tally(self._me)

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
        if core is not None and core.seat is None and commit.sender in core.contacts and not view_fault(view):
            self._learn(view)

    def _is_signed(self, m: msg.Report, offer: msg.Offer) -> bool:
        """Tell whether a member's offer stands under its signature, and is the one that it signed before."""
        stock = self._rounds.get(m.round)
        if stock is None or m.run != self._plan.run or m.epoch != stock.view.epoch:
            return True  # of another round or run: the core says so
        return self._is_taken(stock.offers.take_reported(m.sender, offer))

    @on(msg.Vouch)
    def vouch(self, m: msg.Vouch) -> None:
        """Keep a contributor's signed offer beside the chunks that it signed for."""
        stock = self._rounds.get(m.round)
        if (
            stock is not None
            and m.run == self._plan.run
            and m.epoch == stock.view.epoch
            and m.sender == self.ctx.sender
        ):
            self._is_taken(stock.offers.take(m.sender, m.offer))

    def _is_taken(self, fault: str) -> bool:
        if fault:
            self.ctx.emit(Facts(fault))
        return not fault

    # ---------------------------------------------------------------------------------------------------- evidence

    def audit_case(self) -> AuditCase | None:
        """Return what an audit of the last decided round needs; `None` where it was aborted, or is not known here."""
        core = self._core
        return case_of(core, self._rounds, self._plan.terms.rule, self._numbers) if core is not None else None

    @on(msg.ShowPart)
    def show_part(self, m: msg.ShowPart) -> msg.ShownPart:
        """Answer with the signed offers that a part was reduced on."""
        return msg.ShownPart(self._shown(m).offers.of_all(m.contributors))

    @on(msg.ShowChunk)
    def show_chunk(self, m: msg.ShowChunk) -> msg.ShownChunk:
        """Answer with a chunk of a contribution that is held here."""
        return msg.ShownChunk(chunk_shown(self._shown(m), m))

    def _shown(self, m: msg.ShowPart | msg.ShowChunk) -> Stock:
        return shown_to(self.ctx.sender, self._rounds.get(m.round), m)

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
        self._watches.lost(m.peer)
        self._chunk_at.pop(m.peer, None)
        self._streams.drop(m.peer)
        self._look_later(m.peer)
        await self._step(cmd.PeerDown(m.peer))

    @on(_LookAgain)
    async def look_again(self, m: _LookAgain) -> None:
        """Watch a member that is down once more: while nobody contributes, none of them would say that it is back.

        It is, once the watch of its aggregator has stood for a while.
        """
        self._watches.looked(m.peer)
        if self._core is None or m.peer not in self._core.roster.down:
            return
        if self._watches.is_steady(m.peer, self.ctx.now(), self._plan.timing.suspect_s):
            await self._step(cmd.PeerUp(m.peer))
            return
        self._rewatch(m.peer)
        self._look_later(m.peer)

    def _look_later(self, peer: str) -> None:
        if self._watches.want_look(peer):
            self.ctx.after(self._plan.timing.suspect_s, _LookAgain(peer), overtake=True)

    # --------------------------------------------------------------------------------------------------- the bytes

    @on(msg.Chunk)
    def chunk(self, m: msg.Chunk) -> None:
        """Store one chunk of a contribution, or of a part that its sender reduces or serves."""
        stock = self._stock_of(m)
        if stock is None:
            return
        self._chunk_at[m.sender] = self.ctx.now()
        key = (m.part, m.seal, m.sender)
        try:
            is_new = stock.put(key, m.index, m.data)
        except DecodeError as error:
            self._note_bad(stock, key, error)
            return
        assembly = stock.assembly(key)
        if is_new and assembly is not None:
            self._intake.take(Arrival(stock, key, m.index, assembly, m.data))

    @on(msg.Announce)
    async def announce(self, m: msg.Announce) -> None:
        """Answer which chunks of a part are still wanted, or that it is here."""
        stock = self._stock_of(m)
        if stock is None:
            return
        if m.seal and ((m.part, m.hash) in stock.known or stock.learn_empty(m.part, m.seal, m.hash)):
            await self._step(cmd.ResultHeld(m.round, m.part, m.hash))
            return
        assembly = stock.assembly((m.part, m.seal, m.sender))
        if assembly is None or assembly.refused:
            return
        if not assembly.is_whole:
            quiet = self.ctx.now() - self._chunk_at.get(m.sender, float("-inf")) >= self._plan.timing.transfer_s
            if assembly.missing and quiet:  # else they are being looked at, or on their way behind others
                self._streams.want(stock, m.part, m.seal, m.hash, assembly.missing, m.sender)
        elif assembly.digest() != m.hash:
            what = "a reduced part" if m.seal else "its contribution"
            text = f"{m.sender} contradicts what it sent of {what}, part {m.part} of round {m.round}: ignored"
            self.ctx.emit(Facts(text))
        else:
            await self._note_whole(stock, (m.part, m.seal, m.sender), assembly)

    @on(msg.Missing)
    def missing(self, m: msg.Missing) -> None:
        """Send the chunks that the other side still wants."""
        stock = self._stock_of(m)
        if stock is not None:
            self._supply.send_missing(stock, m)

    def _stock_of(self, m: msg.Chunk | msg.Announce | msg.Missing) -> Stock | None:
        """Return the bytes of the round that a message is of, if it is one of ours and from a member of it."""
        stock = self._rounds.get(m.round)
        if stock is None or m.run != self._plan.run or m.sender != self.ctx.sender or m.epoch != stock.view.epoch:
            return None
        is_fit = stock.view.find(m.sender) is not None and m.sender != self._me and 0 <= m.part < stock.parts
        return stock if is_fit else None

    async def _note_whole(self, stock: Stock, key: Key, assembly: Assembly) -> None:
        part, seal, sender = key
        hash_ = assembly.digest()
        if seal:
            stock.learn(part, seal, assembly.encoded(), hash_)
            await self._step(cmd.ResultHeld(stock.round, part, hash_))
        else:
            await self._step(cmd.PartHeld(stock.round, sender, part, hash_))

    def _note_bad(self, stock: Stock, key: Key, error: DecodeError) -> None:
        part, seal, sender = key
        what = "reduced part" if seal else "contribution to part"
        self.ctx.emit(Facts(f"{sender}'s {what} {part} of round {stock.round} is refused: {error}"))

    # ---------------------------------------------------------------------------------------------------- the core

    @on(_Wake)
    async def wake(self, _: _Wake) -> None:
        """Time passed."""
        self._wake = None
        await self._step(cmd.Tick())

    async def _step(self, event: cmd.Event) -> None:
        """Take one event to the core and carry its commands out; an event of those commands waits its turn.

        Otherwise its commands would overtake the rest of this step, and a vote could leave before its fsync.
        """
        if self._core is None:
            return  # before `Begin` it is nobody's: what matters is sent again
        self._events.append(event)
        if not self._stepping:
            await self._take_events(self._core)

    async def _take_events(self, core: RoundCore) -> None:
        self._stepping = True
        while self._events:
            await self._carry_out(core.step(self._events.popleft(), self.ctx.now()))
        self._stepping = False
        await self._contribute_pending()

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
                self._streams.send(to, message_)
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
                self._stall = plans.RoundStalled(round_, reason, hint)
                self._report(self._stall)
            case cmd.Resumed(round_):
                self._stall = None
                self._report(plans.RoundResumed(round_))
            case cmd.Warn(text):
                self.ctx.emit(Facts(text))

    async def _persist(self, record: msg.Record) -> None:
        """Put a record on the disk. Nothing that comes after it may leave before, so a disk that refuses is waited for."""
        while True:
            try:
                await self._recorder.write(record, self._rounds)
            except WorldError as error:
                self._note_refusal(error)
                await trio.sleep(DISK_PAUSE_S)
            else:
                self._note_accepted()
                return

    def _note_refusal(self, error: WorldError) -> None:
        if self._refusal is None and self._core is not None:
            reason = f"round {self._core.round} waits for this node's disk, and the others go on without it: {error}"
            self._refusal = plans.RoundStalled(self._core.round, reason, error.hint)
            self._report(self._refusal)

    def _note_accepted(self) -> None:
        refusal, self._refusal = self._refusal, None
        if refusal is not None:
            self._report(self._stall if self._stall is not None else plans.RoundResumed(refusal.round))

    async def _settle(self, command: cmd.Apply | cmd.Keep | cmd.Settle | cmd.CatchUp) -> None:
        match command:
            case cmd.Keep(value):
                self._ledgers.of(value.round).abort(value.round)
                self._report(plans.RoundAborted(value))
            case cmd.Apply(value, included):
                aggregate = await gather(self._rounds[value.round], value, self._numbers)
                self._report(plans.RoundCommitted(value, aggregate, included))
                await self._commit(value.round, included=included)
            case cmd.Settle(value, included):
                await self._settle_unseen(value.round, known=True, included=included)
            case cmd.CatchUp(round_, view, value, included, reason, base):
                await self._settle_unseen(round_, known=value is not None, included=included)
                if value is not None:
                    self._keep_commit(value)
                self._report(plans.StateMissed(round_, view, reason, base))

    def _keep_commit(self, value: Value) -> None:
        """Hand the bytes of a decision on to the trainer, which has to fetch the state before it: it may bring that forward."""
        stock = self._rounds.get(value.round)
        join = later(stock, value, self._numbers) if stock is not None else None
        if join is not None:
            self._report(plans.CommitKept(value, join))

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
            residual = await compute(work, self._numbers.size_bytes(self._elements_of(round_)))
        ledger.commit(round_, included=included, residual=residual)

    def _open_round(self, round_: int, view: View, state_round: int) -> None:
        stock = Stock.of(round_, view, state_round, self._elements_of(round_), self._numbers)
        self._recorder.restore(stock)
        self._rounds[round_] = stock

    def _elements_of(self, round_: int) -> int:
        """Return how many elements the vector of a round has: those of its fragment."""
        return self._fragments.elements_of(round_)

    def _fragment_of(self, round_: int) -> int:
        return self._fragments.of_round(round_)

    def _learn(self, view: View) -> None:
        for member in view.members:
            if member.peer != self._plan.member.peer:
                self.ctx.system.learn(member.peer, member.addresses)

    async def _enter(self, command: cmd.EnterView) -> None:
        round_, view = command.round, command.view
        self._open_round(round_, view, command.state_round)
        for old in [r for r in self._rounds if r < round_ - 1]:
            self._rounds.pop(old).close()
        self._learn(view)
        self._close_outlets(view)
        for peer in view.peers():
            if peer != self._plan.member.peer:
                self._rewatch(peer)
        rate_bytes_s = self._meter.next_round(self.ctx.now())
        if rate_bytes_s is not None:
            await self._step(cmd.RateMeasured(rate_bytes_s))
        self._report(plans.ViewEntered(round_, view, command.state_round, command.chosen))

    # -------------------------------------------------------------------------------------------- numbers and bytes

    async def _multiply(self, command: cmd.Multiply) -> None:
        stock = self._rounds.get(command.round)
        if stock is not None:
            await self._finish(command, self._reduction.multiply(stock, command))

    async def _reduce(self, command: cmd.Reduce) -> None:
        stock = self._rounds.get(command.round)
        if stock is not None:
            result = self._supply.begin_result(stock, command.part, command.seal)
            key = (command.part, command.seal, self._me)
            await self._finish(command, self._reduction.reduce(stock, command, key, result))

    async def _finish(
        self, command: cmd.Multiply | cmd.Reduce, work: Awaitable[cmd.GramReady] | Awaitable[cmd.Reduced]
    ) -> None:
        """Tell the core what came of an owner's work."""
        try:
            event = await work
        except (DecodeError, LocalProtocolError) as error:
            self.ctx.emit(Facts(f"round {command.round}, part {command.part}: {error}"))
        else:
            await self._step(event)

    async def _transfer(self, round_: int, part: int, to: str) -> None:
        stock = self._rounds[round_]
        if self._supply.send_own(stock, part, to):
            await self._step(cmd.PartHeld(round_, to, part, stock.own[part].digest()))

    def _send_result(self, round_: int, part: int, hash_: bytes, to: str) -> None:
        stock = self._rounds.get(round_)
        if stock is not None:
            self._supply.send_result(stock, part, hash_, to)

    def _now(self) -> float:
        return self.ctx.now()

    def _sent(self, elements: int) -> None:
        self.float32_bytes += self._numbers.size_bytes(elements)

    # ------------------------------------------------------------------------------------------------------- peers

    def _close_outlets(self, view: View) -> None:
        """End the ways out to those who are no members, do not ask to be, and have had all they were sent.

        Who is no member any more is watched no more either.
        """
        core = self._core
        others = () if core is None else (*core.contacts, *core.roster.joining)
        before = [rnd.view for rnd in self._rounds.values()]
        members = {peer for known in (view, *before) for peer in known.peers()}
        self._streams.keep({*others, *members})
        self._watches.keep(members)

    def _rewatch(self, peer: str) -> None:
        """Watch a member of the present view, again after it was down and is heard once more."""
        seat = self._core.seat if self._core is not None else None
        if seat is not None and seat.view.find(peer) is not None:
            self._watches.begin(peer, self.ctx.now())

    def _told(self, peer: str) -> Ref[Any]:
        return self.ctx.system.ref(peer, AGGREGATOR_PATH, Aggregator)


_Place = tuple[int, int, slice]
"""Part and number of a chunk, and which slice of the vector it is."""


def _in_turns(stock: Stock, last: int) -> Iterator[_Place]:
    """Yield all chunks: the first of each part, then the second of each, so that every way out is busy at once.

    Those of part number `last`, which travel nowhere as a rule, come at the end.
    """
    parts = [part for part in range(stock.parts) if part != last]
    for index in range(max((len(stock.chunks[part]) for part in parts), default=0)):
        for part in parts:
            if index < len(stock.chunks[part]):
                yield part, index, stock.chunks[part][index]
    for index, cut in enumerate(stock.chunks[last]):
        yield last, index, cut
