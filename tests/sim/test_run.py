"""Runs of small scenarios: what a plan does to the nodes, and that a seed says it all."""

from __future__ import annotations

import math
from collections.abc import Callable

import attrs
import pytest
import trio

from prime import Actor, Ask, message, on, sim
from prime.errors import PrimeError, UsageError, WorldError
from prime.sim import plan as p
from prime.sim.run import load


@message(tag=0x2901)
class Add(Ask[int]):
    number: int


class Sum(Actor[Add]):
    def __init__(self) -> None:
        self.total = 0

    @on(Add)
    async def add(self, message: Add) -> int:
        self.total += message.number
        return self.total


async def serve(node: sim.Node) -> None:
    async with node.system() as system, system.supervisor("app") as sup:
        await sup.spawn(Sum, "sum")
        node.note("ready")
        await trio.sleep_forever()


@attrs.define
class Seen:
    answers: list[int | str] = attrs.Factory(list)


def asking(seen: Seen, every_s: float = 1.0) -> Callable[[sim.Node], object]:
    async def main(node: sim.Node) -> None:
        world = node.world
        async with node.system() as system:
            ref = system.ref(world.node("n2").peer, "/app/sum", Sum)
            while True:
                try:
                    seen.answers.append(await ref.ask(Add(1), timeout=2.0))
                except PrimeError as error:
                    seen.answers.append(type(error).__name__)
                await trio.sleep(every_s)

    return main


def played(plan: p.Plan, seed: int = 0) -> tuple[sim.Outcome, Seen]:
    seen = Seen()

    @sim.scenario(nodes=2)
    async def body(world: sim.World) -> None:
        world.node("n2").start(serve)
        world.node("n1").start(asking(seen))  # type: ignore[arg-type]
        await world.storm()
        await trio.sleep(10)

    outcome = sim.run(seed, body, plan)
    assert outcome.ok, outcome.error
    return outcome, seen


def test_without_faults_every_ask_is_answered() -> None:
    outcome, seen = played(p.Plan(storm_s=10))
    assert seen.answers == list(range(1, len(seen.answers) + 1))
    assert len(seen.answers) == 20
    assert outcome.at_s == 20.0


def test_the_same_seed_gives_the_same_trace_and_another_seed_another() -> None:
    traces = [played(p.Plan(p.NetworkFaults(jitter_s=0.1), storm_s=10), seed)[0].trace for seed in (1, 1, 2)]
    assert traces[0] == traces[1] != traces[2]


@pytest.mark.parametrize("machine", [False, True])
def test_a_crashed_node_forgets_and_comes_back(machine: bool) -> None:
    plan = p.Plan(actions=(p.Crash("n2", 4.5, 3.0, machine=machine),), storm_s=10)
    outcome, seen = played(plan)
    assert seen.answers[:5] == [1, 2, 3, 4, 5]
    assert {"UnreachableError", "LinkLostError", "DeadlineError"} & set(seen.answers)
    assert seen.answers[-1] < 15  # its sum began anew
    assert [(e.kind, e.node) for e in outcome.history if e.kind in {"crashes", "starts"}].count(("starts", "n2")) == 2


def test_a_node_may_crash_at_any_step_of_its_start() -> None:
    for steps in range(1, 60, 2):
        played(p.Plan(actions=(p.Crash("n2", 0.0, 1.0, steps=steps), p.Crash("n1", 0.0, 1.0, steps=steps)), storm_s=5))


@pytest.mark.parametrize(("steps", "at_s"), [((3, 10**6), 0.0), ((10**6, 3), 0.0), ((10**6, 10**7), 1.0)])
def test_each_of_two_crashes_that_count_steps_counts_and_comes_within_a_second(
    steps: tuple[int, int], at_s: float
) -> None:
    crashes = tuple(p.Crash("n2", 0.0, 50.0, steps=count) for count in steps)
    outcome, _ = played(p.Plan(actions=crashes, storm_s=10))
    crashed = [event.at_s for event in outcome.history if event.kind == "crashes"]
    assert crashed == [pytest.approx(at_s, abs=0.002)]


def test_of_faults_that_overlap_the_later_holds_to_its_end() -> None:
    kinds = (p.DiskFull, p.DiskGone, p.SlowReader)
    spans = ((1.0, 6.0), (2.0, 1.0), (3.0, 2.0))
    plan = p.Plan(actions=tuple(kind("n1", at_s, for_s) for at_s, for_s in spans for kind in kinds), storm_s=20)
    seen: list[tuple[bool, bool, bool]] = []

    @sim.scenario(nodes=1)
    async def body(world: sim.World) -> None:
        for at_s in (0.5, 4.0, 5.5, 7.5):
            await trio.sleep_until(at_s)
            disk = world.node("n1").machine_disk
            seen.append((disk.full, disk.gone, "n1" in world.fabric.slow))

    assert sim.run(0, body, plan).ok
    assert seen == [(False,) * 3, (True,) * 3, (True,) * 3, (False,) * 3]


def test_a_node_that_is_down_for_ever_stays_so_and_a_clock_runs_true_after_the_storm() -> None:
    actions = (p.Crash("n1", 1.0, down_s=math.inf), p.Skew("n2", 1.0, 5.0, rate=2.0))
    clocks: list[float] = []

    @sim.scenario(nodes=2)
    async def body(world: sim.World) -> None:
        world.start(serve)
        await trio.sleep_until(10.0)
        assert not world.node("n1").is_up
        clocks.append(world.node("n2").clock.current_time())

    outcome = sim.run(0, body, p.Plan(actions=actions, storm_s=3.0))
    assert outcome.ok, outcome.error
    assert clocks == [1.0 + 5.0 + 2 * 2.0 + 7.0]


def test_a_node_that_stands_still_answers_later() -> None:
    _, seen = played(p.Plan(actions=(p.Pause("n2", 3.5, 1.5),), storm_s=10))
    assert seen.answers == list(range(1, len(seen.answers) + 1))
    assert len(seen.answers) < 20


@pytest.mark.parametrize("at_s", [9.993, 3.208, 0.1, 7.77])
def test_what_begins_at_any_time_ends_in_time(at_s: float) -> None:
    for for_s in (0.79, 0.3):
        plan = p.Plan(actions=(p.Pause("n1", at_s, for_s), p.Crash("n2", at_s, for_s)), storm_s=15)
        outcome, seen = played(plan)
        starts = [event.at_s for event in outcome.history if (event.node, event.kind) == ("n2", "starts")]
        assert starts[1:] == [pytest.approx(at_s + for_s, abs=0.002)]
        assert len(seen.answers) >= 20


@pytest.mark.parametrize("at_s", [2.05, 3.6, 4.2, 5.01])
def test_a_link_outlives_a_node_that_stands_still_for_a_while(at_s: float) -> None:
    outcome, seen = played(p.Plan(p.NetworkFaults(latency_s=0.05), actions=(p.Pause("n2", at_s, 3.9),), storm_s=12))
    assert isinstance(seen.answers[-1], int)
    assert not [event for event in outcome.history if "LinkDown" in event.detail and event.at_s < outcome.at_s]


def test_a_node_that_stands_still_is_dialled_and_answers_later() -> None:
    answered_at: list[float] = []

    async def late(node: sim.Node) -> None:
        async with node.system() as system:
            await trio.sleep(2.0)
            await system.ref(node.world.node("n2").peer, "/app/sum", Sum).ask(Add(1), timeout=5.0)
            answered_at.append(trio.current_time())
            await trio.sleep_forever()

    @sim.scenario(nodes=2)
    async def body(world: sim.World) -> None:
        world.node("n2").start(serve)
        world.node("n1").start(late)
        await world.storm()

    outcome = sim.run(0, body, p.Plan(actions=(p.Pause("n2", 1.5, 2.0),), storm_s=10))
    assert outcome.ok, outcome.error
    assert answered_at == [pytest.approx(3.5, abs=0.05)]


def test_what_is_written_into_a_cut_goes_on_after_it() -> None:
    _, seen = played(p.Plan(actions=(p.Cut("n1", "n2", 3.5, 1.0),), storm_s=10))
    assert seen.answers == list(range(1, len(seen.answers) + 1))


def test_a_partition_longer_than_a_deadline_fails_asks_and_ends() -> None:
    _, seen = played(p.Plan(actions=(p.Partition(("n1",), 3.5, 10.0),), storm_s=10))
    assert "DeadlineError" in seen.answers
    assert isinstance(seen.answers[-1], int)


def test_streams_that_die_are_made_again() -> None:
    outcome, seen = played(p.Plan(p.NetworkFaults(loss=0.2), storm_s=30))
    assert [event for event in outcome.history if event.kind == "loses"]
    assert isinstance(seen.answers[-1], int)


def test_a_program_that_fails_ends_the_run_with_its_node() -> None:
    async def broken(node: sim.Node) -> None:
        await trio.sleep(1)
        raise ValueError("boom")

    @sim.scenario(nodes=1)
    async def body(world: sim.World) -> None:
        world.start(broken)
        await trio.sleep_forever()

    outcome = sim.run(0, body)
    assert not outcome.ok
    assert "ValueError: boom (the program of n1 failed)" in outcome.error
    assert outcome.at_s == 1.0


def test_what_must_always_hold_is_checked_at_each_step() -> None:
    @sim.scenario(nodes=1)
    async def body(world: sim.World) -> None:
        numbers = [0]
        world.always("numbers rise", lambda: numbers == sorted(numbers))
        for number in (1, 3, 2, 4):
            numbers.append(number)
            world.note("adds", number=number)
            await trio.sleep(1)

    outcome = sim.run(0, body)
    assert (outcome.ok, outcome.error, outcome.at_s) == (False, "numbers rise", 2.0)


def test_what_must_always_hold_is_checked_at_steps_that_record_nothing() -> None:
    numbers = [0]

    async def quietly(node: sim.Node) -> None:
        async with node.system(traced=False):
            await trio.sleep(1.5)
            numbers.append(1)
            await trio.lowlevel.checkpoint()
            numbers.clear()
            await trio.sleep_forever()

    @sim.scenario(nodes=1)
    async def body(world: sim.World) -> None:
        world.always("one number", lambda: len(numbers) <= 1)
        world.start(quietly)
        await trio.sleep(5)

    outcome = sim.run(0, body)
    assert (outcome.ok, outcome.error, outcome.at_s) == (False, "one number", 1.5)


def test_a_scenario_that_does_not_end_has_failed() -> None:
    @sim.scenario(nodes=1, storm_s=5, quiet_s=5)
    async def body(world: sim.World) -> None:
        await trio.sleep_forever()

    outcome = sim.run(0, body)
    assert "has not ended after 10 s" in outcome.error


def test_a_program_that_spins_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prime.sim.schedule.PASSES_MAX", 5_000)

    @sim.scenario(nodes=1, storm_s=5, quiet_s=5)
    async def body(world: sim.World) -> None:
        while True:
            await trio.lowlevel.checkpoint()

    outcome = sim.run(0, body)
    assert "spins" in outcome.error


def test_a_program_that_waits_for_ever_under_a_shield_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prime.sim.schedule.PASSES_MAX", 5_000)

    @sim.scenario(nodes=1, storm_s=5, quiet_s=5)
    async def body(world: sim.World) -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep_forever()

    outcome = sim.run(0, body, p.Plan(storm_s=5))
    assert "spins, or waits for ever" in outcome.error
    assert sim.run(0, body, p.Plan(storm_s=5)).trace == outcome.trace


def test_what_is_left_of_a_life_has_no_disk() -> None:
    seen: list[str] = []

    async def main(node: sim.Node) -> None:
        try:
            await trio.sleep_forever()
        finally:
            try:
                node.disk.files()
            except WorldError as error:
                seen.append(str(error))

    @sim.scenario(nodes=1)
    async def body(world: sim.World) -> None:
        world.start(main)
        await trio.sleep(1)
        world.nodes[0].crash(down_s=0.0)
        await trio.sleep(1)
        assert world.nodes[0].lives == 2
        assert world.nodes[0].disk.files()

    assert sim.run(0, body, p.Plan(storm_s=5)).ok
    assert seen == ["n1 has crashed: its earlier life has no machine"]


def test_what_breaks_in_the_last_step_is_seen() -> None:
    @sim.scenario(nodes=1)
    async def body(world: sim.World) -> None:
        holds = [True]
        world.always("it holds", lambda: holds[0])
        await trio.sleep(1)
        holds[0] = False

    assert sim.run(0, body).violated == "it holds"


def test_a_check_has_a_name_of_its_own_and_is_no_coroutine() -> None:
    async def slow() -> bool:
        return False

    @sim.scenario(nodes=1)
    async def twice(world: sim.World) -> None:
        world.always("it holds", lambda: False)
        world.always("it holds", lambda: True)

    @sim.scenario(nodes=1)
    async def waits(world: sim.World) -> None:
        await world.eventually("it holds", slow, 1)

    assert "each has a name of its own" in sim.run(0, twice).error
    assert "must not be async" in sim.run(0, waits).error


def test_a_violation_is_told_by_its_name_out_of_a_nursery() -> None:
    @sim.scenario(nodes=1)
    async def body(world: sim.World) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(world.eventually, "my property", lambda: False, 1)

    @sim.scenario(nodes=1)
    async def beside(world: sim.World) -> None:
        async def bad() -> None:
            raise ValueError("boom")

        world.nursery.start_soon(bad)
        await trio.sleep(1)

    assert sim.run(0, body).violated == "my property"
    assert "ValueError: boom" in sim.run(0, beside).error


@pytest.mark.parametrize("shielded", [True, False])
def test_a_node_that_does_not_end_is_found(monkeypatch: pytest.MonkeyPatch, shielded: bool) -> None:
    monkeypatch.setattr("prime.sim.schedule.PASSES_MAX", 5_000)

    async def main(_node: sim.Node) -> None:
        if shielded:
            with trio.CancelScope(shield=True):
                await trio.sleep_forever()
        for _ in range(3):
            try:
                await trio.sleep_forever()
            except trio.Cancelled:
                continue

    @sim.scenario(nodes=1)
    async def body(world: sim.World) -> None:
        world.start(main)
        await world.storm()

    outcome = sim.run(0, body, p.Plan(storm_s=1))
    assert outcome.ok is not shielded  # one that takes the third cancellation ends after all


def test_one_simulation_runs_at_a_time_and_not_inside_trio() -> None:
    @sim.scenario(nodes=1)
    async def body(world: sim.World) -> None:
        sim.run(1, body)

    async def outer() -> None:
        sim.run(0, body)

    assert "run_apart" in sim.run(0, body).error
    with pytest.raises(UsageError, match="runs Trio by itself"):
        trio.run(outer)


def test_what_is_no_scenario_is_refused() -> None:
    with pytest.raises(UsageError, match="no async function"):
        sim.scenario(lambda world: None)  # type: ignore[arg-type,return-value]
    with pytest.raises(UsageError, match="no scenario has the nodes"):
        sim.scenario(nodes=0)(serve)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="is no scenario"):
        sim.run(0, serve)  # type: ignore[arg-type]


def test_a_remnant_of_a_crashed_life_cannot_touch_the_next() -> None:
    lives: list[int] = []

    async def main(node: sim.Node) -> None:
        lives.append(node.lives)
        disk = node.disk
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + 1):
                await trio.sleep(0.2)
                node.crash(0.1)
                node.pause(5)
                with pytest.raises(WorldError, match="its earlier life"):
                    await disk.journal("g")
                with pytest.raises(WorldError, match="its earlier life"):
                    await node.system().__aenter__()

    @sim.scenario(nodes=1)
    async def body(world: sim.World) -> None:
        world.start(main)
        await trio.sleep(1)
        world.nodes[0].crash(0.1)
        await trio.sleep(2)
        assert lives == [1, 2]
        assert not world.nodes[0].is_paused

    outcome = sim.run(0, body, p.Plan(storm_s=5))
    assert outcome.ok, outcome.error


@pytest.mark.parametrize(
    "action",
    [
        p.Cut("n1", "n2", 1.0, math.inf),
        p.Pause("n2", 1.0, math.inf),
        p.Partition(("n1",), 1.0, math.inf),
        p.DiskFull("n2", 1.0, math.inf),
        p.DiskGone("n2", 1.0, math.inf),
        p.SlowReader("n2", 1.0, math.inf, 1.0),
    ],
)
def test_a_fault_without_an_end_ends_with_the_storm(action: p.Action) -> None:
    _, seen = played(p.Plan(actions=(action,), storm_s=10))
    assert isinstance(seen.answers[-1], int)


@sim.scenario(nodes=1)
async def bears_another_name(world: sim.World) -> None:
    world.note("runs")


renamed = bears_another_name


def test_a_scenario_is_found_by_the_name_it_was_asked_for() -> None:
    found = load(f"{__name__}:renamed")
    assert found.name == f"{__name__}:renamed"
    assert sim.run(0, found).scenario == found.name
    assert load(found.name) == found
    assert load(bears_another_name.name) is bears_another_name
