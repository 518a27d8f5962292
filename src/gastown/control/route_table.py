"""One table serves and documents the routes: each served route is in /openapi.json."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial

from pydantic import BaseModel
from quart import Blueprint, Response

from gastown.contract.access import Scope

__all__ = ["Route", "Routes"]

Handler = Callable[..., Awaitable[Response]]
Answers = Mapping[int, type[BaseModel]]


@dataclass(frozen=True)
class Route:
    """A handler with its place and its models, under the name `endpoint`; the handler's docstring describes it.

    A `gated` route waits for the hydration gate itself and changes nothing before, not even by its headers.
    `scope` is what its caller's token must allow.
    `body_optional` is whether the body may be left out.
    """

    method: str
    path: str
    endpoint: str
    handler: Handler
    body: type[BaseModel] | None
    answers: Answers
    gated: bool
    scope: Scope
    body_optional: bool = False


class Routes:
    """The routes of one blueprint. By default a GET needs the scope `read`, every other method `control`."""

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
        scope: Scope | None = None,
        body_optional: bool = False,
    ) -> Callable[[Handler], Handler]:
        usual = Scope.READ if method == "GET" else Scope.CONTROL

        def add(handler: Handler) -> Handler:
            needed = usual if scope is None else scope
            endpoint = f"{self._blueprint.name}.{handler.__name__}"
            self.table.append(Route(method, path, endpoint, handler, body, answers, gated, needed, body_optional))
            self._blueprint.add_url_rule(path, handler.__name__, handler, methods=[method])
            return handler

        return add
