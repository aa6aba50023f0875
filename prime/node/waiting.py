"""Waiting for one of several events."""

from __future__ import annotations

import trio


async def either(*events: trio.Event) -> None:
    """Wait until one of the events is set."""
    async with trio.open_nursery() as nursery:
        for event in events:
            nursery.start_soon(cancel_on, event, nursery.cancel_scope)


async def cancel_on(event: trio.Event, scope: trio.CancelScope) -> None:
    """Cancel a scope once an event is set."""
    await event.wait()
    scope.cancel()
