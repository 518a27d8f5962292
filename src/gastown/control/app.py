"""The app: routes, errors, the request log."""

from __future__ import annotations

import secrets
from typing import Any, cast

import structlog
import trio
from quart import Response, g, request
from quart_trio import QuartTrio

from gastown.asgi.origins import App
from gastown.contract.access import Scope
from gastown.control.auth.policy import AuthMiddleware, admit_request, admit_websocket
from gastown.control.context import Town, town
from gastown.control.errors import register_errors
from gastown.control.requests import adopt_town_config
from gastown.control.route_table import Route
from gastown.control.routes import agents, drain, nudges, probes, repos, streams, terminals
from gastown.control.routes import town as town_routes

__all__ = ["ROUTES", "create_app"]

log = structlog.get_logger()

BODY_LIMIT = 8 * 1024 * 1024
BODY_SECONDS = 30

ROUTES: tuple[Route, ...] = (
    *town_routes.routes.table,
    *probes.routes.table,
    *agents.routes.table,
    *drain.routes.table,
    *nudges.routes.table,
    *repos.routes.table,
    *streams.routes.table,
    *terminals.routes.table,
)
SOCKETS = (*streams.sockets.table, *terminals.sockets.table)
OPENAPI = "/openapi.json"
BLUEPRINTS = tuple(
    resource.blueprint for resource in (town_routes, probes, agents, drain, nudges, repos, streams, terminals)
)
GATED = frozenset(route.endpoint for route in ROUTES if route.gated)
SCOPES: dict[str, Scope] = {
    "openapi": Scope.READ,
    **{route.endpoint: route.scope for route in ROUTES},
    **{socket.endpoint: socket.scope for socket in SOCKETS},
}


def create_app(here: Town) -> QuartTrio:
    """An app that serves `here`. It owns no resources: those belong to `assembly.open_town`."""
    app = QuartTrio("gastown.control", static_folder=None, template_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = BODY_LIMIT
    app.config["BODY_TIMEOUT"] = BODY_SECONDS
    # A start may take its whole minute (P11).
    app.config["RESPONSE_TIMEOUT"] = None
    app.extensions["gastown"] = here
    register_errors(app)
    for blueprint in BLUEPRINTS:
        app.register_blueprint(blueprint)
    app.add_url_rule(OPENAPI, "openapi", _openapi, methods=["GET"])
    app.before_request(_begin)
    app.before_websocket(_begin_websocket)
    app.after_request(_end)
    open_paths = {route.path for route in ROUTES if route.scope is Scope.OPEN}
    guarded = cast(Any, AuthMiddleware(cast(App, app.asgi_app), here.policy, open_paths))
    app.asgi_app = guarded  # type: ignore[method-assign]
    return app


async def _openapi() -> dict[str, Any]:
    """Imported here: it is not needed at boot, and costs 30 ms."""
    from gastown.control.openapi import describe  # noqa: PLC0415

    return await describe(ROUTES, SOCKETS)


async def _begin() -> None:
    g.began = trio.current_time()
    structlog.contextvars.bind_contextvars(request_id=secrets.token_hex(4))
    admit_request(SCOPES)
    if request.endpoint not in GATED:
        adopt_town_config(town())


async def _begin_websocket() -> None:
    here = town()
    admit_websocket(here.policy, here.tickets, SCOPES)


async def _end(response: Response) -> Response:
    # Polling must not drown the rest of the log.
    write = log.debug if request.method == "GET" and response.status_code < 400 else log.info
    write(
        "request.served",
        method=request.method,
        path=request.path[:200],
        status=response.status_code,
        ms=round((trio.current_time() - g.began) * 1000, 1),
    )
    return response
