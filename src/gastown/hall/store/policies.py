"""The settings of a town and of its rigs, and what the reconciler makes of them."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import TypeAdapter
from sqlalchemy import bindparam, select, update

from gastown.hall.domain.policy import Policy, RigPolicy
from gastown.hall.reconcile.state import RigRules, Rules
from gastown.hall.store import tables
from gastown.hall.store.tables import TOWN
from gastown.hall.store.transaction import Transaction

__all__ = ["change_models", "change_policy", "change_rig_policy", "models", "policy", "rig_policy", "rules"]

_TOWN = ""
_FEWEST_SLOTS = 3
_POLICIES, _RIGS = tables.policies.c, tables.rigs.c
_ONE = select(_POLICIES.body).where(_POLICIES.town_id == TOWN, _POLICIES.rig_id == bindparam("rig"))
_MODELS = select(tables.towns.c.default_model, tables.towns.c.role_models).where(tables.towns.c.id == TOWN)
_CHANGE_MODELS = update(tables.towns).where(tables.towns.c.id == TOWN)
_OF_RIGS = select(_RIGS.id, _RIGS.default_branch).where(_RIGS.town_id == TOWN).order_by(_RIGS.id)
_Settings = TypeVar("_Settings", Policy, RigPolicy)
# Making one takes as long as a transaction, and the settings are read with every model call.
_ADAPTERS: Mapping[type, TypeAdapter[Any]] = {kind: TypeAdapter(kind) for kind in (Policy, RigPolicy)}


def policy(transaction: Transaction) -> Policy:
    """The town's settings."""
    return _read(transaction, _TOWN, Policy)


def rig_policy(transaction: Transaction, rig_id: str) -> RigPolicy:
    """A rig's settings; NotFound when the town has no such rig."""
    transaction.require_rig(rig_id)
    return _read(transaction, rig_id, RigPolicy)


def change_policy(transaction: Transaction, given: Policy) -> None:
    _write(transaction, _TOWN, given)


def change_rig_policy(transaction: Transaction, rig_id: str, given: RigPolicy) -> None:
    """NotFound when the town has no such rig."""
    transaction.require_rig(rig_id)
    _write(transaction, rig_id, given)


def models(transaction: Transaction) -> tuple[str | None, dict[str, str]]:
    """The town's model, None for the usual one, and those of roles that have their own."""
    row = transaction.row(_MODELS)
    return (None, {}) if row is None else (row.default_model, json.loads(row.role_models))


def change_models(transaction: Transaction, model: str | None, of_roles: Mapping[str, str]) -> None:
    """Starts from now on use these."""
    transaction.run(_CHANGE_MODELS, default_model=model, role_models=json.dumps(dict(of_roles)))


def rules(transaction: Transaction) -> Rules:
    """What the reconciler goes by."""
    town = policy(transaction)
    rigs = {}
    for row in transaction.rows(_OF_RIGS):
        of_rig = _read(transaction, row.id, RigPolicy)
        rigs[row.id] = RigRules(
            rig_id=row.id,
            target=row.default_branch,
            merge=of_rig.merge,
            review=of_rig.review,
            checks=of_rig.checks,
            check_seconds=of_rig.check_seconds,
            slots=of_rig.slots,
        )
    slots = town.slots or max(_FEWEST_SLOTS, os.cpu_count() or 1)
    return Rules(slots=slots, paused=town.paused, rigs=rigs)


def _read(transaction: Transaction, rig_id: str, kind: type[_Settings]) -> _Settings:
    row = transaction.row(_ONE, rig=rig_id)
    if row is None:
        return kind()
    read: _Settings = _ADAPTERS[kind].validate_json(row.body)
    return read


def _write(transaction: Transaction, rig_id: str, given: Policy | RigPolicy) -> None:
    body = _ADAPTERS[type(given)].dump_json(given).decode()
    transaction.put(tables.policies, rig_id=rig_id, body=body)
