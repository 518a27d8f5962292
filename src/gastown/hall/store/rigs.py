"""The repositories of a town: added, and taken from it when there is no work of theirs."""

from __future__ import annotations

import json

from sqlalchemy import bindparam, delete

from gastown.hall.domain.bead import BeadType
from gastown.hall.domain.errors import Conflict
from gastown.hall.domain.policy import RigPolicy
from gastown.hall.domain.town import RigRecord
from gastown.hall.reconcile.state import Work
from gastown.hall.store import policies, tables
from gastown.hall.store.beads import beads_of_type
from gastown.hall.store.rig_agents import find_agent
from gastown.hall.store.tables import TOWN
from gastown.hall.store.town_state import attempts_of, state_of, take_rules
from gastown.hall.store.transaction import Transaction

__all__ = ["add_rig", "put_rig", "remove_rig"]

_WORK = (BeadType.ISSUE, BeadType.ESCALATION)
_SHOWN = 5
_RIGS, _POLICIES = tables.rigs.c, tables.policies.c
_REMOVE = delete(tables.rigs).where(_RIGS.town_id == TOWN, _RIGS.id == bindparam("rig"))
_REMOVE_POLICY = delete(tables.policies).where(_POLICIES.town_id == TOWN, _POLICIES.rig_id == bindparam("rig"))


def put_rig(transaction: Transaction, rig: RigRecord) -> None:
    """Add a repository, or let it take the place of the one of that id, whose settings stay."""
    config = {"model": rig.model, "platform_integration_id": rig.platform_integration_id, "folder": rig.folder}
    transaction.put(
        tables.rigs,
        id=rig.rig_id,
        git_url=rig.git_url,
        default_branch=rig.default_branch,
        config=json.dumps(config),
    )
    take_rules(transaction)


def add_rig(transaction: Transaction, rig: RigRecord, policy: RigPolicy) -> None:
    """Add a repository with its settings; Conflict where the town has one of that id."""
    if transaction.has_rig(rig.rig_id):
        action = "gastown rig set changes its settings, and --id gives another id"
        raise Conflict(f"There is a rig {rig.rig_id} already", action)
    put_rig(transaction, rig)
    policies.change_rig_policy(transaction, rig.rig_id, policy)
    take_rules(transaction)


def remove_rig(transaction: Transaction, rig_id: str) -> list[Work]:
    """Take a repository from the town, with its settings: what of its finished work is on no target branch.

    Its beads and their history stay on the board, and what agents made stays where it is. NotFound for an unknown
    rig; Conflict while it has work that is not finished, or an agent of it is still being ended, which may save
    what it made.
    """
    transaction.require_rig(rig_id)
    of_rig = [one for kind in _WORK for one in beads_of_type(transaction, kind) if one.rig_id == rig_id]
    if unfinished := [one.id for one in of_rig if not one.is_finished]:
        more = f" and {len(unfinished) - _SHOWN} more" if len(unfinished) > _SHOWN else ""
        raise Conflict(
            f"Rig {rig_id} has work that is not finished: {', '.join(unfinished[:_SHOWN])}{more}",
            "let it land, or gastown close each",
        )
    state = state_of(transaction)
    for agent_id in state.stops:
        agent = find_agent(transaction, agent_id)
        if agent is not None and agent.rig_id == rig_id:
            soon = "try again in a moment" if state.container.ready else "try again once the container is up"
            raise Conflict(f"Agent {agent_id} of rig {rig_id} is still to be ended", soon)
    transaction.run(_REMOVE, rig=rig_id)
    transaction.run(_REMOVE_POLICY, rig=rig_id)
    take_rules(transaction)
    finished = [work for work in state.work.values() if work.rig_id == rig_id]
    return [one for one in finished if one.commit is None and one.branch and attempts_of(transaction, one.bead_id)]
