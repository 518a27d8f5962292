"""What has happened in a town, as it was kept."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Integer, bindparam, func, select

from gastown.hall.store import tables
from gastown.hall.store.tables import TOWN
from gastown.hall.store.transaction import Row, Transaction

__all__ = ["FACTS", "LAST_FACT", "StoredFact", "attempt_counts", "facts_of", "newest_facts", "stored_fact"]

_FACTS, _ATTEMPTS = tables.facts.c, tables.attempts.c
_OF_TOWN = select(_FACTS.number, _FACTS.at, _FACTS.kind, _FACTS.bead_id, _FACTS.body).where(_FACTS.town_id == TOWN)
_IN_ORDER = _OF_TOWN.order_by(_FACTS.number)
_NEWEST = _OF_TOWN.order_by(_FACTS.number.desc()).limit(bindparam("most", type_=Integer))
FACTS = _IN_ORDER.where(_FACTS.number > bindparam("after")).limit(bindparam("most", type_=Integer))
"""The facts after one, at most so many."""
LAST_FACT = select(func.max(_FACTS.number)).where(_FACTS.town_id == TOWN)
_OF_BEAD = _IN_ORDER.where(_FACTS.bead_id == bindparam("bead"))
_TRIES = (
    select(_ATTEMPTS.bead_id, func.count().label("tries"))
    .where(_ATTEMPTS.town_id == TOWN)
    .group_by(_ATTEMPTS.bead_id)
)


@dataclass(frozen=True)
class StoredFact:
    """A fact of the reconciler's: `kind` is its class, `body` its fields. Numbers grow, and none comes twice."""

    number: int
    at: str
    kind: str
    bead_id: str | None
    body: Mapping[str, Any]


def stored_fact(row: Row[Any]) -> StoredFact:
    return StoredFact(row.number, row.at, row.kind, row.bead_id, json.loads(row.body))


def attempt_counts(transaction: Transaction) -> Counter[str]:
    """How many attempts there were at each bead."""
    return Counter({row.bead_id: row.tries for row in transaction.rows(_TRIES)})


def facts_of(transaction: Transaction, bead_id: str) -> list[StoredFact]:
    """What has happened to a bead, as far as it is still kept; oldest first."""
    return [stored_fact(row) for row in transaction.rows(_OF_BEAD, bead=bead_id)]


def newest_facts(transaction: Transaction, most: int) -> list[StoredFact]:
    """What has happened last in the town; oldest first."""
    return [stored_fact(row) for row in reversed(transaction.rows(_NEWEST, most=most))]
