"""What model calls came to: counted once each, and summed for an attempt, a bead, a day."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from sqlalchemy import Integer, bindparam, delete, exists, func, or_, select
from sqlalchemy.dialects import postgresql

from gastown.hall.domain.policy import Policy
from gastown.hall.domain.usage import Source, Spending, Use
from gastown.hall.reconcile.state import Budget, OverBudget
from gastown.hall.store import policies, tables
from gastown.hall.store.tables import TOWN
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
_TOKENS = ("input", "output", "cached", "reasoning")
_NUMBERS = ("calls", "unpriced", *_TOKENS)

_SEEN, _USAGE, _ATTEMPTS = tables.usage_seen.c, tables.usage.c, tables.attempts.c
_SEE = postgresql.insert(tables.usage_seen).inline().on_conflict_do_nothing()
_FIRST_TOO_MANY = (
    select(_SEEN.number)
    .where(_SEEN.town_id == TOWN)
    .order_by(_SEEN.number.desc())
    .limit(1)
    .offset(bindparam("most", type_=Integer))
    .scalar_subquery()
)
_PRUNE = delete(tables.usage_seen).where(_SEEN.town_id == TOWN, _SEEN.number <= _FIRST_TOO_MANY)
_NEWEST, _OLDEST = (
    select(end(_SEEN.number)).where(_SEEN.town_id == TOWN).scalar_subquery() for end in (func.max, func.min)
)
_SPAN = select(_NEWEST.label("newest"), _OLDEST.label("oldest"))
_OWNER = (
    select(_ATTEMPTS.id, _ATTEMPTS.bead_id)
    .where(_ATTEMPTS.town_id == TOWN, _ATTEMPTS.agent_id == bindparam("agent"))
    .order_by(_ATTEMPTS.number.desc())
    .limit(1)
)
_NEW = postgresql.insert(tables.usage)
_ADD = _NEW.on_conflict_do_update(
    index_elements=["town_id", "agent_id", "attempt_id", "bead_id", "day", "source"],
    set_={name: _USAGE[name] + _NEW.excluded[name] for name in (*_NUMBERS, "cost")},
)
_OTHER = tables.usage.alias("other").c
# Of an attempt of which the gateway has said anything, kilo's figures are the same calls once more.
_IS_COUNTED = or_(
    _USAGE.source == Source.GATEWAY.value,
    ~exists().where(
        _OTHER.town_id == _USAGE.town_id,
        _OTHER.agent_id == _USAGE.agent_id,
        _OTHER.attempt_id == _USAGE.attempt_id,
        _OTHER.source == Source.GATEWAY.value,
    ),
)
_SUMS = select(
    func.max(_USAGE.source).label("source"),
    *(func.sum(_USAGE[name]).label(name) for name in (*_NUMBERS, "cost")),
).where(_USAGE.town_id == TOWN, _IS_COUNTED)
_BY_BEAD = _SUMS.add_columns(_USAGE.bead_id).group_by(_USAGE.bead_id)
_BY_ATTEMPT = (
    _SUMS.add_columns(_USAGE.attempt_id).where(_USAGE.bead_id == bindparam("bead")).group_by(_USAGE.attempt_id)
)
_ON_DAY = _SUMS.where(_USAGE.day == bindparam("on")).group_by(_USAGE.day)


def count(transaction: Transaction, uses: Iterable[Use]) -> frozenset[str]:
    """Count model calls, each once however often it is told. They belong to the day on which they are told.

    Returns the beads that they were for.
    """
    touched: set[str] = set()
    day = day_of(transaction.moment, policies.policy(transaction))
    for use in uses:
        if transaction.add(_SEE, agent_id=use.agent_id, call_id=use.call_id) == 0:
            continue
        attempt_id, bead_id = _owner(transaction, use)
        touched.add(bead_id)
        tokens = {name: min(max(getattr(use, name), 0), _MOST_TOKENS) for name in _TOKENS}
        is_known = use.cost is not None and 0 <= use.cost <= _MOST_COST
        transaction.add(
            _ADD,
            agent_id=use.agent_id,
            attempt_id=attempt_id,
            bead_id=bead_id,
            day=day,
            source=use.source.value,
            calls=1,
            unpriced=int(not is_known),
            **tokens,
            cost=float(use.cost or 0) if is_known else 0.0,
        )
    _prune(transaction)
    return frozenset(touched)


def spent_by_bead(transaction: Transaction) -> Mapping[str, Spending]:
    """Of each bead that there were calls for; under '' what was for none."""
    return {row["bead_id"]: _spending(row) for row in transaction.mappings(_BY_BEAD)}


def spent_by_attempt(transaction: Transaction, bead_id: str) -> Mapping[str, Spending]:
    """Of each attempt at a bead."""
    rows = transaction.mappings(_BY_ATTEMPT, bead=bead_id)
    return {row["attempt_id"]: _spending(row) for row in rows}


def spent_on_day(transaction: Transaction, day: str) -> Spending:
    """Of the whole town, its mayor too."""
    rows = transaction.mappings(_ON_DAY, on=day)
    return _spending(rows[0]) if rows else Spending()


def together(parts: Iterable[Spending]) -> Spending:
    """Their sum."""
    known = [one for one in parts if one.calls]
    costs = [one.cost for one in known if one.cost is not None]
    numbers = {name: sum(getattr(one, name) for one in known) for name in _NUMBERS}
    source = max((one.source for one in known if one.source is not None), default=None)
    return Spending(**numbers, cost=sum(costs) if costs else None, source=source)


def budget_of(transaction: Transaction, before: Budget | None = None, touched: Iterable[str] = ()) -> Budget:
    """What is used up now. With `before`, what it was: only the `touched` beads have cost more since then."""
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
        least = town.budget_bead
        if before is None:
            spent_by = spent_by_bead(transaction)
        else:
            spent_by = {one: together(spent_by_attempt(transaction, one).values()) for one in touched}
        over = {one for one, spent in spent_by.items() if one and (spent.cost or 0) >= least}
        known = set() if before is None else set(before.beads) - spent_by.keys()
        beads = tuple(sorted(over | known))
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
    row = transaction.row(_OWNER, agent=use.agent_id)
    return (row.id, row.bead_id) if row is not None else (use.attempt_id or "", "")


def _prune(transaction: Transaction) -> None:
    row = transaction.row(_SPAN)
    if row is not None and (row.newest or 0) - (row.oldest or 0) > MOST_SEEN + _PRUNED_EVERY:
        transaction.run(_PRUNE, most=MOST_SEEN)


def _spending(row: Mapping[str, Any]) -> Spending:
    numbers = {name: int(row[name]) for name in _NUMBERS}  # a sum may be a decimal
    cost = None if row["calls"] and row["unpriced"] == row["calls"] else row["cost"]
    return Spending(**numbers, cost=cost, source=Source(row["source"]))
