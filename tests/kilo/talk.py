"""A connection to a kilo server, real or fake, as the contract's tests use it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx2
import trio

from gastown.kilo.client import KiloClient
from gastown.kilo.frames import FrameReader
from gastown.kilo.rest import KiloRest
from gastown.kilo.stream import event_of


@dataclass
class Talk:
    """A connection to a kilo server, in a directory of its own. `frames` are all events since the beginning;
    `http` is a client that knows no password."""

    http: httpx2.AsyncClient
    client: KiloClient
    directory: str
    choose: Callable[[str], None]
    frames: list[dict[str, Any]] = field(default_factory=list)
    heard: trio.Event = field(default_factory=trio.Event)

    @property
    def rest(self) -> KiloRest:
        return KiloRest(self.client)

    async def follow(self, *, task_status: trio.TaskStatus[None]) -> None:
        reader = FrameReader(1 << 24)
        async with self.client.stream("/global/event") as chunks:
            async for chunk in chunks:
                first = not self.frames
                for data in reader.feed(chunk):
                    self.frames.append(json.loads(data))
                    event_of(data, lambda: None)  # fails where a model does not fit
                self.heard.set()
                self.heard = trio.Event()
                if first and self.frames:
                    task_status.started()

    async def session(self) -> str:
        return (await self.rest.create_session(self.directory, "a title")).id

    async def prompt(self, session: str, model: str, text: str = "hello") -> None:
        self.choose(model)
        await self.rest.prompt(session, text, model=model)

    def said(self, session: str) -> list[tuple[str, dict[str, Any]]]:
        """The events of a session, without their durable duplicates."""
        payloads = (frame["payload"] for frame in self.frames)
        return [
            (payload["type"], payload["properties"])
            for payload in payloads
            if payload["type"] != "sync" and payload["properties"].get("sessionID") == session
        ]

    async def until(self, session: str, kind: str, times: int = 1) -> dict[str, Any]:
        """Wait for an event; returns its properties."""
        with trio.fail_after(20):
            while len(found := [p for name, p in self.said(session) if name == kind]) < times:
                await self.heard.wait()
        return found[times - 1]
