"""git for one rig: its environment, its credentials, what is reported of it, and when a command is tried again."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

import structlog
import trio

from gastown.concurrency.backoff import delays
from gastown.contract.git import Progress, Remote, RigState
from gastown.git.access import HelperAccess
from gastown.git.command import GitRunner
from gastown.git.credentials import OWN, GitCredentials
from gastown.git.errors import AuthFailed, Busy, GitError, GitFailed, GitTimedOut, LoginFailed, NetworkFailed
from gastown.git.identity import IDENTITY
from gastown.git.progress import log_progress
from gastown.git.workspace import WorkspacePaths
from gastown.isolation.ownership import NotOurs
from gastown.isolation.users import User, uid_of

__all__ = ["GitLimits", "Rig", "RigGit", "RigReport", "Tools", "limited"]

log = structlog.get_logger()

_TRIES = 3


@dataclass(frozen=True)
class Rig:
    """A repository and the branch that its work starts from."""

    rig_id: str
    remote: Remote
    default_branch: str


@dataclass(frozen=True)
class GitLimits:
    """Seconds: for a clone, and for any other operation as a whole."""

    clone: float
    operation: float


def _ours(_: str) -> None:
    """Our own user."""


@dataclass(frozen=True)
class Tools:
    """What git is run with. `env` is the container's allow-list.

    `repo_owner` owns the rigs' clones, `browse_user` reads them; None is the control server's own user.
    `checks_user` is the one for the checks of a rig, by its id.
    """

    run: GitRunner
    env: Mapping[str, str] = field(repr=False)
    paths: WorkspacePaths
    credentials: GitCredentials
    access: HelperAccess
    limits: GitLimits
    repo_owner: User | None = None
    browse_user: User | None = None
    checks_user: Callable[[str], User | None] = _ours


@dataclass
class RigReport:
    """What is going on with a rig now, and how its browse worktree came out. Read by status and `/health`.

    `outcome` is how the last thing ended that was done; more than one may be under way.
    """

    rig_id: str
    outcome: Literal["waiting", "ready", "failed"] = "waiting"
    progress: Progress | None = None
    browse: str | None = None
    error: str | None = None
    notice: str | None = None
    under_way: list[str] = field(default_factory=list)

    @contextmanager
    def busy(self, doing: str) -> Iterator[None]:
        """Say what is being done for the length of the block, and how it ended."""
        self.under_way.append(doing)
        try:
            yield
        except Exception as error:
            if isinstance(error, GitError) and not error.of_rig:
                self.outcome = "ready"  # it is the branches' affair, not the repository's
                raise
            self.failed(str(error))
            raise
        else:
            self.outcome, self.error = "ready", None
        finally:
            self.under_way.remove(doing)

    def failed(self, reason: str) -> None:
        self.outcome, self.error = "failed", reason

    def to_wire(self) -> RigState:
        return RigState(
            rig_id=self.rig_id,
            state="working" if self.under_way else self.outcome,
            doing=self.under_way[-1] if self.under_way else None,
            progress=self.progress,
            browse=self.browse,
            error=self.error,
            notice=self.notice,
        )


@contextmanager
def limited(operation: str, seconds: float) -> Iterator[None]:
    """Raise `GitTimedOut` when the block takes longer; it is cancelled, and so is its git."""
    with trio.move_on_after(seconds) as scope:
        yield
    if scope.cancelled_caught:
        raise GitTimedOut(operation, seconds)


class RigGit:
    """Runs git for `rig` in one repository, as the user that it belongs to. Raises `GitError`; cancelling ends the
    git that runs.

    A repository can make git run whatever its owner likes (filters, a pager, a monitor), so no other user's git,
    ours least of all, works in it.
    """

    def __init__(
        self, tools: Tools, rig: Rig, report: RigReport, *, place: str | None = None, user: User | None = None
    ) -> None:
        self.rig = rig
        self.report = report
        self.tools = tools
        self.place = place or tools.paths.clone(rig.rig_id)
        self.user = user

    @contextmanager
    def operation(self, doing: str) -> Iterator[None]:
        """One operation of git and on its files: it may take `limits.operation` seconds. Raises `GitError`."""
        with limited(doing, self.tools.limits.operation):
            try:
                yield
            except (OSError, NotOurs) as error:
                raise GitError(f"{doing}: {getattr(error, 'strerror', None) or error}") from error

    def at(self, place: str, user: User | None) -> RigGit:
        """git for the same rig in another repository."""
        return RigGit(self.tools, self.rig, self.report, place=place, user=user)

    async def run(
        self,
        *arguments: str,
        cwd: str | None = None,
        identity: Mapping[str, str] = IDENTITY,
        stdin: bytes | None = None,
        most: int | None = None,
    ) -> str:
        """Run git once, in its place if not told otherwise. It has the rig's credentials, should it need them."""
        tools, asker = self.tools, f"{OWN}{secrets.token_hex(4)}"
        try:
            return await tools.run(
                *arguments,
                cwd=cwd or self.place,
                env={**tools.env, **identity, **tools.access.variables(self.rig.rig_id, asker, uid_of(self.user))},
                config=tools.access.config,
                secrets=tuple(tools.credentials.secrets()),
                on_progress=log_progress(self.rig.rig_id, self._progressed),
                user=self.user,
                stdin=stdin,
                most=most,
            )
        except LoginFailed as error:
            error.refused = tools.credentials.handed(asker)
            raise
        finally:
            tools.credentials.handed(asker)
            self.report.progress = None

    async def query(self, *arguments: str, cwd: str | None = None, stdin: bytes | None = None) -> str:
        """As `run`, for a command that may be run again: with each other login where the remote refuses one or
        shows it no repository, and a moment later where the network broke or another git had a lock.
        """
        pauses, tries, refused = delays(0.2, 2.0), 0, set[str | None]()
        while True:
            try:
                return await self.run(*arguments, cwd=cwd, stdin=stdin)
            except (LoginFailed, NetworkFailed, Busy) as error:
                problem = error
            if isinstance(problem, LoginFailed):
                if problem.refused in refused or not await self._has_another_login(problem):
                    raise problem
                refused.add(problem.refused)
                continue
            tries += 1
            if tries == _TRIES:
                raise problem
            log.info("git.tried_again", rig_id=self.rig.rig_id, reason=str(problem))
            await trio.sleep(next(pauses))

    async def _has_another_login(self, error: LoginFailed) -> bool:
        if error.refused is None and not isinstance(error, AuthFailed):
            return False  # it is not there for anybody
        return await self.tools.credentials.renew(self.rig.rig_id, error.refused)

    async def says(self, *arguments: str, cwd: str | None = None) -> str | None:
        """The first line that git prints; None when it fails: for questions whose answer may be no."""
        try:
            answer = await self.run(*arguments, cwd=cwd)
        except GitFailed:
            return None
        return answer.strip().partition("\n")[0]

    def _progressed(self, progress: Progress) -> None:
        self.report.progress = progress
