"""The user API of the hall, from the description that the hall serves."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from gastown.hall.user_api.openapi import describe
from gastown.hall.user_api.table import USER_ROUTES
from tools.site.http_api import Operation, operations, shapes_page, type_of
from tools.site.markdown import anchor, code, prose, table

__all__ = ["described", "page"]


def described() -> dict[str, Any]:
    """The OpenAPI description of this version."""
    return describe(USER_ROUTES)


def page() -> str:
    """The reference page: an overview, each route, the shapes of bodies and answers."""
    found = [*operations(described())]
    rows = ((f"[`{_short(one)}`](#{anchor(_short(one))})", one.told["summary"]) for one in found)
    lines = [_HEAD, table(("Route", "Meaning"), rows)]
    lines += [_operation(one) for one in found]
    return "\n".join([*lines, "## Shapes\n", shapes_page(described()["components"]["schemas"])])


def _short(operation: Operation) -> str:
    return f"{operation.method} {operation.path.removeprefix('/towns/{town}')}"


def _operation(operation: Operation) -> str:
    facts = [*_facts(operation)]
    title = _short(operation)
    lines = [f"### {title} {{ #{anchor(title)} }}\n", f"{prose(operation.meaning)}\n"]
    return "\n".join([*lines, *(f"- {name}: {fact}" for name, fact in facts), ""])


def _facts(operation: Operation) -> Iterator[tuple[str, str]]:
    for parameter in operation.told["parameters"]:
        if parameter["in"] == "query":
            yield code(f"?{parameter['name']}="), parameter["description"]
    if body := operation.told.get("requestBody"):
        yield "Body", type_of(body["content"]["application/json"]["schema"])
    ((kind, content),) = operation.told["responses"]["200"]["content"].items()
    told = type_of(content["schema"])
    yield "Answer", told if kind == "application/json" else f"a stream of events, each a {told}"


_HEAD = """\
# User API

What people, their scripts and [the commands](cli.md) ask of a town, and tell it. Below `{url}/towns/{town}`, where
`url` and `town` are those of the file `hall.json` in the town's directory; every request has
`Authorization: Bearer …` with what the file `user.token` beside it holds. Both files are there while the town is
up, for their owner only; the next time it is another token.

Bodies and answers are JSON. A body's key that is not named here is refused. Every error is `{error, action?}`:
a sentence, and what to do instead where that is known. 400 is a wrong request, 401 no token of this town, 404 no
such town, bead, rig or agent, 409 what does not fit the present state, 503 what has to wait.
The hall serves this description at `/openapi.json`.
"""
