"""What is committed in an agent's directory and not on the remote: the branch first, then all other references."""

from __future__ import annotations

from dataclasses import dataclass

from gastown.git.errors import GitFailed
from gastown.git.salvage.found import Found
from gastown.git.salvage.receipt import LEFT_BEHIND, Job, Receipt
from gastown.git.salvage.remote import Target, Wanted
from gastown.git.salvage.store import Store

__all__ = ["Commits"]

_NAMED = 20


@dataclass
class Commits:
    """`main` is the commit that belongs on the agent's branch, `head_is_main` whether it is checked out."""

    job: Job
    receipt: Receipt
    store: Store
    target: Target
    main: str | None = None
    head_is_main: bool = False

    async def save(self) -> None:
        """Push what the remote has not. Raises `GitError` where not even that can be found out."""
        await self._find_main()
        self.target.local = frozenset(name for name in self.store.found.refs if name.startswith("refs/heads/"))
        tips = tips_of(self.store.found)
        kinds = await self.store.kinds(sorted({one.object_id for one in tips})) if tips else {}
        for one in tips:
            if kinds.get(one.object_id, "missing") == "missing":
                self.receipt.lose(one.what, "what it refers to is missing or damaged")
        tips = [
            Wanted(one.what, one.object_id, one.name, kinds[one.object_id] == "commit")
            for one in tips
            if kinds.get(one.object_id, "missing") != "missing"
        ]
        await self._name_left_behind(tips)
        if not await self._lacking(tips):
            return
        await self.target.ask(self.store)
        lacking = await self._lacking(tips)
        if self.main is not None and any(one.object_id == self.main for one in lacking):
            await self.target.push_branch(self.store, f"branch {self.job.branch}", self.main)
            lacking = [one for one in await self._lacking(tips) if one.object_id != self.main]
        seen: dict[str, Wanted] = {}
        for one in lacking:
            seen.setdefault(one.object_id, one)
        await self.target.rescue_all(self.store, list(seen.values()))

    async def _find_main(self) -> None:
        """A detached commit belongs on the branch when it goes on from it, and no rebase is in progress."""
        found, own = self.store.found, f"refs/heads/{self.job.branch}"
        local = found.refs.get(own)
        if found.branch == own:
            self.head_is_main = True
        elif found.branch is None and found.head is not None and not any("rebase" in one for one in found.doing):
            self.head_is_main = local is None or await self._leads_to(local, found.head)
        self.main = found.head if self.head_is_main else local

    async def _name_left_behind(self, tips: list[Wanted]) -> None:
        """Name the commits that HEAD was once, and that nothing leads to any more."""
        known = self.target.known | {one.object_id for one in tips if one.is_commit}
        logged = [one for one in self.store.found.logged if one not in known]
        try:
            left = await self.store.lacking(logged, known) if logged else set()
        except GitFailed:  # a part of the history is damaged
            left = set()
        names = [one for one in logged if one in left]
        for one in names[:_NAMED]:
            subject = await self.store.says("show", "-s", "--format=%s", one)
            self.receipt.lose(f"commit {one[:12]} ({subject})", LEFT_BEHIND)
        if len(names) > _NAMED:
            self.receipt.lose(f"(and {len(names) - _NAMED} more commits)", LEFT_BEHIND)

    async def _leads_to(self, earlier: str, later: str) -> bool:
        return await self.store.says("merge-base", "--is-ancestor", earlier, later) is not None

    async def _lacking(self, tips: list[Wanted]) -> list[Wanted]:
        """Those of the tips that the remote has not, as far as is known."""
        known = self.target.known
        commits = sorted({one.object_id for one in tips if one.is_commit})
        try:
            lacking = await self.store.lacking(commits, known) if commits else set()
        except GitFailed:  # a part of the history is damaged
            lacking = set(commits) - known
        lacking |= {one.object_id for one in tips if not one.is_commit} - known
        return [one for one in tips if one.object_id in lacking]


def tips_of(found: Found) -> list[Wanted]:
    """Everything that the agent's repository refers to, but for what it knows of remotes."""
    tips = []
    if found.head is not None:
        name = (found.branch or "").removeprefix("refs/heads/")
        what = f"branch {name}" if name else "the commit that is checked out"
        tips.append(Wanted(what, found.head, f"heads/{name}" if name else "HEAD"))
    for name, one in sorted(found.refs.items()):
        if not name.startswith("refs/remotes/") and name != "refs/stash":
            what = f"branch {name.removeprefix('refs/heads/')}" if name.startswith("refs/heads/") else name
            tips.append(Wanted(what, one, name.removeprefix("refs/")))
    tips += [Wanted(f"stash@{{{n}}}", one, f"stash/{n}") for n, one in enumerate(found.stashes)]
    tips += [Wanted(f"{name} of what is in progress", one, f"doing/{name}") for name, one in found.doing.items()]
    for linked in found.linked:
        commits = {"HEAD": linked.found.head} | linked.found.doing
        for name, tip in commits.items():
            if tip is not None:
                what, suffix = f"{name} of the worktree {linked.name}", f"worktrees/{linked.name}/{name}"
                tips.append(Wanted(what, tip, suffix))
    return tips
