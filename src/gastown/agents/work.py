"""What an agent leaves in its directory, saved when it ends: by a drain, a stop or an exit."""

from __future__ import annotations

import re
from datetime import datetime
from functools import partial
from pathlib import Path

import trio

from gastown.agents.agent import Agent
from gastown.agents.launch.environment import authorship
from gastown.agents.launch.repositories import git_of
from gastown.agents.services import AgentServices
from gastown.contract.agents import WorkReceipt
from gastown.git.rig import RigGit
from gastown.git.salvage.inventory import plain_files
from gastown.git.salvage.receipt import Job, Receipt
from gastown.isolation.users import run_as

__all__ = ["EVICTION_MESSAGE", "name_files", "save_at_exit", "save_work", "to_wire"]

EVICTION_MESSAGE = "WIP: container eviction save"
_EXIT_MESSAGE = "WIP: saved when the agent ended"
_NO_RIG = "it is in a workspace of no rig, from which nothing is pushed"
_NAMED = 50


async def save_work(
    agent: Agent, services: AgentServices, git: RigGit, receipt: Receipt, *, on_branch: bool
) -> None:
    """Save all that is in the agent's directory, in which no process of it is left. Raises nothing but a
    cancellation; `receipt` is complete in any case. `on_branch`: see `Job`.
    """
    if not await _has_worktree(agent):
        return
    job = Job(
        agent_id=agent.id,
        branch=agent.request.branch,
        stamp=_stamp(services.now()),
        message=EVICTION_MESSAGE if on_branch else _EXIT_MESSAGE,
        author=authorship(agent.request, services.credentials.current),
        on_branch=on_branch,
    )
    await services.salvage(git, job, receipt)


async def save_at_exit(agent: Agent, services: AgentServices) -> None:
    """Save the directory of an agent that has ended and lives on nowhere; it stays as it is on this disk."""
    if not agent.request.works_in_repository or not await _has_worktree(agent):
        return
    agent.work = receipt = Receipt(agent.request.branch)
    receipt.expect("everything in its directory")
    try:
        async with services.repositories.worktrees.of(agent.workdir):
            receipt.settle("everything in its directory")
            await save_work(agent, services, git_of(agent, services), receipt, on_branch=False)
    finally:
        receipt.close()
        if receipt.has_news:
            agent.record("agent.receipt", to_wire(receipt).model_dump(mode="json", exclude_none=True))


async def _has_worktree(agent: Agent) -> bool:
    """An agent that has not begun may have one with work of an earlier container in it."""
    return agent.session_id is not None or await trio.Path(agent.workdir, ".git").exists()


async def name_files(agent: Agent, services: AgentServices, receipt: Receipt) -> None:
    """Name the files of an agent without a repository: they end with this container's disk."""
    look = partial(plain_files, Path(agent.workdir), _NAMED)
    names, more = await run_as(services.users.owner(agent.request, agent.user), look)
    for name in names:
        receipt.lose(name, _NO_RIG)
    if more:
        receipt.lose(f"(and {more} more paths)", _NO_RIG)


def to_wire(receipt: Receipt) -> WorkReceipt:
    return WorkReceipt.model_validate(
        {
            "commit": receipt.commit,
            "pushed": receipt.pushed,
            "rescued": [vars(one) for one in receipt.rescued],
            "unsaved": [vars(one) for one in receipt.unsaved],
            "lost": receipt.lost(),
        }
    )


def _stamp(now: datetime) -> str:
    return re.sub(r"[-:]", "", now.isoformat(timespec="seconds")).replace("+0000", "Z")
