"""Which user each agent is: one of its own where there is a range of them, else the one that all share.

The named user keeps the town's repositories. With a range of subordinate ids (subuid(5)) each agent, the mayor
first, gets one that was never given before, and keeps it over restarts. Agents that are at work in one worktree
at the same time share a user, as they share the files.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import structlog
import trio

from gastown.contract.agents import StartAgentRequest
from gastown.contract.errors import StartFailed
from gastown.isolation.ending import end_processes_of
from gastown.isolation.homes import dashboard_file, temporary
from gastown.isolation.ownership import NotOurs, give_directory
from gastown.isolation.uids import Uids
from gastown.isolation.users import SHARED, User, run_as

__all__ = ["AgentUsers", "make_dashboard", "prepare_home"]

log = structlog.get_logger()

_MAYOR = "mayor"


@dataclass
class AgentUsers:
    """`main` is the user that is named, None when agents are what we are; `uids` are those for one agent each, and
    `given` says which agent has which.
    """

    main: User | None = None
    uids: range = range(0)
    given: Uids = field(default_factory=Uids)
    _living: dict[str, tuple[User, str]] = field(default_factory=dict)
    """By agent: its user, and the directory that it works in."""

    @property
    def repo_owner(self) -> User | None:
        """Whose the repositories are that several agents read."""
        if self.main is None or not self.uids:
            return self.main
        return replace(self.main, umask=SHARED, takes_from=self.uids)

    @property
    def mayor(self) -> User | None:
        return self._user(_MAYOR)

    def of(self, request: StartAgentRequest) -> User | None:
        """The user of the agent that a request is for. Raises `StartFailed` when none can be had."""
        return self.mayor if request.is_mayor else self._user(f"agent {request.agent_id}")

    def of_id(self, agent_id: str) -> User | None:
        """The user of an agent that is no mayor, also when no request is known any more. Raises as `of`."""
        return self._user(f"agent {agent_id}")

    def of_checks(self, rig_id: str) -> User | None:
        """The user that a rig's checks run as: they run what agents have written, and so as none of them."""
        return self._user(f"checks of {rig_id}")

    def acquire(self, request: StartAgentRequest, workdir: str) -> User | None:
        """The user to run as from now on in `workdir`: that of an agent already at work in this worktree."""
        user = self.of(request)
        if user is None:
            return None
        if request.works_in_repository:
            for agent_id, (theirs, place) in self._living.items():
                if place == workdir and agent_id != request.agent_id and theirs != user:
                    log.warning("agent.shares_user", agent_id=request.agent_id, with_agent=agent_id)
                    user = theirs
                    break
        self._living[request.agent_id] = (user, workdir)
        return user

    async def end_processes(self, agent_id: str) -> tuple[int, ...]:
        """End all that runs as an agent's user, also what has escaped its sessions and its environment, unless
        another agent lives as that user. Returns the processes that nothing could end.
        """
        user, _ = self._living.get(agent_id, (None, ""))
        others = (theirs for other, (theirs, _) in self._living.items() if other != agent_id)
        if user is None or not user.alone or user in others:
            return ()
        return await end_processes_of(user)

    async def release(self, agent_id: str) -> tuple[int, ...]:
        """The agent has ended, and nothing is done for it as its user any more: end what still runs, as above."""
        try:
            return await self.end_processes(agent_id)
        finally:
            self._living.pop(agent_id, None)

    def owner(self, request: StartAgentRequest, user: User | None) -> User | None:
        """Whose an agent's working directory is: its own, but the one that agents without a repository share.

        `user` is the one that it runs as, None before it runs.
        """
        if not request.is_mayor and not request.works_in_repository:
            return self.repo_owner
        return user or self.of(request)

    def _user(self, name: str) -> User | None:
        if self.main is None or not self.uids:
            return self.main
        try:
            uid = self.given.of(name, self.uids)
        except OSError as error:
            raise StartFailed(f"The user of {name} cannot be remembered: {error}", phase="workspace") from error
        if uid is None:
            raise StartFailed(
                f"There is no user left for {name}: {self.main.name} has {len(self.uids)} subordinate ids, and "
                "none is given twice",
                phase="workspace",
                retryable=False,
            )
        return replace(self.main, uid=uid, alone=True, takes_from=self.uids)


async def prepare_home(home: str, user: User | None) -> None:
    """Make an agent's home, its own and closed to all others, with a place for temporary files."""
    if user is None:
        return
    try:
        await trio.to_thread.run_sync(give_directory, home, user, 0o700)
        await run_as(user, _make, Path(temporary(home)))
    except (OSError, NotOurs) as error:
        raise StartFailed(f"The agent's home cannot be made: {error}", phase="workspace") from error


def _make(path: Path) -> None:
    path.mkdir(mode=0o700, exist_ok=True)


async def make_dashboard(home_root: str, mayor: User | None) -> Path:
    """Where the dashboard's context goes; for a mayor that is a user of its own, a directory of that user's."""
    file = Path(dashboard_file(home_root, mayor))
    if mayor is not None:
        await trio.to_thread.run_sync(give_directory, str(file.parent), mayor, 0o700)
    return file
