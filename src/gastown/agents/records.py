"""Small records that outlive a container: in memory, and each in a JSON file of its own on this disk.

A record holds no credential. One that cannot be written is known until the container ends, and the log says so.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Generic, TypeVar

import structlog
import trio

from gastown.contract.identifiers import is_identifier
from gastown.contract.wire import Wire
from gastown.isolation.ownership import read_small, write_whole

__all__ = ["Records"]

log = structlog.get_logger()

Record = TypeVar("Record", bound=Wire)


class Records(Generic[Record]):
    """Records of one `kind`, by the identifier that `name` finds in each; the one that was kept last comes last.

    `folder` is made when the first one is written.
    """

    def __init__(self, folder: Path, kind: type[Record], name: Callable[[Record], str]) -> None:
        self._folder = folder
        self._kind = kind
        self._name = name
        self._known: dict[str, Record] = {}
        self._writing = trio.Lock()

    def __iter__(self) -> Iterator[Record]:
        return iter(tuple(self._known.values()))

    def get(self, name: str) -> Record | None:
        return self._known.get(name)

    async def load(self) -> None:
        """Read what earlier containers on this disk have left. A file that makes no sense stays as it is."""
        for record in await trio.to_thread.run_sync(lambda: list(self._read())):
            self._known.setdefault(self._name(record), record)

    async def keep(self, record: Record) -> None:
        """Remember `record` in place of the one of the same name."""
        name = self._name(record)
        self._known.pop(name, None)
        self._known[name] = record
        async with self._writing:
            if self._known.get(name) is not record:
                return  # a newer one has come meanwhile
            try:
                await trio.to_thread.run_sync(self._write, record)
            except (OSError, ValueError) as error:
                log.warning("record.not_written", kind=self._kind.__name__, name=name, reason=str(error))

    async def forget(self, record: Record) -> None:
        """Remove `record`, unless a newer one has taken its place."""
        name = self._name(record)
        async with self._writing:
            if self._known.get(name) is not record:
                return
            del self._known[name]
            try:
                await trio.to_thread.run_sync(self._file(name).unlink, True)
            except OSError as error:
                log.warning("record.not_removed", kind=self._kind.__name__, name=name, reason=error.strerror)

    def _file(self, name: str) -> Path:
        return self._folder / f"{name}.json"

    def _write(self, record: Record) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        text = record.model_dump_json(by_alias=True, exclude_none=True)
        write_whole(self._file(self._name(record)), text, 0o600)

    def _read(self) -> Iterator[Record]:
        for file in sorted(self._folder.glob("*.json")):
            try:
                record = self._kind.model_validate(json.loads(read_small(file) or ""))
                if not is_identifier(self._name(record)) or file != self._file(self._name(record)):
                    raise ValueError("another name")
            except (ValueError, RecursionError) as error:
                log.warning(
                    "record.unusable", kind=self._kind.__name__, file=file.name, reason=type(error).__name__
                )
                continue
            yield record
