"""The agents' tools, from the table that the plugin itself reads."""

from __future__ import annotations

from typing import Any

from gastown.contract.tools import Tool, tools
from tools.site.markdown import beneath, code, table

__all__ = ["page"]

_ROLES = {
    "mayor": ("The mayor's", "There for a server whose role is `mayor`, and for no other."),
    "rig": ("Those of rig agents", "Polecats, refineries and triage have these."),
}


def page() -> str:
    """The reference page."""
    lines = [_HEAD]
    for role, (title, told) in _ROLES.items():
        members = [tool for tool in tools() if tool.role == role]
        lines += [f"## {title}\n", f"{told}\n"]
        lines.append(table(("Tool", "What it does"), (_row(tool) for tool in members)))
        lines += [_arguments(tool) for tool in members if tool.args]
    return "\n".join(lines)


def _row(tool: Tool) -> tuple[str, ...]:
    name = f"[`{tool.name}`](#{tool.role}-{tool.name})" if tool.args else code(tool.name)
    return name, beneath(tool.description, "<br>".join(code(f"{call.method} {call.path}") for call in tool.calls))


def _arguments(tool: Tool) -> str:
    rows = ((code(name), _kind(told), told.get("description", "")) for name, told in tool.args.items())
    return f"### {tool.name} {{ #{tool.role}-{tool.name} }}\n\n" + table(("Argument", "Type", "Meaning"), rows)


def _kind(told: dict[str, Any]) -> str:
    kind = told.get("type", "anything")
    if "enum" in told:
        kind = " or ".join(code(value) for value in told["enum"])
    elif kind == "array":
        kind = f"list of {told.get('items', {}).get('type', 'anything')}"
    return f"{kind}, optional" if told.get("optional") else str(kind)


_HEAD = """\
# Agents' tools

What a language model is offered beside its own tools. Each is one call of the worker API; the plugin makes it with
the agent's own bearer, and [the broker](../explanation/broker.md) lets an agent do nothing else.
In a path `{$town}`, `{$rig}` and `{$agent}` are the agent's own.
"""
