"""Which uid each agent has, remembered on disk: what an agent has left there is its own after a restart, too."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from gastown.isolation.ownership import write_whole

__all__ = ["Uids", "read_uids"]

log = structlog.get_logger()


@dataclass
class Uids:
    """A uid is one agent's for good: it is never given to another one.

    `file` keeps them, in a directory that only root can write; None: nothing outlives us. `passed_over` are those
    that something on the disk belongs to and `known` does not: their agents are forgotten, so they stay unused.
    """

    file: Path | None = None
    known: dict[str, int] = field(default_factory=dict)
    passed_over: frozenset[int] = frozenset()

    def of(self, name: str, among: range) -> int | None:
        """The uid of `name`, remembered before it is used; None when there is none left.

        Raises OSError. It blocks for one small file that nothing waits to see on the disk, at a name's first time.
        """
        uid = self.known.get(name)
        if uid is not None and uid in among:
            return uid
        taken = {*self.known.values(), *self.passed_over}
        uid = next((uid for uid in among if uid not in taken), None)
        if uid is not None:
            known = {**self.known, name: uid}
            if self.file is not None:
                write_whole(self.file, json.dumps(known, indent=0), 0o600)
            self.known = known
        return uid


def read_uids(file: Path, roots: Iterable[str]) -> Uids:
    """What is remembered, beside what lies below `roots`. Blocks; raises OSError."""
    known = _remembered(file)
    return Uids(file, known, frozenset(_owners(roots) - set(known.values())))


def _remembered(file: Path) -> dict[str, int]:
    """Nothing where the file is damaged, or not ours: then all that is found on the disk is passed over."""
    try:
        found = file.lstat()
    except FileNotFoundError:
        return {}
    with suppress(ValueError):
        if stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid():
            uids = json.loads(file.read_text("utf-8"))
            if isinstance(uids, dict) and all(isinstance(uid, int) for uid in uids.values()):
                return uids
    log.warning("agents.uids_forgotten", file=str(file))
    return {}


def _owners(roots: Iterable[str]) -> set[int]:
    """The owners of agents' directories. What lies in one is its owner's: no other user can write there."""
    us, found = os.geteuid(), set()
    for root in roots:
        for here, folders, files in os.walk(root):
            for name in (*folders, *files):
                with suppress(FileNotFoundError):
                    owner = os.lstat(f"{here}/{name}").st_uid
                    found.add(owner)
                    if owner != us and name in folders:
                        folders.remove(name)
    return found
