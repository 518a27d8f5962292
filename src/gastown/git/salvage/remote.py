"""The rig's own address: what is there, and pushes to it that force nothing.

The address is that of our settings. No name of a remote that the agent could change is used.
"""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass, field

from gastown.git.errors import GitError, GitFailed, NameAmbiguous
from gastown.git.rig import limited
from gastown.git.salvage.receipt import Job, Receipt, Rescued, rescue_name
from gastown.git.salvage.store import Store

__all__ = ["Target", "Wanted", "refusal"]

_PUSH_SECONDS = 60.0
_FETCH_SECONDS = 20.0
_FETCHED = 50
_AT_ONCE = 100
_ONE_BY_ONE = 30
_REFUSED = re.compile(r"! \[(?:remote )?rejected\]|HTTP 413|maximum allowed size|GH0\d\d", re.IGNORECASE)


@dataclass(frozen=True)
class Wanted:
    """Something to push: what it is called in the receipt, its object, and the end of its rescue branch's name."""

    what: str
    object_id: str
    name: str
    is_commit: bool = True


@dataclass
class Target:
    """Where things are pushed to. `cloned` are the branches and tags of its last fetch into the rig's clone, which
    no agent can write; `names` are those of this moment, once it was asked. `local` are the names of the agent's
    own branches: what the remote had under one of them may have been forced away or deleted since.
    """

    job: Job
    receipt: Receipt
    cloned: dict[str, str]
    names: dict[str, str] = field(default_factory=dict)
    problem: GitError | None = None
    asked: bool = False
    base: str = ""
    reserved: set[str] = field(default_factory=set)
    local: frozenset[str] = frozenset()

    @property
    def folder(self) -> str:
        return f"gastown-rescue/{rescue_name(self.job.agent_id).replace('/', '-')}"

    @property
    def known(self) -> frozenset[str]:
        """The objects that it has, as far as is known."""
        own = {f"refs/heads/{self.job.branch}"}
        if self.problem is None:  # else it cannot be told better
            own |= self.local
        there = self.names if self.asked and self.problem is None else self.cloned
        kept = (one for name, one in self.cloned.items() if name in there and name not in own)
        return frozenset((*kept, *self.names.values()))

    async def ask(self, store: Store) -> None:
        """Learn what the remote has now. A remote that cannot be asked takes no push either."""
        if self.asked:
            return
        try:
            with limited("ls-remote", _PUSH_SECONDS):
                listed = await store.git.query("ls-remote", store.address)
            pairs = [line.partition("\t")[::2] for line in listed.splitlines()]
            self.names = {name: commit for commit, name in pairs}
            await self._bring_moved(store)
        except GitError as error:
            self.problem = error
        self.asked = True

    async def _bring_moved(self, store: Store) -> None:
        """Fetch what has moved on under the names of the agent's branches: they may be contained in it."""
        names = sorted(
            name
            for name in self.local & self.names.keys() & self.cloned.keys()
            if self.names[name] != self.cloned[name]
        )[:_FETCHED]
        if not names:
            return
        with suppress(GitError), limited("fetch", _FETCH_SECONDS):  # else a branch is saved that was there
            await store.git.query("fetch", "--quiet", "--no-tags", store.address, *names)

    def rescue_branch(self) -> str:
        """The branch for what belongs on the agent's own one, or was not committed."""
        self.base = self.base or self.free(f"{self.folder}-{self.job.stamp}")
        return self.base

    def free(self, name: str) -> str:
        """`name`, or one like it where a branch of the remote is in the way."""
        for candidate in (name, name.replace("/", "-"), *(f"{name.replace('/', '-')}-{n}" for n in range(2, 100))):
            refs = {f"refs/heads/{candidate}", f"refs/tags/{candidate}"}
            if not any(self._taken(ref) for ref in refs):
                self.reserved |= refs
                return candidate
        return f"{name}-{len(self.names)}"

    def _taken(self, ref: str) -> bool:
        parts = ref.split("/")
        above = {"/".join(parts[:length]) for length in range(3, len(parts) + 1)}
        there = self.names.keys() | self.reserved
        return bool(above & there) or any(name.startswith(f"{ref}/") for name in there)

    async def push(self, store: Store, *pairs: tuple[str, str]) -> None:
        """Push objects to full references. Raises `GitError`."""
        if self.problem is not None:
            raise self.problem
        with limited("push", _PUSH_SECONDS):
            specs = [f"{object_id}:{ref}" for object_id, ref in pairs]
            async with store.asking_the_remote():
                await store.git.query("push", "--quiet", "--no-verify", store.address, *specs)
        for object_id, ref in pairs:
            self.names[ref] = object_id

    async def push_branch(self, store: Store, what: str, commit: str) -> bool:
        """Push to the agent's branch, or where that is refused to a rescue branch; whether it is on its own."""
        receipt, why = self.receipt, None
        receipt.expect(what)
        if not self.base:
            receipt.pushed = False
            try:
                await self.push(store, (commit, f"refs/heads/{self.job.branch}"))
            except GitError as error:
                why = refusal(error)
                if not _is_refused(error):
                    receipt.lose(what, why)
                    return False
            else:
                receipt.pushed = True
                receipt.settle(what)
                return True
        if await self.rescue(store, Wanted(what, commit, ""), why):
            receipt.branch = self.base
        return False

    async def rescue(self, store: Store, wanted: Wanted, why: str | None = None) -> bool:
        """Push to a branch of its own; the receipt says which, or why not."""
        receipt = self.receipt
        receipt.expect(wanted.what)
        ref = self._there(wanted.object_id)
        try:
            if ref is None:
                ref = self._ref_of(wanted)
                await self.push(store, (wanted.object_id, ref))
        except GitError as error:
            said = refusal(error)
            receipt.lose(wanted.what, said if why in (None, said) else f"{why}; {said}")
            return False
        self._arrived(wanted, ref, why)
        return True

    async def rescue_all(self, store: Store, wanted: list[Wanted]) -> None:
        """Push many things, in few pushes where the remote takes them all."""
        for one in wanted:
            self.receipt.expect(one.what)
        alone: list[Wanted] = []
        for first in range(0, len(wanted), _AT_ONCE):
            some = wanted[first : first + _AT_ONCE]
            refs = [self._ref_of(one) for one in some]
            try:
                await self.push(store, *((one.object_id, ref) for one, ref in zip(some, refs, strict=True)))
            except GitError as error:
                if isinstance(error, GitFailed):
                    alone += some
                    continue
                for one in some:  # its time was up
                    self.receipt.lose(one.what, refusal(error))
            else:
                for one, ref in zip(some, refs, strict=True):
                    self._arrived(one, ref, None)
        for one in alone[:_ONE_BY_ONE]:
            await self.rescue(store, one)
        for one in alone[_ONE_BY_ONE:]:
            self.receipt.lose(one.what, f"the remote refused it, and {_ONE_BY_ONE} like it were tried one by one")

    def _ref_of(self, wanted: Wanted) -> str:
        if not wanted.name:
            return f"refs/heads/{self.rescue_branch()}"
        kind = "heads" if wanted.is_commit else "tags"
        return f"refs/{kind}/" + self.free(f"{self.folder}/{self.job.stamp}/{rescue_name(wanted.name)}")

    def _there(self, object_id: str) -> str | None:
        """The rescue branch that is this object already: an earlier stop has saved the same."""
        of_ours = f"refs/heads/{self.folder}"
        return next((ref for ref, one in self.names.items() if one == object_id and ref.startswith(of_ours)), None)

    def _arrived(self, wanted: Wanted, ref: str, why: str | None) -> None:
        name = ref.removeprefix("refs/heads/")
        self.receipt.settle(wanted.what)
        self.receipt.rescued.append(Rescued(wanted.what, name, wanted.object_id, why))


def _is_refused(error: GitError) -> bool:
    refused = isinstance(error, GitFailed) and _REFUSED.search(error.stderr) is not None
    return refused or isinstance(error, NameAmbiguous)


def refusal(error: GitError) -> str:
    """Why a push failed: git's own line, and what the remote said to it."""
    if not isinstance(error, GitFailed):
        return str(error)
    said = [
        line.removeprefix("remote:").strip() for line in error.stderr.splitlines() if line.startswith("remote:")
    ]
    told = "; ".join(line for line in said if line)[:1500]
    return f"{error}; the remote: {told}" if told else str(error)
