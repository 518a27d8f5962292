"""One transaction over a town's board."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any

from sqlalchemy import (
    Connection,
    Executable,
    Insert,
    Row,
    Table,
    UniqueConstraint,
    Update,
    bindparam,
    insert,
    select,
    update,
)
from sqlalchemy.dialects import postgresql

from gastown.contract.wire import iso
from gastown.hall.domain.errors import NotFound
from gastown.hall.reconcile.state import TownState
from gastown.hall.store import tables
from gastown.hall.store.tables import TOWN

__all__ = ["Connection", "Row", "Transaction", "new_id", "put"]

_RIG = select(tables.rigs.c.id).where(tables.rigs.c.town_id == TOWN, tables.rigs.c.id == bindparam("rig"))
_MAYOR = select(tables.towns.c.mayor_agent_id).where(tables.towns.c.id == TOWN)


@dataclass
class Transaction:
    """A town's board inside one transaction: an exception undoes everything. `moment` is its time, aware.

    A statement names the town as `tables.TOWN`. It is made once, when its module is loaded: making one takes
    longer than running it.

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

    def rows(self, statement: Executable, **values: object) -> Sequence[Row[Any]]:
        """What a statement finds."""
        return self.db.execute(statement, {"town": self.town_id, **values}).all()

    def mappings(self, statement: Executable, **values: object) -> list[Mapping[str, Any]]:
        """What a statement finds, by the names of its columns."""
        return [dict(row) for row in self.db.execute(statement, {"town": self.town_id, **values}).mappings()]

    def row(self, statement: Executable, **values: object) -> Row[Any] | None:
        """The first of the rows that a statement finds."""
        return self.db.execute(statement, {"town": self.town_id, **values}).first()

    def run(self, statement: Executable, **values: object) -> int:
        """Run a statement; the number of rows that it touched."""
        return self.db.execute(statement, {"town": self.town_id, **values}).rowcount

    def insert(self, table: Table, **columns: object) -> int:
        """Insert a row of the town; its number, in a table whose rows have one."""
        key = self.db.execute(_insert(table), {"town_id": self.town_id, **columns}).inserted_primary_key
        return key[0] if key is not None and isinstance(key[0], int) else 0

    def add(self, statement: Insert, **columns: object) -> int:
        """Insert a row of the town by a statement of its own; how many rows were inserted, or changed instead."""
        return self.db.execute(statement, {"town_id": self.town_id, **columns}).rowcount

    def put(self, table: Table, **columns: object) -> None:
        """Insert a row of the town, or change the one that has its key."""
        self.db.execute(put(table, *columns), {"town_id": self.town_id, **columns})

    def change(self, table: Table, row_id: str, **columns: object) -> None:
        """Change columns of the town's row of that id."""
        self.db.execute(_change(table), {"town": self.town_id, "row": row_id, **columns})

    def has_rig(self, rig_id: str) -> bool:
        """Whether the town has a rig of that id."""
        return self.row(_RIG, rig=rig_id) is not None

    def require_rig(self, rig_id: str) -> None:
        """NotFound when the town has no such rig."""
        if not self.has_rig(rig_id):
            raise NotFound(f"There is no rig {rig_id}")

    @property
    def mayor(self) -> str | None:
        """The id of the town's mayor."""
        row = self.row(_MAYOR)
        return None if row is None else row.mayor_agent_id


def new_id(kind: str) -> str:
    return f"{kind}-{secrets.token_hex(6)}"


@cache
def put(table: Table, *columns: str) -> Insert:
    """The statement that inserts a row, or changes `columns` of the one that has its key.

    SQLite and PostgreSQL say it in the same words.
    """
    new = postgresql.insert(table)
    # Rows that are numbered are found by another key.
    numbered = (one for one in table.constraints if isinstance(one, UniqueConstraint))
    keys = [column.name for column in next(numbered, table.primary_key).columns]
    changes = {name: new.excluded[name] for name in columns if name not in keys}
    return new.on_conflict_do_update(index_elements=keys, set_=changes)


@cache
def _insert(table: Table) -> Insert:
    return insert(table)


@cache
def _change(table: Table) -> Update:
    return update(table).where(table.c.town_id == TOWN, table.c.id == bindparam("row"))
