"""The tree of tasks as a picture, drawn from the docstring of the composition root."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

__all__ = ["Node", "draw", "draw_rooms", "read_rooms", "read_tree"]

_ROW = re.compile(r"^(?P<stem>[│├└─ ]*)(?P<name>\S.*?)(?: {2,}(?P<note>\S.*))?$")
_STEP = 3
"""Columns that one level is indented by."""


_ARROWS = re.compile(r"^`(contract ← .+)`", re.MULTILINE)


@dataclass
class Node:
    """A task or nursery: its name, what is said about it, and what lives inside it."""

    name: str
    note: str
    inside: list[Node] = field(default_factory=list)


def read_tree(source: Path) -> Node:
    """The tree in the docstring of `main.py`."""
    told = ast.get_docstring(ast.parse((source / "main.py").read_text("utf-8"))) or ""
    picture = told.split("\n\n")[1].splitlines()
    above: list[Node] = []
    for line in picture:
        row = _ROW.match(line)
        if row is None:
            raise ValueError(f"main.py: not a row of the tree: {line!r}")
        if not row["stem"].strip("│ ") and above and not row["note"]:
            above[-1].note += f" {row['name']}"  # a note that goes on in the next row
            continue
        node, depth = Node(row["name"], row["note"] or ""), len(row["stem"]) // _STEP
        del above[depth:]
        if above:
            above[-1].inside.append(node)
        above.append(node)
    return above[0]


def draw(node: Node) -> str:
    """The tree as nested lists; the style sheet draws the lines."""
    return f'<div class="tree"><ul>{_item(node, "root")}</ul></div>'


def _item(node: Node, kind: str = "task") -> str:
    inside = f"<ul>{''.join(map(_item, node.inside))}</ul>" if node.inside else ""
    note = f"<span>{escape(node.note)}</span>" if node.note else ""
    return f'<li class="{kind}"><p><b>{escape(node.name)}</b>{note}</p>{inside}</li>'


def read_rooms(contributing: Path) -> list[list[str]]:
    """The rooms of the house as CONTRIBUTING.md has them, the top floor first."""
    arrows = _ARROWS.search(contributing.read_text("utf-8"))
    if arrows is None:
        raise ValueError("CONTRIBUTING.md: the line of arrows between the rooms is gone")
    return [[room.strip(" {}") for room in floor.split(",")] for floor in reversed(arrows.group(1).split("←"))]


def draw_rooms(floors: list[list[str]]) -> str:
    """A row for each floor."""
    rows = ("".join(f"<b>{escape(room)}</b>" for room in floor) for floor in floors)
    return f'<div class="rooms">{"".join(f"<div>{row}</div>" for row in rows)}</div>'
