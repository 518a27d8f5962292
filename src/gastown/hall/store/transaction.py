"""One transaction over a town's board."""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from gastown.contract.wire import iso
from gastown.hall.domain.errors import NotFound
from gastown.hall.reconcile.state import TownState

__all__ = ["Connection", "Row", "Transaction", "new_id"]

Connection = sqlite3.Connection
Row = sqlite3.Row


@dataclass
class Transaction:
    """A town's board inside one transaction: an exception undoes everything. `moment` is its time, aware.

    `state` is what the reconciler knows, once somebody in this transaction has asked for it; it is the next
    transaction's to begin with when this one is complete.
    """

    db: Connection
    town_id: str
    moment: datetime
    state: TownState | None = None

    @property
    def now(self) -> str:
        """Its time as rows have it: ISO 8601, to the millisecond."""
        return iso(self.moment)

    def rows(self, sql: str, *values: object) -> Sequence[Row]:
        """What a statement finds; `?1` is the town."""
        return self.db.execute(sql, (self.town_id, *values)).fetchall()

    def row(self, sql: str, *values: object) -> Row | None:
        found = self.rows(sql, *values)
        return found[0] if found else None

    def run(self, sql: str, *values: object) -> int:
        """Run a statement; the number of rows that it touched. `?1` is the town."""
        return self.db.execute(sql, (self.town_id, *values)).rowcount

    def insert(self, sql: str, *values: object) -> int:
        """Insert a row; its number. `?1` is the town."""
        return self.db.execute(sql, (self.town_id, *values)).lastrowid or 0

    def require_rig(self, rig_id: str) -> None:
        """NotFound when the town has no such rig."""
        if self.row("SELECT 1 FROM rigs WHERE town_id = ?1 AND id = ?2", rig_id) is None:
            raise NotFound(f"There is no rig {rig_id}")

    @property
    def mayor(self) -> str | None:
        """The id of the town's mayor."""
        row = self.row("SELECT mayor_agent_id FROM towns WHERE id = ?1")
        return None if row is None else row["mayor_agent_id"]


def new_id(kind: str) -> str:
    return f"{kind}-{secrets.token_hex(6)}"
