"""The aggregator: the actor that carries out what the round's core decides, and holds the bytes.

On every node at `/train/aggregator`. It encodes what the trainer contributes, streams chunks to the owners of the
parts, stores what it owns, reduces, votes after an fsync, and tells the trainer the outcome. The core's ordering law
(`commands.py`) is kept because the commands of a step are carried out one after the other inside one handler.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

import attrs
import trio

from prime.actor import Actor, Down, Ref, on
from prime.actor.contract import Journal
from prime.errors import DecodeError, LocalProtocolError, WorldError
from prime.trainer.outer.fragments import Fragments
from prime.trainer.round import commands as cmd
from prime.trainer.round import messages as msg
from prime.trainer.round.round import RoundCore
from prime.trainer.round.status import Status, phase_of
from prime.trainer.round.validity import view_fault
from prime.trainer.round.view import View
from prime.trainer.swarm import plans
from prime.trainer.swarm.carry import Frozen, Ledgers
from prime.trainer.swarm.contribution import Contributions
from prime.trainer.swarm.evidence import AuditCase, case_of, chunk_shown, shown_to
from prime.trainer.swarm.intake import Intake
from prime.trainer.swarm.membership import SwarmPlan, succession
from prime.trainer.swarm.meter import Meter
from prime.trainer.swarm.numbers import Numbers
from prime.trainer.swarm.outcomes import Outcomes
from prime.trainer.swarm.parts import Assembly
from prime.trainer.swarm.recorder import Recorder
from prime.trainer.swarm.reduction import Reduction
from prime.trainer.swarm.rounds import Rounds
from prime.trainer.swarm.stock import Key, Stock
from prime.trainer.swarm.streams import Streams
from prime.trainer.swarm.supply import Supply
from prime.trainer.swarm.tally import NOTHING, Spent, Tally
from prime.trainer.swarm.watches import Watches
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
class Facts:
    """What an operator should read: `text` in words."""

    text: str


Heard = (
    msg.PeerMessage
    | msg.Chunk
    | msg.Announce
    | msg.Missing
    | msg.Vouch
    | msg.ShowPart
    | msg.ShowChunk
    | plans.Plan
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
        self._numbers = numbers
        self._core: RoundCore | None = None
        self._rounds = Rounds(plan.member.peer, numbers)
        self._ledgers: Ledgers[Any] = Ledgers(self._rounds.fragment_of)
        self._contributions = Contributions(plan.member.peer, numbers, self._ledgers)
        self._outcomes = Outcomes(report, numbers, self._contributions)
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
        self._watches = Watches(lambda peer: self.ctx.watch(self.ctx.system.ref(peer, AGGREGATOR_PATH, Aggregator)))
        self._unsubscribe: Callable[[], None] = lambda: None
        self._wake: Any = None
        self._events: deque[cmd.Event] = deque()
        self._stepping = False
        self._pending: list[plans.Contribute] = []
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
            if not self._outcomes.is_refused:  # else the others are to go on without it
                for beat in self._core.beats() if self._core is not None else ():
                    self._streams.send(beat.to, beat.message)

    # ------------------------------------------------------------------------------------------- from the trainer

    @on(plans.Begin)
    async def begin(self, m: plans.Begin) -> None:
        """Found the run, join it, or go on as the member that this journal remembers."""
        if self._core is not None:
            return
        self._rounds.fragments = Fragments(m.elements, m.fragments)
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
        records = self._recorder.recover()
        for record in records:
            if isinstance(record, msg.Decided):
                self._learn(record.value.next_view)
        core = self._plan.core(records)
        if core.previous is not None:  # the last outcome may still have to be applied, or served
            last = core.previous
            self._recorder.restore(self._rounds.open(last.round, last.view, last.state_round))
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
            # the round before may not be settled, nor the state noted that this one starts from
            self._pending.append(m)
            return
        if m.round < core.round:
            self._missed(core, m)
            return
        stock, base = self._rounds.get(m.round), core.own_base
        if stock is None or base is None or core.seat is None or core.seat.restarted:
            self._pending.append(m)  # until the round can take it, or is over
            return
        if not stock.own:
            self.ctx.start_soon(self._scatter, stock, self._contributions.freeze(stock, m), base[1])

    async def _contribute_pending(self) -> None:
        """Look again at the contributions that could not be taken when they came: of several rounds, where a step was long."""
        pending, self._pending = self._pending, []
        for each in pending:
            await self.contribute(each)

    async def _scatter(self, stock: Stock, frozen: Frozen[Any], base: bytes) -> None:
        """Encode a contribution, each chunk on its way to its owner while the next ones are made; then offer it."""
        began = self.ctx.now()
        for number, batch in enumerate(self._contributions.batches(stock)):
            await self._contributions.encode(stock, frozen, batch)
            if number == 0:  # not before: an engine may take seconds to be made, and the round's clocks begin here
                await self._step(cmd.Contributing(stock.round))
        self._spent.add("encode", self.ctx.now() - began)
        offer = self._contributions.offer(stock, frozen, base)
        for part, hash_ in enumerate(offer.parts):
            if stock.contributions.get((part, self._me)) is stock.own[part]:
                await self._step(cmd.PartHeld(stock.round, self._me, part, hash_))
        signed = signed_bytes(self.ctx.system.sign(offer))
        stock.offers.put(self._me, signed)
        await self._step(cmd.Contributed(stock.round, msg.Offer(offer.weight, base, offer.parts, signed)))
        if self._core is not None and self._core.seat is not None and self._core.round == stock.round:
            self._supply.vouch(stock, self._core.seat.owners)

    def _missed(self, core: RoundCore, m: plans.Contribute) -> None:
        """Keep what came too late for its round; after an abort the trainer still has it, in its next delta."""
        value = core.decisions.get(m.round)
        if value is None or not value.aborted:
            self._contributions.miss(m)

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
        """Return the successor of the run, and the journal of its founder; see `membership.succession`."""
        return succession(self._core, self._recorder.records())

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
        stock = self._rounds.of(m, m.sender)
        if stock is None:  # of another round or run: the core says so
            return True
        return self._is_taken(stock.offers.take_reported(m.sender, offer))

    @on(msg.Vouch)
    def vouch(self, m: msg.Vouch) -> None:
        """Keep a contributor's signed offer beside the chunks that it signed for."""
        stock = self._rounds.of(m, self.ctx.sender)
        if stock is not None:
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
        self._intake.forget(m.peer)
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
        stock = self._rounds.of_part(m, self.ctx.sender)
        if stock is not None:
            self._intake.take(stock, m, self.ctx.now())

    @on(msg.Announce)
    async def announce(self, m: msg.Announce) -> None:
        """Answer which chunks of a part are still wanted, or that it is here."""
        stock, key = self._rounds.of_part(m, self.ctx.sender), (m.part, m.seal, m.sender)
        if stock is None:
            return
        match stock.standing(key, m.hash):
            case "known":
                await self._step(cmd.ResultHeld(m.round, m.part, m.hash))
            case "whole":
                await self._note_whole(stock, key, stock.held(key))
            case "contradicted":
                what = "a reduced part" if m.seal else "its contribution"
                text = f"{m.sender} contradicts what it sent of {what}, part {m.part} of round {m.round}: ignored"
                self.ctx.emit(Facts(text))
            case "partial" if self._intake.is_quiet(m.sender, self.ctx.now(), self._plan.timing.transfer_s):
                self._streams.want(stock, m.part, m.seal, m.hash, stock.held(key).missing, m.sender)
            case _:  # refused, not wanted, being looked at, or on its way behind others
                pass

    @on(msg.Missing)
    def missing(self, m: msg.Missing) -> None:
        """Send the chunks that the other side still wants."""
        stock = self._rounds.of_part(m, self.ctx.sender)
        if stock is not None:
            self._supply.send_missing(stock, m)

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
        """Time passed; if another event came first, the core's next waking is set already, and is set anew."""
        await self._step(cmd.Tick())

    async def _step(self, event: cmd.Event) -> None:
        """Take one event to the core and carry its commands out; an event of those commands waits its turn.

        Otherwise its commands would overtake the rest of this step, and a vote could leave before its fsync.
        """
        if self._core is None:
            return  # before `Begin` it is nobody's: what matters is sent again
        if self._outcomes.is_refused and isinstance(event, cmd.Received) and event in self._events:
            return  # a disk may refuse for days, and others say each thing again and again
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
        """Carry out the commands of one step one after the other: the ordering law of `round/commands.py` is kept here."""
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
            case cmd.Warn(text):
                self.ctx.emit(Facts(text))
            case _:
                self._outcomes.tell(command)

    async def _persist(self, record: msg.Record) -> None:
        """Put a record on the disk. Nothing that comes after it may leave before, so a disk that refuses is waited for."""
        while True:
            try:
                await self._recorder.write(record, self._rounds)
            except WorldError as error:
                self._outcomes.note_refusal(self._core.round if self._core is not None else 0, error)
                await trio.sleep(DISK_PAUSE_S)
            else:
                self._outcomes.note_accepted()
                return

    async def _settle(self, command: cmd.Apply | cmd.Keep | cmd.Settle | cmd.CatchUp) -> None:
        await self._outcomes.settle(command, self._rounds)

    def _learn(self, view: View) -> None:
        for member in view.members:
            if member.peer != self._plan.member.peer:
                self.ctx.system.learn(member.peer, member.addresses)

    async def _enter(self, command: cmd.EnterView) -> None:
        round_, view = command.round, command.view
        self._recorder.restore(self._rounds.open(round_, view, command.state_round))
        self._rounds.close_before(round_ - 1)
        self._learn(view)
        self._close_outlets()
        for peer in view.peers():
            if peer != self._plan.member.peer:
                self._rewatch(peer)
        rate_bytes_s = self._meter.next_round(self.ctx.now())
        if rate_bytes_s is not None:
            await self._step(cmd.RateMeasured(rate_bytes_s))
        self._outcomes.tell(command)

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

    def _close_outlets(self) -> None:
        """End the ways out to those who are no members, do not ask to be, and have had all they were sent.

        Who is no member any more is watched no more either.
        """
        core = self._core
        others = () if core is None else (*core.contacts, *core.roster.joining)
        members = self._rounds.peers()
        self._streams.keep({*others, *members})
        self._watches.keep(members)

    def _rewatch(self, peer: str) -> None:
        """Watch a member of the present view, again after it was down and is heard once more."""
        seat = self._core.seat if self._core is not None else None
        if seat is not None and seat.view.find(peer) is not None:
            self._watches.begin(peer, self.ctx.now())

    def _told(self, peer: str) -> Ref[Any]:
        return self.ctx.system.ref(peer, AGGREGATOR_PATH, Aggregator)
