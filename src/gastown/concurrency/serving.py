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
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import (
    ASGIFramework,
    ASGIReceiveCallable,
    ASGISendCallable,
    ASGISendEvent,
    ConnectionState,
    Scope,
)

from gastown.concurrency.supervise import contain, leaves

__all__ = ["FinishResponses", "serve_connections"]

log = structlog.get_logger()

_LAST_BODY_SECONDS = 5.0


class FinishResponses:
    """Let the last message of a body out even when the client's end cancels the task (P7).

    Without it hypercorn never re-arms its idle timer, and every shutdown waits for idle connections.
    """

    def __init__(self, app: ASGIFramework) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        async def finish(message: ASGISendEvent) -> None:
            if message["type"] == "http.response.body" and not message.get("more_body", False):
                with trio.move_on_after(_LAST_BODY_SECONDS, shield=True):
                    await send(message)
            else:
                await send(message)

        await self._app(scope, receive, finish if scope["type"] == "http" else send)


async def serve_connections(
    app: ASGIFramework,
    config: Config,
    listener: socket.socket,
    stop: trio.Event,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve `app` until `stop` is set; what then runs has `config.graceful_timeout` seconds to finish.

    Owns `listener`, which is bound, and listens already or not; started means that it accepts. Of `config` only
    what concerns a connection counts. The app gets no lifespan.
    """
    listener.listen(config.backlog)
    accepting = trio.SocketListener(trio.socket.from_stdlib_socket(listener))
    context = WorkerContext(None)
    handle = partial(_serve_one, ASGIWrapper(app), config, context)
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
