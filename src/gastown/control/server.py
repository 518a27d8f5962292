"""Serving the app with hypercorn on a socket of our own (trio-traps: the P numbers are rows of ADR 0001)."""

from __future__ import annotations

import socket
from functools import partial
from typing import Any, cast

import trio
from hypercorn.typing import ASGIFramework

from gastown.asgi import hypercorn_seams
from gastown.asgi.crowd import Crowd
from gastown.asgi.origins import App, Receive, Scope, Send, is_loopback
from gastown.asgi.serving import (
    DEAD_PEER_MS,
    FinishResponses,
    listen,
    quiet_config,
    serve_connections,
)
from gastown.control.bursts import EXTENSION
from gastown.settings import Settings

__all__ = ["CannotListen", "HypercornLayer", "listen_on", "listening_host", "serve_app"]

_GRACEFUL_SECONDS = 3.0
_LOOPBACK_OF = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104
_MOST_MESSAGE_BYTES = 1024 * 1024
_PROBES = frozenset(("/health", "/livez", "/readyz", "/metrics"))
"""What is answered when there is room for nothing else."""


class CannotListen(Exception):
    """The address cannot be bound; the message is one line for the operator."""


class HypercornLayer:
    """The outermost ASGI layer, which needs hypercorn's own `send`: it finishes responses (P7), and gives each
    websocket its burst writer.
    """

    def __init__(self, app: App) -> None:
        self._app = app
        self._finishing = cast(App, FinishResponses(cast(ASGIFramework, app)))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            scope["extensions"][EXTENSION] = hypercorn_seams.burst_of(send)
            await self._app(scope, receive, partial(_refuse_and_close, send))
        else:
            await self._finishing(scope, receive, send)


async def _refuse_and_close(send: Send, message: dict[str, Any]) -> None:
    """Let a refused upgrade be the last request of its connection: on another one hypercorn 0.18 fails."""
    if message["type"] == "websocket.http.response.start":
        message = {**message, "headers": [*message["headers"], (b"connection", b"close")]}
    await send(message)


def listening_host(settings: Settings) -> str:
    """The address to listen on. Raises `CannotListen`.

    Without a token it is loopback: "all addresses" is narrowed to that, any other address is an error.
    """
    host = settings.gastown_control_host
    if settings.gastown_control_token is not None or settings.gastown_insecure or is_loopback(host):
        return host
    if host in _LOOPBACK_OF:
        return _LOOPBACK_OF[host]
    raise CannotListen(
        f"GASTOWN_CONTROL_HOST is {host} and there is no token: set GASTOWN_CONTROL_TOKEN, "
        "or GASTOWN_INSECURE=1 to let every caller that reaches the port do everything"
    )


def listen_on(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes any free one. Raises `CannotListen`."""
    try:
        return listen(host, port, DEAD_PEER_MS)
    except OSError as error:
        raise CannotListen(f"cannot listen on {host}:{port}: {error.strerror or error}") from error


async def serve_app(
    app: App,
    listener: socket.socket,
    stop: trio.Event,
    *,
    crowd: Crowd | None = None,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until `stop` is set, then finish what runs. Owns `listener`; started means that it accepts.

    `crowd` bounds the connections.
    """
    config = quiet_config(_GRACEFUL_SECONDS)
    config.websocket_ping_interval = 20
    config.websocket_max_message_size = _MOST_MESSAGE_BYTES
    framework = cast(ASGIFramework, HypercornLayer(app))  # its types are stricter than ASGI's dicts
    await serve_connections(
        framework, config, listener, stop, crowd=crowd, probes=_PROBES, task_status=task_status
    )
