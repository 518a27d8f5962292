"""A heartbeat of every active agent, each half minute, and the readiness that its answer may ask for."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import structlog
import trio

from gastown.contract.worker import Heartbeat
from gastown.worker.client import WorkerClient, WorkerError

__all__ = ["open_heartbeats"]

log = structlog.get_logger()

_PERIOD_SECONDS = 30.0
_ATTEMPT_SECONDS = 60.0


@asynccontextmanager
async def open_heartbeats(
    worker: WorkerClient, beats: Callable[[], list[Heartbeat]], ready: Callable[[str], None]
) -> AsyncIterator[None]:
    """Send what `beats` says every half minute, for the length of the block.

    Agents do not wait for each other, and an agent whose last heartbeat is still on its way is left out. `ready`
    gets every drain nonce that an answer carries.
    """
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_beat_on, worker, beats, ready, name="heartbeats")
        yield
        nursery.cancel_scope.cancel(reason="the heart stops")


async def _beat_on(
    worker: WorkerClient, beats: Callable[[], list[Heartbeat]], ready: Callable[[str], None]
) -> None:
    under_way: set[tuple[str, str]] = set()

    async def send(beat: Heartbeat) -> None:
        place = beat.rig_id, beat.agent_id
        try:
            with trio.fail_after(_ATTEMPT_SECONDS):
                nonce = await worker.heartbeat(beat)
        except (WorkerError, trio.TooSlowError) as error:
            log.warning("heartbeat.failed", agent_id=beat.agent_id, reason=str(error) or "no answer in time")
        else:
            if nonce is not None:
                ready(nonce)
        finally:
            under_way.discard(place)

    async with trio.open_nursery() as nursery:
        while True:
            await trio.sleep(_PERIOD_SECONDS)
            for beat in beats():
                place = beat.rig_id, beat.agent_id
                if place not in under_way:
                    under_way.add(place)
                    nursery.start_soon(send, beat, name=f"heartbeat {beat.agent_id}")
