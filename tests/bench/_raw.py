"""The bare event loops: what Trio and asyncio do without an actor runtime on top."""

from __future__ import annotations

import asyncio  # noqa: TID251 - it is what Prime is measured against
import time

import trio
from _blocks import rate, resident_bytes
from _ours import ASKS, BATCH

ROOM = 1024
"""As a mailbox has."""


async def send_nowait() -> float:
    """Fill a memory channel and drain it, in one task: no switch, no handler."""
    send, receive = trio.open_memory_channel[int](ROOM)

    async def batch() -> None:
        put, get = send.send_nowait, receive.receive_nowait
        for _ in range(BATCH):
            put(1)
        for _ in range(BATCH):
            get()

    return await rate(batch, BATCH)


async def send() -> float:
    """Send with `await` to a task that receives with `async for`."""
    send, receive = trio.open_memory_channel[trio.Event | None](ROOM)

    async def drain() -> None:
        async for done in receive:
            if done is not None:
                done.set()

    async def batch() -> None:
        done, put = trio.Event(), send.send
        for _ in range(BATCH):
            await put(None)
        await put(done)
        await done.wait()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(drain)
        measured = await rate(batch, BATCH)
        nursery.cancel_scope.cancel()
    return measured


async def request() -> float:
    """Ask over a channel there and a channel back."""
    to_server, questions = trio.open_memory_channel[int](1)
    to_client, answers = trio.open_memory_channel[int](1)

    async def serve() -> None:
        async for number in questions:
            await to_client.send(number)

    async def batch() -> None:
        for _ in range(ASKS):
            await to_server.send(1)
            await answers.receive()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        measured = await rate(batch, ASKS)
        nursery.cancel_scope.cancel()
    return measured


def asyncio_tell() -> float:
    """Fill an asyncio queue and let one task drain it."""
    return asyncio.run(_asyncio_tell())


async def _asyncio_tell() -> float:
    queue: asyncio.Queue[asyncio.Event | None] = asyncio.Queue(ROOM)

    async def drain() -> None:
        while True:
            done = await queue.get()
            if done is not None:
                done.set()

    async def batch() -> None:
        done, put = asyncio.Event(), queue.put_nowait
        for _ in range(BATCH):
            put(None)
        put(done)
        await done.wait()

    task = asyncio.create_task(drain())
    measured = await rate(batch, BATCH)
    task.cancel()
    return measured


def asyncio_ask() -> float:
    """Ask a task over an asyncio queue, with a future for each answer and no deadline."""
    return asyncio.run(_asyncio_ask())


async def _asyncio_ask() -> float:
    queue: asyncio.Queue[tuple[int, asyncio.Future[int]]] = asyncio.Queue(ROOM)
    loop = asyncio.get_running_loop()

    async def serve() -> None:
        while True:
            number, answer = await queue.get()
            answer.set_result(number)

    async def batch() -> None:
        for _ in range(ASKS):
            answer = loop.create_future()
            queue.put_nowait((1, answer))
            await answer

    task = asyncio.create_task(serve())
    measured = await rate(batch, ASKS)
    task.cancel()
    return measured


# ---------------------------------------------------------------------------------------------------------- many tasks


async def start_all(nursery: trio.Nursery, count: int) -> None:
    """Start tasks and wait until the last of them is parked."""
    all_parked, parked = trio.Event(), 0

    async def park() -> None:
        nonlocal parked
        parked += 1
        if parked == count:
            all_parked.set()
        await trio.sleep_forever()

    for _ in range(count):
        nursery.start_soon(park)
    await all_parked.wait()


async def start(count: int) -> float:
    """Start `count` tasks that park."""
    async with trio.open_nursery() as nursery:
        begun = time.perf_counter()
        await start_all(nursery, count)
        took = time.perf_counter() - begun
        nursery.cancel_scope.cancel()
    return count / took


async def cancel(count: int) -> float:
    """Cancel `count` parked tasks and wait for their ends."""
    async with trio.open_nursery() as nursery:
        await start_all(nursery, count)
        begun = time.perf_counter()
        nursery.cancel_scope.cancel()
    return count / (time.perf_counter() - begun)


async def start_bytes(count: int) -> float:
    """Return the memory of one parked task of `count`."""
    async with trio.open_nursery() as nursery:
        before = resident_bytes()
        await start_all(nursery, count)
        taken = (resident_bytes() - before) / count
        nursery.cancel_scope.cancel()
    return taken
