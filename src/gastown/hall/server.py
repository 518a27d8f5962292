"""Serving an ASGI application on a loopback port that is ours, inside the caller's lifetime."""

from __future__ import annotations

import logging
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

import trio
from hypercorn.config import Config
from hypercorn.typing import ASGIFramework

from gastown.asgi.origins import App, Callers, GuardOrigins, is_loopback
from gastown.asgi.serving import FinishResponses, listen, serve_connections

__all__ = ["PortTaken", "serving"]

_LAST_WRITE_SECONDS = 5
_GRACE_SECONDS = 1.0
_STALLED_CLIENT_MS = 3000


class PortTaken(Exception):
    """The address cannot be listened on. One clear sentence."""


@asynccontextmanager
async def serving(
    make: Callable[[str], ASGIFramework], *, host: str, port: int, logger: logging.Logger
) -> AsyncIterator[str]:
    """Serve what `make` makes of its URL, for the length of the block; the value is that URL, and it answers when
    the block begins.

    Port 0 is any free port. PortTaken when the address cannot be had. At the end no new request is taken,
    those in flight have a second to finish, and no task or socket is left. No web page may call it.
    """
    callers = Callers(loopback_only=is_loopback(host))
    listener = _listen(host, port)
    url = f"http://{host}:{listener.getsockname()[1]}"
    guarded = cast(ASGIFramework, GuardOrigins(cast(App, make(url)), callers, _refusal))
    config = Config()
    config.include_server_header = False
    config.graceful_timeout = _GRACE_SECONDS
    config.errorlog = logger
    config.accesslog = None
    stop = trio.Event()
    async with trio.open_nursery() as nursery:
        await nursery.start(serve_connections, FinishResponses(guarded), config, listener, stop)
        try:
            yield url
        finally:
            stop.set()
            nursery.cancel_scope.deadline = trio.current_time() + _GRACE_SECONDS + _LAST_WRITE_SECONDS


def _refusal(reason: str) -> dict[str, Any]:
    return {"success": False, "error": reason}


def _listen(host: str, port: int) -> socket.socket:
    try:
        return listen(host, port, _STALLED_CLIENT_MS)
    except OSError as error:
        raise PortTaken(f"cannot listen on {host} port {port}: {error.strerror}") from error
