"""One table for serving and for documenting: a route cannot be served without being in /openapi.json."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial

from pydantic import BaseModel
from quart import Blueprint, Response

__all__ = ["Route", "Routes"]

Handler = Callable[..., Awaitable[Response]]
Answers = Mapping[int, type[BaseModel]]


@dataclass(frozen=True)
class Route:
    """A handler with its place and its models; the handler's docstring describes it.

    A `gated` route waits for the hydration gate itself and changes nothing before, not even by its headers.
    """

    method: str
    path: str
    handler: Handler
    body: type[BaseModel] | None
    answers: Answers
    gated: bool


class Routes:
    """The routes of one blueprint."""

    def __init__(self, blueprint: Blueprint) -> None:
        self._blueprint = blueprint
        self.table: list[Route] = []
        self.get = partial(self._add, "GET")
        self.post = partial(self._add, "POST")
        self.put = partial(self._add, "PUT")
        self.patch = partial(self._add, "PATCH")
        self.delete = partial(self._add, "DELETE")

    def _add(
        self,
        method: str,
        path: str,
        *,
        answers: Answers,
        body: type[BaseModel] | None = None,
        gated: bool = False,
    ) -> Callable[[Handler], Handler]:
        def add(handler: Handler) -> Handler:
            self.table.append(Route(method, path, handler, body, answers, gated))
            self._blueprint.add_url_rule(path, handler.__name__, handler, methods=[method])
            return handler

        return add
