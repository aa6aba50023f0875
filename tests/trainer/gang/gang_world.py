"""A world in which a gang's core lives without processes: ranks that compute, wait for each other, fail and die, on a heap.

One step of a rank is done when all ranks of its generation have begun it, as with a collective. What a rank computes is a
chain of its steps from the state of a checkpoint, so a lost or a doubled step shows in the result.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from random import Random
from typing import Any

import attrs

from prime.trainer.gang import gang as core
from prime.trainer.gang.trouble import Trouble

TICK_S = 0.1
PEER_GONE = Trouble("RuntimeError", "connection closed by peer", of_peer=True)


def chain(state: int, step: int) -> int:
    """Return the state after a step: each depends on all before it."""
    return hash((state, step)) & 0xFFFFFFFF


def undisturbed(steps: int) -> int:
    """Return the state of a run to which nothing happened."""
    state = 0
    for step in range(1, steps + 1):
        state = chain(state, step)
    return state


@attrs.define(eq=False)
class Process:
    """One member's process."""

    number: int
    host: int = 0
    alive: bool = True
    stopped: bool = False
    ready: bool = False
    generation: int = -1
    rank: int = -1
    step: int = 0
    work: int = 0
    state: int = 0
    in_hand: int = 0
    """The step that it computes or waits for the others in; 0 between steps."""
    limit: int | None = None
    settled: bool = False
    stuck: bool = False
    blocked: bool = False
    idle: bool = False
    finished: bool = False
    leaving: bool = False


class World:
    """One run: `faults` are `(time, what, rank)`; `run` returns how it ended."""

    def __init__(self, rules: core.Rules, seed: int, *, every: int = 3, start_s: float = 3.0) -> None:
        self.rules = rules
        self.gang = core.Gang(rules)
        self.random = Random(seed)
        self.every = every
        self.start_s = start_s
        self.now = 0.0
        self.processes: dict[int, Process] = {}
        self.checkpoints: dict[int, int] = {-1: 0}
        self.ended: core.End | None = None
        self.commands: list[tuple[float, core.Command]] = []
        self.finished: dict[int, tuple[int, int]] = {}
        self.fails_at: dict[int, Trouble] = {}
        """What a rank raises, always, when it makes this step."""
        self.hosts = {0}
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self._said_s: dict[int, float] = {}

    # ------------------------------------------------------------------------------------------ time

    def at(self, delay_s: float, call: Callable[..., None], *args: Any) -> None:
        self._count += 1
        heapq.heappush(self._heap, (self.now + delay_s, self._count, lambda: call(*args)))

    def run(self, until_s: float = 10_000.0) -> core.End:
        self.at(0, self.hear, core.Opened())
        for host in range(1, self.rules.hosts):
            self.at(self.random.uniform(0.1, 5.0), self.host_comes, host)
        self.at(TICK_S, self.tick)
        while self.ended is None:
            assert self._heap, "the world stands still"
            self.now, _, call = heapq.heappop(self._heap)
            assert self.now < until_s, f"no end within {until_s} s: {self.gang.members}"
            call()
        return self.ended

    def tick(self) -> None:
        self.hear(core.Ticked())
        self.at(TICK_S, self.tick)

    # ------------------------------------------------------------------------------------------ what the gang does

    def hear(self, event: core.Event) -> None:
        for command in self.gang.step(event, self.now):
            assert self.ended is None, "End is the last"
            self.commands.append((self.now, command))
            self.carry_out(command)
        self.check()

    def check(self) -> None:
        """Nobody of another generation than the newest may still have a rank when one has begun."""
        ranked = [each for each in self.processes.values() if each.alive and each.rank >= 0]
        assert len({each.generation for each in ranked}) <= 1, "two generations side by side"
        assert len({each.rank for each in ranked}) == len(ranked), "two processes of one rank"
        each_host = self.rules.world // self.rules.hosts
        assert all(each.rank // each_host == each.host for each in ranked), "a rank on another host than its own"

    def carry_out(self, command: core.Command) -> None:
        match command:
            case core.Spawn(member, host):
                assert host in self.hosts, "nobody is there who could start it"
                self.processes[member] = Process(member, host)
                self.at(self.start_s * self.random.uniform(0.8, 1.6), self.ready, member)
                self.at(0.5, self.pulse, member)
            case core.Kill(member):
                self.at(self.random.uniform(0, 0.2), self.die, member, "killed")
            case core.Find(generation, without):
                found = max(step for step in self.checkpoints if step not in without)
                self.at(self.random.uniform(0, 0.3), self.hear, core.Found(generation, found))
            case core.Begin(member, generation, rank, step):
                self.begin(self.processes[member], generation, rank, step)
            case core.Leave(member):
                self.at(self.random.uniform(0, 0.2), self.leave, member)
            case core.Limit(member, generation, step):
                self.at(self.random.uniform(0, 0.3), self.limited, member, generation, step)
            case core.Settle(member, generation, step):
                self.at(self.random.uniform(0, 0.3), self.settle, member, generation, step)
            case core.End():
                self.ended = command
            case _:
                pass

    # ------------------------------------------------------------------------------------------ what processes do

    def say(self, process: Process, event: core.Event) -> None:
        """Tell the gang, later, in order; a stopped process says nothing more."""
        if process.alive and not process.stopped:
            when = max(self.now + self.random.uniform(0, 0.05), self._said_s.get(process.number, 0.0))
            self._said_s[process.number] = when
            self.at(when - self.now, self.hear, event)

    def pulse(self, member: int) -> None:
        process = self.processes[member]
        if process.alive:
            if process.ready:
                self.say(process, core.Heard(member, process.generation, process.step, process.work))
            self.at(0.5, self.pulse, member)

    def ready(self, member: int) -> None:
        process = self.processes[member]
        process.ready = True
        self.say(process, core.Readied(member))

    def begin(self, process: Process, generation: int, rank: int, step: int) -> None:
        assert process.ready
        process.generation, process.rank = generation, rank
        process.step, process.state = max(step, 0), self.checkpoints[step]
        process.work, process.in_hand, process.limit, process.settled = 0, 0, None, False
        process.blocked, process.idle, process.finished, process.leaving = False, False, False, False
        self.at(self.random.uniform(0.1, 0.6), self.try_join, process, generation)

    def peers(self, process: Process) -> list[Process]:
        return [each for each in self.processes.values() if each.generation == process.generation and each.rank >= 0]

    def try_join(self, process: Process, generation: int) -> None:
        if not self.works(process, generation):
            return
        if len([each for each in self.peers(process) if each.alive]) == self.rules.world:
            self.say(process, core.Joined(process.number, generation))
            self.next_step(process, generation)

    def works(self, process: Process, generation: int) -> bool:
        return process.alive and not process.stopped and not process.idle and process.generation == generation

    def next_step(self, process: Process, generation: int) -> None:
        if not self.works(process, generation) or process.in_hand or process.finished:
            return
        if process.step == self.rules.steps or (process.step == process.limit and process.settled):
            process.finished = True
            self.save(process)
            self.finished[process.rank] = (process.step, process.state)
            self.say(process, core.Finished(process.number, generation, process.step))
            return
        if process.step == process.limit:
            return  # it waits for the others' word
        process.in_hand = process.step + 1
        self.at(self.random.uniform(0.05, 0.2), self.reach, process, generation)

    def reach(self, process: Process, generation: int) -> None:
        """Come to the collective, and wait there for the others."""
        if not self.works(process, generation) or process.stuck:
            return
        if process.in_hand in self.fails_at:
            process.idle = True
            self.say(process, core.Failed(process.number, generation, process.step, self.fails_at[process.in_hand]))
            return
        process.blocked = True
        peers = self.peers(process)
        if len(peers) < self.rules.world or not all(each.alive for each in peers):
            self.at(0.01, self.peer_gone, process, generation)
            return
        together = [each for each in peers if each.blocked and each.in_hand == process.in_hand]
        if len(together) == self.rules.world and not any(each.stopped for each in together):
            for each in together:
                self.done(each, generation)

    def done(self, process: Process, generation: int) -> None:
        process.blocked = False
        process.step, process.in_hand = process.in_hand, 0
        process.state = chain(process.state, process.step)
        process.work += 1
        if process.step % self.every == 0:
            self.save(process)
        self.say(process, core.Heard(process.number, generation, process.step, process.work))
        self.at(0.001, self.next_step, process, generation)

    def save(self, process: Process) -> None:
        known = self.checkpoints.setdefault(process.step, process.state)
        assert known == process.state, "a replayed step differs from the first"

    def peer_gone(self, process: Process, generation: int) -> None:
        if self.works(process, generation):
            process.idle, process.blocked = True, False
            self.say(process, core.Failed(process.number, generation, process.step, PEER_GONE))
            if process.leaving:
                self.leave(process.number)

    def die(self, member: int, why: str) -> None:
        process = self.processes[member]
        if process.alive:
            process.alive = False
            self.at(0.01, self.hear, core.Died(member, why))
            for each in self.peers(process) if process.rank >= 0 else []:
                if each.blocked:
                    self.at(self.random.uniform(0, 0.1), self.peer_gone, each, each.generation)

    def leave(self, member: int) -> None:
        process = self.processes[member]
        process.leaving = True
        if process.alive and process.idle and not process.stopped:
            process.rank, process.generation = -1, -1
            self.say(process, core.Readied(member))

    def limited(self, member: int, generation: int, step: int) -> None:
        process = self.processes[member]
        if process.alive and not process.stopped and process.generation == generation:
            agreed = max(process.in_hand, process.step) <= step
            if agreed:
                process.limit = step
            self.say(process, core.Answered(member, generation, step, agreed, process.step))
            self.next_step(process, generation)

    def settle(self, member: int, generation: int, step: int) -> None:
        process = self.processes[member]
        if process.alive and process.generation == generation:
            assert process.limit == step
            process.settled = True
            self.next_step(process, generation)

    # ------------------------------------------------------------------------------------------ hosts

    def host_comes(self, host: int) -> None:
        if host not in self.hosts:
            self.hosts.add(host)
            self.hear(core.HostCame(host))

    def host_goes(self, host: int) -> None:
        """Lose the connection: the gang hears of it first, and then of each process."""
        if host not in self.hosts or host == 0:
            return
        self.hosts.remove(host)
        self.hear(core.HostWent(host, "the connection is lost"))
        for process in [each for each in self.processes.values() if each.host == host]:
            self.die(process.number, "its host is gone")
        self.at(self.random.uniform(1.0, 20.0), self.host_comes, host)

    # ------------------------------------------------------------------------------------------ faults

    def fault(self, when_s: float, what: str, rank: int) -> None:
        self.at(when_s, self.strike, what, rank)

    def strike(self, what: str, rank: int) -> None:
        if what == "host":
            self.host_goes(rank % self.rules.hosts)
            return
        ranked = [each for each in self.processes.values() if each.alive and each.rank == rank]
        others = [each for each in self.processes.values() if each.alive]
        for process in (ranked or others)[:1]:
            if what == "kill":
                self.die(process.number, "signal SIGKILL")
            elif what == "stop":
                process.stopped = True
            else:
                process.stuck = True
