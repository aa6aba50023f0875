"""What a node of the DHT's bench is told over its standard input, one line of JSON each, and what it says."""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import trio

VALUE = bytes(1024)
"""What is put and got."""


async def timed(calls: Sequence[Callable[[], Awaitable[Any]]]) -> list[float]:
    """Make the calls one after the other; return the seconds of each."""
    took = []
    for call in calls:
        began = time.perf_counter()
        await call()
        took.append(time.perf_counter() - began)
    return took


async def obey(node: Any) -> None:
    """Do what the bench says, until it is gone."""
    buffered = b""
    async with trio.lowlevel.FdStream(0) as source:
        async for data in source:
            *lines, buffered = (buffered + data).split(b"\n")
            for line in lines:
                order = json.loads(line)
                say({"answer": await getattr(node, order["do"])(order["with"])})


def say(value: object) -> None:
    """Say one line to the bench."""
    print(json.dumps(value), flush=True)
