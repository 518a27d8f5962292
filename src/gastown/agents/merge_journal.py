"""What is known of the merges of this town: in memory, and in a small file each that outlives a kill.

A file holds no credential: not the request's variables, nor its callback, nor a login of the address.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path

import structlog
import trio
from pydantic import ValidationError

from gastown.contract.git import MergeState
from gastown.contract.identifiers import is_identifier
from gastown.isolation.ownership import read_small, write_whole

__all__ = ["MergeJournal", "MergeRecord"]

log = structlog.get_logger()

_KEPT = timedelta(days=1)
_MOST = 1000
"""Ended merges that are remembered; the oldest are forgotten first."""


class MergeRecord(MergeState):
    """A merge as the journal keeps it. `git_url` is without credentials; `reported`: the worker has its result."""

    git_url: str
    bead_id: str
    reported: bool = False


class MergeJournal:
    """The merges of a town, by entry. `folder` is made when the first one is written; `now` is the wall clock."""

    def __init__(self, folder: Path, now: Callable[[], datetime]) -> None:
        self._folder = folder
        self._now = now
        self._records: dict[str, MergeRecord] = {}
        self._writing = trio.Lock()

    def get(self, entry_id: str) -> MergeRecord | None:
        """The newest merge of that entry; one that ended more than a day ago is forgotten."""
        record = self._records.get(entry_id)
        return None if record is None or self._is_old(record) else record

    @property
    def unfinished(self) -> list[MergeRecord]:
        """Those without a result, or whose result the worker has not taken yet."""
        return [one for one in self._records.values() if one.ended_at is None or not one.reported]

    async def load(self) -> None:
        """Read what an earlier container on this disk has left."""
        for record in await trio.to_thread.run_sync(lambda: list(self._read())):
            self._records.setdefault(record.entry_id, record)
        await self._forget_old()

    async def keep(self, record: MergeRecord) -> None:
        """Remember `record`; that it cannot be written is logged."""
        self._records.pop(record.entry_id, None)
        self._records[record.entry_id] = record
        await self._write(record)
        await self._forget_old()

    async def _write(self, record: MergeRecord) -> None:
        async with self._writing:
            if self._records.get(record.entry_id) is not record:
                return  # a newer one has come meanwhile
            try:
                await trio.to_thread.run_sync(_write, self._folder, record)
            except (OSError, ValueError) as error:
                log.warning("merge.not_recorded", entry_id=record.entry_id, reason=str(error))

    async def _forget_old(self) -> None:
        ended = [one for one in self._records.values() if one.ended_at is not None and one.reported]
        old = [one for one in self._records.values() if self._is_old(one)]
        for record in (*old, *ended[: max(0, len(ended) - _MOST)]):
            if self._records.pop(record.entry_id, None) is not None:
                await trio.to_thread.run_sync(_remove, self._folder / _name(record.entry_id))

    def _is_old(self, record: MergeRecord) -> bool:
        return record.ended_at is not None and self._now() - record.ended_at > _KEPT

    def _read(self) -> Iterator[MergeRecord]:
        for file in sorted(self._folder.glob("*.json")):
            try:
                record = MergeRecord.model_validate(json.loads(read_small(file) or ""))
                if not is_identifier(record.entry_id) or file.name != _name(record.entry_id):
                    raise ValueError("another name")
            except (ValueError, ValidationError, RecursionError) as error:
                log.warning("merge.record_unusable", file=file.name, reason=type(error).__name__)
                _remove(file)
                continue
            yield record


def _name(entry_id: str) -> str:
    return f"{entry_id}.json"


def _write(folder: Path, record: MergeRecord) -> None:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_whole(folder / _name(record.entry_id), record.model_dump_json(by_alias=True, exclude_none=True), 0o600)


def _remove(file: Path) -> None:
    try:
        file.unlink(missing_ok=True)
    except OSError as error:
        log.warning("merge.not_recorded", entry_id=file.stem, reason=error.strerror)
