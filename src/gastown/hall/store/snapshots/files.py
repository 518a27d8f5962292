"""Snapshots as files: each is written once, whole, under a name of its own, and never changed.

A row of the database says which file counts. So whatever ends the process, the row names the old file or the new
one; what no row names is removed when the database is opened.
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Collection
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

__all__ = ["Stored", "folder_beside", "keep_only", "read_file", "remove_file", "write_file"]

_OURS = re.compile(r"[0-9a-f]{32}(\.part)?")


class Stored(NamedTuple):
    """What a row says of its file: the name below the folder, and the SHA-256 of the content."""

    file: str
    sha256: str


def folder_beside(database: Path) -> Path:
    """Where the snapshots of a database are."""
    return database.with_name("snapshots")


def write_file(folder: Path, content: bytes) -> Stored:
    """Write a new file, which is on the disk when this returns, for its owner only. Blocks; OSError."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    name = secrets.token_hex(16)
    part = folder / f"{name}.part"
    try:
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as handle:
            handle.write(content)
            handle.flush()
            os.fsync(handle.fileno())
        part.rename(folder / name)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    _sync(folder)
    return Stored(name, sha256(content).hexdigest())


def read_file(folder: Path, stored: Stored) -> bytes | None:
    """The content; None when the file is missing, or is not what was written. Blocks; OSError."""
    try:
        content = (folder / stored.file).read_bytes()
    except FileNotFoundError:
        return None
    return content if sha256(content).hexdigest() == stored.sha256 else None


def remove_file(folder: Path, name: str) -> None:
    """Remove a file that no row names any more. Blocks; OSError."""
    (folder / name).unlink(missing_ok=True)


def keep_only(folder: Path, names: Collection[str]) -> None:
    """Remove the files of ours that no row names: of a process that ended between. Blocks; OSError."""
    if not folder.is_dir():
        return
    for path in folder.iterdir():
        if _OURS.fullmatch(path.name) and path.name not in names:
            path.unlink(missing_ok=True)


def _sync(folder: Path) -> None:
    """Let the folder itself be on the disk, with the name in it."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
