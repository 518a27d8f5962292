"""Serves an ASGI application with hypercorn; a connection that fails takes no other one along."""

from __future__ import annotations

import errno
import socket
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import structlog
import trio
from hypercorn.config import Config
from hypercorn.typing import (
    ASGIFramework,
    ASGIReceiveCallable,
    ASGIReceiveEvent,
    ASGISendCallable,
    ASGISendEvent,
    HTTPResponseBodyEvent,
    Scope,
)

from gastown.asgi.crowd import Crowd, Seat, crowd_of
from gastown.asgi.hypercorn_seams import Connections, hang_up
from gastown.asgi.origins import refuse
from gastown.concurrency.supervise import leaves

__all__ = ["DEAD_PEER_MS", "Exchange", "FinishResponses", "listen", "quiet_config", "serve_connections"]

log = structlog.get_logger()

DEAD_PEER_MS = 20_000
"""How long the kernel keeps a connection whose peer acknowledges nothing."""
DISCARD_SECONDS = 2.0
"""How long a client may go on sending a body that is not read, once it has been answered."""
_LAST_BODY_SECONDS = 5.0
_NO_DESCRIPTOR = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS))
_ACCEPT_AGAIN_SECONDS = 0.1
_SHARE = 0.3
"""Of the process's file descriptors, for the connections of a server that has no crowd of its own."""


def listen(host: str, port: int, dead_peer_ms: int) -> socket.socket:
    """A listening socket for `serve_connections`; port 0 takes any free one. Raises OSError.

    hypercorn writes without a deadline, so one client that stops reading would hold a shutdown for ever (P6):
    the kernel's own time-out, which accepted connections inherit, ends that.
    """
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, dead_peer_ms)
        listener.bind((host, port))
        listener.listen(128)  # connections that come before the server accepts wait, and are not refused
    except OSError:
        listener.close()
        raise
    return listener


def quiet_config(graceful_seconds: float) -> Config:
    """A configuration without a server header and without hypercorn's own logs: we write the log."""
    config = Config()
    config.include_server_header = False
    config.graceful_timeout = graceful_seconds
    config.keep_alive_timeout = 75
    config.errorlog = None
    config.accesslog = None
    return config


class Exchange:
    """One request and its response, ended properly whatever the app does.

    - The last message of the answer gets out even when the client's end cancels the app's task (P7): else
      hypercorn never re-arms its idle timer, and every shutdown waits for idle connections.
    - A body that the app has not read is read and dropped after the answer. Otherwise hypercorn's reader waits for
      ever for room in the queue of an app that has ended, or closes the connection while the client still writes,
      which then sees a reset in place of the answer. A client that writes for more than 2 s longer is cut.
    """

    def __init__(self, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        self._receive = receive
        self._send = send
        self._whole = trio.Event()

    async def receive(self) -> ASGIReceiveEvent:
        message = await self._receive()
        if message["type"] != "http.request" or not message.get("more_body", False):
            self._whole.set()
        return message

    async def send(self, message: ASGISendEvent) -> None:
        if message["type"] != "http.response.body" or message.get("more_body", False):
            await self._send(message)
        else:
            with trio.move_on_after(_LAST_BODY_SECONDS, shield=True):
                await self._finish(message)

    async def hang_up(self) -> None:
        """Close the connection without an answer."""
        await hang_up(self._send)

    async def _finish(self, last: HTTPResponseBodyEvent) -> None:
        if self._whole.is_set():
            await self._send(last)
            return
        if last.get("body"):  # the client need not wait for its own body to be dropped
            await self._send({**last, "more_body": True})
        async with trio.open_nursery() as nursery:
            # Beside the app, which may read as well, and while the end is sent, which waits for the reader.
            nursery.start_soon(self._drop, name="body dropper")
            with trio.move_on_after(DISCARD_SECONDS):
                await self._whole.wait()
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})
            nursery.cancel_scope.cancel(reason="the answer has ended")

    async def _drop(self) -> None:
        while True:
            await self.receive()


@dataclass(frozen=True)
class FinishResponses:
    """An app whose exchanges end properly: see `Exchange`."""

    app: ASGIFramework

    async def __call__(self, scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        if scope["type"] == "http":
            exchange = Exchange(receive, send)
            await self.app(scope, exchange.receive, exchange.send)
        else:
            await self.app(scope, receive, send)


@dataclass(frozen=True)
class _LogCrashes:
    """An app whose crashes are logged: hypercorn answers them with an empty 500, and does not log them."""

    app: ASGIFramework

    async def __call__(self, scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        try:
            await self.app(scope, receive, send)
        except Exception:
            log.exception("app.crashed", kind=scope["type"], path=_path(scope))
            raise


def _path(scope: Scope) -> str | None:
    return None if scope["type"] == "lifespan" else scope["path"][:200]


@dataclass(frozen=True)
class _OnlyProbes:
    """An app on a connection for which there is no room: it answers `paths`, and everything else with a 503."""

    app: ASGIFramework
    paths: Collection[str]

    async def __call__(self, scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        if _path(scope) in self.paths:
            await self.app(scope, receive, send)
        else:
            reason = "This server has as many connections as it can; try again"
            headers = [(b"connection", b"close"), (b"retry-after", b"1")]
            await refuse(cast(Any, scope), cast(Any, send), 503, {"error": reason}, headers)


async def serve_connections(
    app: ASGIFramework,
    config: Config,
    listener: socket.socket,
    stop: trio.Event,
    *,
    crowd: Crowd | None = None,
    probes: Collection[str] = (),
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve `app` until `stop` is set; what then runs has `config.graceful_timeout` seconds to finish.

    Owns `listener`, which is bound, and listens already or not; started means that it accepts. Of `config` only
    what concerns a connection counts. The app gets no lifespan; one that crashes is logged. `crowd` bounds the
    connections; when it is full, the paths `probes` are answered all the same.
    """
    listener.listen(config.backlog)
    accepting = trio.SocketListener(trio.socket.from_stdlib_socket(listener))
    logged = _LogCrashes(app)
    usual, reserved = Connections(logged, config), Connections(_OnlyProbes(logged, probes), config)
    serve = partial(_serve_one, usual, reserved)
    async with trio.open_nursery() as connections:
        try:
            async with accepting, trio.open_nursery() as acceptor:
                crowd = crowd or crowd_of("other", _SHARE)
                acceptor.start_soon(_accept, accepting, serve, crowd, connections, name="accept")
                task_status.started()
                await stop.wait()
                acceptor.cancel_scope.cancel(reason="the server stops")
        finally:
            for kind in (usual, reserved):
                await kind.stop()  # noqa: ASYNC102 (waits for nothing)
            connections.cancel_scope.deadline = trio.current_time() + config.graceful_timeout


async def _accept(
    listener: trio.SocketListener,
    serve: Callable[[trio.SocketStream, Seat, Crowd], Awaitable[None]],
    crowd: Crowd,
    connections: trio.Nursery,
) -> None:
    """Accept until cancelled. Trio's own `serve_listeners` logs a traceback whenever there is no descriptor."""
    while True:
        try:
            stream = await listener.accept()
        except OSError as error:
            if error.errno not in _NO_DESCRIPTOR:
                raise
            crowd.out_of_descriptors()
            await trio.sleep(_ACCEPT_AGAIN_SECONDS)
            continue
        seat = crowd.admit()
        if seat is None:
            await trio.aclose_forcefully(stream)
        else:
            connections.start_soon(serve, stream, seat, crowd, name="connection")


async def _serve_one(
    usual: Connections, reserved: Connections, stream: trio.SocketStream, seat: Seat, crowd: Crowd
) -> None:
    try:
        with seat.scope:
            await (reserved if seat.reserved else usual).run(stream, seat)
    except Exception as error:  # noqa: BLE001 - the boundary of a connection
        cause = leaves(error)[0]
        log.warning("connection.failed", reason=f"{type(cause).__name__}: {cause}")
    finally:
        crowd.leave(seat)
        await trio.aclose_forcefully(stream)
