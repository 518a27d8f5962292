"""The settings of the container, from the class that reads them, and the variables that the hall reads."""

from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic.fields import FieldInfo

from gastown.contract.secret import Secret
from gastown.hall.api.worker_api import SNAPSHOT_LIMIT
from gastown.hall.cli.boot import UpOptions
from gastown.hall.domain.town import TownRecord
from gastown.hall.drivers.process import container_environment
from gastown.settings import Settings
from tools.site.markdown import beneath, code, table

__all__ = ["HALL_VARIABLES", "grouped", "hall_variables", "kind", "page", "set_by_up", "settings"]

_PLACES = ("_url", "_base", "_host", "_port", "_root", "_bin")
_CLOCKS = ("_seconds", "_ms")
_LIMITS = ("_mb", "_events", "_slots")
_GROUPS: tuple[tuple[str, Callable[[str, FieldInfo], bool]], ...] = (
    ("Credentials", lambda _, field: kind(field) == "secret"),
    ("Addresses and places", lambda name, _: name.endswith(_PLACES)),
    ("Clocks", lambda name, _: name.endswith(_CLOCKS)),
    ("Limits", lambda name, _: name.endswith(_LIMITS)),
    ("The rest", lambda _, __: True),
)

HALL_VARIABLES = {
    "KILOCODE_TOKEN": "Token of the real gateway, for this run. Without it a stand-in answers in a model's place.",
    "GASTOWN_ORGANIZATION_ID": "Organisation of that token, for this run.",
    "GASTOWN_GATEWAY_URL": "The gateway that the token is for, where it is one of your own with OpenAI's paths.",
    "KILO_API_URL": "The gateway that the token is for; Kilo's by default.",
    "GASTOWN_DRAIN_SECONDS": f"Budget of the container's shutdown; here {UpOptions.drain_seconds:g} by default.",
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
    for path in (source / "hall").rglob("*.py"):
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


def set_by_up() -> list[str]:
    """The settings that `gastown up` gives to its container whatever the caller has set."""
    town = TownRecord(id="town", name="town", organization_id="organization")
    own = container_environment(
        {}, town, Secret("token"), api_url="http://hall", stand_in=True, data_dir=Path("/"), port=0
    )
    return [name for name in settings() if name in own and name.startswith("GASTOWN_")]


_KINDS = {Secret: "secret", tuple: "list", bool: "on or off", float: "number", int: "whole number"}


def kind(field: FieldInfo) -> str:
    """The type in a reader's words."""
    given = {get_origin(part) or part for part in (*get_args(field.annotation), field.annotation)}
    if tuple[int, int] in get_args(field.annotation):
        return "range"
    return next((word for type_, word in _KINDS.items() if type_ in given), "text")


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
    if value is None:
        return "none"
    if isinstance(value, bool):
        return code("on" if value else "off")
    return code(f"{value:g}" if isinstance(value, float) else value)


def grouped() -> dict[str, dict[str, FieldInfo]]:
    """The settings below the titles of the page."""
    groups: dict[str, dict[str, FieldInfo]] = {}
    waiting = settings()
    for title, belongs in _GROUPS:
        groups[title] = {name: field for name, field in waiting.items() if belongs(name.lower(), field)}
        waiting = {name: field for name, field in waiting.items() if name not in groups[title]}
    return groups


def page(source: Path) -> str:
    """The reference page."""
    lines = [_HEAD]
    for title, members in grouped().items():
        lines += [
            f"## {title}\n",
            table(("Variable", "Meaning"), (_row(name, field) for name, field in members.items())),
        ]
    own = ", ".join(code(name) for name in set_by_up())
    lines.append(_HALL.format(own=own, snapshot_mb=SNAPSHOT_LIMIT // 2**20))
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

`gastown up` and `gastown hall` take [arguments](cli.md) and read these. `gastown up` also hands the `GASTOWN_…`
settings above on to the container that it starts, but for those that it sets itself: {own}.

The hall stores a `kilo.db` of up to {snapshot_mb} MiB; a larger `GASTOWN_SNAPSHOT_MB` does not change that.
"""
