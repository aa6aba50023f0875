"""The actor that votes: whoever asks is shown where this node stands with a register, once that is on the disk."""

from __future__ import annotations

from typing import Any, TypeVar

from prime.actor import Actor, on
from prime.dht import facts
from prime.dht import key as keys
from prime.dht.archive import Archive
from prime.dht.peering import Peering
from prime.dht.registers import elector as el
from prime.dht.registers import messages as m
from prime.dht.registers.proposal import read_call, read_proposal
from prime.errors import DecodeError, PrimeInternalError, RefusedError, WorldError

T = TypeVar("T")


class RegistersActor(Actor[m.LookAtRegister | m.PrepareRegister | m.AcceptRegister]):
    """Votes on the registers that chose this node."""

    def __init__(self, peering: Peering, archive: Archive) -> None:
        self._peering = peering
        self._archive = archive

    @on(m.LookAtRegister)
    async def look(self, q: m.LookAtRegister) -> m.ElectorShown:
        """Show where this node stands."""
        self._peering.admit(self.ctx.sender, len(q.key))
        return await self._vote(el.Look(keys.from_bytes(q.key)))

    @on(m.PrepareRegister)
    async def prepare(self, q: m.PrepareRegister) -> m.ElectorShown:
        """Promise, or say what greater ballot is promised."""
        sender = self._peering.admit(self.ctx.sender, len(q.call) + len(q.newest or b""))
        newest = None if q.newest is None else self._read(read_proposal, q.newest)
        return await self._vote(el.Prepare(self._read(read_call, q.call), newest, self._peering.share_of(sender)))

    @on(m.AcceptRegister)
    async def accept(self, q: m.AcceptRegister) -> m.ElectorShown:
        """Accept, or say what greater ballot is promised."""
        sender = self._peering.admit(self.ctx.sender, len(q.proposal))
        return await self._vote(el.Accept(self._read(read_proposal, q.proposal), self._peering.share_of(sender)))

    def _read(self, read: Any, data: bytes) -> Any:
        try:
            return read(data)
        except DecodeError as error:
            self._peering.note_refused(str(self.ctx.sender), f"a register: {error}")
            raise RefusedError(f"that is nothing of a register: {error}", hint=error.hint) from error

    async def _vote(self, question: el.Question) -> m.ElectorShown:
        try:
            commands = await self._archive.vote(question, self._peering.now_ms())
        except WorldError as error:
            raise self._peering.disk_refuses(error) from error
        return to_wire(answer_in(commands, self._peering))


def answer_in(commands: tuple[el.Command, ...], peering: Peering) -> el.Shown:
    """Return the answer among an elector's commands; what should be heard of is told as a fact."""
    shown: el.Shown | None = None
    for command in commands:
        if isinstance(command, el.Report):
            tell(command, peering)
        elif isinstance(command, el.Answer):
            shown = command.shown
    if shown is None:
        raise PrimeInternalError("an elector did not answer")
    return shown


def tell(report: el.Report, peering: Peering) -> None:
    """Tell what should be heard of as a fact."""
    key = keys.to_bytes(report.register.key).hex()
    peering.dispute(facts.RegisterDisputed(key, report.register.publisher, report.kind, report.text))


def to_wire(shown: el.Shown) -> m.ElectorShown:
    """Return an elector's answer as it goes over the network."""
    promised, accepted = shown.promised, shown.accepted
    return m.ElectorShown(
        shown.outcome,
        shown.store,
        None if promised is None else promised.sealed,
        None if accepted is None else accepted.sealed,
        shown.why,
    )


def from_wire(shown: m.ElectorShown) -> el.Shown:
    """Return an elector's answer with what it shows read and checked. Raises `DecodeError`, `SignatureError`."""
    promised = None if shown.promised is None else read_call(shown.promised)
    accepted = None if shown.accepted is None else read_proposal(shown.accepted)
    return el.Shown(shown.outcome, shown.store, promised, accepted, shown.why)
