"""Telemetry to the worker: what is lost when it is away is counted, and nobody ever waits for it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog
import trio

from gastown.concurrency.backoff import delays
from gastown.contract.wire import Wire
from gastown.worker.client import WorkerClient, WorkerError

__all__ = ["Telemetry", "open_telemetry"]

log = structlog.get_logger()

_WAITING = 500
_TRIES = 4


class Telemetry:
    """`send` queues an event and returns at once. `lost` counts those that were given up."""

    def __init__(self, channel: trio.MemorySendChannel[Wire]) -> None:
        self._channel = channel
        self.lost = 0

    def send(self, event: Wire) -> None:
        try:
            self._channel.send_nowait(event)
        except trio.WouldBlock:
            self.lost += 1


@asynccontextmanager
async def open_telemetry(worker: WorkerClient) -> AsyncIterator[Telemetry]:
    """Events are sent for the length of the block; on the way out, what waits gets two seconds."""
    send, receive = trio.open_memory_channel[Wire](_WAITING)
    telemetry = Telemetry(send)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_pump, worker, receive, telemetry, name="telemetry")
        yield telemetry
        send.close()
        nursery.cancel_scope.deadline = trio.current_time() + 2


async def _pump(worker: WorkerClient, events: trio.MemoryReceiveChannel[Wire], telemetry: Telemetry) -> None:
    async for event in events:
        body = event.model_dump(mode="json", by_alias=True)
        pauses = delays(0.2, 2.0)
        for attempt in range(1, _TRIES + 1):
            try:
                with trio.fail_after(5):
                    await worker.container_event(body)
                break
            except (WorkerError, trio.TooSlowError) as error:
                final = attempt == _TRIES or not getattr(error, "transient", True)
                if final:
                    telemetry.lost += 1
                    log.warning("telemetry.lost", telemetry=body.get("event"), reason=str(error) or "timeout")
                    break
            await trio.sleep(next(pauses))
