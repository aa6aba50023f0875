"""Nodes linked by the link's own core, in the fast engine: what holds under every fault of the network."""

from __future__ import annotations

from collections import Counter

import pytest

from prime import Ask, message
from prime.errors import DeadlineError, LinkLostError, NoSuchActorError, PrimeError, UnreachableError
from prime.sim import HeapWorld, LinkedProgram
from prime.sim import plan as p

TIMEOUT_S = 5.0
QUIET = p.Plan(storm_s=1e6)


@message(tag=0x2AE1)
class Double(Ask[int]):
    number: int


@message(tag=0x2AE2)
class Count:
    number: int


class Peer(LinkedProgram):
    """Asks and tells others at random, and keeps the score of the whole world."""

    busy = True
    names: tuple[str, ...] = ()
    score: Score

    def begun(self) -> None:
        self.open: dict[int, tuple[int, float]] = {}
        self.done: Counter[str] = Counter()
        if self.busy:
            self.alarm_at(self.node.now + self.node.random("pace").random())

    def alarmed(self, now: float) -> None:
        random = self.node.random("pace")
        peer = random.choice([name for name in self.names if name != self.node.name])
        number = self.score.next_number()
        if random.random() < 0.3:
            self.tell(peer, "/app/count", Count(number))
        else:
            self.put(peer, number)
        self.alarm_at(now + random.random() / 2)

    def put(self, peer: str, number: int, path: str = "/app/double", timeout_s: float = TIMEOUT_S) -> int:
        token = self.ask(peer, path, Double(number), timeout_s)
        self.open[token] = (number, self.node.now + timeout_s)
        return token

    def asked(self, source: str, path: str, message: Double) -> int:
        if path != "/app/double":
            return super().asked(source, path, message)
        self.score.came(message.number)
        return message.number * 2

    def told(self, source: str, path: str, message: Count) -> None:
        self.score.came(message.number)

    def answered(self, token: int, value: int) -> None:
        number, deadline = self.open.pop(token)  # a second answer would find none
        assert value == number * 2
        assert self.node.now <= deadline + 1e-3 or stands(self)
        self.done["answered"] += 1

    def failed(self, token: int, error: PrimeError) -> None:
        if token in self.open:
            _, deadline = self.open.pop(token)
            assert self.node.now <= deadline + 1e-3 or stands(self)
        self.done[type(error).__name__] += 1

    def overdue(self) -> list[int]:
        return [number for number, deadline in self.open.values() if self.node.now > deadline + 1e-3]


class Score:
    """What came where in the whole world: each message has a number of its own."""

    def __init__(self) -> None:
        self.numbers = 0
        self.times: Counter[int] = Counter()

    def next_number(self) -> int:
        self.numbers += 1
        return self.numbers

    def came(self, number: int) -> None:
        self.times[number] += 1
        assert self.times[number] == 1, f"message {number} came twice"


def swarm(size: int, plan: p.Plan, seed: int = 1, *, busy: bool = True) -> tuple[HeapWorld, list[Peer]]:
    world = HeapWorld(seed, plan)
    named = tuple(f"n{number}" for number in range(size))

    class Mine(Peer):
        names = named
        score = Score()

    Mine.busy = busy
    for name in named:
        world.add(name, Mine)
    return world, peers(world)


def peers(world: HeapWorld) -> list[Peer]:
    return [node.program for node in world.nodes.values() if isinstance(node.program, Peer)]


def linked(plan: p.Plan = QUIET) -> tuple[HeapWorld, Peer, Peer]:
    world, (a, b) = swarm(2, plan, busy=False)
    a.put("n1", 1)
    world.run(1.0)
    assert a.done == {"answered": 1}
    return world, a, b


def storm(seed: int) -> HeapWorld:
    """Let a swarm talk through a storm, and hold what must hold; then let it be quiet."""
    names = tuple(f"n{number}" for number in range(5))
    plan = p.draw(seed, p.Space(names, kinds=p.NETWORK | p.NODE))
    world, _ = swarm(5, plan, seed)
    world.always("asks end by their deadline", lambda: not any(late(one) for one in peers(world)))
    world.run_until(plan.storm_s + 15.0)
    for one in peers(world):
        one.done.clear()
    world.run(20.0)
    for one in peers(world):
        assert set(one.done) == {"answered"}, one.done
        assert set(one.links) <= set(names)
    for one in peers(world):
        for other in one.names:
            if other != one.node.name:
                one.put(other, one.score.next_number())
    world.run(1.0)
    assert all(not one.open or one.busy for one in peers(world))
    assert all(one.is_linked(other) for one in peers(world) for other in one.names if other != one.node.name)
    return world


def stands(one: Peer) -> bool:
    """Tell whether a node stands still, or did until now."""
    pauses = [a for a in one.node.world.plan.actions if isinstance(a, p.Pause) and a.node == one.node.name]
    return any(pause.at_s <= one.node.now <= pause.at_s + pause.for_s + 0.001 for pause in pauses)


def late(one: Peer) -> bool:
    return one.node.is_up and not stands(one) and bool(one.overdue())


@pytest.mark.parametrize("seed", range(12))
def test_a_storm_breaks_no_promise_and_after_it_every_ask_is_answered(seed: int) -> None:
    storm(seed)


def test_links_are_lost_and_dialled_anew_under_loss() -> None:
    world, _ = swarm(6, p.Plan(network=p.NetworkFaults(loss=0.02), storm_s=1e6))
    world.run(60.0)
    done = sum((one.done for one in peers(world)), Counter())
    assert done["answered"] > 500
    assert sum(one.links_lost for one in peers(world)) > 10
    assert done["answered"] > 8 * sum(count for what, count in done.items() if what != "answered")


def test_dials_that_cross_leave_one_link() -> None:
    world, (a, b) = swarm(2, QUIET, busy=False)
    for number in range(1, 6):
        world.at(0.0, a.put, "n1", number)
        world.at(0.0, b.put, "n0", number + 100)
    world.run(2.0)
    assert a.done == b.done == {"answered": 5}
    (mine,), (theirs,) = a.links.values(), b.links.values()
    assert mine.link_id == theirs.link_id


def test_a_failure_is_told_by_its_name() -> None:
    world, a, _ = linked()
    a.put("n1", 2, path="/nobody")
    world.run(1.0)
    assert a.done[NoSuchActorError.__name__] == 1
    assert a.done["answered"] == 1


def test_an_ask_of_a_node_that_is_down_fails_at_once_and_one_of_a_node_that_is_off_by_its_deadline() -> None:
    world, (a, b) = swarm(2, QUIET, busy=False)
    b.node.crash(100.0)
    a.put("n1", 1)
    world.run(0.1)
    assert a.done == {UnreachableError.__name__: 1}
    world, a, b = linked()
    b.node.crash(100.0, machine=True)
    a.put("n1", 2)
    world.run(4.9)
    assert a.open
    world.run(0.2)
    assert a.done == {"answered": 1, DeadlineError.__name__: 1}


def test_a_dead_peer_is_found_while_an_ask_waits_for_it_and_later_while_none_does() -> None:
    world, a, b = linked()
    b.node.crash(1000.0, machine=True)
    a.put("n1", 2, timeout_s=100.0)
    world.run(6.1)
    assert a.done == {"answered": 1, LinkLostError.__name__: 1}
    assert not a.is_linked("n1")
    world, a, b = linked()
    b.node.crash(1000.0, machine=True)
    world.run(10.0)
    assert a.is_linked("n1")
    world.run(25.0)
    assert not a.is_linked("n1")


def test_an_idle_link_stays_up_for_a_day_and_costs_next_to_nothing() -> None:
    world, a, b = linked()
    before = world.events
    world.run(86_400.0)
    assert a.is_linked("n1")
    assert b.is_linked("n0")
    assert world.events - before < 86_400 / 30 * 12


def test_a_cut_longer_than_the_patience_of_a_link_ends_it_and_it_is_dialled_anew() -> None:
    world, a, _ = linked(p.Plan(actions=(p.Cut("n1", "n0", at_s=2.0, for_s=10.0),), storm_s=1e6))
    world.run_until(3.0)
    a.put("n1", 2)
    a.put("n1", 3, timeout_s=30.0)
    world.run_until(11.0)
    assert a.done == {"answered": 1, DeadlineError.__name__: 1, LinkLostError.__name__: 1}
    world.run_until(20.0)
    a.put("n1", 4)
    world.run(1.0)
    assert a.done["answered"] == 2


def test_the_same_seed_gives_the_same_trace() -> None:
    assert storm(3).trace == storm(3).trace != storm(4).trace
