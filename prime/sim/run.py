"""One run of a scenario under one seed, from its first event to its outcome."""

from __future__ import annotations

import contextlib
import gc
import importlib
import inspect
import pkgutil
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import overload

import attrs
import trio

from prime.actor.groups import one_error
from prime.errors import PrimeError, UsageError, ViolationError
from prime.sim.history import Event, History
from prime.sim.invariants import told
from prime.sim.plan import ALL, Kind, Plan, Space, draw, nodes_of
from prime.sim.schedule import HangError, repeatable, virtual_clock
from prime.sim.traps import traps
from prime.sim.world import World

Body = Callable[[World], Awaitable[None]]
SHIPPED = "prime.sim.scenarios"
DEFAULT = f"{SHIPPED}.round:training_round"
"""The scenario of `prime sim` where none is named."""


@attrs.frozen
class Scenario:
    """A scenario: its body, the faults it may meet, and how long it may take (virtual seconds)."""

    body: Body = attrs.field(repr=False)
    name: str
    space: Space
    quiet_s: float

    @property
    def limit_s(self) -> float:
        """When a run that has not ended has failed."""
        return self.space.storm_s + self.quiet_s

    @property
    def about(self) -> str:
        """The first line of its docstring."""
        return (self.body.__doc__ or "").strip().partition("\n")[0]

    async def __call__(self, world: World) -> None:
        """Run the body."""
        await self.body(world)


@overload
def scenario(body: Body, /) -> Scenario: ...


@overload
def scenario(
    *,
    nodes: int | Sequence[str] = 3,
    kinds: frozenset[Kind] = ALL,
    storm_s: float = 20.0,
    quiet_s: float = 60.0,
    actions_max: int = 12,
    nodes_min: int | None = None,
) -> Callable[[Body], Scenario]: ...


def scenario(
    body: Body | None = None,
    /,
    *,
    nodes: int | Sequence[str] = 3,
    kinds: frozenset[Kind] = ALL,
    storm_s: float = 20.0,
    quiet_s: float = 60.0,
    actions_max: int = 12,
    nodes_min: int | None = None,
) -> Scenario | Callable[[Body], Scenario]:
    """Make a scenario of an async function of a `World`.

    `nodes` are names, or how many (`n1`, `n2`, …). `kinds` are the faults it may meet. The storm, in which they happen,
    takes `storm_s` virtual seconds; the scenario must have ended `quiet_s` after it. Shrinking leaves nodes out only
    down to `nodes_min`. Raises `UsageError` for a kind of fault that there is not.
    """
    unknown = sorted(frozenset(kinds) - ALL)
    if unknown:
        raise UsageError(f"no fault is called {', '.join(unknown)}", hint=f"there are {', '.join(sorted(ALL))}")
    names = tuple(f"n{i + 1}" for i in range(nodes)) if isinstance(nodes, int) else tuple(nodes)
    space = Space(names, frozenset(kinds), storm_s, actions_max, nodes_min)

    if not names or "" in names or len(set(names)) < len(names):
        raise UsageError(
            f"no scenario has the nodes {list(names)}", hint="one node or more, each with a name of its own"
        )

    def made(body: Body) -> Scenario:
        if not inspect.iscoroutinefunction(body):
            raise UsageError(f"{body!r} is no async function", hint="write `async def scenario(world)`")
        return Scenario(body, f"{body.__module__}:{body.__qualname__}", space, quiet_s)

    return made(body) if body is not None else made


def load(name: str) -> Scenario:
    """Import the scenario `module:name`. Raises `UsageError`."""
    module, _, attribute = name.partition(":")
    if not module or not attribute:
        raise UsageError(f"there is no scenario {name}", hint="write module:name, with the module on the path")
    found = getattr(_imported(module), attribute, None)
    if found is None:
        there = ", ".join(one.name for one in scenarios_in(module))
        raise UsageError(f"there is no scenario {name}", hint=f"{module} has {there or 'none'}")
    if not isinstance(found, Scenario):
        raise UsageError(f"{name} is no scenario", hint="decorate it with @prime.sim.scenario")
    # Its body may bear another name, which the module need not have.
    return found if found.name == name else attrs.evolve(found, name=name)


def scenarios_in(module: str) -> list[Scenario]:
    """Return the scenarios that a module has. Raises `UsageError` if it cannot be imported."""
    return [value for value in vars(_imported(module)).values() if isinstance(value, Scenario)]


def shipped() -> list[str]:
    """Return the modules of Prime's own scenarios."""
    package = _imported(SHIPPED)
    return [f"{SHIPPED}.{found.name}" for found in pkgutil.iter_modules(package.__path__)]


def _imported(module: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and module.startswith(error.name or "?"):
            raise UsageError(
                f"there is no module {module}", hint="write module:name, with the module on the path"
            ) from None
        raise UsageError(
            f"{module} cannot be imported: {type(error).__name__}: {error}",
            hint=f"python -c 'import {module}' shows where it fails",
        ) from error


@attrs.frozen
class Outcome:
    """What came of a run. `trace` is the hash of its whole history; `error` is empty where `ok`."""

    seed: int
    scenario: str
    events: int
    trace: str
    ok: bool
    error: str = ""
    violated: str = ""
    """The name of what did not hold, or the class of what was raised and where: the same for failures of one cause."""
    at_s: float = 0.0
    """The virtual time at which it ended."""
    plan: Plan = attrs.field(default=Plan(), repr=False)
    history: tuple[Event, ...] = attrs.field(default=(), repr=False)
    cause: BaseException | None = attrs.field(default=None, repr=False, eq=False)
    is_drawn: bool = True
    """Whether the plan was drawn from the seed; else it was given."""

    @property
    def command(self) -> str:
        """The command that replays it; a plan that was given is to be in the file PLAN.json (`--plan`)."""
        named = "" if self.scenario == DEFAULT else f" --scenario {self.scenario}"
        given = "" if self.is_drawn else " --plan PLAN.json"
        return f"prime sim replay {self.seed}{named}{given}"


def run(seed: int, scenario: Scenario, plan: Plan | None = None) -> Outcome:
    """Run a scenario under a seed, and a plan (drawn from the seed by default). Not inside another Trio run.

    The same seed, scenario, plan and version of Python give the same trace. Raises `UsageError` for a Trio on which the
    simulator was not tried, a seed below 0, a plan of other nodes, and under `python -O` for a scenario that is not
    Prime's own; what fails inside the run is in the outcome.
    """
    if not isinstance(scenario, Scenario):
        raise UsageError(f"{scenario!r} is no scenario", hint="decorate it with @prime.sim.scenario")
    if not __debug__ and not scenario.name.startswith(f"{SHIPPED}."):
        raise UsageError(
            f"this Python leaves out assertions, by which {scenario.name} may say what must hold",
            hint="run it without -O and PYTHONOPTIMIZE",
        )
    if seed < 0:
        raise UsageError(f"no seed is {seed}", hint="seeds are whole numbers from 0")
    chosen = draw(seed, scenario.space) if plan is None else plan
    _check_nodes(chosen, scenario.space)
    params = dict(chosen.params)
    history = History()
    was_on = gc.isenabled()
    gc.disable()  # when it runs depends on the process, and so would what it finalises
    try:
        with repeatable(seed):
            failure, at_s = _run(seed, scenario, chosen, history, params)
    finally:
        if was_on:
            gc.enable()
    return Outcome(
        seed=seed,
        scenario=scenario.name,
        events=history.count,
        trace=history.trace,
        ok=failure is None,
        error="" if failure is None else _words(failure),
        violated="" if failure is None else _name(failure),
        at_s=at_s,
        plan=attrs.evolve(chosen, params=params),
        history=history.events,
        cause=failure,
        is_drawn=plan is None,
    )


def _run(
    seed: int, scenario: Scenario, plan: Plan, history: History, params: dict[str, int]
) -> tuple[BaseException | None, float]:
    clock = virtual_clock()
    try:
        with contextlib.ExitStack() as stack:  # around the run: what ends with it is trapped too
            return trio.run(_main, seed, scenario, plan, history, params, stack, clock=clock)
    except trio.TrioInternalError as error:
        if not isinstance(error.__cause__, HangError):
            raise
    what = "the program hangs: it runs on at one moment of virtual time and swallows every cancellation"
    return ViolationError(what, name="it ends"), history.last_at_s


def _check_nodes(plan: Plan, space: Space) -> None:
    there = [name for name in space.nodes if name not in plan.without]
    if plan.without and len(there) < (len(space.nodes) if space.nodes_min is None else space.nodes_min):
        raise UsageError("the plan leaves out nodes that the scenario needs", hint="give the scenario `nodes_min`")
    for action in plan.actions:
        for name in nodes_of(action):
            if name not in there:
                raise UsageError(
                    f"the plan has {action}, and no node is called {name}", hint=f"nodes: {', '.join(there)}"
                )


async def _main(
    seed: int,
    scenario: Scenario,
    plan: Plan,
    history: History,
    params: dict[str, int],
    stack: contextlib.ExitStack,
) -> tuple[BaseException | None, float]:
    failure: BaseException | None = None
    try:
        async with one_error(), trio.open_nursery() as nursery:
            world = World(seed, scenario.space, plan, history, nursery)
            stack.enter_context(traps(world.whereabouts, world.fail))
            await nursery.start(world.courier.run)
            nursery.start_soon(world.weather)
            try:
                await _play(world, scenario)
            finally:
                history.is_closed = True
                world.scheduler.close()
                ended_at_s = trio.current_time()
                params.update(world.chosen)
            nursery.cancel_scope.cancel()
    except Exception as error:  # noqa: BLE001 - the border of the run: a task that the scenario put into it has failed
        failure = told(error)
    return world.failure or failure, ended_at_s


async def _play(world: World, scenario: Scenario) -> None:
    limit_s = world.plan.storm_s + scenario.quiet_s
    try:
        with trio.move_on_after(limit_s) as scope:
            await scenario.body(world)
            world.check()
        if scope.cancelled_caught:
            world.fail(ViolationError(f"the scenario has not ended after {limit_s:g} s", name="it ends"))
    except Exception as error:  # noqa: BLE001 - the border of the run: what a scenario raises is its outcome
        world.fail(error)


def _words(error: BaseException) -> str:
    name = "" if isinstance(error, ViolationError) else f"{type(error).__name__}: "
    notes = "".join(f" ({note})" for note in getattr(error, "__notes__", ()))
    hint = f": {error.hint}" if isinstance(error, PrimeError) and error.hint else ""
    return f"{name}{error}{notes}{hint}"


def _name(error: BaseException) -> str:
    if isinstance(error, ViolationError):
        return error.name
    where = error.__traceback__
    while where is not None and where.tb_next is not None:
        where = where.tb_next
    place = "" if where is None else f" at {Path(where.tb_frame.f_code.co_filename).name}:{where.tb_lineno}"
    return f"{type(error).__name__}{place}"
