"""Waiting for the first of several events."""

from __future__ import annotations

import trio

__all__ = ["wait_any"]


async def wait_any(*events: trio.Event) -> None:
    """Return as soon as one of `events` is set."""
    if any(event.is_set() for event in events):
        await trio.lowlevel.checkpoint()
        return
    async with trio.open_nursery() as nursery:

        async def one(event: trio.Event) -> None:
            await event.wait()
            nursery.cancel_scope.cancel(reason="another event came first")

        for event in events:
            nursery.start_soon(one, event)
