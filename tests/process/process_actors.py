"""Actors that the tests of process actors start in child processes; imported there by name."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from typing import Any

import trio

import prime
from prime import Actor, Ask, Down, Ref, on
from prime.errors import AskCycleError, ConfigError


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


@prime.message
class Tick:
    """A timer's message, which has no sender."""


class Ticking(Actor[Add | Total | Nap | Tick]):
    """Counts the ticks of its timer, which queue up beside the messages of others while it naps."""

    def __init__(self) -> None:
        self.numbers: list[int] = []

    async def started(self) -> None:
        self.ctx.every(0.001, Tick())

    @on(Tick)
    def tick(self, _: Tick) -> None:
        self.numbers.append(1)

    @on(Add)
    def add(self, m: Add) -> None:
        self.numbers.append(m.number)

    @on(Total)
    def total(self, _: Total) -> tuple[int, ...]:
        return tuple(self.numbers)

    @on(Nap)
    async def nap(self, m: Nap) -> float:
        await trio.sleep(m.seconds)
        return m.seconds


@prime.message(tag=0x7108)
class Compute(Ask[int]):
    seconds: float


@prime.message(tag=0x7109)
class Flood(Ask[int]):
    lines: int


@prime.message(tag=0x710A)
class Echo(Ask[prime.Payload]):
    data: prime.Payload


@prime.message(tag=0x710B)
class WhoAsks(Ask[str]):
    pass


@prime.message(tag=0x710C)
class AskParent(Ask[tuple[int, ...]]):
    path: str


@prime.message(tag=0x710D)
class WatchParent(Ask[None]):
    path: str


@prime.message(tag=0x710E)
class Heard(Ask[str]):
    pass


@prime.message(tag=0x710F)
class StartInner(Ask[str]):
    """Start a counter inside the child; the answer is its path."""


@prime.message(tag=0x7110)
class StartProgram(Ask[int]):
    """Start a program from within the child; the answer is its process id."""


class Wide(
    Actor[Compute | Flood | Echo | WhoAsks | AskParent | WatchParent | Heard | StartInner | StartProgram | Down]
):
    """Does what takes a process: computes, prints, moves bulk, reaches out."""

    def __init__(self, config: Add | None = None) -> None:
        self.config = config
        self.heard = ""
        self.waiting: Any = None

    @on(Compute)
    def compute(self, m: Compute) -> int:
        end = time.process_time() + m.seconds
        rounds = 0
        while time.process_time() < end:
            rounds += 1
        return rounds

    @on(Flood)
    def flood(self, m: Flood) -> int:
        for number in range(m.lines):
            sys.stdout.write(f"line {number} {'x' * 100}\n")
        sys.stdout.flush()
        return m.lines

    @on(Echo)
    def echo(self, m: Echo) -> memoryview:
        return memoryview(bytes(reversed(m.data[:16]))) if len(m.data) < 1000 else memoryview(str(len(m.data)).encode())

    @on(WhoAsks)
    def who_asks(self, _: WhoAsks) -> str:
        return self.ctx.sender or "somebody here"

    @on(AskParent)
    async def ask_parent(self, m: AskParent) -> tuple[int, ...]:
        parent: Ref[Add | Total] = self.ctx.system.ref(self.ctx.system.parent, m.path, Counter)
        await parent.tell(Add(99))
        return await parent.ask(Total(), timeout=10)

    @on(WatchParent)
    def watch_parent(self, m: WatchParent) -> None:
        self.ctx.watch(self.ctx.system.ref(self.ctx.system.parent, m.path, Counter))

    @on(Down)
    def down(self, m: Down) -> None:
        self.heard = m.path
        if self.waiting is not None:
            self.waiting.reply(m.path)

    @on(Heard)
    def get_heard(self, _: Heard) -> str:
        if not self.heard:
            self.waiting = self.ctx.defer()
        return self.heard

    @on(StartInner)
    async def start_inner(self, _: StartInner) -> str:
        started = trio.Event()
        self.ctx.start_soon(self._inner, started)
        await started.wait()
        return "/inner/counter"

    async def _inner(self, started: trio.Event) -> None:
        async with self.ctx.system.supervisor("inner") as sup:
            await sup.spawn(lambda: Counter(5), "counter")
            started.set()
            await trio.sleep_forever()

    @on(StartProgram)
    def start_program(self, _: StartProgram) -> int:
        return subprocess.Popen(["sleep", "600"]).pid


@prime.message(tag=0x7111)
class Swap(Ask[Ref[WhoAsks]]):
    """Tell this counter a number; the answer is the actor's own ref."""

    counter: Ref[Add]


class Swapper(Actor[Swap | WhoAsks]):
    """Takes a ref and gives one."""

    @on(Swap)
    async def swap(self, m: Swap) -> Ref[WhoAsks]:
        await m.counter.tell(Add(5))
        return self.ctx.self_ref

    @on(WhoAsks)
    def who_asks(self, _: WhoAsks) -> str:
        return "swapper"


@prime.message(tag=0x711A)
class GoRound(Ask[str]):
    """Ask the next one of the list, and so on."""

    refs: list[Ref[Any]]


class Rounder(Actor[GoRound]):
    """Answers with what the next one answers, or with why that one cannot be asked."""

    @on(GoRound)
    async def go_round(self, m: GoRound) -> str:
        if not m.refs:
            return "end"
        try:
            answer: str = await m.refs[0].ask(GoRound(m.refs[1:]), timeout=30)
        except AskCycleError as error:
            return str(error)
        return answer


class Patient(Actor[Add | Total | Boom]):
    """Stashes what it is told until it is asked; fails when told to, with all of it stashed."""

    def __init__(self) -> None:
        self.numbers: list[int] = []
        self.asked = False

    @on(Add)
    def add(self, m: Add) -> None:
        if self.asked or m.number >= 100:
            self.numbers.append(m.number)
        else:
            self.ctx.stash()

    @on(Boom)
    def boom(self, m: Boom) -> None:
        raise ValueError(m.text)

    @on(Total)
    def total(self, _: Total) -> tuple[int, ...]:
        first, self.asked = not self.asked, True
        if first:
            self.ctx.unstash_all()
        return tuple(self.numbers)


class Slow(Actor[Total]):
    """Never starts."""

    async def started(self) -> None:
        print("almost there", flush=True)
        await trio.sleep_forever()

    @on(Total)
    def total(self, _: Total) -> tuple[int, ...]:
        return ()


class Refuses(Actor[Total]):
    """Fails in `started`, with one of Prime's own errors if it is asked to."""

    def __init__(self, known: bool) -> None:
        self.known = known

    async def started(self) -> None:
        if self.known:
            raise ConfigError("no such file", hint="look again")
        raise ZeroDivisionError("not today")

    @on(Total)
    def total(self, _: Total) -> tuple[int, ...]:
        return ()


class Goodbye(Actor[Total]):
    """Says goodbye in a file."""

    def __init__(self, path: str) -> None:
        self.path = path

    async def stopping(self) -> None:
        await trio.sleep(0.05)
        await trio.Path(self.path).write_text("goodbye")

    @on(Total)
    def total(self, _: Total) -> tuple[int, ...]:
        return ()


@prime.message(tag=0x711B, signed=True)
class Sworn(Ask[str]):
    """The answer is who signed this."""

    word: str


@prime.message(tag=0x711C, signed=True)
class Affidavit(Ask["Affidavit"]):
    """The answer is another one, of the process; before that it asks its parent at `path` who signed that."""

    path: str


class Court(Actor[Sworn | Affidavit]):
    """Says who signed what."""

    @on(Sworn)
    def sworn(self, m: Sworn) -> str:
        return str(self.ctx.signed(m).signer)

    @on(Affidavit)
    async def affidavit(self, m: Affidavit) -> Affidavit:
        parent = self.ctx.system.parent
        return Affidavit(await self.ctx.system.ref(parent, m.path, Court).ask(Sworn("child"), timeout=10))


class Ledger(Actor[Add | Total]):
    """Writes each number into a file before it goes on, so that what was handled outlives the process."""

    def __init__(self, path: str) -> None:
        self.path = path

    async def started(self) -> None:
        self.file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    @on(Add)
    async def add(self, m: Add) -> None:
        os.write(self.file, f"{m.number}\n".encode())
        if m.number % 16 == 0:
            await trio.sleep(0.001)

    @on(Total)
    def total(self, _: Total) -> tuple[int, ...]:
        return ()
