"""A rig's checks: commands that the result of a merge must pass before it is pushed.

They run what agents have written. So they have a worktree of their own, no credential, no lock, and a time.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import structlog
import trio

from gastown.concurrency.processes import CannotStart, Raw, open_child
from gastown.concurrency.strays import end_all_at
from gastown.contract.errors import StartFailed
from gastown.contract.git import CheckResult
from gastown.git.errors import GitError, GitTimedOut
from gastown.git.identity import IDENTITY
from gastown.git.init_worktree import Source, init_worktree
from gastown.git.repos import CHECKS, Repositories
from gastown.git.rig import Rig, RigGit, RigReport, Tools
from gastown.git.workspace import ensure_owned_dir
from gastown.isolation.ownership import remove_tree
from gastown.isolation.users import User, run_as

__all__ = ["Checks", "ChecksFailed", "run_checks"]

log = structlog.get_logger()

_KEPT = frozenset({"PATH", "LANG", "LANGUAGE", "TZ", "SSL_CERT_FILE", "SSL_CERT_DIR", "NODE_EXTRA_CA_CERTS"})
_PROXIES = frozenset({"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"})
_TAIL = 4000
"""Characters of a check's output that are kept."""
_TAIL_BYTES = 4 * _TAIL + 4096
_GRACE_SECONDS = 2.0
_CLEANUP_SECONDS = 60.0
_SHOWN = 200
_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\-_])")
"""How a terminal is told colours, and where to write."""


@dataclass(frozen=True)
class Checks:
    """Commands of a shell, and for how many seconds each may run."""

    commands: tuple[str, ...]
    seconds: float


class ChecksFailed(GitError):
    """The result of a merge does not pass. `results` are those of the checks that ran, the last one failed."""

    of_rig = False

    def __init__(self, results: tuple[CheckResult, ...], seconds: float) -> None:
        last = results[-1]
        if last.exit_code is None:
            how = f"did not end within {seconds:g} s"
        elif last.exit_code < 0:
            how = f"was killed by signal {-last.exit_code} after {last.seconds:g} s"
        else:
            how = f"failed with exit code {last.exit_code} after {last.seconds:g} s"
        said = f"The last of what it printed:\n{last.tail}" if last.tail else "It printed nothing."
        super().__init__(f"The check `{last.command}` {how}. {said}")
        self.results = results


async def run_checks(
    repositories: Repositories, rig: Rig, source: Source, checks: Checks
) -> tuple[CheckResult, ...]:
    """Run the checks one after the other on the commit of `source`. All checks of a rig wait for one another.

    Raises `ChecksFailed` at the first one that fails, and `GitError` when there is no worktree to run them in.
    Nothing of them is left when this returns, and when it is cancelled.
    """
    async with repositories.checking.of(rig.rig_id):
        tools = repositories.tools
        try:
            user = await trio.to_thread.run_sync(tools.checks_user, rig.rig_id)
        except StartFailed as error:
            raise GitError(f"The checks cannot run: {error}") from None
        results: list[CheckResult] = []
        async with _open_place(tools, rig, source, user) as place:
            for command in checks.commands:
                results.append(await _run(place, command, checks.seconds, rig))
                if results[-1].exit_code != 0:
                    break
    if results[-1].exit_code != 0:
        raise ChecksFailed(tuple(results), checks.seconds)
    return tuple(results)


@dataclass(frozen=True)
class _Place:
    """Where checks run, with the files of a merge's result in `tree`. All of it is `user`'s."""

    room: Path
    user: User | None
    env: Mapping[str, str]

    @property
    def tree(self) -> Path:
        return self.room / "tree"

    async def end_all(self) -> None:
        if found := await end_all_at(str(self.room), self.user):
            log.warning("git.checks_not_ended", room=self.room.name, pids=found)


class _WithoutLogin(RigGit):
    """A git that has no credentials, and needs none: all that it is asked for is here."""

    async def run(
        self,
        *arguments: str,
        cwd: str | None = None,
        identity: Mapping[str, str] = IDENTITY,
        stdin: bytes | None = None,
        most: int | None = None,
    ) -> str:
        env = {**self.tools.env, **identity}
        return await self.tools.run(
            *arguments, cwd=cwd or self.place, env=env, user=self.user, stdin=stdin, most=most
        )


@asynccontextmanager
async def _open_place(tools: Tools, rig: Rig, source: Source, user: User | None) -> AsyncIterator[_Place]:
    room = Path(tools.paths.rig(rig.rig_id)) / f"{CHECKS}{secrets.token_hex(4)}"
    place = _Place(room, user, _environment(tools.env, room))
    try:
        await ensure_owned_dir(str(room), user)
        await _fill(
            _WithoutLogin(tools, rig, RigReport(rig.rig_id), place=str(place.tree), user=user), source, room
        )
        yield place
    finally:
        with trio.move_on_after(_CLEANUP_SECONDS, shield=True):
            await place.end_all()
            if not await trio.to_thread.run_sync(remove_tree, str(room)):
                log.warning("git.not_removed", directory=str(room))


async def _fill(git: RigGit, source: Source, room: Path) -> None:
    try:
        with git.operation("checkout for the checks"):
            await run_as(git.user, _make_folders, room)
            await init_worktree(git, None, source)
            await git.run("checkout", "--quiet", "--force", "HEAD")
    except GitTimedOut as error:  # of which a merge would think that its push may have come through
        raise GitError(str(error)) from None


def _make_folders(room: Path) -> None:
    for name in ("tree", "home", "tmp"):
        (room / name).mkdir(mode=0o700)


def _environment(base: Mapping[str, str], room: Path) -> dict[str, str]:
    """What a check gets. A proxy that wants a password is the town's to use."""
    kept = {name: value for name, value in base.items() if name in _KEPT or name.startswith("LC_")}
    proxies = {name: value for name, value in base.items() if name.upper() in _PROXIES and "@" not in value}
    places = {"HOME": str(room / "home"), "TMPDIR": str(room / "tmp")}
    # The machine's own git configuration may name a helper with its user's passwords.
    git = {"GIT_CONFIG_NOSYSTEM": "1", "GIT_TERMINAL_PROMPT": "0"}
    return {**kept, **proxies, **places, **git, "CI": "true"}


async def _run(place: _Place, command: str, seconds: float, rig: Rig) -> CheckResult:
    """Run one check, and end all that it has started."""
    output, began = _Output(), trio.current_time()
    argv = ("/bin/sh", "-c", f"exec 2>&1\n{command}")
    exit_code: int | None = None
    took = 0.0
    try:
        async with open_child(
            argv,
            cwd=str(place.tree),
            env=place.env,
            on_stdout=Raw(output.take),
            grace=_GRACE_SECONDS,
            user=place.user,
        ) as child:
            with trio.move_on_after(seconds):
                await child.ended.wait()
                exit_code = child.exit.returncode if child.exit is not None else None
            took = trio.current_time() - began
    except CannotStart as error:
        raise GitError(f"The check `{command[:_SHOWN]}` cannot run: {error}") from None
    await place.end_all()
    log.info("git.checked", rig_id=rig.rig_id, check=command[:_SHOWN], exit_code=exit_code, seconds=round(took, 3))
    return CheckResult(command=command, exit_code=exit_code, seconds=round(took, 3), tail=output.tail)


@dataclass
class _Output:
    """The end of what a check prints, however much it is."""

    _kept: bytearray = field(default_factory=bytearray)

    def take(self, chunk: bytes) -> None:
        self._kept += chunk
        if len(self._kept) > 2 * _TAIL_BYTES:
            del self._kept[:-_TAIL_BYTES]

    @property
    def tail(self) -> str:
        text = bytes(self._kept[-_TAIL_BYTES:]).decode(errors="replace")
        text = _ESCAPES.sub("", text).replace("\r\n", "\n").replace("\r", "\n")
        plain = "".join(one for one in text if one in "\n\t" or one.isprintable()).strip()
        return plain[-_TAIL:].lstrip()
