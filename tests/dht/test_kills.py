"""An actor of the DHT that is lost at any await loses no record that was acknowledged, and the node works on.

A victim is killed the so-manieth time that a task of its has run, again and again, each time one later. It fails as by
a defect: its side tasks end, what it had not answered fails, and its supervisor starts it anew.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import attrs
import pytest
import trio

from prime.actor.facts import SupervisorGaveUp
from prime.actor.ref import LocalRef
from prime.dht.archive import open_archive
from prime.dht.backends.memory import MemoryBackend
from prime.dht.key import Key, key_of
from prime.dht.publishing import Put
from prime.dht.record import version_of
from prime.errors import PrimeError
from prime.testing import virtual_clock
from tests.dht.swarm import LAN, OWNER, WALL_S, Node, open_nodes

HANG_S = 500
OFTEN = attrs.evolve(LAN, republish_s=20.0)
"""What is published is said anew within the test."""


class KilledError(Exception):
    """What a victim fails of."""


class Hesitant(MemoryBackend):
    """A store that lets others run before and after each write."""

    async def write(self, changes: Sequence[Any]) -> None:
        await trio.lowlevel.checkpoint()
        await super().write(changes)
        await trio.lowlevel.checkpoint()


class Killer(trio.abc.Instrument):
    """Counts how often tasks of a victim ran, and kills it after (or, `early`, before) the so-manieth time."""

    def __init__(self, node: Node, number: int, victim: str, step: int, *, early: bool) -> None:
        self.count = 0
        self._system = node.system
        self._number = number
        self._path = f"/dht/{victim}"
        self._step = step
        self._early = early

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        if self._is_victim_s(task):
            self.count += 1
            if self.count == self._step and self._early:
                self._kill(task)

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        if self._is_victim_s(task) and self.count == self._step and not self._early:
            self._kill(task)

    def _is_victim_s(self, task: trio.lowlevel.Task) -> bool:
        return task.name.startswith(self._path) and task.context.get(OWNER) == self._number

    def _kill(self, task: trio.lowlevel.Task) -> None:
        ref = self._system.whereis(task.name.partition(":")[0])
        if isinstance(ref, LocalRef) and ref.cell.life is not None:
            ref.cell.life._fail_beside(KilledError("by a test"), "a test")


@attrs.define
class Work:
    """What node 0 does, and what was acknowledged of it."""

    puts: list[Put] = attrs.Factory(list)
    provided: list[Key] = attrs.Factory(list)

    async def run(self, node: Node) -> None:
        for value, salt in ((b"1", b"a"), (b"2", b"b"), (b"3", b"a"), (b"4", None), (b"5", b"b")):
            with contextlib.suppress(PrimeError):
                self.puts.append(await node.dht.put(value, salt=salt))
        for key in (key_of(b"one"), key_of(b"two")):
            with contextlib.suppress(PrimeError):
                await node.dht.provide(key)
                self.provided.append(key)


async def run_once(number: int, victim: str, step: int, *, early: bool) -> int:
    """Kill a victim at node `number` at its so-manieth step while node 0 works. Returns how many steps it made."""
    with trio.fail_after(HANG_S):
        async with open_nodes(3, backend=lambda _: Hesitant(), failures=True, settings=OFTEN) as nodes:
            work, killer = Work(), Killer(nodes[number], number, victim, step, early=early)
            trio.lowlevel.add_instrument(killer)
            try:
                await work.run(nodes[0])
                if victim == "publishing":
                    await trio.sleep(3 * OFTEN.republish_s)
            finally:
                trio.lowlevel.remove_instrument(killer)
            await trio.sleep(5)
            assert not [fact for fact in nodes[number].facts if isinstance(fact, SupervisorGaveUp)]
            for put in work.puts:
                await check_held(nodes, put)
            for key in work.provided:
                assert await nodes[2].dht.find_providers(key) == (nodes[0].dht.contact,)
            await check_works(nodes)
        for put in work.puts:
            await check_stored(nodes, put)
    return killer.count


async def check_held(nodes: list[Node], put: Put) -> None:
    """See that whoever acknowledged a record holds it, or a later version, and that everybody reads such a one."""
    record = put.record
    for node in nodes:
        if node.dht.peer in put.holders:
            held = node.dht.held(record.key)
            assert held is not None
            assert version_of(held) >= version_of(record)
        assert version_of(await node.dht.get(record.key)) >= version_of(record)


async def check_stored(nodes: list[Node], put: Put) -> None:
    """See that a node that starts again has it, too."""
    for node in nodes:
        if node.dht.peer in put.holders:
            async with open_archive(node.dht.peer, LAN, node.backend) as archive:
                held = archive.shelf.get(put.record.key, int(1000 * (WALL_S + trio.current_time())))
                assert held is not None
                assert version_of(held) >= version_of(put.record)


async def check_works(nodes: list[Node]) -> None:
    """See that all of it is as good as new."""
    for node in nodes:
        assert len((await node.dht.put(b"after", salt=b"after")).holders) == 3
        assert node.dht.status().contacts == 2


def kill_everywhere(number: int, victim: str, at_most: int) -> None:
    def run(step: int, *, early: bool) -> int:
        trio._core._run._r.seed(step)  # the order in which tasks run: another one each time, and the same ones again
        try:
            return trio.run(lambda: run_once(number, victim, step, early=early), clock=virtual_clock())
        except BaseException as error:
            error.add_note(f"{victim} of node {number}, killed at step {step}, early={early}")
            raise

    count = run(0, early=False)
    assert count > 0
    stride = max(1, count // at_most)
    for step in range(1, count + 1, stride):
        for early in (False, True):
            run(step, early=early)


CASES = [
    (0, "lookup-"),
    (0, "storing-"),
    (0, "publishing"),
    (0, "routing"),
    (1, "records"),
    (1, "providers"),
    (1, "routing"),
]


@pytest.mark.parametrize(("number", "victim"), CASES, ids=[f"{victim}-{number}" for number, victim in CASES])
def test_killed_anywhere_nothing_acknowledged_is_lost(number: int, victim: str) -> None:
    kill_everywhere(number, victim, at_most=5)


@pytest.mark.nightly
@pytest.mark.parametrize(("number", "victim"), CASES, ids=[f"{victim}-{number}" for number, victim in CASES])
def test_killed_everywhere_nothing_acknowledged_is_lost(number: int, victim: str) -> None:
    kill_everywhere(number, victim, at_most=1_000_000)
