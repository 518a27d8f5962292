"""kilo's database as a file: checked, put in place, copied while kilo writes, set aside. All of it blocks.

It uses nothing but the standard library: where agents are users of their own, `database_work` has it run as a
program.
"""

from __future__ import annotations

import os
import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

__all__ = [
    "CANNOT_COPY",
    "FAILED",
    "NO",
    "YES",
    "CannotCopy",
    "copy",
    "database_path",
    "draft_of",
    "install",
    "is_sound",
    "main",
    "set_aside",
    "unpack",
]

_HEADER = b"SQLite format 3\x00"
_DAMAGE = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_COMPANIONS = ("-wal", "-shm")
_BUSY_SECONDS = 5.0

YES, NO, CANNOT_COPY, FAILED = 0, 10, 11, 12
"""What `main` exits with: far from what Python exits with when it cannot even begin."""


class CannotCopy(Exception):
    """There is a database, and no good copy of it can be had; the message says why."""


def database_path(home: str) -> Path:
    return Path(home) / ".local" / "share" / "kilo" / "kilo.db"


def draft_of(path: Path) -> Path:
    """Where a fetched database is unpacked."""
    return path.with_name(f"{path.name}.fetched")


def is_sound(path: Path) -> bool:
    """Whether kilo can open it and read all of it. An empty file counts as new (kilo-facts 6).

    Raises OSError when that cannot be known: to open it takes room on the disk, and a lock.
    """
    try:
        if not path.is_file():
            return False
        if path.stat().st_size == 0:
            return True
        # Not read-only: the write-ahead log that a killed server left must be replayed.
        with closing(sqlite3.connect(path, timeout=_BUSY_SECONDS)) as connection:
            connection.text_factory = bytes  # what is said of damage may quote it
            return connection.execute("PRAGMA integrity_check").fetchall() == [(b"ok",)]
    except PermissionError:
        return False
    except sqlite3.Error as error:
        if error.sqlite_errorcode & 0xFF in _DAMAGE:
            return False
        raise OSError(f"the database cannot be checked: {error}") from error


def copy(path: Path, limit: int) -> bytes | None:
    """All of a database at one moment, also while others write to it; None where there is none yet.

    The copy is made and checked in memory: a full disk is no reason to lose a conversation. Raises `CannotCopy`,
    also when it has more than `limit` bytes.
    """
    if not path.is_file() or path.stat().st_size == 0:
        return None
    address = f"file:{quote(str(path))}?mode=ro"
    try:
        with (
            closing(sqlite3.connect(address, uri=True, timeout=_BUSY_SECONDS)) as source,
            closing(sqlite3.connect(":memory:")) as target,
        ):
            size = _number(source, "page_count") * _number(source, "page_size")
            if size > limit:
                raise CannotCopy(f"the database has {size} bytes, more than the {limit} that may be sent")
            source.backup(target)
            if target.execute("PRAGMA integrity_check(1)").fetchall() != [("ok",)]:
                raise CannotCopy("the database is damaged")
            return target.serialize()
    except sqlite3.Error as error:
        raise CannotCopy(f"the database cannot be read: {error}") from error


def unpack(content: bytes, path: Path) -> Path | None:
    """Write a fetched database beside `path`; None when it is not a sound one. Raises OSError as `is_sound` does,
    and leaves no file then.
    """
    draft, sound = draft_of(path), False
    _remove(draft)
    try:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
            file.write(content)
        sound = content.startswith(_HEADER) and is_sound(draft)
    finally:
        if sound:
            _remove_companions(draft)
        else:
            _remove(draft)
    return draft if sound else None


def install(draft: Path, path: Path) -> None:
    """Put an unpacked database in place. Raises `FileExistsError` when there is one: a server may have it open."""
    try:
        path.hardlink_to(draft)
    finally:
        draft.unlink()


def set_aside(path: Path, why: str) -> str:
    """Rename a database and its companions to the first free `kilo.db.{why}-N`; returns that name."""
    number = 1
    while path.with_name(f"kilo.db.{why}-{number}").exists():
        number += 1
    target = path.with_name(f"kilo.db.{why}-{number}")
    # The log first: one that is left beside a later database would be replayed into it.
    for suffix in _COMPANIONS:
        companion = path.with_name(path.name + suffix)
        if companion.exists():
            companion.rename(target.with_name(target.name + suffix))
    path.rename(target)
    return target.name


def _number(connection: sqlite3.Connection, pragma: str) -> int:
    return int(connection.execute(f"PRAGMA {pragma}").fetchone()[0])


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)
    _remove_companions(path)


def _remove_companions(path: Path) -> None:
    for suffix in _COMPANIONS:
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def main(arguments: list[str]) -> int:
    """One piece of work as a program: `sound PATH`, `copy PATH LIMIT`, `unpack PATH`; one of the exit codes above.

    Every other code, Python's own and those of signals among them, is no answer.
    """
    verb, path = arguments[0], Path(arguments[1])
    try:
        match verb:
            case "sound":
                return YES if is_sound(path) else NO
            case "unpack":
                return YES if unpack(sys.stdin.buffer.read(), path) is not None else NO
            case _:
                content = copy(path, int(arguments[2]))
                sys.stdout.buffer.write(content or b"")
                return YES if content is not None else NO
    except CannotCopy as error:
        sys.stdout.write(str(error))
        return CANNOT_COPY
    except OSError as error:
        sys.stdout.write(str(error))
        return FAILED


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
