"""Tasks that belong to a whole container: the failure of one is recorded, and ends no other."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import structlog
import trio

__all__ = ["Start", "Supervisor", "leaves", "open_supervisor"]

log = structlog.get_logger()

Start = Callable[[str, Callable[[], Awaitable[object]]], None]
"""`Supervisor.start`, for functions that only start tasks."""


class Supervisor:
    """Made by `open_supervisor`. `failures` counts the tasks that raised an `Exception`."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self.failures = 0

    def start(self, name: str, work: Callable[[], Awaitable[object]]) -> None:
        """Run `work()` as a task called `name`, and return at once.

        An `Exception` out of it, also a group of them, is logged and counted, and goes no further. Cancellation
        and everything else that is no `Exception` passes through. A supervisor that has been closed cancels the
        task at its first checkpoint.
        """
        self._nursery.start_soon(self._run, name, work, name=name)

    async def _run(self, name: str, work: Callable[[], Awaitable[object]]) -> None:
        try:
            await work()
        except Exception:  # a boundary: the other tasks of the container go on
            self.failures += 1
            log.exception("task.failed", task=name)


@asynccontextmanager
async def open_supervisor() -> AsyncIterator[Supervisor]:
    """A supervisor for the length of the block; leaving the block cancels its tasks and waits for them."""
    async with trio.open_nursery() as nursery:
        yield Supervisor(nursery)
        nursery.cancel_scope.cancel(reason="the supervisor closes")


def leaves(error: BaseException) -> list[BaseException]:
    """The exceptions inside a group, however deep; a plain exception is its own only leaf."""
    if isinstance(error, BaseExceptionGroup):
        return [leaf for member in error.exceptions for leaf in leaves(member)]
    return [error]
