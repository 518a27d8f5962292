"""Small pieces of Markdown that the generated pages are made of."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

__all__ = ["anchor", "beneath", "code", "prose", "sentence", "table", "title_and_lead"]


def code(text: object) -> str:
    """`text` in backticks; nothing at all for what is empty."""
    return f"`{text}`" if str(text) else ""


def beneath(text: str, more: str) -> str:
    """`text`, and `more` in a smaller line below it, for one cell of a table."""
    return f"{text}<br><small>{more}</small>" if more else text


def prose(text: str) -> str:
    """`text` on one line; what stands in angle brackets outside of backticks is text, too, and no HTML."""
    pieces = " ".join(text.split()).split("`")
    pieces[::2] = (re.sub(r"<(?!/?(?:br|small)>)", "&lt;", piece) for piece in pieces[::2])
    return "`".join(pieces)


def cell(text: object) -> str:
    """`text` for a cell of a table, with its bars escaped."""
    return prose(str(text)).replace("|", "\\|")


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table in Markdown; rows are as long as the head."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(cell(text) for text in line)} |\n" for line in lines)


def sentence(text: str | None) -> str:
    """The first paragraph of a docstring on one line."""
    return " ".join((text or "").strip().split("\n\n")[0].split())


def anchor(text: str) -> str:
    """The id that a heading of this text gets."""
    return re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", text.lower())).strip("-")


def title_and_lead(page: str) -> tuple[str, str]:
    """A page's heading, and the first paragraph after it, on one line. The status of a decision is none."""
    heading = re.search(r"^# (.+)$", page, re.MULTILINE)
    if heading is None:
        return "", ""
    blocks = (block.strip() for block in page[heading.end() :].split("\n\n"))
    lead = next((block for block in blocks if re.match(r"(?!Status:)[\w`*]", block)), "")
    return heading.group(1).strip(), " ".join(lead.split())
