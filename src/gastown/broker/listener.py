"""The broker as a service: it listens on loopback for the length of a block."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import cast

import httpx2
import structlog
import trio
from hypercorn.typing import ASGIFramework

from gastown.asgi.crowd import Crowd, crowd_of
from gastown.asgi.serving import DEAD_PEER_MS, listen, quiet_config, serve_connections
from gastown.broker.forward import BrokerApp
from gastown.broker.grants import Grants
from gastown.broker.metrics import BrokerMetrics
from gastown.broker.outbound import outbound_client
from gastown.broker.upstreams import Upstreams

__all__ = ["Broker", "open_broker", "upstream_client"]

log = structlog.get_logger()

_GRACEFUL_SECONDS = 1.0
_SHARE = 1 / 6
"""Of the file descriptors, for agents' connections: each of them may need another one to its upstream."""


@dataclass(frozen=True)
class Broker:
    """An open broker: its address, the agents that may use it, and the counts of what has passed it."""

    url: str
    grants: Grants
    figures: BrokerMetrics = field(default_factory=BrokerMetrics)
    crowd: Crowd = field(default_factory=partial(crowd_of, "broker", _SHARE))


def upstream_client() -> httpx2.AsyncClient:
    """A client for the broker. It keeps no cookie: one agent's would go along with the next one's call."""
    jar = CookieJar(DefaultCookiePolicy(allowed_domains=[]))
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=20)
    return outbound_client(cookies=jar, limits=limits, follow_redirects=False)


@asynccontextmanager
async def open_broker(client: httpx2.AsyncClient, upstreams: Upstreams) -> AsyncIterator[Broker]:
    """Listen on a free port of loopback, answering when the block begins; at its end, what still runs is cut."""
    listener = listen("127.0.0.1", 0, DEAD_PEER_MS)
    port = listener.getsockname()[1]
    config = quiet_config(_GRACEFUL_SECONDS)
    config.include_date_header = False  # the upstream's goes through
    grants, stop, crowd = Grants(), trio.Event(), crowd_of("broker", _SHARE)
    app = BrokerApp(grants, client, upstreams)
    async with trio.open_nursery() as nursery:
        serving = partial(serve_connections, crowd=crowd)
        await nursery.start(serving, cast(ASGIFramework, app), config, listener, stop, name="broker")
        log.info("broker.listening", port=port)
        try:
            yield Broker(f"http://127.0.0.1:{port}", grants, app.figures, crowd)
        finally:
            stop.set()
            nursery.cancel_scope.deadline = trio.current_time() + _GRACEFUL_SECONDS + 1
