"""The hall's web application: the worker API, the tools' routes, the gateway stand-in, `/health`."""

from __future__ import annotations

from gastown.hall.agent_api import agent_api
from gastown.hall.answers import Answer, install_error_answers, reply
from gastown.hall.context import HallApp, HallContext
from gastown.hall.gateway import gateway
from gastown.hall.mayor_tools import mayor_tools
from gastown.hall.rig_tools import rig_tools
from gastown.hall.shown import Status
from gastown.hall.worker_api import SNAPSHOT_LIMIT, worker_api

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
    if hall.stand_in is not None:
        app.register_blueprint(gateway)
    return app


async def _health() -> Answer[Status]:
    return reply(Status(status="ok"))
