"""Directories for agents' users, made so that no user can redirect us with a link.

What lies in a directory that a user can write, that user can exchange at any moment for a link to something else.
So every directory that is given away lies in one that only we can write, is looked at through its descriptor, and
from then on is worked in as its owner. All of it blocks.
"""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from gastown.isolation.users import User, as_user

__all__ = ["NotOurs", "check_path", "give_directory", "keep_root", "read_small", "remove_tree", "write_whole"]

_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_SMALL = 4 * 1024 * 1024
_HALF_GIVEN = 0o300
"""The mode of a directory that is being handed over. One that was left so is handed over again."""


class NotOurs(Exception):
    """Another user put something in a place of ours, or could; the message says what to do."""


def keep_root(path: str) -> None:
    """Make a directory in which only we may make others, and which all may pass through.

    One like /tmp stays, or becomes, one where a user can rename only its own files.
    """
    Path(path).mkdir(mode=0o755, parents=True, exist_ok=True)
    mode = stat.S_IMODE(Path(path).stat().st_mode)
    for_all = mode & stat.S_ISVTX or Path(path).samefile(tempfile.gettempdir())
    wanted = mode | stat.S_ISVTX if for_all and mode & 0o022 else (mode | stat.S_IXOTH) & ~0o022
    if wanted != mode:
        Path(path).chmod(wanted)
    check_path(path)


def check_path(path: str) -> None:
    """Raise `NotOurs` when another user could replace `path` or a directory above it."""
    real = Path(path).resolve()
    for directory in (real, *real.parents):
        found = directory.stat()
        loose = found.st_mode & 0o022 and not found.st_mode & stat.S_ISVTX
        if found.st_uid not in (0, os.geteuid()) or loose:
            raise NotOurs(
                f"{directory} can be changed by other users, who could put something else in the place of what is "
                "below it: give it to root and take the others' right to write (chown root, chmod go-w)"
            )
        if not found.st_mode & stat.S_IXOTH:
            raise NotOurs(f"{directory} cannot be passed through by other users: chmod o+x")


def give_directory(path: str, user: User | None, mode: int, settle: Callable[[], None] | None = None) -> None:
    """Make a directory of `user`'s in a directory of ours. One that is there becomes the user's with all in it.

    `settle` is called, as the user, before one is his that another user has worked in; in a worker thread only.
    What stands there and is no directory raises `NotOurs`. Where everybody may make directories (/tmp), one that
    another user has made is set aside: it may be a trap.
    """
    if user is None:
        Path(path).mkdir(parents=True, exist_ok=True)
        return
    parent = Path(path).parent
    parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    found = _found(path)
    loose = stat.S_IMODE(parent.stat().st_mode) & 0o022
    if (
        found is not None
        and loose
        and not (stat.S_ISDIR(found.st_mode) and found.st_uid in (user.uid, os.geteuid()))
    ):
        _set_aside(path)
        found = None
    if found is None:
        Path(path).mkdir(mode=0o700)
    try:
        directory = os.open(path, _OPEN)
    except OSError as error:
        raise NotOurs(f"{path} is not a directory of ours: {error.strerror}") from error
    try:
        before = os.fstat(directory)
        if before.st_uid != user.uid or stat.S_IMODE(before.st_mode) == _HALF_GIVEN:
            os.fchmod(directory, _HALF_GIVEN)
            _hand_over(directory, user)
            if settle is not None and before.st_uid != os.geteuid():
                as_user(user, settle)
        os.fchmod(directory, mode)
    finally:
        os.close(directory)


def _found(path: str) -> os.stat_result | None:
    try:
        return os.lstat(path)
    except FileNotFoundError:
        return None


def _set_aside(path: str) -> None:
    number = 1
    while os.path.lexists(f"{path}.aside-{number}"):
        number += 1
    Path(path).rename(f"{path}.aside-{number}")


def _hand_over(directory: int, user: User) -> None:
    """Give a tree to `user`, the top last: a tree that is half done is done again.

    A second link to a file of ours may have been made by any user, so such a file stays ours.
    """
    us = os.geteuid()
    for here, name, entry in _walk(directory):
        ours = entry.st_uid == us and (stat.S_ISDIR(entry.st_mode) or entry.st_nlink == 1)
        if ours or entry.st_uid in user.takes_from:
            os.chown(name, user.uid, user.gid, dir_fd=here, follow_symlinks=False)
    os.fchown(directory, user.uid, user.gid)


def remove_tree(path: str | Path) -> bool:
    """Remove a directory with all that is in it, and nothing that a link in it leads to; whether it is gone.

    It becomes ours first, so that whose it was cannot fill it again meanwhile. What cannot be removed stays.
    """
    if os.geteuid() != 0:
        _make_writable(path)
    with suppress(OSError, NotOurs):
        directory = os.open(path, _OPEN)
        try:
            os.fchown(directory, os.geteuid(), -1)
            os.fchmod(directory, 0o700)
            for here, name, entry in _walk(directory):
                with suppress(OSError):
                    (os.rmdir if stat.S_ISDIR(entry.st_mode) else os.unlink)(name, dir_fd=here)
        finally:
            os.close(directory)
        Path(path).rmdir()
    return not os.path.lexists(path)


def _make_writable(top: str | Path) -> None:
    """Let ourselves into the directories of a tree of ours: some programs write-protect what they keep."""
    for here, folders, _ in os.walk(top):
        for name in folders:
            path = os.path.join(here, name)  # noqa: PTH118 - as os.walk has them
            with suppress(OSError):
                if not os.path.islink(path) and not os.access(path, os.R_OK | os.W_OK | os.X_OK):  # noqa: PTH114
                    os.chmod(path, 0o700)  # noqa: PTH101


@dataclass
class _Level:
    """A directory on the way down: its name, what it is, and what has not been looked at in it."""

    name: str
    found: os.stat_result
    names: list[str]


def _walk(top: int) -> Iterator[tuple[int, str, os.stat_result]]:
    """Everything below the directory `top`, with the descriptor of the directory that it is in; what is in a
    directory comes before it.

    It goes one step down or up at a time, through no link, with one descriptor more open: a tree may be as deep as
    it likes. What cannot be looked into is passed over. Raises `NotOurs` where a directory is moved meanwhile.
    """
    here = os.dup(top)
    try:
        way = [_level(".", here)]
        while way:
            if not way[-1].names:
                level = way.pop()
                if way:
                    here = _step(here, "..", way[-1].found)
                    yield here, level.name, level.found
                continue
            name = way[-1].names.pop()
            try:
                found = os.stat(name, dir_fd=here, follow_symlinks=False)
                if stat.S_ISDIR(found.st_mode):
                    here = _step(here, name, found)
            except OSError:
                continue
            if stat.S_ISDIR(found.st_mode):
                way.append(_level(name, here))
            else:
                yield here, name, found
    finally:
        os.close(here)


def _level(name: str, here: int) -> _Level:
    return _Level(name, os.fstat(here), os.listdir(here))


def _step(here: int, name: str, expected: os.stat_result) -> int:
    """The directory `name` of `here`, which is closed then. Where it cannot be opened, nothing changes."""
    there = os.open(name, _OPEN, dir_fd=here)
    if not os.path.samestat(os.fstat(there), expected):
        os.close(there)
        raise NotOurs("a directory was moved while we were in it")
    os.close(here)
    return there


def read_small(path: Path) -> str | None:
    """The text of a plain file; None when there is none, or something else, or a very long one. Never waits."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        found = os.fstat(file)
        if not stat.S_ISREG(found.st_mode) or found.st_size > _SMALL:
            return None
        return os.read(file, _SMALL).decode(errors="surrogateescape")
    finally:
        os.close(file)


def write_whole(path: Path, text: str, mode: int = 0o666) -> None:
    """Write a file, never half of it, and through no link that stands in its place."""
    draft = path.with_name(f".{path.name}.new")
    draft.unlink(missing_ok=True)
    file = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with os.fdopen(file, "w", encoding="utf-8", errors="surrogateescape") as opened:
        opened.write(text)
    draft.replace(path)
