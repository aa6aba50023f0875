"""Reading and writing registers: operations in the shell that asks electors, and looks them up where they are not known."""

from __future__ import annotations

import contextlib
import functools
import math
import secrets
from collections import Counter, OrderedDict
from collections.abc import Sequence
from typing import Final

import attrs
import trio

from prime.actor.contract import PeerId
from prime.actor.groups import one_error
from prime.dht import key as keys
from prime.dht import lookup as core
from prime.dht.archive import Archive
from prime.dht.contact import Contact
from prime.dht.key import distance
from prime.dht.looking import Lookups
from prime.dht.peering import Missed, Peering
from prime.dht.registers import elector as el
from prime.dht.registers import messages as m
from prime.dht.registers import operation as op
from prime.dht.registers.answering import RegistersActor, answer_in, from_wire, tell
from prime.dht.registers.proposal import ELECTORS_MAX, Register, Version, require_fit, signed
from prime.dht.sealed import Signer
from prime.dht.settings import DhtSettings
from prime.errors import (
    ConflictError,
    CorruptedError,
    DecodeError,
    NotFoundError,
    PrimeError,
    RefusedError,
    UnreachableError,
    WorldError,
)

TENDED_MAX: Final = 256
"""Registers of other keys than the node's own that it tends."""
MISSED_MAX: Final = 2
"""An elector that so many tendings in a row missed is replaced; one with another store is at once."""
KNOWN_MAX: Final = 256
"""Registers of which the newest proposal is remembered, so that their electors are asked at once."""
EVENTS_MAX: Final = 64
PROVIDERS_MAX: Final = 20


def habits_of(settings: DhtSettings) -> op.Habits:
    """Return how operations go under a DHT's settings: as many electors as a record has replicas, at most seven."""
    return op.Habits(
        electors=min(settings.replicas, ELECTORS_MAX), answer_s=settings.request_s, operation_s=settings.lookup_s
    )


class Registers:
    """The operations of one node, any number at a time."""

    def __init__(self, peering: Peering, archive: Archive, lookups: Lookups) -> None:
        self._peering = peering
        self._archive = archive
        self._lookups = lookups
        self._habits = habits_of(peering.settings)
        self._known: OrderedDict[Register, _Known] = OrderedDict()
        self._signers: OrderedDict[Register, Signer] = OrderedDict()
        self._missed: dict[Register, Counter[PeerId]] = {}

    async def read(self, register: Register) -> Version:
        """Return what is there. Raises `NotFoundError`, `UnreachableError`, `CorruptedError`."""
        signer = self._peering.signer
        outcome = await self.run(register, op.Read(), signer if signer.peer == register.publisher else None)
        version = outcome.version if isinstance(outcome, op.Settled) else None
        if version is None or version.value is None:
            what = "never written" if version is None else f"removed, by version {version.seq}"
            raise NotFoundError(f"the register is empty: {what}", hint="write it with compare_and_set")
        return version

    async def write(self, register: Register, expected_seq: int, value: bytes | None, signer: Signer) -> Version:
        """Put a value there if the version there is the expected one. Raises `ConflictError`, `UnreachableError`."""
        require_fit(register, value)
        outcome = await self.run(register, op.Write(expected_seq, value), signer)
        match outcome:
            case op.Written(version):
                await self._keep_alive(register, signer)
                return version
            case op.Conflict(version):
                there = "nothing was ever written" if version is None else f"version {version.seq} is there"
                raise ConflictError(
                    f"{there}, not version {expected_seq}", hint="read it, and decide again", found=version
                )
            case _:
                raise UnreachableError(f"the register said {outcome}", hint="try again")

    async def _keep_alive(self, register: Register, signer: Signer) -> None:
        """Tend a register from now on; one of another key only as long as this node runs."""
        if signer.peer == self._peering.peer:
            with contextlib.suppress(WorldError):  # a full disk: it is tried again with the next write
                await self._archive.tend(register)
            return
        self._signers[register] = signer
        self._signers.move_to_end(register)
        if len(self._signers) > TENDED_MAX:
            self._signers.popitem(last=False)

    def tended(self) -> list[tuple[Register, Signer]]:
        """Return what this node keeps alive, with the key of each."""
        own = self._peering.signer
        return [*((register, own) for register in self._archive.tended), *self._signers.items()]

    async def tend(self, register: Register, signer: Signer) -> tuple[PeerId, ...]:
        """Finish what was begun, and replace electors that were away now and the last time; return who is away now.

        Raises as `run`.
        """
        missed = self._missed.get(register, Counter())
        away = frozenset(peer for peer, times in missed.items() if times >= MISSED_MAX - 1)
        outcome = await self.run(register, op.Tend(away), signer)
        now_away = outcome.away if isinstance(outcome, op.Settled) else ()
        self._missed[register] = Counter({peer: missed[peer] + 1 for peer in now_away})
        return now_away

    async def run(self, register: Register, wish: op.Wish, signer: Signer | None) -> op.Outcome:
        """Carry out one operation to its end. Raises `UnreachableError` where it cannot be, `CorruptedError` for a rollback."""
        sign = None if signer is None else functools.partial(signed, signer)
        before = self._known.get(register)
        term = None if before is None else before.term
        operation = op.Operation(register, wish, self._habits, secrets.token_bytes, sign=sign, term=term)
        end = await _Run(self, operation).run()
        if isinstance(end.outcome, op.Gone):
            unknown = "it may have taken effect, or may yet: read the register to see"
            raise UnreachableError(
                f"the register is not to be had: {end.outcome.why}",
                hint=unknown if end.outcome.is_unknown else "try again when they are back",
            )
        if end.term is not None:
            self._remember(register, before, _Known(end.term, _seq(end.outcome)))
        return end.outcome

    def _remember(self, register: Register, before: _Known | None, now: _Known) -> None:
        """Remember what is known of a register, which never goes back. Raises `CorruptedError`."""
        if before is not None and now.is_before(before):
            raise CorruptedError(
                f"the register went back from version {before.seq} to {now.seq}",
                hint="more of its electors lie, or lost what they had, than it bears",
            )
        if (known := self._known.get(register)) is None or not now.is_before(known):
            self._known[register] = now
            self._known.move_to_end(register)
        if len(self._known) > KNOWN_MAX:
            self._known.popitem(last=False)


@attrs.frozen
class _Known:
    """What is remembered of a register: its newest term, and the greatest decided version."""

    term: op.Term
    seq: int

    def is_before(self, other: _Known) -> bool:
        """Tell whether this is less than was known before; of two registers of one key, created apart, neither is."""
        return self.seq < other.seq and self.term.root == other.term.root


def _seq(outcome: op.Outcome) -> int:
    version = None if isinstance(outcome, op.Gone) else outcome.version
    return 0 if version is None else version.seq


class _Run:
    """One operation under way."""

    def __init__(self, registers: Registers, operation: op.Operation) -> None:
        self._peering = registers._peering  # noqa: SLF001 - the two halves of one shell
        self._archive = registers._archive  # noqa: SLF001 - see above
        self._lookups = registers._lookups  # noqa: SLF001 - see above
        self._habits = registers._habits  # noqa: SLF001 - see above
        self._operation = operation
        self._send, self._events = trio.open_memory_channel[op.Event](EVENTS_MAX)
        self._wakes_at = math.inf

    async def run(self) -> op.End:
        """Carry out commands and hear events until it has ended."""
        async with one_error(), trio.open_nursery() as nursery:
            event: op.Event = op.Begin()
            while True:
                for command in self._operation.step(event, trio.current_time(), self._peering.now_ms()):
                    if isinstance(command, op.End):
                        nursery.cancel_scope.cancel()
                        return command
                    self._do(nursery, command)
                event = await self._next()

    async def _next(self) -> op.Event:
        with trio.move_on_at(self._wakes_at):
            return await self._events.receive()
        self._wakes_at = math.inf
        return op.Woken()

    def _do(self, nursery: trio.Nursery, command: op.Command) -> None:
        match command:
            case op.Find():
                nursery.start_soon(self._find)
            case op.Put(peers, question, round_):
                for peer in peers:
                    nursery.start_soon(self._put, peer, question, round_)
            case op.Wake(at):
                self._wakes_at = at
            case el.Report():
                tell(command, self._peering)

    # ---- looking up

    async def _find(self) -> None:
        """Look up who is near the key, and who says that it votes on the register."""
        key = self._operation.register.key
        await self._peering.joined.wait()  # one that knows nobody yet would take itself for the whole swarm
        try:
            outcome = await self._lookups.run(core.Providers(key, PROVIDERS_MAX))
        except WorldError:
            return  # the operation ends by its own deadline
        providers = [*outcome.providers, *self._archive.providers.find(key, self._peering.now_ms(), PROVIDERS_MAX)]
        closest = self._closest(outcome.closest)
        await self._send.send(op.Found(closest, tuple(each.peer for each in providers)))

    def _closest(self, found: Sequence[Contact]) -> tuple[PeerId, ...]:
        """Return the nearest that are known, also those that may be away: an island must not be taken for the whole."""
        peering, key = self._peering, self._operation.register.key
        known = {each.peer: each.key for each in (*found, *peering.table.closest(key, self._habits.electors))}
        if peering.server:
            known[peering.peer] = peering.key
        return tuple(sorted(known, key=lambda peer: distance(known[peer], key)))[: peering.settings.k]

    # ---- asking

    async def _put(self, peer: PeerId, question: el.Question, round_: int) -> None:
        event: op.Event
        try:
            event = op.Answered(peer, round_, await self._ask(peer, question))
        except PrimeError as error:
            if not isinstance(error, RefusedError):
                self._peering.tell_routing(Missed(peer))
            event = op.Failed(peer, round_)
        await self._send.send(event)

    async def _ask(self, peer: PeerId, question: el.Question) -> el.Shown:
        peering = self._peering
        if peer == peering.peer:
            return answer_in(await self._archive.vote(question, peering.now_ms()), peering)
        try:
            answer = await peering.ask(peer, m.REGISTERS_PATH, RegistersActor, _message(question))
        except UnreachableError:
            await self._lookups.run(core.Peer(peer, keys.key_of_peer(peer)))
            answer = await peering.ask(peer, m.REGISTERS_PATH, RegistersActor, _message(question))
        return self._read(answer, peer)

    def _read(self, answer: m.ElectorShown, peer: PeerId) -> el.Shown:
        """Return what an elector showed, if it is of this register. Raises `DecodeError`."""
        try:
            shown = from_wire(answer)
            for one in (shown.promised, shown.accepted):
                if one is not None and one.register != self._operation.register:
                    raise DecodeError("what it shows is of another register")
        except DecodeError as error:
            self._peering.note_refused(peer, f"a register: {error}")
            raise
        return shown


def _message(question: el.Question) -> m.LookAtRegister | m.PrepareRegister | m.AcceptRegister:
    match question:
        case el.Look(key):
            return m.LookAtRegister(keys.to_bytes(key))
        case el.Prepare(call, newest):
            return m.PrepareRegister(call.sealed, None if newest is None else newest.sealed)
        case el.Accept(proposal):
            return m.AcceptRegister(proposal.sealed)
