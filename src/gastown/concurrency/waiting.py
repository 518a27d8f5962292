"""Waiting for the first of several events, and long work in pieces."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

import trio

__all__ = ["AT_ONCE", "gradually", "wait_any"]

AT_ONCE = 5
"""How many small steps of a long piece of work are made before other tasks have their turn."""

Item = TypeVar("Item")


async def gradually(items: Iterable[Item]) -> list[Item]:
    """The items as a list, made in pieces between which other tasks run."""
    made: list[Item] = []
    for item in items:
        made.append(item)
        if len(made) % AT_ONCE == 0:
            await trio.lowlevel.checkpoint()
    return made


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
