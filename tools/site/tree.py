"""The tree of tasks and the rooms of the house, as text in a page and as pictures on the site."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

__all__ = [
    "Node",
    "between_marks",
    "draw",
    "draw_rooms",
    "draw_tree_of",
    "parse_tree",
    "read_rooms",
    "read_tree",
    "text_of",
]

_ROW = re.compile(r"^(?P<stem>[│├└─ ]*)(?P<name>\S.*?)(?: {2,}(?P<note>\S.*))?$")
_STEP = 3
"""Columns that one level is indented by."""
_NOTES = 48
"""The column in which notes begin."""
_MARKED = re.compile(
    r"(?P<begin><!-- recorded by make architecture -->\n\n)"
    r"```text\n(?P<tree>.*?)```"
    r"(?P<end>\n\n<!-- end of the record -->)",
    re.DOTALL,
)
_ARROWS = re.compile(r"^`(contract ← .+)`", re.MULTILINE)


@dataclass
class Node:
    """A task or nursery: its name, what is said about it, and what lives inside it."""

    name: str
    note: str
    inside: list[Node] = field(default_factory=list)


def text_of(node: Node) -> str:
    """The tree as text, a row for each node."""
    return "".join(f"{row}\n" for row in _rows(node, "", ""))


def _rows(node: Node, stem: str, below: str) -> list[str]:
    rows = [f"{stem + node.name:{_NOTES}}  {node.note}".rstrip()]
    for inner in node.inside:
        last = inner is node.inside[-1]
        rows += _rows(inner, below + ("└─ " if last else "├─ "), below + ("   " if last else "│  "))
    return rows


def between_marks(page: str, tree: str) -> str:
    """The page with `tree` where the record of the last one is."""
    done, times = _MARKED.subn(lambda found: f"{found['begin']}```text\n{tree}```{found['end']}", page)
    if times != 1:
        raise ValueError("the page has no place for the tree of tasks")
    return done


def read_tree(page: str) -> Node:
    """The tree that a page has between its marks."""
    marked = _MARKED.search(page)
    if marked is None:
        raise ValueError("the page has no place for the tree of tasks")
    return parse_tree(marked["tree"])


def parse_tree(text: str) -> Node:
    """The tree that `text_of` wrote."""
    above: list[Node] = []
    for line in text.splitlines():
        row = _ROW.match(line)
        if row is None:
            raise ValueError(f"not a row of the tree: {line!r}")
        node, depth = Node(row["name"], row["note"] or ""), len(row["stem"]) // _STEP
        del above[depth:]
        if above:
            above[-1].inside.append(node)
        above.append(node)
    return above[0]


def draw_tree_of(page: str) -> str:
    """A page with its tree as a picture, where it has one."""
    return _MARKED.sub(lambda _: draw(read_tree(page)), page)


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
