"""The fast engine: what each fault of a plan does, and that a seed says it all."""

from __future__ import annotations

import errno
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from prime.errors import UsageError
from prime.sim import HeapChannel, HeapNode, HeapWorld, Program, ViolationError
from prime.sim import plan as p

QUIET = p.Plan(storm_s=1e6)


class Note(Program):
    """Keeps what comes, with when."""

    def __init__(self) -> None:
        self.node: HeapNode
        self.came: list[tuple[float, Any]] = []
        self.channels: list[HeapChannel] = []

    def started(self, node: HeapNode) -> None:
        self.node = node

    def heard(self, source: str, message: Any) -> None:
        self.came.append((self.node.now, message))

    def woken(self, now: float) -> None:
        self.came.append((now, "woken"))

    def dialled(self, channel: HeapChannel) -> None:
        channel.reader = self
        self.channels.append(channel)

    def received(self, data: bytes) -> None:
        self.came.append((self.node.now, data))

    def ended(self, cause: str) -> None:
        self.came.append((self.node.now, cause))

    @property
    def said(self) -> list[Any]:
        return [what for _, what in self.came]


def two(plan: p.Plan = QUIET, seed: int = 1) -> tuple[HeapWorld, HeapNode, HeapNode]:
    world = HeapWorld(seed, plan)
    return world, world.add("a", Note), world.add("b", Note)


def notes(node: HeapNode) -> Note:
    assert isinstance(node.program, Note)
    return node.program


def faulty(**network: float) -> p.Plan:
    return p.Plan(network=p.NetworkFaults(**network), storm_s=1e6)


def doing(*actions: p.Action) -> p.Plan:
    return p.Plan(actions=actions, storm_s=1e6)


# --------------------------------------------------------------------------------------------- datagrams and alarms


def test_a_datagram_comes_after_the_latency() -> None:
    world, a, b = two(faulty(latency_s=0.25))
    a.send("b", "hello")
    a.send("nobody", "hello")
    world.run(1.0)
    assert notes(b).came == [(0.25, "hello")]
    assert world.now == 1.0


def test_a_node_may_send_to_itself() -> None:
    world, a, _ = two(faulty(loss=1.0, latency_s=0.25))
    a.send("a", "me")
    world.run(1.0)
    assert notes(a).came == [(0.0, "me")]


def test_loss_and_duplication_of_datagrams() -> None:
    for plan, least, most in (
        (faulty(loss=0.5), 60, 140),
        (faulty(duplication=0.5), 260, 340),
        (QUIET, 200, 200),
    ):
        world, a, b = two(plan)
        for number in range(200):
            a.send("b", number)
        world.run(1.0)
        assert least <= len(notes(b).came) <= most


def test_reordering_and_jitter_change_the_order() -> None:
    for plan in (faulty(reordering=0.5), faulty(jitter_s=0.1)):
        world, a, b = two(plan)
        for number in range(50):
            world.at(number / 10_000, a.send, "b", number)
        world.run(1.0)
        assert sorted(notes(b).said) == list(range(50))
        assert notes(b).said != list(range(50))


def test_corruption_flips_a_bit_of_bytes_and_loses_other_objects() -> None:
    world, a, b = two(faulty(corruption=1.0))
    a.send("b", b"\x00\x00")
    a.send("b", "words")
    world.run(1.0)
    ((_, changed),) = notes(b).came
    assert int.from_bytes(changed, "big").bit_count() == 1


def test_bytes_take_the_time_that_the_bandwidth_gives_them() -> None:
    world, a, b = two(faulty(bandwidth_bytes_per_s=100.0, latency_s=0.0))
    a.send("b", b"x" * 50)
    a.send("b", "object", size_bytes=50)
    world.run(2.0)
    assert [at for at, _ in notes(b).came] == [0.5, 1.0]


def test_of_two_alarms_the_sooner_holds_and_comes_once() -> None:
    world, a, _ = two()
    a.wake_at(2.0)
    a.wake_at(1.0)
    a.wake_at(3.0)
    world.run(5.0)
    assert notes(a).came == [(1.0, "woken")]
    a.wake_at(6.0)
    world.run(5.0)
    assert notes(a).came[1:] == [(6.0, "woken")]


def test_what_a_node_put_off_dies_with_its_life() -> None:
    world, a, _ = two()
    done: list[str] = []
    a.later(1.0, done.append, "first life")
    a.wake_at(1.0)
    a.crash(0.5)
    world.run(0.75)
    a.later(0.5, done.append, "second life")
    world.run(2.0)
    assert done == ["second life"]
    assert notes(a).came == []
    assert a.lives == 2


# ------------------------------------------------------------------------------------------------------- channels


def dial(world: HeapWorld, a: HeapNode, b: HeapNode) -> tuple[HeapChannel, HeapChannel]:
    channel = a.dial(b.name, notes(a))
    world.run(1.0)
    return channel, notes(b).channels[-1]


def test_a_channel_carries_bytes_both_ways_in_order() -> None:
    world, a, b = two(faulty(jitter_s=0.1))
    near, far = dial(world, a, b)
    for number in range(20):
        world.at(number / 1000, near.write, bytes([number]))
    far.write(b"back")
    world.run(1.0)
    assert notes(b).said == [bytes([number]) for number in range(20)]
    assert notes(a).said == [b"back"]
    assert (near.peer, far.peer) == ("b", "a")


def test_what_is_written_at_once_goes_when_the_channel_stands() -> None:
    world, a, b = two(faulty(latency_s=0.1))
    a.dial("b", notes(a)).write(b"hello")
    world.run(1.0)
    assert [at for at, _ in notes(b).came] == [pytest.approx(0.3)]


def test_a_closed_channel_ends_at_the_other_end_behind_what_was_written() -> None:
    world, a, b = two()
    near, far = dial(world, a, b)
    near.write(b"last")
    near.close()
    near.write(b"nothing")
    world.run(1.0)
    assert notes(b).said == [b"last", "the peer closed the connection"]
    assert not far.is_open
    assert notes(a).said == []


def test_loss_and_corruption_end_a_channel_at_both_ends() -> None:
    for plan in (faulty(loss=0.2), faulty(corruption=0.2)):
        world, a, b = two(plan, seed=3)
        near, _ = dial(world, a, b)
        for number in range(100):
            world.at(number / 10, near.write, bytes([number]))
        world.run(20.0)
        count = len(notes(b).said) - 1
        assert 0 < count < 60
        assert notes(b).said == [*(bytes([n]) for n in range(count)), "the network broke the connection"]
        assert notes(a).said == ["the network broke the connection"]


def test_an_unsealed_channel_carries_wrong_bits_and_lives_on() -> None:
    world, a, b = two(p.Plan(network=p.NetworkFaults(corruption=0.5, sealed=False), storm_s=1e6))
    near, _ = dial(world, a, b)
    for _ in range(100):
        near.write(b"\x00\x00")
    world.run(1.0)
    flipped = [int.from_bytes(data, "big").bit_count() for data in notes(b).said]
    assert set(flipped) == {0, 1}
    assert 30 < sum(flipped) < 70
    assert near.is_open


def test_nobody_answers_a_call_to_a_node_that_is_down() -> None:
    world, a, b = two()
    b.crash(10.0)
    a.dial("b", notes(a))
    world.run(1.0)
    assert notes(a).said == ["the peer reset the connection"]
    with pytest.raises(UsageError, match="c is no node"):
        a.dial("c", notes(a))


def test_bytes_wait_for_a_cut_to_be_mended_and_datagrams_are_lost() -> None:
    world, a, b = two(doing(p.Cut("a", "b", at_s=2.0, for_s=3.0)))
    near, far = dial(world, a, b)
    world.run_until(3.0)
    near.write(b"held")
    a.send("b", "lost")
    a.dial("b", notes(a)).write(b"new")
    far.write(b"back")
    world.run_until(4.0)
    assert notes(b).said == []
    assert notes(a).said == [b"back"]
    world.run_until(6.0)
    assert notes(b).said == [b"held", b"new"]
    assert notes(b).came[0][0] > 5.0


def test_a_partition_parts_its_side_from_the_others_both_ways() -> None:
    world = HeapWorld(1, doing(p.Partition(("a",), at_s=0.0, for_s=1.0)))
    a, b, c = (world.add(name, Note) for name in "abc")
    world.run(0.5)
    for node in (a, b, c):
        for other in "abc":
            node.send(other, node.name)
    world.run(0.5)
    assert [sorted(notes(node).said) for node in (a, b, c)] == [["a"], ["b", "c"], ["b", "c"]]
    a.send("b", "mended")
    world.run(0.5)
    assert "mended" in notes(b).said


def test_a_slow_reader_hears_late() -> None:
    world, a, b = two(doing(p.SlowReader("b", at_s=0.0, for_s=3.0, bytes_per_s=10.0)))
    near, _ = dial(world, a, b)
    near.write(b"x" * 10)
    a.send("b", b"y" * 10)
    world.run(4.0)
    assert [round(at, 1) for at, _ in notes(b).came] == [2.0, 3.0]
    near.write(b"z")
    world.run(0.1)
    assert notes(b).said[-1] == b"z"


# ---------------------------------------------------------------------------------------------------------- nodes


def test_a_crash_breaks_channels_and_a_restart_has_nothing_of_the_life_before() -> None:
    world, a, b = two(doing(p.Crash("b", at_s=2.0, down_s=3.0)))
    near, _ = dial(world, a, b)
    world.run_until(4.0)
    assert not b.is_up
    assert notes(a).said == ["the peer reset the connection"]
    a.send("b", "while it is down")
    world.run_until(6.0)
    assert b.is_up
    assert notes(b).said == []
    assert not near.is_open
    assert [(e.at_s, e.kind) for e in world.history if e.node == "b"] == [
        (0.0, "starts"),
        (2.0, "crashes"),
        (5.0, "starts"),
    ]


def test_a_machine_that_goes_off_is_not_heard_of_until_it_is_back() -> None:
    world, a, b = two(doing(p.Crash("b", at_s=2.0, down_s=3.0, machine=True)))
    near, _ = dial(world, a, b)
    world.run_until(4.0)
    near.write(b"into the dark")
    world.run_until(5.5)
    assert notes(a).said == []
    near.write(b"to a stranger")
    world.run_until(6.0)
    assert notes(a).said == ["the peer reset the connection"]


def test_a_crash_comes_so_many_steps_later() -> None:
    world, a, b = two(doing(p.Crash("b", at_s=0.0, down_s=100.0, steps=3)))
    program = notes(b)
    for number in range(6):
        world.at(0.1 + 0.1 * number, a.send, "b", number)
    world.run(10.0)
    assert program.said == [0, 1, 2]
    assert not b.is_up


def test_of_two_crashes_that_count_steps_the_first_to_come_ends_the_life() -> None:
    for steps in ((2, 9), (9, 2)):
        world, a, b = two(doing(*(p.Crash("b", at_s=0.0, down_s=100.0, steps=count) for count in steps)))
        program = notes(b)
        for number in range(12):
            world.at(0.05 + 0.01 * number, a.send, "b", number)
        world.run(10.0)
        assert program.said == [0, 1]


def test_a_node_that_hardly_runs_crashes_a_second_later_at_the_latest() -> None:
    world, _, b = two(doing(p.Crash("b", at_s=2.0, down_s=100.0, steps=200)))
    world.run_until(2.9)
    assert b.is_up
    world.run_until(3.1)
    assert not b.is_up


def test_of_faults_that_overlap_the_later_holds_to_its_end() -> None:
    faults = (p.SlowReader("b", 0.0, 3.0, bytes_per_s=10.0), p.SlowReader("b", 0.5, 1.0, bytes_per_s=10.0))
    world, a, b = two(doing(*faults))
    world.run_until(2.0)
    a.send("b", b"x" * 5)
    world.run_until(4.0)
    assert [round(at, 1) for at, _ in notes(b).came] == [2.5]
    a.send("b", b"x" * 5)
    world.run(0.1)
    assert len(notes(b).came) == 2


def test_a_node_that_is_down_for_ever_stays_so_and_a_clock_runs_true_after_the_storm() -> None:
    actions = (p.Crash("a", 1.0, down_s=math.inf), p.Skew("b", 1.0, 5.0, rate=2.0))
    world, a, b = two(p.Plan(actions=actions, storm_s=3.0))
    world.run_until(10.0)
    assert not a.is_up
    assert b.clock == 1.0 + 5.0 + 2 * 2.0 + 7.0


def test_what_comes_to_a_paused_node_is_handled_after_the_pause_in_order() -> None:
    world, a, b = two(doing(p.Pause("b", at_s=2.0, for_s=3.0)))
    near, _ = dial(world, a, b)
    b.wake_at(3.0)
    world.run_until(2.5)
    for number in range(3):
        world.at(number / 10, near.write, bytes([number]))
    world.at(1.0, a.send, "b", "datagram")
    a.dial("b", notes(a)).write(b"new")
    world.run_until(4.9)
    assert notes(b).said == []
    world.run_until(5.5)
    assert notes(b).said == [b"\x00", b"new", b"\x01", b"\x02", "woken", "datagram"]
    assert {at for at, _ in notes(b).came} == {5.0}


def test_a_skewed_clock_is_wrong_and_alarms_are_not() -> None:
    world, a, b = two(doing(p.Skew("a", at_s=1.0, offset_s=5.0, rate=2.0)))
    a.wake_at(4.0)
    world.run_until(3.0)
    assert a.clock == 10.0
    assert b.clock == 3.0
    world.run_until(5.0)
    assert notes(a).came == [(4.0, "woken")]


def test_a_crash_of_the_machine_takes_what_was_not_synced() -> None:
    for faults, machine, kept in (
        (p.DiskFaults(), True, [b"one", b"two"]),
        (p.DiskFaults(unsynced=True), True, [b"one"]),
        (p.DiskFaults(unsynced=True), False, [b"one", b"two"]),
    ):
        world, a, _ = two(p.Plan(disk=faults, storm_s=1e6))
        a.persist(b"one")
        a.disk.write(b"two")
        a.crash(1.0, machine=machine)
        world.run(2.0)
        assert a.disk.records == kept
        a.crash(1.0, disk="lost")
        assert a.disk.records == []


def test_a_torn_write_leaves_a_part() -> None:
    left = set()
    for seed in range(40):
        _, a, _ = two(p.Plan(disk=p.DiskFaults(unsynced=True, torn=True)), seed)
        a.persist(b"synced")
        a.disk.write(b"12")
        a.disk.write(b"34")
        a.crash(machine=True)
        left.add(b"|".join(a.disk.records))
    assert left == {b"synced|", b"synced|1", b"synced|12|", b"synced|12|3", b"synced|12|34"}


def test_a_disk_is_full_or_gone_for_a_time_and_a_bit_flips() -> None:
    world, a, b = two(doing(p.DiskFull("a", 1.0, 1.0), p.DiskGone("b", 1.0, 1.0), p.BitFlip("a", 3.0)))
    a.persist(b"\x00")
    world.run_until(1.5)
    for node, code in ((a, errno.ENOSPC), (b, errno.EIO)):
        with pytest.raises(OSError, match="the simulated disk") as caught:
            node.persist(b"\x00")
        assert caught.value.errno == code
        with pytest.raises(OSError, match="takes nothing"):
            node.disk.replace([])
    world.run_until(2.5)
    b.persist(b"\x00")
    b.disk.replace([b"\x00"])
    world.run_until(3.5)
    assert a.disk.records[0][0].bit_count() == 1


def test_the_storm_ends_and_with_it_every_fault() -> None:
    plan = p.Plan(
        network=p.NetworkFaults(loss=1.0),
        actions=(
            p.Crash("a", 1.0, down_s=100.0),
            p.Pause("b", 1.0, for_s=100.0),
            p.Cut("a", "b", 1.0, for_s=100.0),
            p.DiskFull("b", 1.0, for_s=100.0),
            p.Crash("b", 3.0),
        ),
        storm_s=2.0,
    )
    world, a, b = two(plan)
    world.run_until(1.9)
    assert world.is_stormy
    assert not a.is_up
    assert b.is_paused
    world.run_until(4.0)
    assert not world.is_stormy
    assert a.is_up
    assert b.lives == 1, "what the plan has after the storm does not come"
    a.send("b", "hello")
    b.persist("record")
    world.run(1.0)
    assert notes(b).said == ["hello"]


# ----------------------------------------------------------------------------------------------------- what must hold


def test_an_invariant_is_checked_after_each_event_and_says_when() -> None:
    world, a, b = two()
    world.always("hears nothing", lambda: not notes(b).came)
    world.at(1.0, a.send, "b", 1)
    with pytest.raises(ViolationError, match="^hears nothing$") as caught:
        world.run(5.0)
    assert "seed 1, at 1.001" in caught.value.hint


def test_never_again_and_eventually() -> None:
    world, a, _ = two()
    world.never_again("paused", lambda: a.is_paused)
    world.at(1.0, a.pause, 1.0)
    world.eventually("the pause ends", lambda: world.now >= 2 and not a.is_paused, within_s=5.0)
    with pytest.raises(ViolationError, match="it: not within 5 s"):
        world.until(lambda: False, within_s=5.0)
    world.at(1.0, a.pause, 1.0)
    with pytest.raises(ViolationError, match="^paused$"):
        world.run(5.0)


def test_a_plan_for_other_nodes_is_refused() -> None:
    world, _, _ = two(doing(p.Pause("z", 1.0, 1.0)))
    with pytest.raises(UsageError, match="names z"):
        world.run(2.0)
    with pytest.raises(UsageError, match="names z"):
        two(doing(p.Partition(("a", "z"), 1.0, 1.0)))[0].run(2.0)
    with pytest.raises(UsageError, match="there is a node a already"):
        world.add("a", Note)


@pytest.mark.parametrize("waits", [False, True])
def test_a_world_that_spins_is_found(waits: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prime.sim.heap._AT_ONCE_MAX", 2**12)
    world, a, _ = two()

    def again() -> None:
        a.later(0.0, again)

    again()
    with pytest.raises(ViolationError, match="spins"):
        if waits:
            world.until(lambda: False)
        else:
            world.run(1.0)


# -------------------------------------------------------------------------------------------------------- a seed


class Gossip(Program):
    """Tells some others a number from time to time, remembers the highest, and keeps it on its disk."""

    def __init__(self) -> None:
        self.node: HeapNode
        self.highest = 0

    def started(self, node: HeapNode) -> None:
        self.node = node
        self.highest = node.disk.records[-1] if node.disk.records else 0
        node.wake_at(node.now + node.random("pace").random())

    def woken(self, now: float) -> None:
        random = self.node.random("talk")
        self.highest += 1
        for other in random.sample(list(self.node.world.nodes), 3):
            self.node.send(other, self.highest.to_bytes(4, "big"))
        self.node.dial(random.choice(list(self.node.world.nodes)), self).write(b"\x00" * random.randrange(9))
        self.node.wake_at(now + 0.5 + random.random())

    def heard(self, source: str, message: Any) -> None:
        number = int.from_bytes(message, "big")
        if number > self.highest:
            self.highest = number
            self.node.note("learns", source, number=number)
            try:
                self.node.persist(number)
            except OSError as error:
                self.node.note("keeps nothing", str(error.errno))

    def dialled(self, channel: HeapChannel) -> None:
        channel.reader = self

    def received(self, data: bytes) -> None:
        self.node.note("reads", str(len(data)))

    def ended(self, cause: str) -> None:
        self.node.note("loses", cause)


def gossip(seed: int) -> HeapWorld:
    names = tuple(f"n{number}" for number in range(8))
    world = HeapWorld(seed, p.draw(seed, p.Space(names)))
    for name in names:
        world.add(name, Gossip)
    world.run(30.0)
    return world


def test_the_same_seed_gives_the_same_trace_in_fresh_processes() -> None:
    code = "from tests.sim.test_heap import gossip\nprint(*(gossip(seed).trace for seed in range(3)))"
    runs = [
        subprocess.run(
            [sys.executable, "-c", code],
            check=True,
            capture_output=True,
            text=True,
            cwd=Path(__file__).resolve().parents[2],
            env={"PYTHONHASHSEED": salt, "PYTHONPATH": "."},
        ).stdout.split()
        for salt in ("1", "2")
    ]
    here = [gossip(seed).trace for seed in range(3)]
    assert runs == [here, here]
    assert len(set(here)) == 3


def test_every_event_is_in_the_trace() -> None:
    world, a, _ = two()
    traces = {world.trace}
    for act in (lambda: a.send("b", 1), lambda: a.send("b", b"1"), lambda: a.wake_at(world.now), lambda: a.note("x")):
        act()
        world.run(1.0)
        traces.add(world.trace)
    assert len(traces) == 5


def test_a_program_that_has_crashed_writes_no_more_and_time_never_goes_back() -> None:
    world = HeapWorld(0, p.Plan())
    times: list[float] = []

    class Ends(Program):
        def started(self, node: HeapNode) -> None:
            if node.lives == 1:
                node.crash(1.0)
                node.persist(b"ghost")

    node = world.add("a", Ends)
    world.at(2.0, lambda: world.at(-1.0, lambda: times.append(world.now)))
    world.run_until(3.0)
    assert (node.lives, list(node.disk.records), times) == (2, [], [2.0])
