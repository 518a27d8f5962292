"""How the hall's routes read bodies and answer, with errors too. A caller's mistake is never a 5xx."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, Generic, NoReturn, TypeVar, overload

import trio
from pydantic import BaseModel, ValidationError
from quart import Quart, Response, current_app, request
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge, RequestTimeout

from gastown.contract.secret import reveal_json
from gastown.hall.api.responses import Shown
from gastown.hall.domain.errors import BoardError, Conflict, Invalid, NotFound
from gastown.hall.store.lane import StoreBusy

__all__ = [
    "JSON_LIMIT",
    "STATUSES",
    "Answer",
    "ApiError",
    "answer",
    "install_error_answers",
    "issues",
    "ok",
    "read_bytes",
    "read_json",
    "reply",
    "reply_with_secrets",
]

_Shown = TypeVar("_Shown")
_Model = TypeVar("_Model", bound=BaseModel)
_Data = TypeVar("_Data", bound=Shown | Sequence[Shown])

JSON_LIMIT = 32 * 1024 * 1024
MOST_LEVELS = 200
"""How deep a body may be nested, as at the control API: what is kept is written again, with more around it."""
_BODY_SECONDS = 60
STATUSES: dict[type[Exception], int] = {NotFound: 404, Invalid: 400, Conflict: 409, BoardError: 400}
"""The status of each refusal of the board; the first kind that fits holds."""


class ApiError(Exception):
    """An error answer: a status and a sentence that the caller may see."""

    def __init__(self, status: int, message: str, issues: Sequence[Mapping[str, Any]] = ()) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.issues = issues


class Answer(Response, Generic[_Shown]):
    """A response that holds a `_Shown`, a model or several; a handler's return type says which."""


def answer(body: dict[str, Any], status: int = 200) -> Response:
    """A JSON answer without a model: an error, or an answer of another protocol."""
    return Response(_json(body), status, content_type="application/json")


def reply(model: _Model) -> Answer[_Model]:
    """`model` as JSON. One that holds a secret is refused; see `reply_with_secrets`."""
    return Answer(_json(model.model_dump(by_alias=True)), content_type="application/json")


def reply_with_secrets(model: _Model) -> Answer[_Model]:
    """`model` as JSON with its secrets, for the container that owns them. Unset fields are left out."""
    return Answer(_json(reveal_json(model, by_alias=True, exclude_unset=True)), content_type="application/json")


@overload
def ok() -> Answer[None]: ...
@overload
def ok(data: _Data) -> Answer[_Data]: ...
def ok(data: Any = None) -> Answer[Any]:
    """`{success: true}`, with `data` if there is any."""
    if data is None:
        return Answer(_json({"success": True}), content_type="application/json")
    plain = data.model_dump() if isinstance(data, BaseModel) else [one.model_dump() for one in data]
    return Answer(_json({"success": True, "data": plain}), content_type="application/json")


def _json(value: object) -> str:
    """ASCII, so that a lone surrogate in what a peer once sent cannot break it."""
    return json.dumps(value)


async def read_bytes(limit: int) -> bytes:
    """The request's body: ApiError 413 beyond `limit` bytes, 408 when it does not come within a minute."""
    # P14: Quart's own cap and clock do not bind a body that is read in pieces.
    if (request.content_length or 0) > limit:
        _too_large(limit)
    content = bytearray()
    with trio.move_on_after(_BODY_SECONDS) as scope:
        try:
            async for chunk in request.body:
                content += chunk
                if len(content) > limit:
                    _too_large(limit)
        except RequestEntityTooLarge:
            _too_large(limit)
        except RequestTimeout:
            scope.cancel()
    if scope.cancelled_caught:
        raise ApiError(408, f"The body did not arrive within {_BODY_SECONDS} s")
    return bytes(content)


def _too_large(limit: int) -> NoReturn:
    raise ApiError(413, f"The body is larger than {limit} bytes")


async def read_json(limit: int = JSON_LIMIT) -> Any:
    """The request's body as JSON, whatever its content type says; ApiError 400 when it is not."""
    raw = await read_bytes(limit)
    try:
        value = json.loads(raw, parse_constant=_not_json, parse_float=_finite)
    except (ValueError, RecursionError):
        raise ApiError(400, "The body is not valid JSON") from None
    if _is_deeper(value, MOST_LEVELS):
        raise ApiError(400, f"The body is nested deeper than {MOST_LEVELS} levels")
    return value


def _not_json(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _finite(digits: str) -> float:
    number = float(digits)
    return number if math.isfinite(number) else _not_json(digits)


def _is_deeper(value: Any, levels: int) -> bool:
    """Whether more than that many objects and arrays lie in one another."""
    inside = [value] if isinstance(value, dict | list) else []
    for _ in range(levels):
        if not inside:
            return False
        all_inner = (inner for outer in inside for inner in (outer.values() if isinstance(outer, dict) else outer))
        inside = [inner for inner in all_inner if isinstance(inner, dict | list)]
    return bool(inside)


def issues(error: ValidationError) -> list[dict[str, Any]]:
    """What is wrong with a body and where, without quoting it: bodies carry credentials."""
    return [
        {"path": list(item["loc"]), "message": item["msg"]}
        for item in error.errors(include_url=False, include_context=False, include_input=False)
    ]


def install_error_answers(app: Quart) -> None:
    """Make every failure of `app` an answer of the form `{success: false, error}`."""
    app.register_error_handler(ApiError, _refused)
    app.register_error_handler(BoardError, _board_refused)
    app.register_error_handler(StoreBusy, _busy)
    app.register_error_handler(HTTPException, _http_error)
    app.register_error_handler(Exception, _broken)


def _refusal(error: str, status: int, issues: Sequence[Mapping[str, Any]] = ()) -> Response:
    body: dict[str, Any] = {"success": False, "error": error}
    return answer(body | ({"issues": list(issues)} if issues else {}), status)


async def _refused(error: Exception) -> Response:
    assert isinstance(error, ApiError)  # noqa: S101  registered for nothing else
    reply = _refusal(error.message, error.status, error.issues)
    if error.status == 401:
        reply.headers["WWW-Authenticate"] = "Bearer"
    return reply


async def _board_refused(error: Exception) -> Response:
    status = next(status for kind, status in STATUSES.items() if isinstance(error, kind))
    return _refusal(str(error), status)


async def _busy(error: Exception) -> Response:
    current_app.logger.warning("%s %s: %s", request.method, request.url_rule, error)
    return _refusal(str(error), 503)


async def _http_error(error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101  registered for nothing else
    status = error.code or 500
    reply = _refusal(error.name if status != 404 else "Not found", status)
    for name, value in error.get_headers():
        if name.lower() == "allow":
            reply.headers[name] = value
    return reply


async def _broken(error: Exception) -> Response:
    current_app.logger.error("%s %s failed", request.method, request.url_rule, exc_info=error)
    return _refusal("The hall failed to answer; its log says why", 500)
