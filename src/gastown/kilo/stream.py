"""Listening to a kilo server: one reader of `/global/event`, each frame parsed once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import structlog
import trio

from gastown.concurrency.backoff import delays
from gastown.kilo.client import MOST_BYTES, KiloClient
from gastown.kilo.errors import KiloError, KiloGarbled
from gastown.kilo.frames import FrameReader, FrameTooLarge
from gastown.kilo.models import EVENTS, EventFacts, read, read_frame
from gastown.metrics.counters import Counter

__all__ = ["DroppedFrames", "KiloEvent", "event_of", "follow_events"]

log = structlog.get_logger()

SILENCE_SECONDS = 30.0
"""kilo sends a heartbeat each 10 s; three missed ones mean that the connection is dead."""
_FIRST_DELAY, _MOST_DELAY = 0.1, 5.0
_PATH = "/global/event"
_TELL_AGAIN_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class KiloEvent:
    """One event of a session. `properties` is kilo's own JSON, `facts` what we read of it, if anything.

    Making one raises `KiloGarbled` when an event that we read has another shape than kilo's.
    """

    type: str
    session_id: str
    properties: dict[str, Any]
    facts: EventFacts | None = field(init=False, default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        if (kind := EVENTS.get(self.type)) is not None:
            object.__setattr__(self, "facts", read(kind, self.properties, "GET", _PATH))


class DroppedFrames:
    """What one server sent on its stream and no kilo sends. Each is counted; a log line a minute tells of them."""

    def __init__(self, counter: Counter, port: int | None = None) -> None:
        self._counter = counter
        self._port = port
        self._untold = 0
        self._told_at = float("-inf")

    def add(self, size: int, error: KiloGarbled) -> None:
        self._counter.add()
        self._untold += 1
        if trio.current_time() - self._told_at < _TELL_AGAIN_SECONDS:
            return
        log.warning("kilo.frame_unreadable", port=self._port, size=size, reason=str(error), frames=self._untold)
        self._untold, self._told_at = 0, trio.current_time()


async def follow_events(
    client: KiloClient,
    take: Callable[[KiloEvent], None],
    reconnected: Callable[[], None],
    dropped: DroppedFrames,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Give every session event to `take`, for ever; reports started when the first connection stands.

    A stream that ends or breaks is opened again with back-off, and `reconnected` called each time that it
    stands again: kilo replays nothing, so events may be missing. A frame that cannot be read goes to `dropped`,
    and the stream goes on. Whether the server still lives is for the caller to know.
    `take` and `reconnected` must not block.
    """
    started = False

    def connected() -> None:
        nonlocal started
        if started:
            reconnected()
        else:
            started = True
            task_status.started()

    pauses = delays(_FIRST_DELAY, _MOST_DELAY)
    while True:
        began = trio.current_time()
        why = await _read_once(client, take, connected, dropped)
        if trio.current_time() - began > SILENCE_SECONDS:
            pauses = delays(_FIRST_DELAY, _MOST_DELAY)
        log.info("kilo.stream_ended", reason=why)
        await trio.sleep(next(pauses))


async def _read_once(
    client: KiloClient,
    take: Callable[[KiloEvent], None],
    connected: Callable[[], None],
    dropped: DroppedFrames,
) -> str:
    """Read one connection to its end; returns why it ended."""
    with trio.move_on_after(SILENCE_SECONDS) as silence:
        try:
            async with client.stream(_PATH) as chunks:
                frames = FrameReader(MOST_BYTES)
                async for chunk in chunks:
                    silence.deadline = trio.current_time() + SILENCE_SECONDS
                    for data in frames.feed(chunk):
                        try:
                            event = event_of(data, connected)
                        except KiloGarbled as error:
                            dropped.add(len(data), error)
                            continue
                        if event is not None:
                            take(event)
        except (KiloError, FrameTooLarge) as error:
            return str(error)
    return "silence" if silence.cancelled_caught else "end of stream"


def event_of(data: bytes, connected: Callable[[], None]) -> KiloEvent | None:
    """The event of a session in this frame, if it holds one.

    `sync` frames repeat other frames in a durable form; those without a session are kilo's own housekeeping.
    Raises `KiloGarbled`.
    """
    payload = read_frame(data, "GET", _PATH)
    if payload.type == "server.connected":
        connected()
    if payload.type == "sync" or payload.properties is None:
        return None
    session = payload.properties.get("sessionID")
    return KiloEvent(payload.type, session, payload.properties) if isinstance(session, str) else None
