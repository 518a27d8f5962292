"""Tables and short ids for people. Pure functions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from itertools import pairwise

__all__ = ["ago", "plain", "short_ids", "table"]

_FEWEST = 6
_GAP = "  "


def plain(text: object) -> str:
    """A text of a model's or of a person's on one line, without control characters; `-` for nothing."""
    shown = "" if text is None else " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())
    return shown or "-"


def table(head: Sequence[str], rows: Iterable[Sequence[object]], width: int | None) -> list[str]:
    """Lines of aligned columns. Where there is a `width`, the last column is cut to it."""
    cells = [[*head], *([plain(cell) for cell in row] for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(head))]
    lines = []
    for line in cells:
        text = _GAP.join(cell.ljust(size) for cell, size in zip(line, widths, strict=True)).rstrip()
        lines.append(text if width is None or len(text) <= width else text[: max(1, width - 1)] + "…")
    return lines


def short_ids(ids: Iterable[str]) -> dict[str, str]:
    """Each id as short as it is still the only one that begins so; six characters of it stay at least."""
    every = sorted(set(ids))
    shared = {one: _FEWEST + len(one.partition("-")[0]) + 1 for one in every}
    for before, after in pairwise(every):
        common = next((n for n, (a, b) in enumerate(zip(before, after, strict=False)) if a != b), len(before))
        for one in (before, after):
            shared[one] = max(shared[one], common + 1)
    return {one: one[:length] for one, length in shared.items()}


def ago(moment: str | None, now: datetime | None = None) -> str:
    """How long ago a moment was, in its largest unit."""
    if moment is None:
        return "-"
    seconds = ((now or datetime.now(UTC)) - datetime.fromisoformat(moment)).total_seconds()
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{int(seconds // size)} {unit}"
    return f"{max(0, int(seconds))} s"
