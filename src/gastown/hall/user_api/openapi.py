"""The OpenAPI description of the user API, from the table that serves it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from inspect import getdoc
from typing import Any, Literal

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from gastown import __version__
from gastown.hall.user_api.routes import Route
from gastown.hall.user_api.shown import Error

__all__ = ["describe"]

_PARAMETER = re.compile(r"<(\w+)>")
_REFS = "#/components/schemas/{model}"
_ABOUT = """\
What people, their scripts and the commands ask of a town, and tell it. While it is up, the file `hall.json` of its
directory has the `url` of the hall, and the file `user.token` the bearer.
"""

Mode = Literal["validation", "serialization"]


def describe(routes: Sequence[Route]) -> dict[str, Any]:
    """OpenAPI 3.1 for `routes`."""
    models: dict[type[BaseModel], Mode] = {Error: "serialization"}
    models |= {route.answer: "serialization" for route in routes}
    models |= {route.body: "validation" for route in routes if route.body is not None}
    _, schemas = models_json_schema([*models.items()], by_alias=True, ref_template=_REFS)
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        path = "/towns/{town}" + _PARAMETER.sub(r"{\1}", route.path)
        paths.setdefault(path, {})[route.method.lower()] = _operation(route, path)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Gastown user API", "version": __version__, "description": _ABOUT},
        "paths": paths,
        "components": {
            "schemas": schemas["$defs"],
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"bearer": []}],
    }


def _operation(route: Route, path: str) -> dict[str, Any]:
    summary, _, more = (getdoc(route.handler) or "").partition("\n\n")
    named = re.findall(r"{(\w+)}", path)
    parameters = [_parameter(name, "path", {}) for name in named]
    parameters += [_parameter(name, "query", {"description": told}) for name, told in route.query.items()]
    answer: dict[str, Any] = _ref(route.answer)
    if route.many:
        answer = {"type": "array", "items": answer}
    kind = "text/event-stream" if route.is_stream else "application/json"
    told: dict[str, Any] = {
        "operationId": route.handler.__name__,
        "summary": " ".join(summary.split()),
        "parameters": parameters,
        "responses": {
            "200": {"description": "As it is then", "content": {kind: {"schema": answer}}},
            "default": {"description": "Refused", "content": {"application/json": {"schema": _ref(Error)}}},
        },
    }
    if more:
        told["description"] = " ".join(more.split())
    if route.body is not None:
        content = {"application/json": {"schema": _ref(route.body)}}
        told["requestBody"] = {"content": content, "required": "required" in route.body.model_json_schema()}
    return told


def _parameter(name: str, place: str, more: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "in": place, "required": place == "path", "schema": {"type": "string"}} | more


def _ref(model: type[BaseModel]) -> dict[str, Any]:
    return {"$ref": _REFS.format(model=model.__name__)}
