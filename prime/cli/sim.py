"""`prime sim`: scenarios in a deterministic world, by their seeds."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from prime.cli.border import EXIT_INTERRUPTED
from prime.cli.here import look_here
from prime.cli.options import AsJson
from prime.cli.output import emit, json_line, say

if TYPE_CHECKING:
    from prime.cli.sim_view import Tally
    from prime.sim import Outcome, Plan, Scenario
    from prime.sim.shrink import Shrinking

app = typer.Typer(help="Run actors in a deterministic world, where every failure has a seed.", no_args_is_help=True)

EXIT_VIOLATED: Final = 1
EVENTS_SHOWN: Final = 15

ScenarioName = Annotated[
    str, typer.Option("--scenario", metavar="MODULE:NAME", help="The scenario; without it a training round.")
]
PlanFile = Annotated[
    Path | None,
    typer.Option("--plan", metavar="FILE.json", help="What goes wrong; without it that is drawn from the seed."),
]
Seed = Annotated[int, typer.Argument(min=0, help="The seed.", show_default=False)]


@app.command()
def run(
    seed: Annotated[int, typer.Option("--seed", min=0, help="All that is drawn follows from it.")] = 0,
    scenario: ScenarioName = "",
    plan: PlanFile = None,
    as_json: AsJson = False,
) -> None:
    """Run a scenario under one seed; the exit status is 1 if what must hold did not."""
    from prime.cli.sim_view import lines, told

    outcome = _played(seed, _scenario(scenario), _plan(plan))
    emit(told(outcome), "\n".join(lines(outcome, plan)), as_json=as_json)
    raise typer.Exit(0 if outcome.ok else EXIT_VIOLATED)


@app.command()
def search(
    seeds: Annotated[int, typer.Option("--seeds", min=1, max=10**9, help="How many seeds.")] = 1_000,
    first: Annotated[int, typer.Option("--from", min=0, help="The first of them.")] = 0,
    jobs: Annotated[
        int | None, typer.Option("--jobs", min=1, max=1024, help="Processes; without it one for each processor.")
    ] = None,
    scenario: ScenarioName = "",
    keep_going: Annotated[bool, typer.Option("--keep-going/--first", help="Go on after a failure.")] = True,
    deadline_s: Annotated[float, typer.Option("--deadline-s", min=0.1, help="Real seconds that a run may take.")] = 60,
    as_json: AsJson = False,
) -> None:
    """Run many seeds in parallel processes, and print each that fails with the command that replays it."""
    import functools
    import signal

    import trio

    from prime.cli.sim_view import Tally

    found = _scenario(scenario)
    tally = Tally(seeds, found.name)
    numbers = range(first, first + seeds)
    look = functools.partial(_look, tally, numbers, jobs, deadline_s, keep_going=keep_going, as_json=as_json)
    trio.run(look)
    emit(tally.result(), tally.text(), as_json=as_json)
    if tally.ended_by.startswith("SIG"):
        raise typer.Exit(128 + signal.Signals[tally.ended_by])
    raise typer.Exit(EXIT_VIOLATED if tally.failures else 0)


async def _look(
    tally: Tally, numbers: range, jobs: int | None, deadline_s: float, *, keep_going: bool, as_json: bool
) -> None:
    """Search until all seeds have run, the first failure if so asked, or a signal; the processes end with it."""
    import trio

    from prime.actor.groups import one_error
    from prime.cli.sim_view import FAILURES_SHOWN, failure_line, progress
    from prime.sim import search as search_seeds

    show = say if as_json else lambda line: print(line, flush=True)  # noqa: T201 - the result, line by line
    began = trio.current_time()
    async with one_error(), trio.open_nursery() as nursery:
        await nursery.start(_until_signal, tally, nursery.cancel_scope)
        with progress(tally) as shown:
            async with search_seeds(tally.scenario, numbers, jobs=jobs, deadline_s=deadline_s) as outcomes:
                async for outcome in outcomes:
                    tally.seconds = trio.current_time() - began
                    tally.add(outcome)
                    shown()
                    if not outcome.ok and tally.failures <= FAILURES_SHOWN:
                        show(failure_line(outcome))
                    if not outcome.ok and not keep_going:
                        tally.ended_by = "first"
                        break
        nursery.cancel_scope.cancel()
    tally.seconds = trio.current_time() - began


async def _until_signal(tally: Tally, scope: Any, task_status: Any) -> None:
    """End the search at Ctrl-C or a request to end, wherever it is."""
    import signal

    import trio

    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        task_status.started()
        async for number in signals:
            tally.ended_by = signal.Signals(number).name
            scope.cancel()


@app.command()
def replay(
    seed: Seed,
    scenario: ScenarioName = "",
    plan: PlanFile = None,
    events: Annotated[int, typer.Option("--events", min=0, help="Events shown of a failure, its last.")] = EVENTS_SHOWN,
    as_json: AsJson = False,
) -> None:
    """Run a seed twice, each in a fresh process: say whether both went the same way, and what led to the failure."""
    from attrs import asdict

    from prime.cli.sim_view import difference, event_line, lines, told, up_to_failure

    one, other = _twice(seed, _scenario(scenario), _plan(plan))
    repeatable = bool(one.trace) and one.trace == other.trace
    last = up_to_failure(one.history)[-events:] if events and not one.ok else ()
    text = [*lines(one, plan), *(event_line(event) for event in last)]
    if repeatable:
        text.append("repeatable: both runs have this trace")
    elif one.trace and other.trace:
        text.append(f"NOT repeatable: another run has trace {other.trace}\n{difference(one.history, other.history)}")
        text.append("something in it depends on the process: the order of a set, an id, a clock, a file")
    result = {**told(one), "repeatable": repeatable, "traces": [one.trace, other.trace]}
    if last:
        result["history"] = [asdict(event) for event in last]
    emit(result, "\n".join(text), as_json=as_json)
    raise typer.Exit(0 if one.ok and other.ok and repeatable else EXIT_VIOLATED)


def _twice(seed: int, scenario: Scenario, plan: Plan | None) -> tuple[Outcome, Outcome]:
    """Run a seed in two processes that differ in what Python itself draws."""
    import trio

    from prime.sim import run_apart

    found: dict[int, Outcome] = {}

    async def apart(hash_seed: int) -> None:
        environment = {"PYTHONHASHSEED": str(hash_seed)}
        found[hash_seed] = await run_apart(seed, scenario.name, plan, environment=environment)

    async def both() -> None:
        async with trio.open_nursery() as nursery:
            for hash_seed in (1, 2):
                nursery.start_soon(apart, hash_seed)

    trio.run(both)
    return found[1], found[2]


@app.command()
def timeline(
    seed: Seed,
    scenario: ScenarioName = "",
    plan: PlanFile = None,
    actor: Annotated[str, typer.Option("--actor", metavar="PATH", help="Only its messages: a part of a path.")] = "",
    node: Annotated[str, typer.Option("--node", metavar="NAME", help="Only what that node sends and meets.")] = "",
    kind: Annotated[list[str] | None, typer.Option("--kind", help="Only such events; may be given again.")] = None,
    last: Annotated[int, typer.Option("--last", min=0, help="Only so many lines, the last ones; 0 for all.")] = 0,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print each event, and then the outcome, as a line of JSON.")
    ] = False,
) -> None:
    """Draw a run: a lane for each node, time downwards, messages and faults; `--json` prints its events, one a line."""
    from prime.cli.output import console
    from prime.cli.sim_view import lines, told
    from prime.sim.timeline import as_plain, drawn, rows

    found = _scenario(scenario)
    outcome = _played(seed, found, _plan(plan))
    names = [name for name in found.space.nodes if name not in outcome.plan.without]
    shown = rows(outcome.history, names, actor=actor, node=node, kinds=kind or ())[-last:]
    if as_json:
        for row in shown:
            print(json_line(as_plain(row, names)))  # noqa: T201 - the result, line by line
    else:
        page = console()
        for line in drawn(shown, names, page.width):
            page.print(line, no_wrap=True, overflow="crop", highlight=False)
    emit(told(outcome), "\n".join(lines(outcome, plan)), as_json=as_json)
    raise typer.Exit(0 if outcome.ok else EXIT_VIOLATED)


@app.command()
def shrink(
    seed: Seed,
    scenario: ScenarioName = "",
    plan: PlanFile = None,
    runs: Annotated[int, typer.Option("--runs", min=1, help="Attempts at most.")] = 500,
    within_s: Annotated[float, typer.Option("--within-s", min=1, help="Real seconds at most.")] = 60,
    as_json: AsJson = False,
) -> None:
    """Find a smaller plan under which a seed still fails in the same way, and print it as a test to keep."""
    from prime.cli.sim_view import told
    from prime.errors import RunFailedError
    from prime.sim.notation import as_test, to_plain
    from prime.sim.shrink import Shrinking

    found = _scenario(scenario)
    failed = _once(seed, found, _plan(plan))
    if not failed.ok and not failed.trace:
        raise RunFailedError(
            f"seed {seed}: {failed.error}", hint="what ends its process, or hangs it, cannot be shrunk"
        )
    shrinking = Shrinking(failed, found, runs_max=runs, within_s=within_s, notice=_Smaller())
    interrupted = not _shrunk(shrinking)
    best = shrinking.best
    result = {**told(best), "plan": to_plain(best.plan), "runs": shrinking.runs, "test": as_test(best)}
    emit(result, as_test(best).rstrip(), as_json=as_json)
    raise typer.Exit(EXIT_INTERRUPTED if interrupted else 0)


def _shrunk(shrinking: Shrinking) -> bool:
    """Shrink to the end; an interrupt leaves the best so far, and `False`."""
    try:
        with _quiet():
            shrinking.search()
            shrinking.walk()
    except KeyboardInterrupt:
        return False
    return True


class _Smaller:
    """Says how a failure gets smaller; a line for each fault or node less."""

    def __init__(self) -> None:
        self._left = ""

    def __call__(self, shrinking: Shrinking) -> None:
        """Look at the best so far."""
        from prime.cli.sim_view import size

        left = size(shrinking.best.plan)
        if left != self._left:
            say(f"{shrinking.runs} runs: {left}")
        self._left = left


def _once(seed: int, scenario: Scenario, plan: Plan | None) -> Outcome:
    """Run a seed in a process of its own: it may be one that ends its process."""
    import functools

    import trio

    from prime.sim import run_apart

    return trio.run(functools.partial(run_apart, seed, scenario.name, plan))


@app.command("list")
def list_scenarios(
    modules: Annotated[
        list[str] | None, typer.Argument(metavar="[MODULE]...", help="Where to look; else those that are shipped.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List scenarios, with what each is about."""
    from prime.sim.run import scenarios_in, shipped

    look_here()
    found = {scenario.name: scenario.about for module in (modules or shipped()) for scenario in scenarios_in(module)}
    text = "\n".join(f"{name}\n  {about or '(it has no docstring)'}" for name, about in found.items())
    emit({"scenarios": found}, text or "no scenarios", as_json=as_json)


def _scenario(name: str) -> Scenario:
    """Return the scenario of that name; modules in the current folder are found."""
    from prime.sim.run import DEFAULT, load

    look_here()
    return load(name or DEFAULT)


def _plan(file: Path | None) -> Plan | None:
    """Read a plan. Raises `NotFoundError`, `UsageError`."""
    import json

    from prime.errors import NotFoundError, UsageError
    from prime.sim.notation import from_plain

    if file is None:
        return None
    try:
        return from_plain(json.loads(file.read_text(encoding="utf-8")))
    except OSError as error:
        raise NotFoundError(f"{file}: {error.strerror}", hint="--plan names a file of JSON") from None
    except ValueError as error:  # JSON's own, and of bytes that are no text
        raise UsageError(f"{file} is no JSON: {error}", hint="`prime sim shrink SEED --json` prints a plan") from None


def _played(seed: int, scenario: Scenario, plan: Plan | None) -> Outcome:
    from prime.sim import run as play

    with _quiet():
        return play(seed, scenario, plan)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Send what a scenario prints to standard error: standard output has the result."""
    with contextlib.redirect_stdout(sys.stderr):
        yield
