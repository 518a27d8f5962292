"""A worktree without git: what `gastown.git.save` asks, answered from what the test says."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import trio

from gastown.contract.git import Remote
from gastown.git.errors import GitFailed
from gastown.git.rig import Rig

__all__ = ["FakeWorktree"]


@dataclass
class FakeWorktree:
    """One agent's worktree, and the git of its rig. `seconds` is how long each verb takes, `failures` what it
    says instead of working. `ran` are the commands, `pushed` the refspecs that arrived.
    """

    dirty: bool = True
    unpushed: bool = False
    seconds: dict[str, float] = field(default_factory=dict)
    failures: dict[str, GitFailed] = field(default_factory=dict)
    ran: list[tuple[str, ...]] = field(default_factory=list)
    pushed: list[str] = field(default_factory=list)
    author: dict[str, str] | None = None
    user: None = None

    @property
    def rig(self) -> Rig:
        return Rig("rig-1", Remote.parse("https://git.test/r.git"), "main")

    async def run(self, *arguments: str, identity: dict[str, str] | None = None, **_: Any) -> str:
        verb = arguments[0]
        self.ran.append(arguments)
        await trio.sleep(self.seconds.get(verb, 0.1))
        if verb in self.failures:
            raise self.failures[verb]
        match verb:
            case "status":
                return "?? new.txt\n" if self.dirty else ""
            case "commit":
                self.dirty, self.unpushed, self.author = False, True, identity
            case "rev-parse":
                return "0123abcd\n" if arguments[1] == "HEAD" else ".git/index.lock\n"
            case "rev-list":
                return "1\n" if self.unpushed else "0\n"
            case "push":
                self.unpushed = False
                self.pushed.append(arguments[-1])
            case _:
                pass
        return ""

    query = run
