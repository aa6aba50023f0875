"""Pytest fixtures: a system on the virtual clock, a supervisor in it, its facts, a probe; each test leaves nothing.

::

    pytest_plugins = ["prime.testing.fixtures"]  # in conftest.py at the root of the tests

    async def test_counts(supervisor, probe):
        counter = await supervisor.spawn(Counter, "counter")
        await counter.tell(Count(reply_to=probe.ref))
        assert (await probe.expect(Counted)).number == 1

Needs pytest and pytest-trio (`trio_mode = true` runs the async tests). Override `system_seed` for another seed.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar

import trio
from trio.testing import MockClock

from prime.actor import Supervisor, System
from prime.node.system import open_system
from prime.testing import clock
from prime.testing.extras import needed_by
from prime.testing.leaks import check_nothing_left
from prime.testing.probe import Probe
from prime.testing.recorder import Facts

with needed_by(__name__):
    import pytest
    import pytest_trio

F = TypeVar("F", bound=Callable[..., Any])

__all__ = ["facts", "probe", "supervisor", "system", "system_seed", "virtual_clock"]


def _in_trio(function: F) -> F:
    """Make an async function a fixture also where `trio_mode` is off."""
    fixture: F = pytest_trio.trio_fixture(function)
    return fixture


@pytest.fixture
def virtual_clock(request: pytest.FixtureRequest) -> MockClock:
    """Run the test on a clock that jumps when every task waits.

    pytest-trio takes a clock only from what the test itself asks for. Here another fixture may ask for it, so the test
    is told how to be run.
    """
    virtual = clock.virtual_clock()
    if request.node.get_closest_marker("trio") is not None:

        def run(
            test: Callable[[], Any], *, clock: trio.abc.Clock | None, instruments: list[trio.abc.Instrument]
        ) -> Any:
            return trio.run(test, clock=clock or virtual, instruments=instruments)

        request.node.add_marker(pytest.mark.trio(run=run), append=False)
    return virtual


@pytest.fixture
def system_seed() -> int:
    """Give the seed of the runtime's own randomness, such as the jitter of restarts."""
    return 0


@_in_trio
async def system(virtual_clock: MockClock, system_seed: int) -> AsyncIterator[System]:  # noqa: ARG001 - for its effect
    """Open a system for one test; afterwards no actor, timer, ask or watch may be left in it."""
    async with open_system(seed=system_seed) as opened:
        yield opened
        await clock.settle()
        check_nothing_left(opened)


@_in_trio
async def supervisor(system: System) -> AsyncIterator[Supervisor]:
    """Run a supervisor at `/test` for the length of one test."""
    async with system.supervisor("test") as running:
        yield running


@_in_trio
async def facts(system: System) -> AsyncIterator[Facts]:
    """Record the facts of the system."""
    recorder = Facts(system)
    yield recorder
    recorder.close()


@_in_trio
async def probe(supervisor: Supervisor) -> Probe:
    """Start a probe at `/test/probe`."""
    return await Probe.spawn(supervisor)
