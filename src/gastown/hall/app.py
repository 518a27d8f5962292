"""The hall's web application: the worker API, the tools' routes, the user API, the gateway stand-in, `/health`."""

from __future__ import annotations

from gastown.hall.api.agent_api import agent_api
from gastown.hall.api.answers import Answer, install_error_answers, reply
from gastown.hall.api.context import HallApp, HallContext
from gastown.hall.api.mayor_tools import mayor_tools
from gastown.hall.api.responses import Status
from gastown.hall.api.rig_tools import rig_tools
from gastown.hall.api.worker_api import SNAPSHOT_LIMIT, worker_api
from gastown.hall.gateway_stub import gateway
from gastown.hall.user_api.table import install_user_api

__all__ = ["LOGGER", "create_app"]

LOGGER = "gastown.hall"
"""The name of the application's logger; the server beneath it logs to `gastown.hall.server`."""


def create_app(hall: HallContext) -> HallApp:
    """The application over `hall`. It owns nothing: the store outlives it, and it has no tasks of its own."""
    app = HallApp(LOGGER, static_folder=None)
    app.hall = hall
    app.config["MAX_CONTENT_LENGTH"] = SNAPSHOT_LIMIT
    app.url_map.merge_slashes = False
    install_error_answers(app)
    app.add_url_rule("/health", view_func=_health)
    for blueprint in (worker_api, agent_api, mayor_tools, rig_tools):
        app.register_blueprint(blueprint)
    install_user_api(app)
    if hall.stand_in is not None:
        app.register_blueprint(gateway)
    return app


async def _health() -> Answer[Status]:
    return reply(Status(status="ok"))
