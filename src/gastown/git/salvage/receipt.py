"""What a salvage is asked to do, and what became of each thing in the directory."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["IGNORED", "LEFT_BEHIND", "NO_FILE", "Job", "Receipt", "Rescued", "Unsaved", "rescue_name", "shown"]

IGNORED = "git ignores it; it is named and never pushed"
LEFT_BEHIND = "only the log of HEAD names it: it was amended, rebased, reset or left, and is named but not pushed"
NO_FILE = "it is a pipe, a socket or a device, and no file"
_SENTENCES = 20
_UNFIT = re.compile(r"[\x00-\x20\x7f~^:?*\[\\\ud800-\udfff]|\.\.+|@\{|//+")


@dataclass(frozen=True)
class Job:
    """Whose directory is saved. `stamp` is the time as it stands in the names of rescue branches.

    `on_branch`: what was not committed may become a commit on the agent's branch, in its directory as well. Else
    it goes to a rescue branch, and the directory stays as it is. `author` holds the GIT_* variables of a commit.
    """

    agent_id: str
    branch: str
    stamp: str
    message: str
    author: Mapping[str, str]
    on_branch: bool


@dataclass(frozen=True)
class Rescued:
    """`what` is on the remote as `ref`, which is `commit` there. `why`: what the remote said to its own branch."""

    what: str
    ref: str
    commit: str
    why: str | None = None


@dataclass(frozen=True)
class Unsaved:
    """`path` in the directory, or what else it is, is on no remote."""

    path: str
    why: str


@dataclass
class Receipt:
    """Complete at every moment: what is on its way is in `pending`, and counts as unsaved until it has arrived.

    `commit`: what was not committed is in it. `pushed`: the commits of the branch are on the remote's branch; None
    when there was nothing to push. `branch`: where an agent that goes on finds the work.
    """

    branch: str
    commit: str | None = None
    pushed: bool | None = None
    rescued: list[Rescued] = field(default_factory=list)
    unsaved: list[Unsaved] = field(default_factory=list)
    pending: dict[str, str] = field(default_factory=dict)

    @property
    def sent(self) -> bool:
        """Whether anything is on the remote now that was not there before."""
        return bool(self.pushed or self.rescued)

    @property
    def has_news(self) -> bool:
        """Whether there is anything to say: what was clean and is on the remote is not mentioned."""
        return bool(self.sent or self.unsaved or self.commit or self.pushed is not None)

    def expect(self, what: str) -> None:
        self.pending.setdefault(what, "the time was up before it was saved")

    def settle(self, what: str) -> None:
        self.pending.pop(what, None)

    def lose(self, what: str, why: str) -> None:
        """`what` is not saved."""
        self.settle(what)
        self.unsaved.append(Unsaved(shown(what), shown(why)))

    def withdraw(self, what: str) -> str | None:
        """Take back that `what` is not saved, to try again; returns why it was not, None when it is."""
        last = next((one for one in self.unsaved if one.path == what), None)
        if last is None:
            return None
        self.unsaved.remove(last)
        self.expect(what)
        return last.why

    def close(self, why: str | None = None) -> None:
        """Count what is still on its way as unsaved."""
        for what, late in list(self.pending.items()):
            self.lose(what, why or late)

    def lost(self) -> list[str]:
        """What is not saved and was meant to be, as sentences."""
        said = [
            f"the work: {one.path}: {one.why}"
            for one in self.unsaved
            if one.why not in (IGNORED, LEFT_BEHIND, NO_FILE)
        ]
        more = len(said) - _SENTENCES
        return said if more <= 0 else [*said[:_SENTENCES], f"the work: {more} more, see unsaved"]


def rescue_name(text: str) -> str:
    """`text` made fit for a part of a branch's name."""
    fit = _UNFIT.sub("-", text).strip("./")
    parts = [part.strip(".").removesuffix(".lock") or "-" for part in fit.split("/")]
    return "/".join(parts)[:150].strip("./") or "-"


def shown(text: str) -> str:
    """A path, a reference or a sentence of git's as text: bytes that are none are replaced."""
    return text.encode(errors="surrogateescape").decode(errors="replace")
