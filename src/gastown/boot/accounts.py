"""The accounts that agents get on this machine, looked for and checked before anything is served."""

from __future__ import annotations

import os
import pwd
import stat
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

import structlog

from gastown.contract.errors import StartFailed
from gastown.contract.tools import plugin_file
from gastown.git import credential_helper
from gastown.isolation.agent_users import AgentUsers
from gastown.isolation.ownership import NotOurs, check_path, keep_root
from gastown.isolation.proc import status_of
from gastown.isolation.uids import read_uids
from gastown.isolation.users import User, uid_of
from gastown.settings import Settings
from gastown.worker.snapshots import database

__all__ = ["BadAgentUser", "agent_users", "find_python", "find_users", "remember_users"]

log = structlog.get_logger()

_SUBUID = Path("/etc/subuid")
_REMEMBERED = ".gastown-uids.json"
_RIGHTS = {"CHOWN": 0, "DAC_OVERRIDE": 1, "FOWNER": 3, "KILL": 5, "SETGID": 6, "SETUID": 7}
"""As capabilities(7) numbers them. CAP_SYS_PTRACE is not among them: containers have none."""
_WHAT_REMAINS = (
    "an agent can read the control server's memory and environment, with all credentials of the town, and end it"
)
_WHAT_ONE_USER_LEAVES = (
    "the agents are one user: an agent can read the homes and the bearers of the others, and end their servers"
)


class BadAgentUser(Exception):
    """The agents cannot run as the configured user. The message says why, and what to do."""


def agent_users(settings: Settings, kilo_bin: str) -> AgentUsers:
    """The users of a container's agents. Raises as `find_users` and `remember_users` do."""
    roots = (settings.gastown_workspace_root, settings.gastown_agent_home_root)
    users = find_users(
        settings.gastown_agent_user,
        settings.gastown_agent_uids,
        roots,
        needed=(kilo_bin, str(plugin_file()), str(credential_helper.__file__), str(database.__file__)),
    )
    remember_users(users, Path(settings.gastown_workspace_root) / _REMEMBERED, roots)
    return users


def find_users(
    named: str | None,
    uids: tuple[int, int] | None,
    roots: Iterable[str],
    needed: Iterable[str],
    *,
    subuid: Path = _SUBUID,
) -> AgentUsers:
    """The users of agents; `named` is a name or a number, `uids` the first and last of a range, else the range is
    that of subuid(5). Makes the directories `roots` fit for it. Raises `BadAgentUser`.

    `needed` are files that agents must be able to read or run. Says loudly what an agent can do where it is no
    user of its own.
    """
    if named is None:
        if os.geteuid() == 0:
            log.warning("agents.run_as_root", consequence=_WHAT_REMAINS, cure="set GASTOWN_AGENT_USER")
        return AgentUsers()
    if os.geteuid() != 0:
        raise BadAgentUser("GASTOWN_AGENT_USER is set, but only root can run agents as another user: unset it")
    if missing := _missing_rights():
        raise BadAgentUser(f"GASTOWN_AGENT_USER: root lacks the capabilities {', '.join(missing)} here: add them")
    main = _user_named(named)
    given = uids or _subordinate(main, subuid)
    alone = range(given[0], given[1] + 1) if given is not None else range(0)
    if 0 in alone or main.uid in alone:
        raise BadAgentUser("The range of the agents' user ids holds root's or that of GASTOWN_AGENT_USER itself")
    _check_files(roots, needed)
    os.setgroups([])  # root needs none, and a thread that acts as an agent must not have them
    if not alone:
        cure = "give the user a range in /etc/subuid, or set GASTOWN_AGENT_UIDS"
        log.warning("agents.share_a_user", user=main.name, consequence=_WHAT_ONE_USER_LEAVES, cure=cure)
    log.info("agents.users", user=main.name, uid=main.uid, own=len(alone))
    return AgentUsers(main, alone)


def _check_files(roots: Iterable[str], needed: Iterable[str]) -> None:
    """Make `roots` fit for agents that are other users, and check that these can use all that is `needed`."""
    try:
        for root in roots:
            keep_root(root)
        check_path(tempfile.gettempdir())  # the credential helper's socket lies there
        for file in needed:
            check_usable(file)
    except (NotOurs, OSError) as error:
        raise BadAgentUser(f"GASTOWN_AGENT_USER: {error}") from error


def remember_users(users: AgentUsers, file: Path, roots: Iterable[str]) -> None:
    """Give each agent the user that it had in earlier containers, as far as `file` or what its agents left below
    `roots` tells, and remember the users in `file`, where only root can write. Raises `BadAgentUser`.
    """
    if not users.uids:
        return
    try:
        users.given = read_uids(file, roots)
        mayor = uid_of(users.mayor)  # the first, before anything is served
    except (OSError, StartFailed) as error:
        raise BadAgentUser(f"GASTOWN_AGENT_USER: {error}") from error
    known, strange = len(users.given.known), len(users.given.passed_over)
    log.info("agents.remembered", known=known, passed_over=strange, mayor=mayor)


def find_python(named: str | None, path: str) -> str:
    """A Python that agents may run, for the credential helper: ours, else one on `path`, else the system's."""
    if named is None:
        return sys.executable
    folders = f"{path}{os.pathsep}{os.defpath}".split(os.pathsep)
    for python in (sys.executable, *(f"{folder}/python3" for folder in folders)):
        try:
            check_usable(python)
        except (NotOurs, OSError):
            continue
        return python
    raise BadAgentUser("GASTOWN_AGENT_USER: no Python that other users may run: install one below /usr")


def check_usable(path: str) -> None:
    """Raise `NotOurs` when other users cannot read a file, and run it if it is a program."""
    real = Path(path).resolve()
    mode = real.stat().st_mode
    needed = stat.S_IROTH | (stat.S_IXOTH if mode & stat.S_IXUSR else 0)
    if mode & needed != needed:
        raise NotOurs(f"{path} cannot be read or run by other users: chmod o+rX")
    for directory in real.parents:
        if not directory.stat().st_mode & stat.S_IXOTH:
            raise NotOurs(f"{path} cannot be reached by other users: {directory} is closed to them (chmod o+x)")


def _missing_rights() -> list[str]:
    """Which of the capabilities that it takes to work for other users this root does not have."""
    effective = int(status_of("self")["CapEff"], 16)
    return [f"CAP_{name}" for name, bit in _RIGHTS.items() if not effective & 1 << bit]


def _user_named(named: str) -> User:
    entry = None
    try:
        entry = pwd.getpwuid(int(named)) if named.isdecimal() else pwd.getpwnam(named)
    except KeyError:
        if not named.isdecimal():
            problem = "GASTOWN_AGENT_USER names a user that does not exist: make it (useradd --system)"
            raise BadAgentUser(problem) from None
    uid, gid = (entry.pw_uid, entry.pw_gid) if entry is not None else (int(named), int(named))
    if uid == 0 or gid == 0:
        raise BadAgentUser("GASTOWN_AGENT_USER is root or in root's group: name a user without rights")
    if not 0 < uid < 2**32 - 1:
        raise BadAgentUser("GASTOWN_AGENT_USER is a number that no user can have")
    return User(uid, gid, entry.pw_name if entry is not None else named)


def _subordinate(user: User, subuid: Path) -> tuple[int, int] | None:
    """First and last of the user's first range in subuid(5); None when it has none."""
    try:
        lines = subuid.read_text("utf-8", "replace").splitlines()
    except OSError:
        return None
    for line in lines:
        name, _, rest = line.partition(":")
        first, _, count = rest.partition(":")
        if name in (user.name, str(user.uid)) and first.isdecimal() and count.isdecimal() and int(count):
            return int(first), int(first) + int(count) - 1
    return None
