"""Inside other programs: an existing nursery, AnyIO, a refusal under asyncio, cancellation from outside, a web server."""

from __future__ import annotations

import gc
import importlib.util
import signal
import threading

import anyio
import pytest
import sniffio
import trio

from prime.actor import Actor, System, on
from prime.errors import ActorUsageError, RestartLimitError, WrongBackendError
from prime.node.system import open_system
from prime.wire import Ask, message

Clock = trio.testing.MockClock


@message
class Next(Ask[int]):
    pass


@message
class Crash:
    pass


class Counter(Actor[Next | Crash]):
    def __init__(self) -> None:
        self.last = 0

    @on(Next)
    def next(self, _: Next) -> int:
        self.last += 1
        return self.last

    @on(Crash)
    def crash(self, _: Crash) -> None:
        raise ValueError("boom")


async def test_in_a_nursery_that_exists_tasks_of_the_program_share_refs(autojump_clock: Clock) -> None:
    answers: list[int] = []

    async def program_task(ref: object) -> None:
        answers.append(await ref.ask(Next(), timeout=1))  # type: ignore[attr-defined]

    async with trio.open_nursery() as nursery:  # the program's own, outside
        async with open_system() as system, system.supervisor("app") as sup:
            counter = await sup.spawn(Counter, "counter")
            nursery.start_soon(program_task, counter)
            nursery.start_soon(program_task, counter)
            await trio.testing.wait_all_tasks_blocked()
            assert sorted(answers) == [1, 2]
        assert not nursery.cancel_scope.cancel_called


async def test_a_system_as_one_task_of_a_nursery_ends_when_that_is_cancelled(autojump_clock: Clock) -> None:
    log: list[str] = []

    class Tidy(Counter):
        async def stopping(self) -> None:
            await trio.sleep(1)  # shielded
            log.append(self.ctx.path)

    async def service(*, task_status: trio.TaskStatus[object] = trio.TASK_STATUS_IGNORED) -> None:
        async with open_system() as system, system.supervisor("app") as sup:
            for name in "ab":
                ref = await sup.spawn(Tidy, name)
            task_status.started(ref)
            await trio.sleep_forever()

    before = len(trio.lowlevel.current_root_task().child_nurseries)
    async with trio.open_nursery() as nursery:
        await nursery.start(service)
        nursery.cancel_scope.cancel()
    assert log == ["/app/b", "/app/a"]
    assert len(trio.lowlevel.current_root_task().child_nurseries) == before


async def test_two_systems_in_one_program_know_nothing_of_each_other(autojump_clock: Clock) -> None:
    async with (
        open_system() as one,
        open_system() as two,
        one.supervisor("app") as sup,
        two.supervisor("app") as other,
    ):
        first, second = await sup.spawn(Counter, "c"), await other.spawn(Counter, "c")
        assert first != second
        assert await first.ask(Next(), timeout=1) == 1
        assert await second.ask(Next(), timeout=1) == 1


async def test_a_supervisor_that_gives_up_fails_its_block_with_one_error(autojump_clock: Clock) -> None:
    """Not with a group, nor with a cancellation: the program may catch it by its class."""
    async with open_system() as system:
        with pytest.raises(RestartLimitError, match="/app gave up"):
            async with system.supervisor("app") as sup:
                counter = await sup.spawn(Counter, "c")
                for _ in range(50):
                    await counter.tell(Crash())
                await trio.sleep_forever()


def test_a_run_leaves_nothing_global_behind() -> None:
    async def main() -> None:
        async with open_system() as system, system.supervisor("app") as sup:
            counter = await sup.spawn(Counter, "counter")
            assert await counter.ask(Next(), timeout=1) == 1

    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD)}
    threads = set(threading.enumerate())
    trio.run(main)
    trio.run(main)  # and once more in the same process
    assert {number: signal.getsignal(number) for number in handlers} == handlers
    assert set(threading.enumerate()) <= threads
    gc.collect()
    assert not [each for each in gc.get_objects() if type(each) is Counter]  # isinstance would wake proxies


def test_under_anyio_on_trio_its_own_tools_work_inside_an_actor() -> None:
    class Patient(Actor[Next]):
        @on(Next)
        async def next(self, _: Next) -> int:
            assert sniffio.current_async_library() == "trio"
            with anyio.move_on_after(0.001) as scope:
                await anyio.sleep_forever()
            assert scope.cancelled_caught
            return await anyio.to_thread.run_sync(lambda: 7)

    async def main() -> int:
        async with open_system() as system, system.supervisor("app") as sup:
            patient = await sup.spawn(Patient, "patient")
            async with anyio.create_task_group() as group:
                group.start_soon(lambda: patient.ask(Next(), timeout=5))
            return await patient.ask(Next(), timeout=5)

    assert anyio.run(main, backend="trio") == 7


def test_under_asyncio_it_is_refused_before_anything_starts() -> None:
    async def main() -> None:
        async with open_system():
            pytest.fail("it ran")

    with pytest.raises(WrongBackendError) as caught:
        anyio.run(main, backend="asyncio")
    assert 'anyio.run(main, backend="trio")' in caught.value.hint


@pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("starlette", "hypercorn", "httpx")),
    reason="NOT RUN: the web server needs starlette, hypercorn and httpx",
)
async def test_a_web_application_asks_an_actor_over_real_sockets() -> None:
    import httpx
    from hypercorn.config import Config
    from hypercorn.trio import serve
    from starlette.applications import Starlette
    from starlette.responses import PlainTextResponse
    from starlette.routing import Route

    async with open_system() as system, system.supervisor("app") as sup, trio.open_nursery() as nursery:
        counter = await sup.spawn(Counter, "counter")

        async def show(_: object) -> PlainTextResponse:
            return PlainTextResponse(str(await counter.ask(Next(), timeout=5)))

        config, closing = Config(), trio.Event()
        config.bind, config.errorlog = ["127.0.0.1:0"], None
        app = Starlette(routes=[Route("/", show)])
        (address, *_) = await nursery.start(
            lambda task_status: serve(app, config, shutdown_trigger=closing.wait, task_status=task_status)
        )
        texts: list[str] = []
        async with httpx.AsyncClient(base_url=address, timeout=20, trust_env=False) as client:

            async def get() -> None:
                texts.append((await client.get("/")).text)

            async with trio.open_nursery() as clients:
                for _ in range(10):
                    clients.start_soon(get)
        assert sorted(map(int, texts)) == list(range(1, 11))
        closing.set()
    assert len(system.deadlines) == 0


async def test_a_supervisor_that_outlives_its_system_stops_and_says_why(autojump_clock: Clock) -> None:
    seen: list[str] = []

    async def serve(system: System, *, task_status: trio.TaskStatus[None]) -> None:
        async with system.supervisor("late") as sup:
            await sup.spawn(Counter, "counter")
            task_status.started()
            try:
                await trio.sleep_forever()
            except trio.Cancelled:
                seen.append("cancelled")
                raise

    with trio.fail_after(60), pytest.RaisesGroup(pytest.RaisesExc(ActorUsageError, match="ended before it")):
        async with trio.open_nursery() as nursery, open_system(seed=0) as system:
            await nursery.start(serve, system)
    assert seen == ["cancelled"]
    assert system.leftovers()["actors"] == 0


async def test_a_supervisor_cancelled_together_with_its_system_just_ends(autojump_clock: Clock) -> None:
    async def serve(system: System, *, task_status: trio.TaskStatus[None]) -> None:
        async with system.supervisor("late") as sup:
            await sup.spawn(Counter, "counter")
            task_status.started()
            await trio.sleep_forever()

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery, open_system(seed=0) as system:
            await nursery.start(serve, system)
            nursery.cancel_scope.cancel()
            await trio.sleep_forever()
    assert system.leftovers()["actors"] == 0


async def test_a_system_that_has_ended_opens_no_supervisor(autojump_clock: Clock) -> None:
    async with open_system(seed=0) as system:
        pass
    with pytest.raises(ActorUsageError, match="has ended"):
        async with system.supervisor("late"):
            pytest.fail("its timers would never fire")
