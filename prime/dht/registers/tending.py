"""The actor that keeps this node's registers alive: now and then each is tended, so that it outlives its electors."""

from __future__ import annotations

from typing import Final

from prime.actor import Actor, on
from prime.dht.registers.acting import Registers
from prime.dht.registers.proposal import Register
from prime.dht.sealed import Signer
from prime.errors import PrimeError
from prime.wire import message

LOOK_S: Final = 30.0
"""How often it is looked whether something is due, at the most."""
AT_ONCE_MAX: Final = 2


@message
class Look:
    """See what is due."""


class TendingActor(Actor[Look]):
    """Tends registers, each every `every_s` seconds."""

    def __init__(self, registers: Registers, every_s: float) -> None:
        self._registers = registers
        self._every_s = every_s
        self._due: dict[Register, float] = {}
        self._under_way: set[Register] = set()

    async def started(self) -> None:
        """Look now and then."""
        self.ctx.every(min(LOOK_S, self._every_s), Look())

    @on(Look)
    def look(self, _: Look) -> None:
        """Tend what is due, a few at a time; what is new is due in a while."""
        self._look()

    def _look(self) -> None:
        now = self.ctx.now()
        for register, signer in self._registers.tended():
            due = self._due.setdefault(register, now + self._every_s)
            if due <= now and register not in self._under_way and len(self._under_way) < AT_ONCE_MAX:
                self._under_way.add(register)
                self.ctx.start_soon(self._tend, register, signer)

    async def _tend(self, register: Register, signer: Signer) -> None:
        try:
            await self._registers.tend(register, signer)
        except PrimeError:
            pass  # too few of its electors are there: it is tried again with the next tending
        finally:
            self._under_way.discard(register)
            self._due[register] = self.ctx.now() + self._every_s
        self._look()
