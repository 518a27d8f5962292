"""One table serves and describes the routes of the user API, so that neither has what the other lacks."""

from __future__ import annotations

import hmac
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import wraps
from typing import Any

from pydantic import BaseModel
from quart import Blueprint, Response, current_app, request
from werkzeug.exceptions import HTTPException

from gastown.hall.api.answers import STATUSES, ApiError
from gastown.hall.api.context import context
from gastown.hall.api.tool_requests import body_as
from gastown.hall.control_client import ControlCallFailed
from gastown.hall.domain.errors import BoardError
from gastown.hall.store.lane import StoreBusy
from gastown.hall.user_api.shown import Error

__all__ = ["Route", "as_blueprint"]

Handler = Callable[..., Awaitable[Any]]


@dataclass(frozen=True, kw_only=True)
class Route:
    """A handler with its place and its models; its docstring describes it.

    It gets the parts of the path and, where there is one, the `body`. `answer` is the model that it returns, or
    several of when `many`; None for a stream of `events`.
    """

    method: str
    path: str
    handler: Handler
    answer: type[BaseModel]
    body: type[BaseModel] | None = None
    many: bool = False
    is_stream: bool = False
    query: Mapping[str, str] = field(default_factory=dict[str, str])


def as_blueprint(routes: Sequence[Route]) -> Blueprint:
    """The routes below `/towns/<town>`, for the holder of the town's user token."""
    blueprint = Blueprint("user_api", __name__, url_prefix="/towns/<town>")
    blueprint.before_request(_require_token)
    for kind in (ApiError, BoardError, StoreBusy, ControlCallFailed, HTTPException, Exception):
        blueprint.register_error_handler(kind, _refused)
    for route in routes:
        name = route.handler.__name__
        blueprint.add_url_rule(route.path, name, _served(route), methods=[route.method])
    return blueprint


def _served(route: Route) -> Callable[..., Awaitable[Response]]:
    @wraps(route.handler)
    async def view(**segments: Any) -> Response:
        if route.body is not None:
            segments["body"] = await body_as(route.body)
        found = await route.handler(**segments)
        return found if isinstance(found, Response) else _answer(found)

    return view


def _answer(found: BaseModel | Sequence[BaseModel], status: int = 200) -> Response:
    plain = _plain(found) if isinstance(found, BaseModel) else [_plain(one) for one in found]
    return Response(json.dumps(plain), status, content_type="application/json")


def _plain(model: BaseModel) -> dict[str, Any]:
    return model.model_dump(mode="json", by_alias=True)


async def _require_token() -> None:
    """401 without the user's token, 404 for a town that this hall does not have."""
    scheme, _, shown = request.headers.get("Authorization", "").partition(" ")
    token = context().desk.token.reveal().encode()
    if scheme.lower() != "bearer" or not hmac.compare_digest(shown.encode(), token):
        raise ApiError(401, "The user's token is needed: user.token, in the town's directory")
    town = str((request.view_args or {}).get("town"))
    if await context().store.jwt_secret(town) is None:
        raise ApiError(404, f"There is no town {town} here")


async def _refused(error: Exception) -> Response:
    """Every failure as `{error, action?}`."""
    action = None
    match error:
        case ApiError():
            status, sentence = error.status, error.message
        case BoardError():
            status = next(status for kind, status in STATUSES.items() if isinstance(error, kind))
            sentence, action = str(error), error.action
        case StoreBusy():
            status, sentence = 503, str(error)
        case ControlCallFailed():
            status, sentence = 502, f"The container refused: {error}"
        case HTTPException():
            status, sentence = error.code or 500, error.name
        case _:
            current_app.logger.error("%s %s failed", request.method, request.url_rule, exc_info=error)
            status, sentence = 500, "The hall failed to answer; its log says why"
    answer = _answer(Error(error=sentence, action=action), status)
    if status == 401:
        answer.headers["WWW-Authenticate"] = "Bearer"
    return answer
