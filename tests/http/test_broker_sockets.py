"""The broker on a real socket: what a program of an agent may send, and it must survive."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import pytest
import trio

from gastown.broker.listener import open_broker, upstream_client

UPGRADE = (
    b"GET /anything HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
GET = b"GET /anything HTTP/1.1\r\nHost: x\r\n\r\n"


class Nowhere:
    """Upstreams that nothing gets to."""

    worker_url = None
    gateway_url = "http://127.0.0.1:9"
    own_gateway_url = None
    worker_token = None

    async def renew_worker_token(self, _: str | None) -> bool:
        return False


@asynccontextmanager
async def listening() -> AsyncIterator[Any]:
    async with upstream_client() as client, open_broker(client, Nowhere()) as broker:
        yield broker


@pytest.mark.parametrize(
    "sent",
    [
        UPGRADE,
        UPGRADE + GET,
        GET + UPGRADE + GET,
        b"\x16\x03\x01\x02\x00",
        b"GET / HTTP/9.9\r\n\r\n",
        b"\r\n" * 50,
    ],
    ids=["upgrade", "upgrade and get", "get, upgrade, get", "TLS", "another HTTP", "empty lines"],
)
async def test_the_broker_survives_what_a_connection_brings(sent: bytes) -> None:
    with trio.fail_after(30):
        async with listening() as broker:
            for pause in (False, True):
                port = int(broker.url.rpartition(":")[2])
                async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
                    await stream.send_all(sent)
                    if pause:
                        with trio.move_on_after(1):
                            await stream.receive_some(65536)
                        try:
                            await stream.send_all(GET)
                        except trio.BrokenResourceError:
                            continue  # it has closed the connection: just as well
                    with trio.move_on_after(1):
                        while await stream.receive_some(65536):
                            pass
            async with httpx2.AsyncClient() as client:
                assert (await client.get(f"{broker.url}/anything")).status_code == 401
