"""Runs in processes of their own: one run apart from this program, or many seeds side by side, until one fails.

A process is fresh Python that imports the scenario by its name and talks in JSON lines (`worker.py`). One that dies, or
that does not come to an end in real time, fails the seed that it was on, and another takes its place.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from typing import Any, Final

import attrs
import trio

from prime.actor.groups import one_error
from prime.errors import RunFailedError, UsageError
from prime.process.launch import Child, check_clock, launch
from prime.process.output import Output
from prime.sim.notation import to_plain
from prime.sim.plan import Plan
from prime.sim.run import Outcome, Scenario, load
from prime.sim.worker import outcome_of

DEADLINE_S: Final = 60.0
"""Real seconds that one run may take."""
START_S: Final = 60.0
"""Real seconds until a process has started and imported the scenario."""
LINE_BYTES_MAX: Final = 16 * 2**20
_CHUNK_BYTES: Final = 65_536


class _Lost(Exception):  # noqa: N818 - an end, not an error of a program
    """The process is gone, or is to be."""


class Worker:
    """A process that runs the seeds of one scenario one after the other; made by `open_worker`."""

    def __init__(self, child: Child, scenario: str) -> None:
        self.is_lost = False
        self._child = child
        self._scenario = scenario
        self._stream = trio.SocketStream(trio.socket.from_stdlib_socket(child.socket))
        self._output = Output(child.printed, "", lambda _: None, "facts")
        self._data = bytearray()

    async def prepare(self) -> None:
        """Wait until it has imported the scenario. Raises `UsageError` if it cannot, `RunFailedError` if it dies."""
        try:
            with trio.fail_after(START_S):
                await self._write({"scenario": self._scenario})
                _agreed(await self._read())
        except trio.TooSlowError:
            raise RunFailedError(
                f"{self._scenario} was not imported within {START_S:g} s", hint="a module does its work when called"
            ) from None
        except _Lost as lost:
            raise RunFailedError(
                f"a process for {self._scenario} {lost}", hint="import the scenario's module to see why"
            ) from None

    async def run(self, seed: int, plan: Plan | None, *, history: bool, deadline_s: float) -> Outcome:
        """Run a seed; a process that is lost makes a failed outcome without a trace. Raises `UsageError`."""
        request = {"seed": seed, "plan": None if plan is None else to_plain(plan), "history": history}
        events: list[list[Any]] = []
        try:
            with trio.fail_after(deadline_s):
                await self._write(request)
                while "outcome" not in (answer := _agreed(await self._read())):
                    events += answer["events"]
        except trio.TooSlowError:
            return self._failed(seed, plan, f"the run has not ended after {deadline_s:g} s of real time", "it ends")
        except _Lost as lost:
            return self._failed(seed, plan, f"the process of the run {lost}", "its process lives")
        return outcome_of(answer["outcome"], events)

    def _failed(self, seed: int, plan: Plan | None, error: str, violated: str) -> Outcome:
        self.is_lost = True
        return Outcome(
            seed,
            self._scenario,
            0,
            "",
            ok=False,
            error=error,
            violated=violated,
            plan=plan or Plan(),
            is_drawn=plan is None,
        )

    async def _write(self, request: dict[str, Any]) -> None:
        try:
            await self._stream.send_all(json.dumps(request, allow_nan=False).encode() + b"\n")
        except trio.BrokenResourceError:
            raise _Lost(await self._ended()) from None

    async def _read(self) -> dict[str, Any]:
        while (end := self._data.find(b"\n")) < 0:
            try:
                more = await self._stream.receive_some(_CHUNK_BYTES)
            except trio.BrokenResourceError:
                more = b""
            if not more or len(self._data) > LINE_BYTES_MAX:
                raise _Lost(await self._ended())
            self._data += more
        line = bytes(self._data[:end])
        del self._data[: end + 1]
        return json.loads(line)  # type: ignore[no-any-return]  # an object, by our own hand

    async def _ended(self) -> str:
        how = await self._child.reap()
        await self._output.rest()
        return f"ended with {how}{self._output.said()}"

    async def live(self) -> None:
        """Take what it prints, until it ends."""
        await self._output.collect(self._child.pid)

    async def aclose(self) -> None:
        """Kill it and wait until it is gone."""
        with trio.CancelScope(shield=True):  # a killed process is gone as soon as the kernel has ended it
            await self._child.reap()
        await trio.aclose_forcefully(self._stream)


def _agreed(answer: dict[str, Any]) -> dict[str, Any]:
    if "refused" in answer:
        raise UsageError(answer["refused"], hint=answer["hint"])
    return answer


@contextlib.asynccontextmanager
async def open_worker(scenario: str, environment: Mapping[str, str] | None = None) -> AsyncIterator[Worker]:
    """Start a process for a scenario; it ends with the block."""
    check_clock()
    worker = Worker(launch(environment or {}, __name__.replace("search", "worker")), scenario)
    async with one_error(), trio.open_nursery() as nursery:
        nursery.start_soon(worker.live)
        try:
            await worker.prepare()
            yield worker
        finally:
            await worker.aclose()
            nursery.cancel_scope.cancel()


async def run_apart(
    seed: int,
    scenario: Scenario | str,
    plan: Plan | None = None,
    *,
    deadline_s: float = 300.0,
    environment: Mapping[str, str] | None = None,
) -> Outcome:
    """Run a scenario under a seed in a fresh process, as `sim.run` does in this one; for programs that run Trio already.

    The scenario is imported there by its name, `module:name`. Raises `UsageError`; a process that dies, or that takes
    longer than `deadline_s` real seconds, is a failed outcome. `environment` goes beside this process's own.
    """
    async with open_worker(_name_of(scenario), environment) as worker:
        return await worker.run(_checked(seed), plan, history=True, deadline_s=deadline_s)


@contextlib.asynccontextmanager
async def search(
    scenario: Scenario | str,
    seeds: Iterable[int],
    *,
    jobs: int | None = None,
    deadline_s: float = DEADLINE_S,
) -> AsyncIterator[trio.MemoryReceiveChannel[Outcome]]:
    """Run many seeds in parallel processes; the block is given their outcomes, to be read with `async for`.

    They come as the runs end, without their histories; who is slow to take them holds the search up. Leaving the
    block kills the processes. `jobs` is how many there are, by default one for each processor that this program may
    use; `deadline_s` is real time, for each run. `seeds` may be endless. Raises `UsageError`, `RunFailedError`.
    """
    count = jobs if jobs is not None else len(processors())
    if count < 1:
        raise UsageError(f"{count} processes run nothing", hint="from 1, e.g. one for each processor")
    send, receive = trio.open_memory_channel[Outcome](0)
    slots = _Slots(_name_of(scenario), iter(seeds), deadline_s)
    async with one_error(), trio.open_nursery() as nursery:
        with send:  # no checkpoint at its end, where `Cancelled` could take the place of an error
            for _ in range(count):
                nursery.start_soon(slots.work, send.clone())
        with receive:
            yield receive
        nursery.cancel_scope.cancel()


def processors() -> list[int]:
    """Return the processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


@attrs.define
class _Slots:
    """What the processes of one search share: whoever is free takes the next seed."""

    scenario: str
    seeds: Iterator[int]
    deadline_s: float

    async def work(self, send: trio.MemorySendChannel[Outcome]) -> None:
        """Keep one process at work until there are no seeds left."""
        with send:
            seed = self._next()
            while seed is not None:
                async with open_worker(self.scenario) as worker:
                    while seed is not None and not worker.is_lost:
                        outcome = await worker.run(seed, None, history=False, deadline_s=self.deadline_s)
                        await send.send(outcome)
                        seed = self._next()

    def _next(self) -> int | None:
        seed = next(self.seeds, None)
        return None if seed is None else _checked(seed)


def _checked(seed: int) -> int:
    if seed < 0:
        raise UsageError(f"no seed is {seed}", hint="seeds are whole numbers from 0")
    return seed


def _name_of(scenario: Scenario | str) -> str:
    """Return the name by which another process finds a scenario, once it is sure that it does."""
    if isinstance(scenario, str):
        return scenario
    module, _, name = scenario.name.partition(":")
    if module == "__main__" or "<locals>" in name or load(scenario.name) != scenario:
        raise UsageError(
            f"another process cannot import the scenario {scenario.name}",
            hint="write it at the top of a module, under its own name",
        )
    return scenario.name
