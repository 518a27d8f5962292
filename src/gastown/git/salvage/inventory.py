"""What is in a directory that git would pass over without a word, or stand still at."""

from __future__ import annotations

import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from gastown.git.salvage.found import repository_of
from gastown.git.salvage.receipt import NO_FILE

__all__ = ["Inventory", "plain_files", "take_inventory"]

_ENTRIES = 400_000
_READ_BY_GIT = frozenset({".gitignore", ".gitattributes"})
_NO_NAME = "git takes nothing of such a name: some systems take it for a repository's .git"
_LIKE_GIT = re.compile(r"(?:^|\\)(?:\.git|git~1)[ .]*(?::.*)?(?:$|\\)", re.IGNORECASE | re.DOTALL)
"""Names that git passes over without a word: `.git`, also as Windows reads it."""


@dataclass
class Inventory:
    """Paths are relative. `nested` are repositories in the directory, `unread` what could not be saved, and why.

    `any_file`: there is at least one file besides the repository's own.
    """

    nested: list[str] = field(default_factory=list)
    unread: list[tuple[str, str]] = field(default_factory=list)
    any_file: bool = False


def take_inventory(place: Path) -> Inventory:
    """Look through the whole directory, following no link. It blocks; for a thread with its owner's rights.

    A pipe in the place of a file that git reads by itself would hold git for ever, so it is renamed.
    """
    inventory = Inventory()
    for seen, (path, entry) in enumerate(_walk(place, "", inventory)):
        if seen >= _ENTRIES:
            inventory.unread.append(
                (".", f"only {_ENTRIES} entries were looked at; repositories below the rest are not saved")
            )
            break
        _take(place, path, entry, inventory)
    return inventory


def _walk(place: Path, folder: str, inventory: Inventory) -> Iterator[tuple[str, os.DirEntry[str]]]:
    folders = [folder]
    while folders:
        here = folders.pop()
        try:
            entries = sorted(os.scandir(place / here), key=lambda entry: entry.name)
        except OSError as error:
            inventory.unread.append((here or ".", f"it cannot be read: {error.strerror}"))
            continue
        if here and any(entry.name == ".git" for entry in entries) and repository_of(place / here):
            inventory.nested.append(here)
            continue
        for entry in entries:
            path = f"{here}/{entry.name}" if here else entry.name
            if path == ".git":
                continue
            if _LIKE_GIT.search(entry.name):
                _pass_over(place, path, entry, inventory)
                continue
            yield path, entry
            if entry.is_dir(follow_symlinks=False):
                folders.append(path)


def _pass_over(place: Path, path: str, entry: os.DirEntry[str], inventory: Inventory) -> None:
    if entry.is_dir(follow_symlinks=False):
        with suppress(OSError):
            if not any((place / path).iterdir()):
                return
    inventory.any_file = True
    inventory.unread.append((path, _NO_NAME))


def _take(place: Path, path: str, entry: os.DirEntry[str], inventory: Inventory) -> None:
    try:
        mode = entry.stat(follow_symlinks=False).st_mode
    except OSError:
        return
    if stat.S_ISDIR(mode):
        return
    inventory.any_file = True
    if stat.S_ISREG(mode) or stat.S_ISLNK(mode):
        return
    inventory.unread.append((path, NO_FILE))
    if entry.name in _READ_BY_GIT:
        aside = place / f"{path}.aside-{secrets.token_hex(4)}"
        (place / path).rename(aside)


def plain_files(place: Path, most: int) -> tuple[list[str], int]:
    """The files of a directory besides ours and git's own, `most` of them, and how many more there are."""
    inventory = Inventory()
    entries = (path for path, entry in _walk(place, "", inventory) if not entry.is_dir(follow_symlinks=False))
    names = sorted(path for path in islice(entries, _ENTRIES) if path != "AGENTS.md")
    names += [f"{path}/ (a repository)" for path in inventory.nested]
    return names[:most], len(names[most:])
