"""The app: routes, errors, the request log."""

from __future__ import annotations

import secrets
from typing import Any

import structlog
import trio
from quart import Response, g, request
from quart_trio import QuartTrio

from gastown.control import agents, drain, nudges, repos, streams, terminals
from gastown.control import town as town_routes
from gastown.control.body import adopt_town_config
from gastown.control.context import Town, town
from gastown.control.errors import register_errors
from gastown.control.routes import Route

__all__ = ["ROUTES", "create_app"]

log = structlog.get_logger()

BODY_LIMIT = 8 * 1024 * 1024
BODY_SECONDS = 30

ROUTES: tuple[Route, ...] = (
    *town_routes.routes.table,
    *agents.routes.table,
    *drain.routes.table,
    *nudges.routes.table,
    *repos.routes.table,
    *streams.routes.table,
    *terminals.routes.table,
)
SOCKETS = (*streams.sockets.table, *terminals.sockets.table)
GATED = frozenset(
    f"{blueprint.name}.{route.handler.__name__}"
    for blueprint, routes in ((town_routes.blueprint, town_routes.routes), (agents.blueprint, agents.routes))
    for route in routes.table
    if route.gated
)


def create_app(here: Town) -> QuartTrio:
    """An app that serves `here`. It owns nothing: everything that lives belongs to `main`."""
    app = QuartTrio("gastown.control", static_folder=None, template_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = BODY_LIMIT
    app.config["BODY_TIMEOUT"] = BODY_SECONDS
    # A start may take its whole minute (P11).
    app.config["RESPONSE_TIMEOUT"] = None
    app.extensions["gastown"] = here
    register_errors(app)
    app.register_blueprint(town_routes.blueprint)
    app.register_blueprint(agents.blueprint)
    app.register_blueprint(drain.blueprint)
    app.register_blueprint(nudges.blueprint)
    app.register_blueprint(repos.blueprint)
    app.register_blueprint(streams.blueprint)
    app.register_blueprint(terminals.blueprint)
    app.add_url_rule("/openapi.json", "openapi", _openapi, methods=["GET"])
    app.before_request(_begin)
    app.after_request(_end)
    return app


async def _openapi() -> dict[str, Any]:
    """Imported here: nobody needs it at boot, and it costs 30 ms."""
    from gastown.control.openapi import describe  # noqa: PLC0415

    return await describe(ROUTES, SOCKETS)


async def _begin() -> None:
    g.began = trio.current_time()
    structlog.contextvars.bind_contextvars(request_id=secrets.token_hex(4))
    if request.endpoint not in GATED:
        adopt_town_config(town())


async def _end(response: Response) -> Response:
    # Whoever polls must not drown what happens.
    write = log.debug if request.method == "GET" and response.status_code < 400 else log.info
    write(
        "request.served",
        method=request.method,
        path=request.path[:200],
        status=response.status_code,
        ms=round((trio.current_time() - g.began) * 1000, 1),
    )
    return response
