"""Actors that the tests of process actors start in child processes; imported there by name."""

from __future__ import annotations

import os
import signal

import trio

import prime
from prime import Actor, Ask, on


@prime.message(tag=0x7101)
class Add:
    number: int


@prime.message(tag=0x7102)
class Total(Ask[tuple[int, ...]]):
    pass


@prime.message(tag=0x7103)
class Boom(Ask[None]):
    text: str


@prime.message(tag=0x7104)
class GetPid(Ask[int]):
    pass


@prime.message(tag=0x7105)
class Leave(Ask[None]):
    status: int


@prime.message(tag=0x7106)
class Nap(Ask[float]):
    seconds: float


@prime.message(tag=0x7107)
class StopYourself:
    pass


@prime.message
class Private(Ask[None]):
    pass


class Counter(Actor[Add | Total | Boom | GetPid | Leave | Nap | StopYourself]):
    """Adds, sleeps, fails and leaves as it is told."""

    def __init__(self, *numbers: int) -> None:
        self.numbers = list(numbers)

    @on(Add)
    def add(self, m: Add) -> None:
        self.numbers.append(m.number)

    @on(Total)
    def total(self, _: Total) -> tuple[int, ...]:
        return tuple(self.numbers)

    @on(Boom)
    def boom(self, m: Boom) -> None:
        try:
            raise KeyError("the cause")
        except KeyError as cause:
            raise ValueError(m.text) from cause

    @on(GetPid)
    def get_pid(self, _: GetPid) -> int:
        return os.getpid()

    @on(Leave)
    def leave(self, m: Leave) -> None:
        print("last words", flush=True)
        if m.status < 0:
            os.kill(os.getpid(), -m.status)
            signal.pause()
        os._exit(m.status)

    @on(Nap)
    async def nap(self, m: Nap) -> float:
        await trio.sleep(m.seconds)
        return m.seconds

    @on(StopYourself)
    def stop_yourself(self, _: StopYourself) -> None:
        self.ctx.stop()
