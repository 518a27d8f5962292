"""The settings of the container, from the class that reads them, and the variables that the hall reads."""

from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import SecretStr
from pydantic.fields import FieldInfo

from gastown.settings import Settings
from tools.site.markdown import beneath, code, table

__all__ = ["HALL_VARIABLES", "hall_variables", "page", "settings"]

_PLACES = ("_url", "_base", "_host", "_port", "_root", "_bin")
_CLOCKS = ("_seconds", "_ms")
_LIMITS = ("_mb", "_events", "_slots")
_GROUPS: tuple[tuple[str, Callable[[str, FieldInfo], bool]], ...] = (
    ("Credentials", lambda _, field: "SecretStr" in str(field.annotation)),
    ("Addresses and places", lambda name, _: name.endswith(_PLACES)),
    ("Clocks", lambda name, _: name.endswith(_CLOCKS)),
    ("Limits", lambda name, _: name.endswith(_LIMITS)),
    ("The rest", lambda _, __: True),
)

HALL_VARIABLES = {
    "KILOCODE_TOKEN": "Token of the real gateway. Without it a stand-in answers in place of a language model.",
    "GASTOWN_ORGANIZATION_ID": "Organisation of the town.",
    "GASTOWN_DRAIN_SECONDS": "Budget of the container's shutdown; on a desk 20 s by default.",
    "XDG_STATE_HOME": "Where a town's data is kept, in `gastown/<town>`.",
    "HOME": "The same, in `.local/state/gastown/<town>`, where `XDG_STATE_HOME` is not set.",
    "NO_COLOR": "Anything: no colours on the screen.",
    "TERM": "`dumb`: no colours on the screen.",
}


def settings() -> dict[str, FieldInfo]:
    """Every variable of the container's environment."""
    return {name.upper(): field for name, field in Settings.model_fields.items() if not field.exclude}


def hall_variables(source: Path) -> set[str]:
    """The variables that the hall reads, found in its syntax trees: `env["X"]`, `env.get("X")`, `"X" in env`."""
    found: set[str] = set()
    for path in source.rglob("hall/*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            match node:
                case ast.Subscript(value=ast.Name(id="env"), slice=ast.Constant(value=str(name))):
                    found.add(name)
                case ast.Call(
                    func=ast.Attribute(value=ast.Name(id="env"), attr="get"),
                    args=[ast.Constant(value=str(name)), *_],
                ):
                    found.add(name)
                case ast.Compare(left=ast.Constant(value=str(name)), comparators=[ast.Name(id="env")]):
                    found.add(name)
                case _:
                    pass
    return found


def kind(field: FieldInfo) -> str:
    """The type in a reader's words."""
    text = str(field.annotation)
    words = {"SecretStr": "secret", "tuple": "list", "bool": "on or off", "float": "number", "int": "whole number"}
    return next((word for name, word in words.items() if name in text), "text")


def limits(field: FieldInfo) -> str:
    """What a value may be, where a number has bounds."""
    signs = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤"}
    bounds = [
        f"{sign} {getattr(item, name):,g}"
        for item in field.metadata
        for name, sign in signs.items()
        if getattr(item, name, None) is not None
    ]
    return ", ".join(bounds)


def default(field: FieldInfo) -> str:
    """The default as one would write it into the environment."""
    if field.default_factory is not None:
        return ""  # computed, as the meaning says
    value: Any = field.default
    if value is None or isinstance(value, SecretStr):
        return "none"
    if isinstance(value, bool):
        return code("on" if value else "off")
    return code(f"{value:g}" if isinstance(value, float) else value)


def page(source: Path) -> str:
    """The reference page."""
    lines = [_HEAD]
    waiting = settings()
    for title, belongs in _GROUPS:
        members = {name: field for name, field in waiting.items() if belongs(name.lower(), field)}
        waiting = {name: field for name, field in waiting.items() if name not in members}
        if members:
            rows = (_row(name, field) for name, field in members.items())
            lines += [f"## {title}\n", table(("Variable", "Meaning"), rows)]
    lines.append(_HALL)
    known = sorted(hall_variables(source))
    lines.append(table(("Variable", "Meaning"), ((code(name), HALL_VARIABLES.get(name, "")) for name in known)))
    return "\n".join(lines)


def _row(name: str, field: FieldInfo) -> tuple[str, str]:
    details = (f"default {default(field)}" if default(field) else "", kind(field), limits(field))
    return code(name), beneath(field.description or "", " · ".join(filter(None, details)))


_HEAD = """\
# Settings

The container reads its environment once, at its start. A value that cannot be used ends it, with one line and
exit code 2:

```console
$ GASTOWN_DRAIN_SECONDS=never gastown serve
gastown: GASTOWN_DRAIN_SECONDS: Input should be a valid number, unable to parse string as a number
```

An empty variable counts as one that is not set. Durations are seconds, except those that end in `_MS`.
"""

_HALL = """\
## The hall

`gastown up` and `gastown hall` take [arguments](cli.md) and read these. `gastown up` also hands every `GASTOWN_…`
setting above on to the container that it starts.
"""
