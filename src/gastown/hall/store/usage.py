"""What model calls came to: counted once each, and summed for an attempt, a bead, a day."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from gastown.hall.domain.policy import Policy
from gastown.hall.domain.usage import Source, Spending, Use
from gastown.hall.reconcile.state import Budget, OverBudget
from gastown.hall.store import policies
from gastown.hall.store.transaction import Transaction

__all__ = [
    "MOST_SEEN",
    "budget_of",
    "count",
    "day_of",
    "midnight_after",
    "spent_by_attempt",
    "spent_by_bead",
    "spent_on_day",
    "together",
]

MOST_SEEN = 10_000
"""Calls of a town that are remembered as counted, and up to a thousand more until they are counted again."""
_PRUNED_EVERY = 1000
_MOST_TOKENS, _MOST_COST = 10**9, 10.0**6
"""Of one call. Sums must fit into their columns, whatever a container tells."""
_NUMBERS = ("calls", "unpriced", "input", "output", "cached", "reasoning")

_SEE = "INSERT INTO usage_seen (town_id, agent_id, call_id) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING"
_PRUNE = (
    "DELETE FROM usage_seen WHERE town_id = ?1 AND number <= ("
    "SELECT number FROM usage_seen WHERE town_id = ?1 ORDER BY number DESC LIMIT 1 OFFSET ?2)"
)
_ADD = (
    "INSERT INTO usage (town_id, agent_id, attempt_id, bead_id, day, source,"
    " calls, unpriced, input, output, cached, reasoning, cost)"
    " VALUES (?1, ?2, ?3, ?4, ?5, ?6, 1, ?7, ?8, ?9, ?10, ?11, ?12)"
    " ON CONFLICT (town_id, agent_id, attempt_id, bead_id, day, source) DO UPDATE SET"
    " calls = calls + 1, unpriced = unpriced + ?7, input = input + ?8, output = output + ?9,"
    " cached = cached + ?10, reasoning = reasoning + ?11, cost = cost + ?12"
)
_OWNER = "SELECT id, bead_id FROM attempts WHERE town_id = ?1 AND agent_id = ?2 ORDER BY number DESC LIMIT 1"
_SUMS = ", ".join(f"sum({name}) AS {name}" for name in (*_NUMBERS, "cost"))
# Of an attempt of which the gateway has said anything, kilo's figures are the same calls once more.
_COUNTED = (
    f"SELECT bead_id, attempt_id, max(source) AS source, {_SUMS} FROM usage AS one WHERE town_id = ?1"  # noqa: S608
    " AND (source = 'gateway' OR NOT EXISTS (SELECT 1 FROM usage AS other WHERE other.town_id = one.town_id"
    " AND other.agent_id = one.agent_id AND other.attempt_id = one.attempt_id AND other.source = 'gateway'))"
)


def count(transaction: Transaction, uses: Iterable[Use]) -> None:
    """Count model calls, each once however often it is told. They belong to the day on which they are told."""
    day = day_of(transaction.moment, policies.policy(transaction))
    for use in uses:
        if transaction.run(_SEE, use.agent_id, use.call_id) == 0:
            continue
        attempt_id, bead_id = _owner(transaction, use)
        tokens = (use.input, use.output, use.cached, use.reasoning)
        is_known = use.cost is not None and 0 <= use.cost <= _MOST_COST
        transaction.run(
            _ADD,
            *(use.agent_id, attempt_id, bead_id, day, use.source.value, int(not is_known)),
            *(min(max(one, 0), _MOST_TOKENS) for one in tokens),
            float(use.cost or 0) if is_known else 0.0,
        )
    _prune(transaction)


def spent_by_bead(transaction: Transaction) -> Mapping[str, Spending]:
    """Of each bead that there were calls for; under '' what was for none."""
    rows = transaction.rows(f"{_COUNTED} GROUP BY bead_id")
    return {row["bead_id"]: _spending(row) for row in rows}


def spent_by_attempt(transaction: Transaction, bead_id: str) -> Mapping[str, Spending]:
    """Of each attempt at a bead."""
    rows = transaction.rows(f"{_COUNTED} AND bead_id = ?2 GROUP BY attempt_id", bead_id)
    return {row["attempt_id"]: _spending(row) for row in rows}


def spent_on_day(transaction: Transaction, day: str) -> Spending:
    """Of the whole town, its mayor too."""
    rows = transaction.rows(f"{_COUNTED} AND day = ?2 GROUP BY day", day)
    return _spending(rows[0]) if rows else Spending()


def together(parts: Iterable[Spending]) -> Spending:
    """Their sum."""
    known = [one for one in parts if one.calls]
    costs = [one.cost for one in known if one.cost is not None]
    numbers = {name: sum(getattr(one, name) for one in known) for name in _NUMBERS}
    source = max((one.source for one in known if one.source is not None), default=None)
    return Spending(**numbers, cost=sum(costs) if costs else None, source=source)


def budget_of(transaction: Transaction) -> Budget:
    """What is used up now."""
    town, now = policies.policy(transaction), transaction.moment
    day: OverBudget | None = None
    bead: OverBudget | None = None
    beads: tuple[str, ...] = ()
    if town.budget_day is not None:
        spent = spent_on_day(transaction, day_of(now, town)).cost or 0
        if spent >= town.budget_day:
            reason = f"the day's budget of ${town.budget_day:,.2f} is used up"
            day = OverBudget(reason=reason, until=midnight_after(now, town))
    if town.budget_bead is not None:
        least, spent_by = town.budget_bead, spent_by_bead(transaction)
        beads = tuple(sorted(one for one, spent in spent_by.items() if one and (spent.cost or 0) >= least))
        bead = OverBudget(reason=f"its budget of ${least:,.2f} is used up") if beads else None
    return Budget(day=day, bead=bead, beads=beads)


def day_of(moment: datetime, town: Policy) -> str:
    """The town's day at that moment."""
    return moment.astimezone(_zone(town)).date().isoformat()


def midnight_after(moment: datetime, town: Policy) -> datetime:
    """When the town's next day begins. In the zone of `moment`."""
    zone = _zone(town)
    tomorrow = moment.astimezone(zone).date() + timedelta(days=1)
    return datetime.combine(tomorrow, time(), tzinfo=zone).astimezone(moment.tzinfo)


def _zone(town: Policy) -> ZoneInfo | None:
    """None: the machine's, also where it does not know the town's."""
    try:
        return None if town.time_zone is None else ZoneInfo(town.time_zone)
    except (ZoneInfoNotFoundError, ValueError):
        return None


def _owner(transaction: Transaction, use: Use) -> tuple[str, str]:
    """The attempt and the bead that a call was for: those that its agent works on, or has worked on last.

    The container may know an agent by an earlier attempt: one that goes on is told so by a message.
    """
    row = transaction.row(_OWNER, use.agent_id)
    return (row["id"], row["bead_id"]) if row is not None else (use.attempt_id or "", "")


def _prune(transaction: Transaction) -> None:
    row = transaction.row("SELECT max(number) AS newest, min(number) AS oldest FROM usage_seen WHERE town_id = ?1")
    if row is not None and (row["newest"] or 0) - (row["oldest"] or 0) > MOST_SEEN + _PRUNED_EVERY:
        transaction.run(_PRUNE, MOST_SEEN)


def _spending(row: Any) -> Spending:
    numbers = {name: row[name] for name in _NUMBERS}
    cost = None if row["calls"] and row["unpriced"] == row["calls"] else row["cost"]
    return Spending(**numbers, cost=cost, source=Source(row["source"]))
