"""What has happened in a town, as it was kept."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gastown.hall.store.transaction import Transaction

__all__ = ["FACTS", "StoredFact", "attempt_counts", "facts_of", "newest_facts", "stored_fact"]

FACTS = (
    "SELECT number, at, kind, bead_id, body FROM facts WHERE town_id = ? AND number > ? ORDER BY number LIMIT ?"
)


@dataclass(frozen=True)
class StoredFact:
    """A fact of the reconciler's: `kind` is its class, `body` its fields. Numbers grow, and none comes twice."""

    number: int
    at: str
    kind: str
    bead_id: str | None
    body: Mapping[str, Any]


def stored_fact(row: sqlite3.Row) -> StoredFact:
    return StoredFact(row["number"], row["at"], row["kind"], row["bead_id"], json.loads(row["body"]))


def attempt_counts(transaction: Transaction) -> Counter[str]:
    """How many attempts there were at each bead."""
    sql = "SELECT bead_id, count(*) AS number FROM attempts WHERE town_id = ?1 GROUP BY bead_id"
    return Counter({row["bead_id"]: int(row["number"]) for row in transaction.rows(sql)})


def facts_of(transaction: Transaction, bead_id: str) -> list[StoredFact]:
    """What has happened to a bead, as far as it is still kept; oldest first."""
    rows = transaction.rows(
        "SELECT number, at, kind, bead_id, body FROM facts WHERE town_id = ?1 AND bead_id = ?2 ORDER BY number",
        bead_id,
    )
    return [stored_fact(row) for row in rows]


def newest_facts(transaction: Transaction, most: int) -> list[StoredFact]:
    """What has happened last in the town; oldest first."""
    rows = transaction.rows(
        "SELECT number, at, kind, bead_id, body FROM facts WHERE town_id = ?1 ORDER BY number DESC LIMIT ?2", most
    )
    return [stored_fact(row) for row in reversed(rows)]
