"""hypercorn's connections in a nursery of ours: one that fails is lost alone.

`hypercorn.trio.serve` gives the exception of one connection to the nursery of all. In 0.18 a client raises one at
will (an upgrade that is refused, then one more request on the same connection), and the whole server ends.
"""

from __future__ import annotations

import socket
from functools import partial
from typing import cast

import structlog
import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.protocol.events import StreamClosed
from hypercorn.protocol.http_stream import HTTPStream
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import (
    ASGIFramework,
    ASGIReceiveCallable,
    ASGIReceiveEvent,
    ASGISendCallable,
    ASGISendEvent,
    ConnectionState,
    HTTPResponseBodyEvent,
    Scope,
)

from gastown.concurrency.supervise import contain, leaves

__all__ = ["DEAD_PEER_MS", "Exchange", "FinishResponses", "listen", "quiet_config", "serve_connections"]

log = structlog.get_logger()

DEAD_PEER_MS = 20_000
"""How long the kernel keeps a connection whose peer acknowledges nothing."""
DISCARD_SECONDS = 2.0
"""How long a client may go on writing what nobody reads, once it has been answered."""
_LAST_BODY_SECONDS = 5.0


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
        listener.listen(128)  # who comes before somebody accepts waits, and is not refused
    except OSError:
        listener.close()
        raise
    return listener


def quiet_config(graceful_seconds: float) -> Config:
    """For a server that says nothing of itself, to clients or in a log: we write the log."""
    config = Config()
    config.include_server_header = False
    config.graceful_timeout = graceful_seconds
    config.keep_alive_timeout = 75
    config.errorlog = None
    config.accesslog = None
    return config


class Exchange:
    """A request and its answer over hypercorn's two channels, which ends in order whatever the app does.

    - The last message of the answer gets out even when the client's end cancels the app's task (P7): else
      hypercorn never re-arms its idle timer, and every shutdown waits for idle connections.
    - A body that the app has not read is read and dropped behind the answer. hypercorn's reader would wait for
      ever for room in the queue of an app that has ended, or close the connection under a client that still
      writes, which then sees a reset in place of the answer. Who writes on for longer than 2 s is cut.
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
        """Close the connection without an answer, for which ASGI has no word."""
        stream = getattr(self._send, "__self__", None)
        if not isinstance(stream, HTTPStream):
            raise TypeError("hypercorn's own `send` is needed here")
        stream.closed = True  # else hypercorn would still try a 500
        await stream.send(StreamClosed(stream_id=stream.stream_id))

    async def _finish(self, last: HTTPResponseBodyEvent) -> None:
        if self._whole.is_set():
            await self._send(last)
            return
        if last.get("body"):  # the client need not wait for its own body to be dropped
            await self._send({**last, "more_body": True})
        async with trio.open_nursery() as nursery:
            # Beside the app, which may be reading too, and also while the end is sent: that waits for the reader.
            nursery.start_soon(self._drop, name="body dropper")
            with trio.move_on_after(DISCARD_SECONDS):
                await self._whole.wait()
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})
            nursery.cancel_scope.cancel(reason="the answer has ended")

    async def _drop(self) -> None:
        while True:
            await self.receive()


class FinishResponses:
    """An app whose every exchange ends in order: see `Exchange`."""

    def __init__(self, app: ASGIFramework) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        if scope["type"] == "http":
            exchange = Exchange(receive, send)
            await self._app(scope, exchange.receive, exchange.send)
        else:
            await self._app(scope, receive, send)


class _Watched:
    """An app whose crashes are logged: hypercorn answers them with an empty 500, and keeps them to itself."""

    def __init__(self, app: ASGIFramework) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        try:
            await self._app(scope, receive, send)
        except Exception:
            log.exception("app.crashed", kind=scope["type"], path=_path(scope))
            raise


def _path(scope: Scope) -> str | None:
    return None if scope["type"] == "lifespan" else scope["path"][:200]


async def serve_connections(
    app: ASGIFramework,
    config: Config,
    listener: socket.socket,
    stop: trio.Event,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve `app` until `stop` is set; what then runs has `config.graceful_timeout` seconds to finish.

    Owns `listener`, which is bound, and listens already or not; started means that it accepts. Of
    `config` only what concerns a connection counts. The app gets no
    lifespan; one that crashes is logged.
    """
    listener.listen(config.backlog)
    accepting = trio.SocketListener(trio.socket.from_stdlib_socket(listener))
    context = WorkerContext(None)
    handle = partial(_serve_one, ASGIWrapper(_Watched(app)), config, context)
    async with trio.open_nursery() as connections:
        try:
            async with accepting, trio.open_nursery() as door:
                serve = partial(trio.serve_listeners, handle, [accepting], handler_nursery=connections)
                await door.start(serve, name="accept")
                task_status.started()
                await stop.wait()
                door.cancel_scope.cancel(reason="the server stops")
        finally:
            await context.terminated.set()  # noqa: ASYNC102 (sets an event, and waits for nothing)
            connections.cancel_scope.deadline = trio.current_time() + config.graceful_timeout


async def _serve_one(app: ASGIWrapper, config: Config, context: WorkerContext, stream: trio.SocketStream) -> None:
    def failed(error: Exception) -> None:
        cause = leaves(error)[0]
        log.warning("connection.failed", reason=f"{type(cause).__name__}: {cause}")

    # hypercorn's type says that every stream is an encrypted one.
    encrypted = cast("trio.SSLStream[trio.SocketStream]", stream)
    await contain(TCPServer(app, config, context, ConnectionState({}), encrypted).run, on_failure=failed)
