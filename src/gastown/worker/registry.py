"""Telling the worker which agents a next container must bring back."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager

import structlog
import trio

from gastown.concurrency.backoff import delays
from gastown.concurrency.signal import Signal
from gastown.concurrency.waiting import gradually
from gastown.contract.worker import RegistryEntry
from gastown.worker.client import WorkerClient, WorkerError

__all__ = ["RegistryWriter", "open_registry_writer"]

log = structlog.get_logger()

_ATTEMPT_SECONDS = 10.0


class RegistryWriter:
    """Writes the newest state, one write at a time, never an older one after a newer one.

    `changed()` may be called from anywhere and returns at once; writes that pile up become one.
    Before its first write it must know what is stored, or it would wipe out agents of which a failed
    hydration never heard: entries that this container has not taken over are kept as they were.
    """

    def __init__(self, worker: WorkerClient, entries: Callable[[], Iterable[RegistryEntry]]) -> None:
        self._worker = worker
        self._entries = entries
        self._inherited: dict[str, RegistryEntry] | None = None
        self._taken_over: set[str] = set()
        self._version = 0
        self._written = 0
        self._held = False
        self._moved = Signal()

    @contextmanager
    def held(self) -> Iterator[None]:
        """No write begins for the length of the block, in which many changes come one after the other."""
        self._held = True
        try:
            yield
        finally:
            self._held = False
            self._moved.send()

    def loaded(self) -> None:
        """The stored registry has been read and every entry of it is now this container's own."""
        if self._inherited:
            self.changed()  # what was kept for it until now has been written, too
        self._inherited = {}

    def changed(self) -> None:
        self._version += 1
        self._moved.send()

    @property
    def clean(self) -> bool:
        """Whether the worker has the newest state."""
        return self._written == self._version

    async def flushed(self) -> None:
        """Return once the worker has the state of this moment. Unbounded: put it under a deadline."""
        target = self._version
        await self._moved.wait_until(lambda: self._written >= target)

    async def run(self) -> None:
        """Write whenever something changed, with back-off while the worker is away. Runs until cancelled."""
        while True:
            pauses = delays(0.2, 10.0)
            await self._moved.wait_until(lambda: not self.clean and not self._held)
            while not self.clean:
                version = self._version
                try:
                    with trio.fail_after(_ATTEMPT_SECONDS):
                        await self._write()
                except (WorkerError, trio.TooSlowError) as error:
                    log.warning("registry.write_failed", reason=str(error) or "no answer in time")
                    await trio.sleep(next(pauses))
                else:
                    self._written = version
                    self._moved.send()

    async def _write(self) -> None:
        if self._inherited is None:
            stored = await self._worker.registry()
            if self._inherited is None:  # else `loaded` came first
                self._inherited = {entry.agent_id: entry for entry in stored.entries}
        own = await gradually(self._entries())
        self._taken_over.update(entry.agent_id for entry in own)
        kept = [entry for name, entry in self._inherited.items() if name not in self._taken_over]
        await self._worker.write_registry([*kept, *own])


@asynccontextmanager
async def open_registry_writer(
    worker: WorkerClient, entries: Callable[[], Iterable[RegistryEntry]]
) -> AsyncIterator[RegistryWriter]:
    """A writer whose task runs for the length of the block. Await `flushed()` before leaving it."""
    writer = RegistryWriter(worker, entries)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(writer.run, name="registry writer")
        yield writer
        nursery.cancel_scope.cancel(reason="the registry writer closes")
