"""The requests that a town's container gets for its rig agents. Pure functions."""

from __future__ import annotations

from dataclasses import dataclass

from gastown.contract.agents import StartAgentRequest
from gastown.contract.git import MergeRequest, SetupRequest
from gastown.hall.domain.bead import Bead
from gastown.hall.domain.rig_agent import RigAgent
from gastown.hall.domain.town import DEFAULT_SMALL_MODEL, RigRecord, TownRecord, variables_of
from gastown.hall.prompts import prompt_of
from gastown.hall.reconcile.actions import Merge, Start
from gastown.hall.reconcile.state import RigRules, Work

__all__ = ["Task", "merge_request", "message_for", "setup_request", "start_request"]


@dataclass(frozen=True, kw_only=True)
class Task:
    """What one start is about."""

    town: TownRecord
    rig: RigRecord
    work: Work
    bead: Bead
    agent: RigAgent
    start: Start


def start_request(task: Task) -> StartAgentRequest:
    """The start of a rig agent: an author on its branch, a reviewer on one of its own at the author's commit."""
    town, rig, agent = task.town, task.rig, task.agent
    is_review = task.start.role == "refinery"
    return StartAgentRequest(
        agent_id=agent.id,
        rig_id=rig.rig_id,
        town_id=town.id,
        role=task.start.role,
        name=agent.name,
        identity=f"{agent.name}, {task.start.role} of {rig.rig_id} in {town.name}",
        prompt=message_for(task),
        model=town.model_for(task.start.role, rig),
        small_model=town.small_model or DEFAULT_SMALL_MODEL,
        system_prompt=prompt_of(task.start.role),
        git_url=rig.git_url,
        branch=_review_branch(task.work) if is_review else task.work.branch or "",
        default_branch=rig.default_branch,
        start_point=f"origin/{task.work.branch}" if is_review else None,
        platform_integration_id=rig.platform_integration_id,
        organization_id=town.organization_id or None,
        env_vars=variables_of(town),
    )


def message_for(task: Task) -> str:
    """What the agent is told: its task the first time, and from then on what has happened since."""
    work, bead, rig = task.work, task.bead, task.rig
    if task.start.role == "refinery":
        return (
            f"Review the branch {work.branch} of {rig.rig_id}, which is to be merged into {rig.default_branch}.\n"
            f"Its task was (bead {bead.id}): {bead.title}\n\n{bead.body or '(no further description)'}\n\n"
            f"Compare with: git fetch origin && git diff origin/{rig.default_branch}...origin/{work.branch}"
        )
    if task.start.says is not None:
        return f"{task.start.says}\n\n(Your task, bead {bead.id}: {bead.title}. Your branch: {work.branch}.)"
    return (
        f"Your task, bead {bead.id}: {bead.title}\n\n{bead.body or '(no further description)'}\n\n"
        f"You are on the branch {work.branch} of {rig.rig_id}; it will be merged into {rig.default_branch}."
    )


def merge_request(town: TownRecord, rig: RigRecord, merge: Merge, rules: RigRules) -> MergeRequest:
    """The merge of a branch. Its id makes a second request for it the same merge.

    Raises ValueError for checks that no container would run.
    """
    return MergeRequest(
        town_id=town.id,
        rig_id=rig.rig_id,
        branch=merge.branch,
        target_branch=rig.default_branch,
        git_url=rig.git_url,
        entry_id=merge.merge_id,
        bead_id=merge.bead_id,
        agent_id=merge.agent_id,
        env_vars=variables_of(town),
        head=merge.head,
        checks=rules.checks,
        check_seconds=rules.check_seconds,
    )


def setup_request(town: TownRecord, rig: RigRecord) -> SetupRequest:
    """What names a rig to a container."""
    return SetupRequest(
        rig_id=rig.rig_id,
        git_url=rig.git_url,
        default_branch=rig.default_branch,
        env_vars=variables_of(town),
        platform_integration_id=rig.platform_integration_id,
    )


def _review_branch(work: Work) -> str:
    return f"gt/review/{work.hand_in.id if work.hand_in is not None else work.bead_id}"
