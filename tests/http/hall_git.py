"""A hall with a folder as its rig, and a real git that works with it over HTTP."""

from __future__ import annotations

import os
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import trio

from gastown.hall.domain.bead import BeadState
from gastown.hall.domain.town import RigRecord
from gastown.hall.folders import find_folder
from gastown.hall.hall import Hall, HallOptions, open_hall
from gastown.hall.reconcile import facts
from gastown.hall.reconcile.state import HandIn, HandInPhase
from gastown.hall.store.beads import make_bead
from gastown.hall.store.town_state import new_work, take
from gastown.hall.store.transaction import Transaction

__all__ = ["Clock", "Desk", "Said", "git", "make_folder", "open_desk"]

_ENV = {
    "PATH": os.environ["PATH"],
    "HOME": "/nonexistent",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_TERMINAL_PROMPT": "0",
    "LC_ALL": "C.UTF-8",
    **{f"GIT_{who}_{what}": "Test" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
}


def git(place: Path, *arguments: str) -> str:
    """git as the owner of a folder runs it."""
    done = subprocess.run(
        ["git", *arguments], cwd=place, env=_ENV, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def make_folder(place: Path, *, bare: bool = False) -> Path:
    """A repository with one commit on `main`, which holds `file`."""
    work = place.with_name(f"{place.name}-source") if bare else place
    work.mkdir(parents=True)
    git(work, "init", "--quiet", "--initial-branch=main")
    (work / "file").write_text("one\n")
    git(work, "add", ".")
    git(work, "commit", "--quiet", "-m", "one")
    if bare:
        git(work, "clone", "--quiet", "--bare", ".", str(place))
    return place


class Clock:
    def __init__(self) -> None:
        self.now = datetime(2030, 5, 1, 12, 0, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def later(self, **how: float) -> None:
        self.now += timedelta(**how)


@dataclass(frozen=True)
class Said:
    """How a git ended, and what it said."""

    code: int
    text: str


@dataclass
class Desk:
    """The hall, its folder `site`, and a clone of it as a container has one."""

    hall: Hall
    clock: Clock
    folder: Path
    clone: Path
    options: HallOptions = field(repr=False)

    async def url(self) -> str:
        """The folder's address, with a new login."""
        return (await self.hall.town()).rigs[0].git_url

    async def git(self, *arguments: str, cwd: Path | None = None) -> Said:
        """Run git as a container would; by default in the clone."""
        done = await trio.run_process(
            ["git", *arguments],
            cwd=cwd or self.clone,
            env=_ENV,
            capture_stdout=True,
            capture_stderr=True,
            check=False,
        )
        return Said(done.returncode, (done.stdout + done.stderr).decode())

    async def cloned(self) -> None:
        said = await self.git("clone", "--quiet", await self.url(), str(self.clone), cwd=self.folder.parent)
        assert said.code == 0, said.text

    async def commit(self, name: str = "new", content: str = "two\n", branch: str = "work") -> str:
        """A commit on a branch of the clone; returns it."""
        await self.git("checkout", "--quiet", "-B", branch)
        (self.clone / name).write_text(content)
        await self.git("add", ".")
        await self.git("commit", "--quiet", "-m", name)
        return (await self.git("rev-parse", "HEAD")).text.strip()

    async def push(self, *arguments: str) -> Said:
        return await self.git("push", await self.url(), *arguments)

    async def merging(self) -> None:
        """From now on a merge into the folder's branch is under way."""
        hand_in = HandIn(id="r1", branch="work", at=self.clock(), phase=HandInPhase.MERGING, merge_id="m1")

        def begin(board: Transaction) -> None:
            made = make_bead(board, "site", "issue", "Do it")
            work = replace(new_work(board, made), state=BeadState.IN_REVIEW, hand_in=hand_in)
            take(board, facts.Added(work=work))

        await self.hall.store.transaction("oak", begin)


@asynccontextmanager
async def open_desk(folder: Path, room: Path, *, branch: str | None = None) -> AsyncIterator[Desk]:
    """A hall for the length of the block, whose town has `folder` as its rig `site`."""
    clock, found = Clock(), find_folder(str(folder), branch)
    rig = RigRecord(rig_id="site", git_url="", default_branch=found.branch, folder=found.place)
    options = HallOptions(data_dir=room / "town", town_id="oak", rigs=[rig], now=clock)
    async with open_hall(options) as hall:
        yield Desk(hall, clock, folder, room / "clone", options)
