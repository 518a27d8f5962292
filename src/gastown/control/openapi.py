"""The OpenAPI description, made from the same table that serves the routes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import wraps
from inspect import getdoc
from typing import Any

from quart import Response
from quart_schema import (
    HttpSecurityScheme,
    Info,
    QuartSchema,
    document_request,
    document_response,
    security_scheme,
)
from quart_trio import QuartTrio

from gastown import __version__
from gastown.contract.access import Scope
from gastown.contract.errors import ErrorBody
from gastown.control.route_table import Handler, Route
from gastown.control.sockets import SocketRoute

__all__ = ["describe"]

_ALWAYS = (400, 500)
_SCHEME = "bearer"
_ACCESS = """\
The bearer is the container's `GASTOWN_CONTROL_TOKEN`, which may do everything, its `GASTOWN_ATTACH_TOKEN` or its
`GASTOWN_READ_TOKEN`. Each route names the scope that it needs: `read`, `attach` or `control`, where each includes
the ones before it. A container without any token asks for none. A request with the header `X-Town-Config` needs
`control`, whatever the route.

Websockets, each for a stream ticket of its agent, or for a bearer with the scope `attach` in the upgrade:
"""
_PARAMETER = re.compile(r"<(\w+)>")


async def describe(routes: Sequence[Route], sockets: Iterable[SocketRoute]) -> dict[str, Any]:
    """OpenAPI 3.1 for `routes`. A second app is described, so that the serving one is not wrapped.

    OpenAPI cannot describe websockets: the description of the API lists `sockets`.
    """
    shadow = QuartTrio("gastown.control", static_folder=None)
    schema = QuartSchema(
        openapi_path=None,
        convert_casing=False,
        info=Info(title="Gastown control API", version=__version__, description=_told(sockets)),
        security_schemes={_SCHEME: HttpSecurityScheme(scheme="bearer")},
    )
    for number, route in enumerate(routes):
        shadow.add_url_rule(
            route.path, f"{number}-{route.handler.__name__}", _documented(route), methods=[route.method]
        )
    schema.init_app(shadow)
    described: dict[str, Any] = schema.openapi_provider.schema()
    for route in routes:
        operation = described["paths"][_PARAMETER.sub(r"{\1}", route.path)][route.method.lower()]
        _set_media_types(operation, route)
        _complete(operation, route)
    return described


def _set_media_types(operation: dict[str, Any], route: Route) -> None:
    """quart-schema writes JSON for all; set the `media_type` of models that have one."""
    for status, model in route.answers.items():
        if (media_type := getattr(model, "media_type", None)) is not None:
            answer = operation["responses"][status]
            answer["content"] = {media_type: answer["content"]["application/json"]}


def _documented(route: Route) -> Handler:
    @wraps(route.handler)
    async def handler(*arguments: Any, **keywords: Any) -> Response:
        return await route.handler(*arguments, **keywords)

    documented: Handler = handler
    for status, model in route.answers.items():
        documented = document_response(model, status)(documented)
    locked = route.scope is not Scope.OPEN
    named = "<" in route.path
    for status in (*_ALWAYS, *((401, 403) if locked else ()), *((404,) if named else ())):
        documented = document_response(ErrorBody, status)(documented)
    needed = [{_SCHEME: [route.scope.word]}] if locked else []
    documented = security_scheme(needed)(documented)
    if route.body is not None:
        documented = document_request(route.body)(documented)
    return documented


def _complete(operation: dict[str, Any], route: Route) -> None:
    """Add what quart-schema cannot express: whether the body is required, and the shape of every other error."""
    answers = {str(status): answer for status, answer in operation["responses"].items()}
    operation["responses"] = answers | {"default": answers["500"]}
    if route.body is not None:
        operation["requestBody"]["required"] = not route.body_optional


def _told(sockets: Iterable[SocketRoute]) -> str:
    told = (f"- `{s.path}`: {getdoc(s.handler)}" for s in sockets)
    return "\n".join([_ACCESS, *told])
