"""Lives of actors under any schedule: spawned, crashed, suspended, stopped and watched, beside a model of a few lines.

What it holds: each watch gets exactly one `Down`, and only when its actor is gone for good; a path is free again then;
an actor that lives answers, with what its kind keeps; nothing is left in the end.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import attrs
import hypothesis
import hypothesis.strategies as st
import pytest
import trio
from hypothesis.stateful import Bundle, precondition

import prime
from prime import Actor, Ask, Down, Ref, on
from prime.actor import Mailbox
from prime.actor.restart import ChildKind
from prime.errors import ActorCrashedError, NoSuchActorError
from prime.testing import ActorMachine, Probe, invariant, rule, settle


@prime.message
class Add:
    pass


@prime.message
class Sum(Ask[int]):
    pass


@prime.message
class Crash(Ask[None]):
    pass


@prime.message
class Leave:
    pass


class Part(Actor[Add | Sum | Crash | Leave]):
    def __init__(self) -> None:
        self.sum = 0

    @on(Add)
    def add(self, _: Add) -> None:
        self.sum += 1

    @on(Sum)
    async def total(self, _: Sum) -> int:
        await trio.lowlevel.checkpoint()
        return self.sum

    @on(Crash)
    def crash(self, _: Crash) -> None:
        raise ValueError("crash")

    @on(Leave)
    def leave(self, _: Leave) -> None:
        self.ctx.stop()


@attrs.define(eq=False)
class Life:
    """What is known of one actor."""

    ref: Ref[Any]
    kind: ChildKind
    alive: bool = True
    sum: int = 0
    watches: int = 0


class LivesMachine(ActorMachine):
    failures_expected = True
    lives: Bundle[Life] = Bundle("lives")

    async def started(self) -> None:
        self.probe = await Probe.spawn(self.supervisor)
        self.all: list[Life] = []
        self.due: Counter[str] = Counter()
        self.heard: Counter[str] = Counter()

    @rule(
        target=lives,
        kind=st.sampled_from(["permanent", "transient", "temporary"]),
        mailbox=st.sampled_from([Mailbox(), Mailbox(1), Mailbox(2, full="reject")]),
    )
    async def spawn(self, kind: ChildKind, mailbox: Mailbox) -> Life:
        name = f"part-{len(self.all)}"
        life = Life(await self.supervisor.spawn(Part, name, kind=kind, mailbox=mailbox), kind)
        self.all.append(life)
        return life

    @rule(life=lives, times=st.integers(1, 3))
    async def add(self, life: Life, times: int) -> None:
        for _ in range(times):
            await life.ref.tell(Add())
            await settle()
        life.sum += times

    @rule(life=lives)
    async def crash(self, life: Life) -> None:
        error = ActorCrashedError if life.alive else NoSuchActorError
        with pytest.raises(error):
            await life.ref.ask(Crash(), timeout=60)
        await self.come_back(life, gone=life.kind == "temporary")

    @rule(life=lives)
    async def leave(self, life: Life) -> None:
        await life.ref.tell(Leave())
        await self.come_back(life, gone=life.kind != "permanent")

    @rule(life=lives)
    async def stop(self, life: Life) -> None:
        await self.supervisor.stop(life.ref)
        self.end(life)

    @rule(life=lives)
    async def suspend_for_a_message(self, life: Life) -> None:
        if life.alive:
            self.supervisor.suspend(life.ref)
            await life.ref.tell(Add())
            await trio.sleep(60)
            self.supervisor.resume(life.ref)
            life.sum += 1

    @rule(life=lives)
    async def watch(self, life: Life) -> None:
        self.probe.watch(life.ref)
        self.due[life.ref.path] += not life.alive
        life.watches += life.alive

    @precondition(lambda self: any(not life.alive for life in self.all))
    @rule(life=lives)
    async def take_the_path_of_a_dead_one(self, life: Life) -> None:
        if not life.alive:
            life.ref = await self.supervisor.spawn(Part, life.ref.path.rpartition("/")[2], kind=life.kind)
            life.alive, life.sum = True, 0

    async def come_back(self, life: Life, *, gone: bool) -> None:
        """Wait out the backoff. The mailbox and the path outlive a restart, the sum does not."""
        await trio.sleep(10)
        if life.alive and gone:
            self.end(life)
        life.sum = 0

    def end(self, life: Life) -> None:
        self.due[life.ref.path] += life.watches
        life.alive, life.watches = False, 0

    @invariant()
    async def each_watch_has_one_down_and_only_of_the_dead(self) -> None:
        await settle()
        while len(self.probe):
            self.heard[(await self.probe.expect(Down)).path] += 1
        assert +self.heard == +self.due

    @invariant()
    async def the_living_answer_and_the_dead_do_not(self) -> None:
        for life in self.all:
            if life.alive:
                assert await life.ref.ask(Sum(), timeout=60) == life.sum
                assert self.system.whereis(life.ref.path) == life.ref
            else:
                assert self.system.whereis(life.ref.path) is None


TestLives: Any = LivesMachine.TestCase
TestLives.settings = hypothesis.settings(max_examples=40, stateful_step_count=20)
