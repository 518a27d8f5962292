"""Users that need no line in the password file, for tests that root runs."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gastown.isolation.agent_users import AgentUsers
from gastown.isolation.users import User

__all__ = ["ALICE", "BOB", "KEEPER", "make_deep", "needs_root", "open_folder", "users"]

_WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
UIDS = range(210_000 + 10 * _WORKER, 210_010 + 10 * _WORKER)
"""Ten for each process that runs tests: all processes of such a user are ended now and then."""
KEEPER = User(64_201 + _WORKER, 64_201 + _WORKER, "keeper", takes_from=UIDS)
ALICE, BOB = (User(uid, KEEPER.gid, "agent", alone=True, takes_from=UIDS) for uid in UIDS[:2])

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


def users(count: int = len(UIDS)) -> AgentUsers:
    """What `find_users` makes: `count` users for one agent each."""
    return AgentUsers(User(KEEPER.uid, KEEPER.gid, "keeper"), UIDS[:count])


@contextmanager
def open_folder() -> Iterator[Path]:
    """A folder that every user can pass through, which those of pytest are not."""
    folder = Path(tempfile.mkdtemp(prefix="users-"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def make_deep(place: Path, user: User) -> int:
    """A directory of `user`'s with 1,500 inside of each other; the deepest one, open."""
    place.mkdir()
    os.chown(place, user.uid, user.gid)
    here = os.open(place, os.O_RDONLY)
    for _ in range(1_500):
        os.mkdir("d", dir_fd=here)
        os.chown("d", user.uid, user.gid, dir_fd=here)
        here, above = os.open("d", os.O_RDONLY, dir_fd=here), here
        os.close(above)
    return here
