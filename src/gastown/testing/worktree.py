"""A worktree without git: what becomes of the work in it is what the test says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import trio

from gastown.git.errors import GitFailed
from gastown.git.rig import RigGit
from gastown.git.salvage.receipt import Job, Receipt

__all__ = ["FakeWorktree", "nothing_to_save"]


@dataclass
class FakeWorktree:
    """One agent's worktree, as a salvage would find it. `seconds` is how long each of `commit` and `push` takes,
    `failures` what it says instead of working. `jobs` are the salvages, `ran` the verbs, `pushed` the refspecs
    that arrived.
    """

    dirty: bool = True
    unpushed: bool = False
    seconds: dict[str, float] = field(default_factory=dict)
    failures: dict[str, GitFailed] = field(default_factory=dict)
    jobs: list[Job] = field(default_factory=list)
    ran: list[tuple[str, ...]] = field(default_factory=list)
    pushed: list[str] = field(default_factory=list)
    author: Mapping[str, str] | None = None

    async def salvage(self, _: RigGit, job: Job, receipt: Receipt) -> None:
        """What `salvage` is."""
        self.jobs.append(job)
        try:
            await self._run("status")
            if self.dirty:
                await self._run("commit", "-m", job.message)
                self.dirty, self.unpushed, self.author = False, True, job.author
                receipt.commit = "0123abcd"
            if self.unpushed:
                receipt.pushed = False
                spec = f"HEAD:refs/heads/{job.branch}"
                await self._run("push", spec)
                self.unpushed, receipt.pushed = False, True
                self.pushed.append(spec)
        except GitFailed as error:
            receipt.lose("files that are in no commit", str(error))

    async def _run(self, verb: str, *arguments: str) -> None:
        self.ran.append((verb, *arguments))
        await trio.sleep(self.seconds.get(verb, 0.1))
        if verb in self.failures:
            raise self.failures[verb]


async def nothing_to_save(git: RigGit, job: Job, receipt: Receipt) -> None:
    """For agents that end in a town without git: all they did is on the remote."""
    await trio.lowlevel.checkpoint()
