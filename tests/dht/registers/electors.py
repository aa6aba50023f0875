"""Electors in one process and one operation at a time against them: what the tests of registers are played on."""

from __future__ import annotations

from collections.abc import Callable, Collection
from random import Random
from typing import Any

from prime.actor.contract import PeerId
from prime.dht.registers.elector import Answer, Elector, Keep, Kept, Question, Report, Shown
from prime.dht.registers.operation import (
    Answered,
    Begin,
    End,
    Failed,
    Find,
    Found,
    Habits,
    Operation,
    Put,
    Term,
    Wake,
    Wish,
    Woken,
)
from prime.dht.registers.proposal import Register, Seat

REGISTER = Register(PeerId("publisher"), b"salt")


def store(number: int) -> bytes:
    return number.to_bytes(16, "big")


class Swarm:
    """Peers `e0`, `e1`, …, nearest first, of whom some are down; operations are played to their end, on one clock."""

    def __init__(self, count: int = 7, **habits: Any) -> None:
        self.electors = {PeerId(f"e{i}"): Elector(Seat(PeerId(f"e{i}"), store(i))) for i in range(count)}
        self.habits = Habits(**habits)
        self.down: set[str] = set()
        self.now, self.now_ms = 0.0, 1_000_000
        self.random = Random(1)
        self.asked = 0
        self.reports: list[Report] = []
        self.on_put: Callable[[Put], None] = lambda _: None

    def lose_disk(self, name: str) -> None:
        self.electors[PeerId(name)] = Elector(Seat(PeerId(name), self.random.randbytes(16)))

    def ask(self, peer: str, question: Question) -> Shown:
        elector = self.electors[PeerId(peer)]
        shown = None
        for command in elector.step(question, self.now_ms):
            match command:
                case Keep(standing):
                    elector.step(Kept(standing), self.now_ms)
                case Answer(found):
                    shown = found
                case Report():
                    self.reports.append(command)
        assert shown is not None
        return shown

    def play(
        self,
        wish: Wish,
        term: Term | None = None,
        *,
        has_key: bool = True,
        register: Register = REGISTER,
        view: Collection[str] | None = None,
    ) -> End:
        sign = (lambda draft: draft) if has_key else None
        operation = Operation(register, wish, self.habits, self.random.randbytes, sign=sign, term=term)
        todo = operation.step(Begin(), self.now, self.now_ms)
        wakes_at = 0.0
        while True:
            if not todo:
                self.now = max(self.now, wakes_at)
                todo = operation.step(Woken(), self.now, self.now_ms)
            match command := todo.pop(0):
                case Find():
                    found = tuple(self.electors) if view is None else tuple(map(PeerId, view))
                    todo += operation.step(Found(found), self.now, self.now_ms)
                case Put():
                    self.on_put(command)
                    todo += self._put(operation, command)
                case Wake(at):
                    wakes_at = at
                case Report():
                    self.reports.append(command)
                case End():
                    return command

    def _put(self, operation: Operation, put: Put) -> list[Any]:
        commands: list[Any] = []
        for peer in put.peers:
            self.asked += 1
            gone = peer in self.down
            event = Failed(peer, put.round) if gone else Answered(peer, put.round, self.ask(peer, put.question))
            commands += operation.step(event, self.now, self.now_ms)
        return commands
