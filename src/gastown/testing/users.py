"""Users that need no line in the password file, for tests that root runs."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import pytest

from gastown.isolation.agent_users import AgentUsers
from gastown.isolation.users import User

__all__ = ["ALICE", "BOB", "KEEPER", "make_deep", "needs_root", "open_folder", "users"]

_BLOCKS = 100


def _take_block() -> tuple[int, BinaryIO]:
    """A block of users that no other process on this machine tests with, and what holds it until this one ends."""
    for number in range(_BLOCKS):
        held = Path(tempfile.gettempdir(), f"gastown-test-users-{number}").open("ab")  # noqa: SIM115 - held until the process ends
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            held.close()
        else:
            return number, held
    raise RuntimeError("there is no block of users left to test with")


_BLOCK, _HELD = _take_block()
UIDS = range(210_000 + 10 * _BLOCK, 210_010 + 10 * _BLOCK)
"""Ten for each process that runs tests: all processes of such a user are stopped and ended now and then."""
KEEPER = User(64_201 + _BLOCK, 64_201 + _BLOCK, "keeper", takes_from=UIDS)
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
