"""The event stream of a fake kilo: every listener gets every event, in one order."""

from __future__ import annotations

import json
from itertools import count
from typing import Any

import trio

from gastown.testing.asgi import Frames
from gastown.testing.kilo.database import Session

__all__ = ["Events"]

HEARTBEAT_SECONDS = 10.0
_DURABLE = ("session.updated", "message.updated", "message.part.updated", "message.removed")


class Events:
    """The stream of one server; each listener's heartbeat runs in `nursery`.

    While `silent`, nothing is published, not even heartbeats, on connections that stay open.
    """

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self._listeners: list[trio.MemorySendChannel[str]] = []
        self.ids = count(1)
        self.silent = False

    def __len__(self) -> int:
        """How many listen."""
        return len(self._listeners)

    def emit(self, kind: str, session: Session, **properties: Any) -> None:
        """Publish an event as kilo does: session, message and part events come a second time as `sync`."""
        whole = {"sessionID": session.id, **properties}
        self._publish({"id": f"evt_{next(self.ids)}", "type": kind, "properties": whole}, session.directory)
        if kind in _DURABLE:
            again = {"type": f"{kind}.1", "seq": next(self.ids), "aggregateID": session.id, "data": whole}
            self._publish({"type": "sync", "syncEvent": again}, session.directory)

    def listen(self) -> Frames:
        """A new listener's answer, which begins with a greeting."""
        send, receive = trio.open_memory_channel[str](10_000)
        self._listeners.append(send)
        send.send_nowait(_frame({"payload": {"id": "evt_0", "type": "server.connected", "properties": {}}}))
        self._nursery.start_soon(self._beat, send, name="heartbeat")
        return Frames(receive)

    def end(self) -> None:
        """End every stream cleanly, as kilo does with those of one directory."""
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()

    def _publish(self, payload: dict[str, Any], directory: str) -> None:
        frame = _frame({"directory": directory, "project": "global", "payload": payload})
        for listener in [] if self.silent else list(self._listeners):
            try:
                listener.send_nowait(frame)
            except (trio.WouldBlock, trio.BrokenResourceError):
                self._listeners.remove(listener)

    async def _beat(self, listener: trio.MemorySendChannel[str]) -> None:
        beat = _frame({"payload": {"id": "evt_0", "type": "server.heartbeat", "properties": {}}})
        while True:
            await trio.sleep(HEARTBEAT_SECONDS)
            if self.silent:
                continue
            try:
                listener.send_nowait(beat)
            except (trio.WouldBlock, trio.BrokenResourceError, trio.ClosedResourceError):
                return


def _frame(value: dict[str, Any]) -> str:
    return f"data: {json.dumps(value)}\n\n"
