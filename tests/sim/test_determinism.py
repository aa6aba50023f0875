"""The same seed gives the same trace: in fresh processes, whatever their hashes of strings, and twice in each.

Fresh processes, because pytest-trio makes Trio's scheduler deterministic by itself, and would hide that we do not.
"""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import trio

from prime import sim
from prime.errors import UsageError
from prime.sim import scenarios, schedule

HERE = Path(__file__).parent
SEEDS = (0, 1)
PLANTED = tuple(f"planted.{path.stem}:mended" for path in sorted((HERE / "planted").glob("[!_]*.py")))
SHIPPED = tuple(
    sorted(
        {
            value.name
            for found in pkgutil.iter_modules(scenarios.__path__)
            for value in vars(importlib.import_module(f"{scenarios.__name__}.{found.name}")).values()
            if isinstance(value, sim.Scenario)
        }
    )
)

RUN_ALL = """
import json, sys
from prime import sim
from prime.sim.run import load
assert "pytest_trio" not in sys.modules
names, seeds, backwards = json.loads(sys.argv[1])
pairs = [(name, seed) for name in names for seed in seeds]
if backwards:
    pairs.reverse()
told = {}
for name, seed in pairs:
    outcomes = [sim.run(seed, load(name)) for _ in range(2)]
    told[f"{name} {seed}"] = [[o.trace, o.events, o.at_s, o.error] for o in outcomes]
print(json.dumps(told))
"""


def told_by(program: str, *arguments: object, hash_seed: int | str = 0) -> object:
    """Run a program in a fresh process, and return the JSON object in its last line."""
    done = subprocess.run(
        [sys.executable, "-c", program, *(json.dumps(argument) for argument in arguments)],
        env={
            **os.environ,
            "PYTHONHASHSEED": str(hash_seed),
            "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parent.parent)]),
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=170,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def check_determinism(names: list[str], seeds: tuple[int, ...]) -> None:
    with ThreadPoolExecutor() as both:  # the processes have nothing to do with each other
        runs = [
            both.submit(told_by, RUN_ALL, [names, seeds, back], hash_seed=hashes)
            for hashes, back in ((1, False), (4711, True))
        ]
    first, second = (run.result() for run in runs)
    assert isinstance(first, dict) and isinstance(second, dict)
    assert len(first) == len(names) * len(seeds)
    for pair, (once, again) in first.items():
        assert once == again, f"{pair} differs when it is run twice in one process"
    for pair in first:
        assert second[pair] == first[pair], f"{pair} differs in another process"
    for name in names:  # one seed says nothing of this
        traces = {first[f"{name} {seed}"][0][0] for seed in seeds}
        assert len(traces) == len(seeds), f"{name} has the same trace under different seeds"


@pytest.mark.parametrize("name", ["bazaar:bazaar", *PLANTED])
def test_a_seed_says_it_all(name: str) -> None:
    check_determinism([name], SEEDS)


def test_a_scenario_that_takes_its_order_from_a_set_is_found_out() -> None:
    with pytest.raises(AssertionError, match="differs in another process"):
        check_determinism(["bazaar:careless"], SEEDS)


@pytest.mark.parametrize("name", SHIPPED)
def test_a_seed_says_it_all_of_a_scenario_that_is_shipped(name: str) -> None:
    check_determinism([name], SEEDS[:1])


# --------------------------------------------------------------------------------------- what Trio has to give for it


ORDERS = """
import json, trio
from prime.sim.schedule import repeatable, virtual_clock

async def main():
    order = []
    async def note(number):
        for _ in range(3):
            order.append(number)
            await trio.lowlevel.checkpoint()
    async with trio.open_nursery() as nursery:
        for number in range(6):
            nursery.start_soon(note, number)
    return order

def under(seed):
    with repeatable(seed):
        return trio.run(main, clock=virtual_clock())

print(json.dumps({
    "without": [trio.run(main) for _ in range(8)],
    "seed 1": [under(1) for _ in range(8)],
    "seed 2": [under(2) for _ in range(8)],
    "without again": [trio.run(main) for _ in range(8)],
}))
"""


def test_the_schedule_follows_from_the_seed_and_from_nothing_else() -> None:
    """Fails where an upgrade of Trio has changed what `prime.sim.schedule` steers."""
    orders, others = (told_by(ORDERS, hash_seed=hashes) for hashes in (1, 4711))
    assert isinstance(orders, dict) and isinstance(others, dict)
    distinct = {name: len({tuple(order) for order in found}) for name, found in orders.items()}
    assert distinct["seed 1"] == distinct["seed 2"] == 1
    assert distinct["without"] > 1 and distinct["without again"] > 1  # else this test would show nothing
    assert orders["seed 1"] != orders["seed 2"]
    assert (orders["seed 1"], orders["seed 2"]) == (others["seed 1"], others["seed 2"])
    assert orders["without"] != others["without"]


@sim.scenario(nodes=1, storm_s=1.0)
async def idle(world: sim.World) -> None:
    await world.storm()


@pytest.mark.parametrize("version", ["0.30.9", "0.36.0", "0.36.0+dev", "1.0", "2.31.0", "unknown"])
def test_a_trio_that_was_not_tried_is_refused_when_a_simulation_runs(
    version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trio, "__version__", version)
    with pytest.raises(UsageError, match=f"this is Trio {version.replace('+', '.')}") as raised:
        sim.run(0, idle)
    assert raised.value.hint.startswith("pip install 'trio>=0.31,<0.36'")


def test_the_trio_that_is_installed_is_one_that_was_tried() -> None:
    schedule.check_trio(trio.__version__)
    assert sim.run(0, idle).ok


def test_a_run_leaves_trios_scheduler_as_it_was() -> None:
    from trio._core import _run as private

    before = private._r.getstate(), private._ALLOW_DETERMINISTIC_SCHEDULING
    sim.run(0, idle)
    assert (private._r.getstate(), private._ALLOW_DETERMINISTIC_SCHEDULING) == before
