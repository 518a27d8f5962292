"""Listening to a kilo server: one reader of `/global/event`, each frame parsed once."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import structlog
import trio

from gastown.concurrency.backoff import delays
from gastown.kilo.client import MOST_BYTES, KiloClient
from gastown.kilo.errors import KiloError
from gastown.kilo.frames import FrameReader, FrameTooLarge

__all__ = ["KiloEvent", "follow_events"]

log = structlog.get_logger()

SILENCE_SECONDS = 30.0
"""kilo sends a heartbeat each 10 s; three missed ones mean that the connection is dead."""
_FIRST_DELAY, _MOST_DELAY = 0.1, 5.0


@dataclass(frozen=True, slots=True)
class KiloEvent:
    """One event of a session. `properties` is kilo's own JSON."""

    type: str
    session_id: str
    properties: dict[str, Any]


async def follow_events(
    client: KiloClient,
    take: Callable[[KiloEvent], None],
    reconnected: Callable[[], None],
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Give every session event to `take`, for ever; reports started when the first connection stands.

    A stream that ends or breaks is opened again with back-off, and `reconnected` called each time that it
    stands again: kilo replays nothing, so events may be missing. Whether the server still lives is not this
    task's to know; whoever owns the server cancels it. `take` and `reconnected` must not block.
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
        why = await _read_once(client, take, connected)
        if trio.current_time() - began > SILENCE_SECONDS:
            pauses = delays(_FIRST_DELAY, _MOST_DELAY)
        log.info("kilo.stream_ended", reason=why)
        await trio.sleep(next(pauses))


async def _read_once(client: KiloClient, take: Callable[[KiloEvent], None], connected: Callable[[], None]) -> str:
    """Read one connection to its end; returns why it ended."""
    with trio.move_on_after(SILENCE_SECONDS) as silence:
        try:
            async with client.stream("/global/event") as chunks:
                frames = FrameReader(MOST_BYTES)
                async for chunk in chunks:
                    silence.deadline = trio.current_time() + SILENCE_SECONDS
                    for data in frames.feed(chunk):
                        if (event := _parse(data, connected)) is not None:
                            take(event)
        except (KiloError, FrameTooLarge) as error:
            return str(error)
    return "silence" if silence.cancelled_caught else "end of stream"


def _parse(data: bytes, connected: Callable[[], None]) -> KiloEvent | None:
    """The event of a session in this frame, if it holds one.

    `sync` frames repeat other frames in a durable form; those without a session are kilo's own housekeeping.
    """
    try:
        payload = json.loads(data)["payload"]
        kind, properties = payload["type"], payload.get("properties")
    except (ValueError, KeyError, TypeError):
        log.warning("kilo.frame_unreadable", size=len(data))
        return None
    if kind == "server.connected":
        connected()
    if kind == "sync" or not isinstance(properties, dict):
        return None
    session = properties.get("sessionID")
    return KiloEvent(kind, session, properties) if isinstance(session, str) else None
