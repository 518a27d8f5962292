"""The whole of the user API: its routes, and the description that is served beside them."""

from __future__ import annotations

from quart import Response

from gastown.hall.api.answers import answer
from gastown.hall.api.context import HallApp
from gastown.hall.user_api import beads, config, events, reviews, rigs, town
from gastown.hall.user_api.openapi import describe
from gastown.hall.user_api.routes import as_blueprint

__all__ = ["USER_ROUTES", "install_user_api"]

USER_ROUTES = (*town.ROUTES, *config.ROUTES, *rigs.ROUTES, *beads.ROUTES, *reviews.ROUTES, *events.ROUTES)


def install_user_api(app: HallApp) -> None:
    """Let `app` answer the user API, and its description at `/openapi.json`."""
    app.register_blueprint(as_blueprint(USER_ROUTES))
    app.add_url_rule("/openapi.json", view_func=_described)


async def _described() -> Response:
    return answer(describe(USER_ROUTES))
