"""An agent that goes away while its answer is on the way: what happens to the upstream's answer."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest
import trio

from gastown.broker.forward import BrokerApp
from gastown.broker.grants import Grants
from tests.http.test_broker import CHAT, POLE, Access, Upstreams

pytestmark = pytest.mark.virtual_time


class Endless(httpx2.AsyncByteStream):
    """An upstream's answer that never ends, and knows whether it was closed."""

    def __init__(self) -> None:
        self.closed = trio.Event()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while True:
            yield b"data: one\n\n"

    async def aclose(self) -> None:
        self.closed.set()


async def test_an_agent_that_stops_reading_and_leaves_closes_the_upstreams_answer() -> None:
    """The broker waits for the agent then, and not for the upstream, whose connection must be free again."""
    stream, grants, stuck = Endless(), Grants(), trio.Event()
    bearer = grants.admit(POLE, Access()).bearer.reveal()

    async def upstream(_: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, stream=stream)

    messages = iter(({"type": "http.request", "body": b"x"},))

    async def receive() -> dict[str, Any]:
        if (message := next(messages, None)) is None:
            await stuck.wait()
            return {"type": "http.disconnect"}
        return message

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.body":
            stuck.set()
            await trio.sleep_forever()

    scope = {
        "type": "http",
        "method": "POST",
        "raw_path": CHAT.encode(),
        "query_string": b"",
        "headers": [(b"authorization", f"Bearer {bearer}".encode())],
    }
    async with httpx2.AsyncClient(transport=httpx2.MockTransport(upstream)) as client:
        with trio.fail_after(30):
            await BrokerApp(grants, client, Upstreams())(scope, receive, send)
        assert stream.closed.is_set()
