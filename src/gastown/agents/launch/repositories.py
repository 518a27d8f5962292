"""Agents and the town's repositories: a worktree for an agent that changes one, a list of all for the mayor."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import structlog
import trio

from gastown.agents.agent import Agent
from gastown.agents.launch.desired import Desired
from gastown.agents.launch.environment import home_of
from gastown.agents.retention.records import KeptFiles
from gastown.agents.services import AgentServices
from gastown.concurrency.backoff import delays
from gastown.contract.agents import Rig as RigOfMayor
from gastown.contract.errors import StartFailed
from gastown.contract.git import Remote
from gastown.contract.secret import Secret
from gastown.git.errors import AuthFailed, BranchCollides, GitError, NetworkFailed, PushRaced, RepositoryNotFound
from gastown.git.rig import Rig, RigGit, limited
from gastown.git.workspace import ensure_owned_dir, write_agents_md
from gastown.git.worktrees import browse, check_out

__all__ = [
    "browse_rigs",
    "git_of",
    "prepare_worktree",
    "register_rig",
    "set_up",
    "write_instructions",
]

log = structlog.get_logger()

_PREFLIGHT_SECONDS = 20.0
_BROWSE_TRIES = 5
_ACTIONS: tuple[tuple[type[GitError], str], ...] = (
    (BranchCollides, "Start it on another branch, or rename the one that is in its way"),
    (AuthFailed, "Check the git credentials of the town, or of the rig's integration"),
    (RepositoryNotFound, "Check the repository's address, and that its credentials may read it"),
    (NetworkFailed, "Try again when the git server can be reached"),
)


def register_rig(
    services: AgentServices,
    rig_id: str,
    git_url: str,
    default_branch: str,
    *,
    variables: Mapping[str, Secret] | None = None,
    integration_id: str | None = None,
    since: int | None = None,
) -> Rig:
    """Let git know a rig and its credentials. Raises `ValueError` for an address that cannot be used.

    `since` is the generation of `variables`, None for those of this moment.
    """
    rig = Rig(rig_id, Remote.parse(git_url), default_branch)
    services.repositories.tools.credentials.register_rig(
        rig_id, rig.remote, given=variables, integration_id=integration_id, since=since
    )
    services.repositories.rigs[rig_id] = rig
    return rig


def git_of(agent: Agent, services: AgentServices) -> RigGit:
    """git for the worktree of an agent, as the agent. Raises `ValueError` as `register_rig` does."""
    owner = services.users.owner(agent.request, agent.user)
    return services.repositories.git(_rig_of(agent.desired, services), agent.workdir, owner)


def _rig_of(desired: Desired, services: AgentServices, inherited: Mapping[str, Secret] | None = None) -> Rig:
    request = desired.request
    return register_rig(
        services,
        request.rig_id,
        request.git_url,
        request.default_branch,
        variables={**(inherited or {}), **request.env_vars},
        integration_id=request.platform_integration_id,
        since=desired.generation_of("env_vars"),
    )


async def prepare_worktree(agent: Agent, services: AgentServices) -> None:
    """The agent's worktree, made or found. Raises `StartFailed`. Phases: `credentials`, `clone`, `git_queue`,
    `fetch`, `worktree`.
    """
    request, repositories = agent.request, services.repositories
    rig = _rig_of(agent.desired, services, agent.desired.inherited)
    git = repositories.git(rig, agent.workdir, agent.user)
    agent.repository = (git.report, repositories.report(rig.rig_id))
    try:
        made = await check_out(repositories, git, request.branch, request.start_point, agent.phases.enter)
    except GitError as error:
        raise StartFailed(
            f"Agent {agent.id}: {error}",
            phase=agent.phases.current,
            error_type=type(error).__name__,
            action=next((action for kind, action in _ACTIONS if isinstance(error, kind)), None),
            retryable=error.retryable,
        ) from error
    finally:
        agent.repository = ()
    await services.kept.note(
        KeptFiles(
            agent_id=agent.id,
            rig_id=request.rig_id,
            branch=request.branch,
            git_url=rig.remote.url,
            default_branch=request.default_branch,
            workdir=agent.workdir,
            home=home_of(services.defaults, agent.id),
        )
    )
    if made.how != "not ours":
        preflight = partial(_preflight, agent, git)
        repositories.tasks.start(f"preflight {agent.id}", preflight)


async def _preflight(agent: Agent, git: RigGit) -> None:
    """Find out early, and beside the start, whether this agent will be able to push; a warning if not."""
    try:
        with limited("push --dry-run", _PREFLIGHT_SECONDS):
            target = f"HEAD:refs/heads/{agent.request.branch}"
            await git.run("push", "--dry-run", "--quiet", "origin", target)
    except PushRaced:
        pass  # the remote would take a push, only not this one
    except GitError as error:
        agent.record("git.push_refused", {"reason": str(error)})


async def set_up(services: AgentServices, rig: Rig) -> bool:
    """Make the rig's clone and browse worktree. False when that failed; the report and the log say why."""
    try:
        async with services.repositories.browsing:
            await browse(services.repositories, rig)
    except GitError as error:
        services.repositories.report(rig.rig_id).failed(str(error))
        log.warning("git.browse_failed", rig_id=rig.rig_id, reason=str(error))
        return False
    return True


def browse_rigs(agent: Agent, services: AgentServices) -> None:
    """Begin to make the mayor's browse worktrees, side by side, and after all git work that a caller waits for."""
    for rig in agent.request.rigs:
        work = partial(_browse, agent, services, rig)
        services.repositories.tasks.start(f"browse {rig.rig_id}", work)


async def _browse(agent: Agent, services: AgentServices, asked: RigOfMayor) -> None:
    report = services.repositories.report(asked.rig_id)
    try:
        rig = register_rig(
            services,
            asked.rig_id,
            asked.git_url,
            asked.default_branch,
            integration_id=asked.platform_integration_id,
        )
    except ValueError as error:
        report.failed(f"Its address {error}")
        log.warning("git.browse_failed", rig_id=asked.rig_id, reason=report.error)
        await _update_list(agent, services)
        return
    pauses = delays(10, 300)
    for attempt in range(1, _BROWSE_TRIES + 1):
        done = await set_up(services, rig)
        await _update_list(agent, services)
        if done or agent.ended.is_set() or attempt == _BROWSE_TRIES:
            return
        await trio.sleep(next(pauses))


async def _update_list(agent: Agent, services: AgentServices) -> None:
    if agent.ended.is_set():
        return
    try:
        await write_instructions(agent, services)
    except GitError as error:
        log.warning("agent.instructions_not_written", agent_id=agent.id, reason=str(error))


async def write_instructions(agent: Agent, services: AgentServices) -> None:
    """Write AGENTS.md: the agent's system prompt, and for a mayor the repositories that it may read.

    Without either nothing is written, and an AGENTS.md that is there stays as it is. Nothing of ours is written
    into a repository: it would be pushed, and the repository's own AGENTS.md be lost. There the system prompt goes
    with each prompt. One write at a time: the last one has the newest text. Raises `GitError`.
    """
    if agent.request.works_in_repository:
        return
    async with agent.instructions:
        await _write_instructions(agent, services)


async def _write_instructions(agent: Agent, services: AgentServices) -> None:
    parts = [agent.request.system_prompt or ""]
    if agent.request.is_mayor and agent.request.rigs:
        parts.append(_list_of(agent, services))
    if agent.request.system_prompt is not None or len(parts) > 1:
        text = "\n\n".join(part for part in parts if part)
        owner = services.users.owner(agent.request, agent.user)
        if not await trio.Path(agent.workdir).exists():
            await ensure_owned_dir(agent.workdir, owner)
        await write_agents_md(agent.workdir, text, owner)


def _list_of(agent: Agent, services: AgentServices) -> str:
    lines = ["## Repositories of this town", "", "Checked out for reading; their own agents change them.", ""]
    for rig in agent.request.rigs:
        report = services.repositories.report(rig.rig_id)
        if report.browse is not None:
            where = f"`{report.browse}` (branch {rig.default_branch})"
        elif report.error is not None:
            where = f"not available: {report.error}"
        else:
            where = "being fetched"
        lines.append(f"- {rig.rig_id}: {where}")
    return "\n".join(lines) + "\n"
