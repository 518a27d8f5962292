"""The agents' tools (contract section 5), from the table that the plugin itself reads."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["Call", "Tool", "mayor_tools", "plugin_file", "tools"]


class Call(BaseModel):
    """A route. In `path`, `{name}` is an argument and `{$town}`, `{$rig}`, `{$agent}` are the caller's own."""

    model_config = ConfigDict(frozen=True)

    method: Literal["GET", "POST", "PATCH", "DELETE"]
    path: str


class Tool(Call):
    """A tool of the mayor or of a rig agent. `args` are JSON Schema; the table says what the other keys mean."""

    name: str
    role: Literal["mayor", "rig"]
    description: str
    args: dict[str, dict[str, Any]]
    many: Call | None = None
    adds: dict[str, str] = Field(default_factory=dict)

    @property
    def calls(self) -> tuple[Call, ...]:
        """Every route that the tool may use."""
        own = Call(method=self.method, path=self.path)
        return (own,) if self.many is None else (own, self.many)


def plugin_file() -> Path:
    """What a kilo server loads as its plugin; a file of the installed package."""
    return Path(str(files("gastown").joinpath("kilo", "plugin", "gastown.js")))


@cache
def tools() -> tuple[Tool, ...]:
    """The whole table, in its order."""
    table = json.loads(plugin_file().with_name("tools.json").read_text("utf-8"))
    return tuple(Tool.model_validate(row) for row in table["tools"])


def mayor_tools() -> tuple[str, ...]:
    """What the server of a mayor must have to be ready."""
    return tuple(tool.name for tool in tools() if tool.role == "mayor")
