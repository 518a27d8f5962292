"""What is known of the merges of this town, beyond the end of a container."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

from gastown.agents.records import Records
from gastown.contract.git import BranchName, Command, CommitId, MergeState, RemoteUrl
from gastown.contract.identifiers import Identifier, RigId

__all__ = ["MergeJournal", "MergeRecord"]

_KEPT = timedelta(days=1)
_MOST = 1000
"""Ended merges that are remembered; the oldest are forgotten first."""


class MergeRecord(MergeState):
    """A merge as the journal keeps it. `git_url` is without credentials, and of the request neither its variables
    nor its callback are kept. `wanted_head`, `commands` and `check_seconds` are the request's `head` and checks.
    `reported`: the worker has its result.
    """

    rig_id: RigId
    branch: BranchName
    target_branch: BranchName
    git_url: RemoteUrl
    bead_id: Identifier
    wanted_head: CommitId | None = None
    commands: tuple[Command, ...] = ()
    check_seconds: float = 900
    reported: bool = False


class MergeJournal:
    """The merges of a town, by entry. `now` is the wall clock."""

    def __init__(self, folder: Path, now: Callable[[], datetime]) -> None:
        self._records = Records(folder, MergeRecord, lambda record: record.entry_id)
        self._now = now

    def get(self, entry_id: str) -> MergeRecord | None:
        """The newest merge of that entry; one that ended more than a day ago is forgotten."""
        record = self._records.get(entry_id)
        return None if record is None or self._is_old(record) else record

    @property
    def unfinished(self) -> list[MergeRecord]:
        """Those without a result, or whose result the worker has not taken yet."""
        return [one for one in self._records if one.ended_at is None or not one.reported]

    async def load(self) -> None:
        """Read what an earlier container on this disk has left."""
        await self._records.load()
        await self._forget_old()

    async def keep(self, record: MergeRecord) -> None:
        """Remember `record`; that it cannot be written is logged."""
        await self._records.keep(record)
        await self._forget_old()

    async def _forget_old(self) -> None:
        ended = [one for one in self._records if one.ended_at is not None and one.reported]
        old = [one for one in self._records if self._is_old(one)]
        for record in (*old, *ended[: max(0, len(ended) - _MOST)]):
            await self._records.forget(record)

    def _is_old(self, record: MergeRecord) -> bool:
        return record.ended_at is not None and self._now() - record.ended_at > _KEPT
