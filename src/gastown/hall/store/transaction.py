"""One transaction over a town's board, and what all of its pages share."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from gastown.contract.wire import iso
from gastown.hall.api.answers import Refusal
from gastown.hall.api.context import context
from gastown.hall.store.database import Connection, Row

__all__ = ["Ledger", "in_ledger", "new_id"]

_T = TypeVar("_T")


@dataclass(frozen=True)
class Ledger:
    """A town's board inside one transaction: what is raised undoes all that was done. `now` is its time."""

    db: Connection
    town_id: str
    now: str

    def rows(self, sql: str, *values: object) -> Sequence[Row]:
        """What a statement finds; `?1` is the town."""
        return self.db.execute(sql, (self.town_id, *values)).fetchall()

    def row(self, sql: str, *values: object) -> Row | None:
        found = self.rows(sql, *values)
        return found[0] if found else None

    def run(self, sql: str, *values: object) -> int:
        """Run a statement; the number of rows that it touched. `?1` is the town."""
        return self.db.execute(sql, (self.town_id, *values)).rowcount

    def require_rig(self, rig_id: str) -> None:
        """Refusal 404 when the town has no such rig."""
        if self.row("SELECT 1 FROM rigs WHERE town_id = ?1 AND id = ?2", rig_id) is None:
            raise Refusal(404, f"There is no rig {rig_id}")

    @property
    def mayor(self) -> str | None:
        """The id of the town's mayor."""
        row = self.row("SELECT mayor_agent_id FROM towns WHERE id = ?1")
        return None if row is None else row["mayor_agent_id"]


async def in_ledger(town_id: str, work: Callable[[Ledger], _T]) -> _T:
    """Do `work` in one transaction, with the clock of the hall."""
    here = context()
    return await here.store.transaction(partial(_with_ledger, work, town_id, iso(here.now())))


def _with_ledger(work: Callable[[Ledger], _T], town_id: str, now: str, db: Connection) -> _T:
    return work(Ledger(db, town_id, now))


def new_id(kind: str) -> str:
    return f"{kind}-{secrets.token_hex(6)}"
