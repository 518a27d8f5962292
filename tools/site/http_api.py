"""The control API, from its own OpenAPI description."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from inspect import getdoc
from typing import Any

import trio

from gastown.contract import errors
from gastown.control.app import ROUTES, SOCKETS
from gastown.control.openapi import describe
from tools.site.markdown import anchor, beneath, code, prose, sentence, table

__all__ = ["Operation", "describe_api", "error_kinds", "operations", "page", "shapes_page", "sockets", "type_of"]

_GROUPS = {
    "agents": "Agents",
    "drain": "Leaving",
    "git": "Repositories",
    "repos": "Repositories",
    "rigs": "Repositories",
}
_ALWAYS = {"400", "401", "403", "500", "default"}


_PARAMETER = re.compile(r"<(\w+)>")


def _braced(path: str) -> str:
    """Quart's path as OpenAPI writes it."""
    return _PARAMETER.sub(r"{\1}", path)


_SCOPES = {f"{route.method} {_braced(route.path)}": route.scope.word for route in ROUTES}
_GATED = {f"{route.method} {_braced(route.path)}" for route in ROUTES if route.gated}


class Operation:
    """One method of one path."""

    def __init__(self, method: str, path: str, told: dict[str, Any]) -> None:
        self.method = method.upper()
        self.path = path
        self.told = told

    @property
    def title(self) -> str:
        return f"{self.method} {self.path}"

    @property
    def meaning(self) -> str:
        """Every sentence of the handler's docstring."""
        return " ".join(f"{self.told.get('summary', '')} {self.told.get('description', '')}".split())

    @property
    def scope(self) -> str:
        """What its caller's token must allow."""
        return _SCOPES[self.title]

    @property
    def group(self) -> str:
        return _GROUPS.get(self.path.split("/")[1], "The town")


def describe_api() -> dict[str, Any]:
    """The OpenAPI description of this version."""
    return trio.run(describe, ROUTES, SOCKETS)


def operations(described: dict[str, Any]) -> Iterator[Operation]:
    for path, methods in described["paths"].items():
        for method, told in methods.items():
            yield Operation(method, path, told)


def error_kinds() -> list[tuple[int, str, str]]:
    """Status, meaning and name of each error of the one tree of errors."""
    kinds: list[type[errors.ControlError]] = [
        kind
        for kind in (getattr(errors, name) for name in errors.__all__)
        if isinstance(kind, type) and issubclass(kind, errors.ControlError) and kind is not errors.ControlError
    ]
    return sorted((kind.status, sentence(getdoc(kind)).partition(": ")[2], kind.__name__) for kind in kinds)


def page(described: dict[str, Any]) -> str:
    """The reference page: an overview, each operation, the errors, the shapes of bodies and answers."""
    found = list(operations(described))
    lines = [_HEAD, "## Overview\n", table(("Route", "Meaning"), map(_overview, found))]
    lines += [_SOCKETS, table(("Websocket", "Meaning"), sockets())]
    for title in dict.fromkeys(operation.group for operation in found):
        lines.append(f"## {title}\n")
        lines += [_operation(operation) for operation in found if operation.group == title]
    lines += ["## Errors\n", _ERRORS, table(("Status", "When", "Raised as"), _errors())]
    lines += ["## Shapes\n", shapes_page(_shapes(described))]
    return "\n".join(lines)


def _overview(operation: Operation) -> tuple[str, str]:
    link = f"[`{operation.title}`](#{anchor(operation.title)})"
    return beneath(link, operation.scope), operation.told.get("summary", "")


def sockets() -> Iterator[tuple[str, str]]:
    """Each websocket's path with its scope, and what it is for."""
    for socket in SOCKETS:
        path = beneath(code(_braced(socket.path)), socket.scope.word)
        yield path, " ".join((getdoc(socket.handler) or "").split())


def _errors() -> Iterator[tuple[object, ...]]:
    for status, meaning, name in error_kinds():
        yield status, meaning[:1].upper() + meaning[1:], code(name)


def _operation(operation: Operation) -> str:
    lines = [f"### {operation.title} {{ #{anchor(operation.title)} }}\n", f"{prose(operation.meaning)}\n"]
    facts = [("Scope", operation.scope)]
    if operation.title in _GATED:
        facts.append(
            ("Gate", "waits for [the hydration gate](../explanation/gate.md), and changes nothing before")
        )
    if (body := _json_schema(operation.told.get("requestBody"))) is not None:
        facts.append(("Body", type_of(body)))
    facts += [
        (f"Answer {status}", type_of(schema))
        for status, answer in operation.told["responses"].items()
        if str(status) not in _ALWAYS and (schema := _json_schema(answer)) is not None
    ]
    return "\n".join([*lines, *(f"- {name}: {fact}" for name, fact in facts), ""])


def _json_schema(holder: dict[str, Any] | None) -> dict[str, Any] | None:
    content: dict[str, Any] = (holder or {}).get("content", {}).get("application/json", {})
    return content.get("schema")


def _shapes(described: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Every object that a body or an answer is or holds, by its name."""
    found: dict[str, dict[str, Any]] = dict(described["components"]["schemas"])
    for operation in operations(described):
        for holder in (operation.told.get("requestBody"), *operation.told["responses"].values()):
            schema = _json_schema(holder)
            if schema is not None and "title" in schema:
                found[schema["title"]] = schema
    return dict(sorted(found.items()))


def type_of(schema: dict[str, Any]) -> str:
    """A JSON Schema in few words; an object or an enumeration is a link to its shape."""
    match schema:
        case {"$ref": str(place)}:
            told = _link(place.rpartition("/")[2])
        case {"anyOf": parts}:
            told = " or ".join(dict.fromkeys(type_of(part) for part in parts))
        case {"const": value}:
            told = code(value)
        case {"enum": values}:
            told = ", ".join(code(value) for value in values)
        case {"type": "object", "title": str(name), "properties": _}:
            told = _link(name)
        case {"type": "object", "additionalProperties": {"type": _} as inner}:
            told = f"object of {type_of(inner)}"
        case {"type": "array"}:
            told = f"list of {type_of(schema.get('items', {}))}"
        case _:
            told = str(schema.get("type", "anything"))
    return told


def _link(name: str) -> str:
    return f"[{name.lstrip('_')}](#{anchor(name.lstrip('_'))})"


def shapes_page(shapes: dict[str, dict[str, Any]]) -> str:
    """A section for each shape."""
    return "\n".join(_shape(name, schema) for name, schema in shapes.items())


def _shape(name: str, schema: dict[str, Any]) -> str:
    lines = [f"#### {name}\n"]
    if told := schema.get("description"):
        lines.append(f"{prose(told)}\n")
    if "enum" in schema:
        lines.append(f"One of {type_of(schema)}.\n")
    elif properties := schema.get("properties"):
        required = set(schema.get("required", ()))
        rows = ((code(key), type_of(inner), _need(inner, key in required)) for key, inner in properties.items())
        lines.append(table(("Key", "Type", "Default"), rows))
    return "\n".join(lines)


def _need(schema: dict[str, Any], required: bool) -> str:
    if required:
        return "required"
    value = schema.get("default")
    return "" if value is None else code(json.dumps(value))


_HEAD = """\
# HTTP API

The container's control port, 8080 unless [`GASTOWN_CONTROL_PORT`](settings.md) says otherwise.
This page is made from the description that the container itself serves at `/openapi.json`; `gastown openapi`
prints it.

Bodies and answers are JSON. Keys that a side does not know are ignored, so either may be newer than the other.
Any request may carry the town's configuration in the header `X-Town-Config`; it replaces the one before.

A request shows a token as `Authorization: Bearer …`. Below each route stands
[the scope](../explanation/threat-model.md#port) that its token must have at least; a request with `X-Town-Config`
needs `control` anywhere.
"""

_SOCKETS = """\
## Websockets

One opens for a stream ticket of its agent (`?ticket=`), or for a bearer in the upgrade.
"""

_ERRORS = """\
Every error is `{"error": "<a sentence>"}`, sometimes with more keys. A body that cannot be read is a 400 that
names each fault:
`{"error": "Invalid request body", "issues": [{"path": ["agentId"], "message": "Field required"}]}`.
"""
