"""One table for serving and for documenting: a route cannot be served without being in /openapi.json."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from pydantic import BaseModel
from quart import Blueprint, Response

__all__ = ["Route", "Routes"]

Handler = Callable[..., Awaitable[Response]]
Answers = Mapping[int, type[BaseModel]]


@dataclass(frozen=True)
class Route:
    """A handler with its place and its models; the handler's docstring describes it."""

    method: str
    path: str
    handler: Handler
    body: type[BaseModel] | None
    answers: Answers


class Routes:
    """The routes of one blueprint."""

    def __init__(self, blueprint: Blueprint) -> None:
        self._blueprint = blueprint
        self.table: list[Route] = []

    def get(self, path: str, *, answers: Answers) -> Callable[[Handler], Handler]:
        return self._add("GET", path, None, answers)

    def post(
        self, path: str, *, answers: Answers, body: type[BaseModel] | None = None
    ) -> Callable[[Handler], Handler]:
        return self._add("POST", path, body, answers)

    def put(self, path: str, *, answers: Answers, body: type[BaseModel]) -> Callable[[Handler], Handler]:
        return self._add("PUT", path, body, answers)

    def patch(self, path: str, *, answers: Answers, body: type[BaseModel]) -> Callable[[Handler], Handler]:
        return self._add("PATCH", path, body, answers)

    def _add(
        self, method: str, path: str, body: type[BaseModel] | None, answers: Answers
    ) -> Callable[[Handler], Handler]:
        def add(handler: Handler) -> Handler:
            self.table.append(Route(method, path, handler, body, answers))
            self._blueprint.add_url_rule(path, handler.__name__, handler, methods=[method])
            return handler

        return add
