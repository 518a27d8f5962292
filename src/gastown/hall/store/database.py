"""The hall's memory: one SQLite file, written by one connection and read by another, on worker threads."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, closing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from importlib.resources import files
from pathlib import Path
from typing import Any, TypedDict, TypeVar

import trio

from gastown.concurrency.signal import Signal
from gastown.contract.secret import Secret, reveal_json
from gastown.contract.town import GitAuth
from gastown.contract.wire import iso
from gastown.hall.domain.town import RigRecord, TownRecord
from gastown.hall.reconcile.facts import Fact
from gastown.hall.reconcile.state import TownState
from gastown.hall.store.history import FACTS, StoredFact, stored_fact
from gastown.hall.store.lane import BUSY_SECONDS, Lane, StoreBusy, StoreError, is_busy
from gastown.hall.store.records import AGENT_EVENTS, StoredAgentEvent, stored_agent_event
from gastown.hall.store.rigs import put_rig
from gastown.hall.store.town_state import state_of, take
from gastown.hall.store.transaction import Transaction

__all__ = [
    "MOST_EVENTS",
    "VERSION",
    "Store",
    "StoreBusy",
    "StoreError",
    "StoredEvent",
    "TownChanges",
    "open_store",
    "towns_in",
]

VERSION = 2
_STEPS = {
    # Values for one run must not reach the next run, and a token must not reach the disk.
    1: """
        ALTER TABLE towns DROP COLUMN kilocode_token;
        ALTER TABLE towns DROP COLUMN organization_id;
        UPDATE registry SET entries = (SELECT json_group_array(json(json_remove(
            value, '$.env.KILOCODE_TOKEN', '$.request.envVars.KILOCODE_TOKEN'))) FROM json_each(entries));
    """,
}
"""The script that leads from each earlier version to the next."""
MOST_EVENTS = 10_000
"""How many container events are kept for a town."""

_OF_THIS_RUN = frozenset({"kilocode_token", "organization_id"})
_CLOSE_SECONDS = 10
_T = TypeVar("_T")

# The one query of the mayor context and of the dispatch: the town and its rigs, in one read.
_TOWN = """
    SELECT id, name, mayor_agent_id, mayor_session_id,
           default_model, small_model, role_models, git_auth, github_cli_pat,
           git_author_name, git_author_email, disable_ai_coauthor, env_vars,
           (SELECT json_group_array(json_object('rig_id', id, 'git_url', git_url,
                                                'default_branch', default_branch, 'config', json(config)))
              FROM (SELECT * FROM rigs WHERE town_id = towns.id ORDER BY id)) AS rigs
      FROM towns WHERE id = ?
"""


class TownChanges(TypedDict, total=False):
    """The settings of a town that may change. Keys that are left out stay as they are.

    The gateway's token and its organisation are never in the file: they hold until the store is closed.
    """

    name: str
    mayor_session_id: str | None
    kilocode_token: Secret | None
    organization_id: str | None
    default_model: str | None
    small_model: str | None
    role_models: dict[str, str]
    git_auth: GitAuth
    github_cli_pat: Secret | None
    git_author_name: str | None
    git_author_email: str | None
    disable_ai_coauthor: bool
    env_vars: dict[str, Secret]


@dataclass(frozen=True)
class StoredEvent:
    """A container event as it came in."""

    id: int
    received_at: str
    event: str
    body: dict[str, Any]


class Store:
    """The file's operations. Every call is one transaction and is complete when it returns.

    Writes are served in the order of their arrival, and so are reads, which do not wait for writes: each sees what
    was complete when it began. Cancelling a call waits for the statement that is running, which then has happened
    whole or not at all. A call that another process keeps away from the file raises StoreBusy.

    `stepped` is sent when the state of a town has changed, `heard` by whoever has kept events of agents.
    """

    def __init__(self, path: Path, now: Callable[[], datetime]) -> None:
        """Blocks while it opens the file; StoreError when that is impossible."""
        self._writes = Lane(_connect(path), path)
        self._reads = Lane(_connect_to_read(path), path)
        self._now = now
        self._of_this_run: dict[str, dict[str, Any]] = {}
        self._states: dict[str, TownState] = {}
        self.stepped = Signal()
        self.heard = Signal()

    async def create_town(
        self, town_id: str, *, name: str, jwt_secret: Secret, mayor_agent_id: str | None
    ) -> bool:
        """Create the town unless it exists; True when it was created."""
        sql = (
            "INSERT INTO towns (id, name, created_at, jwt_secret, mayor_agent_id) VALUES (?, ?, ?, ?, ?)"
            " ON CONFLICT DO NOTHING"
        )
        values = (town_id, name, iso(self._now()), jwt_secret.reveal(), mayor_agent_id)
        return await self._write(sql, values) == 1

    async def town(self, town_id: str) -> TownRecord | None:
        """The town and its rigs, read by one query; None when there is no such town."""
        rows = await self._read(_TOWN, (town_id,))
        return _town_record(rows[0], self._of_this_run.get(town_id, {})) if rows else None

    async def change_town(self, town_id: str, changes: TownChanges) -> None:
        """Replace the settings named in `changes`."""
        unknown = changes.keys() - TownChanges.__annotations__.keys()
        if unknown:
            raise ValueError(f"not settings of a town: {sorted(unknown)}")
        given: dict[str, Any] = dict(changes)
        passing = {key: given.pop(key) for key in changes.keys() & _OF_THIS_RUN}
        self._of_this_run[town_id] = self._of_this_run.get(town_id, {}) | passing
        if not given:
            return
        values = [_stored(value) for value in given.values()]
        columns = ", ".join(f"{key} = ?" for key in given)
        sql = f"UPDATE towns SET {columns} WHERE id = ?"  # noqa: S608  the names were checked above
        await self._write(sql, (*values, town_id))

    async def jwt_secret(self, town_id: str) -> Secret | None:
        """The key that signs the town's container tokens."""
        rows = await self._read("SELECT jwt_secret FROM towns WHERE id = ?", (town_id,))
        return Secret(rows[0]["jwt_secret"]) if rows else None

    async def save_rig(self, town_id: str, rig: RigRecord) -> None:
        """Add the rig to the town, or replace the one of that id."""
        await self.transaction(town_id, lambda transaction: put_rig(transaction, rig))

    async def registry(self, town_id: str) -> list[Any]:
        """The entries of the newest registry that the container sent; empty when it never did."""
        rows = await self._read("SELECT entries FROM registry WHERE town_id = ?", (town_id,))
        entries: list[Any] = json.loads(rows[0]["entries"]) if rows else []
        return entries

    async def replace_registry(self, town_id: str, entries: Sequence[Any]) -> None:
        """Replace the registry as a whole: a reader sees the old one or the new one."""
        values = (town_id, json.dumps(list(entries)), iso(self._now()))
        await self._write(
            "INSERT OR REPLACE INTO registry (town_id, entries, updated_at) VALUES (?, ?, ?)", values
        )

    async def snapshot(self, town_id: str, rig_id: str, agent_id: str) -> bytes | None:
        """The agent's newest database snapshot."""
        sql = "SELECT content FROM snapshots WHERE town_id = ? AND rig_id = ? AND agent_id = ?"
        rows = await self._read(sql, (town_id, rig_id, agent_id))
        return bytes(rows[0]["content"]) if rows else None

    async def save_snapshot(self, town_id: str, rig_id: str, agent_id: str, content: bytes) -> None:
        """Keep `content` as the agent's only snapshot."""
        sql = (
            "INSERT OR REPLACE INTO snapshots (town_id, rig_id, agent_id, saved_at, content)"
            " VALUES (?, ?, ?, ?, ?)"
        )
        await self._write(sql, (town_id, rig_id, agent_id, iso(self._now()), content))

    async def delete_snapshot(self, town_id: str, rig_id: str, agent_id: str) -> bool:
        """Forget the agent's snapshot; False when there was none."""
        sql = "DELETE FROM snapshots WHERE town_id = ? AND rig_id = ? AND agent_id = ?"
        return await self._write(sql, (town_id, rig_id, agent_id)) == 1

    async def add_event(self, town_id: str, event: str, body: dict[str, Any]) -> None:
        """Keep a container event, and of the town's events the newest 10,000."""
        values = (town_id, iso(self._now()), event, json.dumps(body))
        await self._writes.run(lambda connection: _add_event(connection, town_id, values))

    async def events(self, town_id: str, after: int = 0) -> list[StoredEvent]:
        """The town's container events with an id greater than `after`, oldest first."""
        sql = "SELECT id, received_at, event, body FROM container_events WHERE town_id = ? AND id > ? ORDER BY id"
        rows = await self._read(sql, (town_id, after))
        return [StoredEvent(row["id"], row["received_at"], row["event"], json.loads(row["body"])) for row in rows]

    async def last_event_id(self, town_id: str) -> int:
        """The id of the town's newest container event; 0 when there is none."""
        rows = await self._read("SELECT max(id) AS id FROM container_events WHERE town_id = ?", (town_id,))
        return int(rows[0]["id"] or 0)

    async def facts(self, town_id: str, after: int, most: int) -> list[StoredFact]:
        """The town's facts with a number greater than `after`, oldest first, at most so many."""
        return [stored_fact(row) for row in await self._read(FACTS, (town_id, after, most))]

    async def agent_events(self, town_id: str, agent_id: str, after: int, most: int) -> list[StoredAgentEvent]:
        """The agent's events with a number greater than `after`, oldest first, at most so many."""
        rows = await self._read(AGENT_EVENTS, (town_id, agent_id, after, most))
        return [stored_agent_event(row) for row in rows]

    async def last_fact(self, town_id: str) -> int:
        """The number of the town's newest fact; 0 when there is none."""
        rows = await self._read("SELECT max(number) AS number FROM facts WHERE town_id = ?", (town_id,))
        return int(rows[0]["number"] or 0)

    async def transaction(self, town_id: str, work: Callable[[Transaction], _T]) -> _T:
        """Do `work` on the town's board, on the worker thread; an exception undoes all of it."""

        def whole(connection: sqlite3.Connection) -> _T:
            before = self._states.get(town_id)
            with _transaction(connection):
                transaction = Transaction(connection, town_id, self._now(), before)
                result = work(transaction)
            if transaction.state is not None:
                self._states[town_id] = transaction.state
            return result

        before = self._states.get(town_id)
        result = await self._writes.run(whole)
        if self._states.get(town_id) is not before:
            self.stepped.send()
        return result

    async def state(self, town_id: str) -> TownState:
        """What the reconciler knows of a town now: after the last transaction that is complete."""
        known = self._states.get(town_id)
        return await self.transaction(town_id, state_of) if known is None else known

    async def tell(self, town_id: str, *facts: Fact) -> None:
        """Fold facts into a town; without any, begin what has become due."""
        await self.transaction(town_id, lambda transaction: take(transaction, *facts))

    async def _read(self, sql: str, values: Sequence[object]) -> list[sqlite3.Row]:
        return await self._reads.run(lambda connection: connection.execute(sql, values).fetchall())

    async def _write(self, sql: str, values: Sequence[object]) -> int:
        """Run one statement, which is its own transaction; the number of rows that it touched."""
        return await self._writes.run(lambda connection: connection.execute(sql, values).rowcount)

    def close(self) -> None:
        """Blocks for some milliseconds."""
        for lane in (self._reads, self._writes):
            lane.connection.close()


def towns_in(path: Path) -> tuple[str, ...]:
    """The ids of the towns in a file. Blocks; StoreError when it cannot be read, or holds no towns."""
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            return tuple(row[0] for row in connection.execute("SELECT id FROM towns ORDER BY id"))
    except sqlite3.Error as error:
        raise StoreError(f"cannot use {path} as a database: {error}") from error


@asynccontextmanager
async def open_store(path: Path, now: Callable[[], datetime]) -> AsyncIterator[Store]:
    """Open (or create) the database at `path` and close it at the end of the block.

    The file is readable by its owner only; a missing directory is made so too, one that is there stays as it
    is. `now` is the wall clock. StoreError when the file cannot be used.
    """
    store = await trio.to_thread.run_sync(Store, path, now)
    try:
        yield store
    finally:
        with trio.move_on_after(_CLOSE_SECONDS, shield=True):
            await trio.to_thread.run_sync(store.close)


def _connect(path: Path) -> sqlite3.Connection:
    """Open the file, made and brought to our version where that is needed. Blocks; StoreError."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # SQLite gives the files that it makes beside this one the mode of this one.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        path.chmod(0o600)
    except OSError as error:
        raise StoreError(f"cannot write {path}: {error.strerror}") from error
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=BUSY_SECONDS)
    try:
        _prepare(connection, path)
    except sqlite3.Error as error:
        connection.close()
        if is_busy(error):
            raise StoreBusy(path) from error
        raise StoreError(f"cannot use {path} as a database: {error}") from error
    except StoreError:
        connection.close()
        raise
    return connection


def _connect_to_read(path: Path) -> sqlite3.Connection:
    """A second connection to a file that is prepared. It writes nothing."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=BUSY_SECONDS)
    connection.row_factory = sqlite3.Row
    connection.execute("PRAGMA query_only = ON")
    return connection


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    connection.row_factory = sqlite3.Row
    for pragma in (
        "journal_mode = WAL",
        "synchronous = NORMAL",
        "foreign_keys = ON",
        "journal_size_limit = 67108864",
    ):
        connection.execute(f"PRAGMA {pragma}")
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    if version > VERSION:
        raise StoreError(f"{path} was written by a newer gastown (version {version}, this one knows {VERSION})")
    if version == 0:
        schema = files("gastown.hall.store").joinpath("schema.sql").read_text("utf-8")
        # One script, one transaction: a crash in here leaves an empty file and not half a schema.
        connection.executescript(f"BEGIN IMMEDIATE; {schema} PRAGMA user_version = {VERSION}; COMMIT;")
    else:
        _bring_up_to_date(connection, path, version)
    for name in ("board.sql", "records.sql", "reconciler.sql", "usage.sql"):
        tables = files("gastown.hall.store").joinpath(name).read_text("utf-8")
        connection.executescript(f"BEGIN IMMEDIATE; {tables} COMMIT;")


def _bring_up_to_date(connection: sqlite3.Connection, path: Path, version: int) -> None:
    """Go from the version of an older gastown to ours; each step is one transaction."""
    connection.execute("PRAGMA secure_delete = ON")  # what a step drops is overwritten
    for old in range(version, VERSION):
        if old not in _STEPS:
            raise StoreError(
                f"{path} was written by an older gastown (version {old}, this one knows {VERSION}):"
                " use that one, or begin a new town with another --dir"
            )
        connection.executescript(f"BEGIN IMMEDIATE; {_STEPS[old]} PRAGMA user_version = {old + 1}; COMMIT;")


def _add_event(connection: sqlite3.Connection, town_id: str, values: tuple[object, ...]) -> None:
    with _transaction(connection):
        connection.execute(
            "INSERT INTO container_events (town_id, received_at, event, body) VALUES (?, ?, ?, ?)", values
        )
        connection.execute(
            "DELETE FROM container_events WHERE town_id = ?1 AND id <= (SELECT id FROM container_events"
            " WHERE town_id = ?1 ORDER BY id DESC LIMIT 1 OFFSET ?2)",
            (town_id, MOST_EVENTS),
        )


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        connection.rollback()
        raise
    connection.commit()


def _stored(value: object) -> object:
    """A setting of a town as its column holds it."""
    if isinstance(value, Secret):
        return value.reveal()
    if isinstance(value, GitAuth):
        return json.dumps(reveal_json(value, exclude_none=True))
    if isinstance(value, dict):
        return json.dumps({name: _stored(item) for name, item in value.items()})
    return value


def _town_record(row: sqlite3.Row, of_this_run: dict[str, Any]) -> TownRecord:
    values: dict[str, Any] = dict(row) | of_this_run
    values["disable_ai_coauthor"] = bool(values["disable_ai_coauthor"])
    values["role_models"] = json.loads(values["role_models"])
    pat = values["github_cli_pat"]
    values["github_cli_pat"] = None if pat is None else Secret(pat)
    values["env_vars"] = {name: Secret(value) for name, value in json.loads(values["env_vars"]).items()}
    values["git_auth"] = GitAuth.model_validate_json(values["git_auth"])
    values["rigs"] = tuple(
        RigRecord(
            rig_id=rig["rig_id"],
            git_url=rig["git_url"],
            default_branch=rig["default_branch"],
            model=rig["config"].get("model"),
            platform_integration_id=rig["config"].get("platform_integration_id"),
            folder=rig["config"].get("folder"),
        )
        for rig in json.loads(values["rigs"])
    )
    return TownRecord(**values)
