"""The kinds of columns and keys. The steps use them, so none is changed once a gastown with it is out."""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import REAL, BigInteger, Column, Double, ForeignKey, ForeignKeyConstraint, Integer, Text

__all__ = [
    "KEYED",
    "NUMBERED",
    "STRICT",
    "bead",
    "count",
    "key",
    "maybe",
    "number",
    "real",
    "text",
    "town",
    "town_key",
    "whole",
]

STRICT: Final[dict[str, Any]] = {"sqlite_strict": True}
"""Of a table: SQLite keeps the types of the columns."""
NUMBERED: Final[dict[str, Any]] = STRICT | {"sqlite_autoincrement": True}
"""Of a table whose rows are numbered: no number comes twice, also after its row is gone."""
KEYED: Final[dict[str, Any]] = STRICT | {"sqlite_with_rowid": False}
"""Of a table whose rows are small and found by their key."""

_REAL: Double[float] = Double().with_variant(REAL(), "sqlite")
_COUNT = BigInteger().with_variant(Integer(), "sqlite")  # SQLite numbers rows only in an INTEGER


def number(name: str = "number") -> Column[int]:
    """The order in which rows were made."""
    return Column(name, _COUNT, primary_key=True)


def town() -> Column[str]:
    """The town that a row belongs to, and goes with."""
    return Column("town_id", Text, ForeignKey("towns.id", ondelete="CASCADE"), nullable=False)


def town_key() -> Column[str]:
    """`town` as a part of the key."""
    return Column("town_id", Text, ForeignKey("towns.id", ondelete="CASCADE"), primary_key=True)


def key(name: str) -> Column[str]:
    """A part of the key."""
    return Column(name, Text, primary_key=True)


def text(name: str, default: str | None = None) -> Column[str]:
    return Column(name, Text, nullable=False, server_default=default)


def maybe(name: str) -> Column[str | None]:
    """Text that may be missing."""
    return Column(name, Text)


def whole(name: str, default: str | None = None) -> Column[int]:
    return Column(name, Integer, nullable=False, server_default=default)


def count(name: str) -> Column[int]:
    """A number that may become large."""
    return Column(name, _COUNT, nullable=False)


def real(name: str) -> Column[float]:
    return Column(name, _REAL, nullable=False)


def bead(column: str, **options: Any) -> ForeignKeyConstraint:
    """`column` holds the id of a bead of the town."""
    return ForeignKeyConstraint(["town_id", column], ["beads.town_id", "beads.id"], **options)
