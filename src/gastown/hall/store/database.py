"""The hall's memory: one SQLite file, written by one connection and read by another, on worker threads."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, TypedDict, TypeVar

import trio
from sqlalchemy import Connection, Executable, Integer, Row, bindparam, delete, func, select, update
from sqlalchemy.dialects import postgresql

from gastown.concurrency.signal import Signal
from gastown.contract.secret import Secret, reveal_json
from gastown.contract.town import GitAuth
from gastown.contract.wire import iso
from gastown.hall.domain.town import RigRecord, TownRecord
from gastown.hall.reconcile.facts import Fact
from gastown.hall.reconcile.state import TownState
from gastown.hall.store import tables
from gastown.hall.store.history import FACTS, LAST_FACT, StoredFact, stored_fact
from gastown.hall.store.lane import Lane, StoreBusy, StoreError, connect, connect_to_read, usable
from gastown.hall.store.migrations import bring_up_to_date
from gastown.hall.store.records import AGENT_EVENTS, StoredAgentEvent, stored_agent_event
from gastown.hall.store.rigs import put_rig
from gastown.hall.store.snapshots.rows import Place, Snapshots, remove_leftovers
from gastown.hall.store.tables import TOWN
from gastown.hall.store.town_state import state_of, take
from gastown.hall.store.transaction import Transaction, put

__all__ = [
    "MOST_EVENTS",
    "Store",
    "StoreBusy",
    "StoreError",
    "StoredEvent",
    "TownChanges",
    "open_store",
    "towns_in",
]

MOST_EVENTS = 10_000
"""How many container events are kept for a town."""

_OF_THIS_RUN = frozenset({"kilocode_token", "organization_id"})
_CLOSE_SECONDS = 10
_T = TypeVar("_T")

_OF_A_TOWN = [one.name for one in tables.towns.c if one.name not in ("created_at", "jwt_secret")]
_TOWNS, _RIGS, _EVENTS = tables.towns.c, tables.rigs.c, tables.container_events.c
# The one query of the mayor context and of the dispatch: the town and its rigs, a row for each of these.
_TOWN = (
    select(
        *(_TOWNS[name] for name in _OF_A_TOWN),
        _RIGS.id.label("rig_id"),
        _RIGS.git_url,
        _RIGS.default_branch,
        _RIGS.config,
    )
    .outerjoin_from(tables.towns, tables.rigs, _RIGS.town_id == _TOWNS.id)
    .where(_TOWNS.id == TOWN)
    .order_by(_RIGS.id)
)
_IDS = select(_TOWNS.id).order_by(_TOWNS.id)
_NEW_TOWN = postgresql.insert(tables.towns).on_conflict_do_nothing()
_CHANGE_TOWN = update(tables.towns).where(_TOWNS.id == TOWN)
_JWT_SECRET = select(_TOWNS.jwt_secret).where(_TOWNS.id == TOWN)
_REGISTRY = select(tables.registry.c.entries).where(tables.registry.c.town_id == TOWN)
_EVENTS_AFTER = (
    select(_EVENTS.id, _EVENTS.received_at, _EVENTS.event, _EVENTS.body)
    .where(_EVENTS.town_id == TOWN, _EVENTS.id > bindparam("after"))
    .order_by(_EVENTS.id)
)
_LAST_EVENT = select(func.max(_EVENTS.id)).where(_EVENTS.town_id == TOWN)
_FIRST_TOO_MANY = (
    select(_EVENTS.id)
    .where(_EVENTS.town_id == TOWN)
    .order_by(_EVENTS.id.desc())
    .limit(1)
    .offset(bindparam("most", type_=Integer))
    .scalar_subquery()
)
_PRUNE = delete(tables.container_events).where(_EVENTS.town_id == TOWN, _EVENTS.id <= _FIRST_TOO_MANY)


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
        self._writes = Lane(_prepared(path), path)
        self._reads = Lane(connect_to_read(path), path)
        self._snapshots = Snapshots(path, self._writes, self._reads)
        self._now = now
        self._of_this_run: dict[str, dict[str, Any]] = {}
        self._states: dict[str, TownState] = {}
        self.stepped = Signal()
        self.heard = Signal()

    async def create_town(
        self, town_id: str, *, name: str, jwt_secret: Secret, mayor_agent_id: str | None
    ) -> bool:
        """Create the town unless it exists; True when it was created."""
        columns = {
            "id": town_id,
            "name": name,
            "created_at": iso(self._now()),
            "jwt_secret": jwt_secret.reveal(),
            "mayor_agent_id": mayor_agent_id,
        }
        return await self._write(_NEW_TOWN, columns) == 1

    async def town(self, town_id: str) -> TownRecord | None:
        """The town and its rigs, read by one query; None when there is no such town."""
        rows = await self._read(_TOWN, town_id)
        return _town_record(rows, self._of_this_run.get(town_id, {})) if rows else None

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
        columns = {name: _stored(value) for name, value in given.items()}
        await self._write(_CHANGE_TOWN, columns | {"town": town_id})

    async def jwt_secret(self, town_id: str) -> Secret | None:
        """The key that signs the town's container tokens."""
        rows = await self._read(_JWT_SECRET, town_id)
        return Secret(rows[0].jwt_secret) if rows else None

    async def save_rig(self, town_id: str, rig: RigRecord) -> None:
        """Add the rig to the town, or replace the one of that id."""
        await self.transaction(town_id, lambda transaction: put_rig(transaction, rig))

    async def registry(self, town_id: str) -> list[Any]:
        """The entries of the newest registry that the container sent; empty when it never did."""
        rows = await self._read(_REGISTRY, town_id)
        entries: list[Any] = json.loads(rows[0].entries) if rows else []
        return entries

    async def replace_registry(self, town_id: str, entries: Sequence[Any]) -> None:
        """Replace the registry as a whole: a reader sees the old one or the new one."""
        columns = {"town_id": town_id, "entries": json.dumps(list(entries)), "updated_at": iso(self._now())}
        await self._write(put(tables.registry, *columns), columns)

    async def snapshot(self, town_id: str, rig_id: str, agent_id: str) -> bytes | None:
        """The agent's newest database snapshot."""
        return await self._snapshots.read(Place(town_id, rig_id, agent_id))

    async def save_snapshot(self, town_id: str, rig_id: str, agent_id: str, content: bytes) -> None:
        """Keep `content` as the agent's only snapshot. OSError when the disk does not take it."""
        await self._snapshots.save(Place(town_id, rig_id, agent_id), iso(self._now()), content)

    async def delete_snapshot(self, town_id: str, rig_id: str, agent_id: str) -> bool:
        """Forget the agent's snapshot; False when there was none."""
        return await self._snapshots.forget(Place(town_id, rig_id, agent_id))

    async def add_event(self, town_id: str, event: str, body: dict[str, Any]) -> None:
        """Keep a container event, and of the town's events the newest 10,000."""
        now, text = iso(self._now()), json.dumps(body)

        def add(connection: Connection) -> None:
            with connection.begin():
                transaction = Transaction(connection, town_id, self._now())
                transaction.insert(tables.container_events, received_at=now, event=event, body=text)
                transaction.run(_PRUNE, most=MOST_EVENTS)

        await self._writes.run(add)

    async def events(self, town_id: str, after: int = 0) -> list[StoredEvent]:
        """The town's container events with an id greater than `after`, oldest first."""
        rows = await self._read(_EVENTS_AFTER, town_id, after=after)
        return [StoredEvent(row.id, row.received_at, row.event, json.loads(row.body)) for row in rows]

    async def last_event_id(self, town_id: str) -> int:
        """The id of the town's newest container event; 0 when there is none."""
        return (await self._read(_LAST_EVENT, town_id))[0][0] or 0

    async def facts(self, town_id: str, after: int, most: int) -> list[StoredFact]:
        """The town's facts with a number greater than `after`, oldest first, at most so many."""
        return [stored_fact(row) for row in await self._read(FACTS, town_id, after=after, most=most)]

    async def agent_events(self, town_id: str, agent_id: str, after: int, most: int) -> list[StoredAgentEvent]:
        """The agent's events with a number greater than `after`, oldest first, at most so many."""
        rows = await self._read(AGENT_EVENTS, town_id, agent=agent_id, after=after, most=most)
        return [stored_agent_event(row) for row in rows]

    async def last_fact(self, town_id: str) -> int:
        """The number of the town's newest fact; 0 when there is none."""
        return (await self._read(LAST_FACT, town_id))[0][0] or 0

    async def transaction(self, town_id: str, work: Callable[[Transaction], _T]) -> _T:
        """Do `work` on the town's board, on the worker thread; an exception undoes all of it."""

        def whole(connection: Connection) -> _T:
            before = self._states.get(town_id)
            with connection.begin():
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

    async def _read(self, statement: Executable, town_id: str, **values: object) -> Sequence[Row[Any]]:
        def read(connection: Connection) -> Sequence[Row[Any]]:
            with connection.begin():
                return connection.execute(statement, {"town": town_id, **values}).all()

        return await self._reads.run(read)

    async def _write(self, statement: Executable, values: Mapping[str, object]) -> int:
        """Run one statement, which is its own transaction; the number of rows that it touched."""

        def write(connection: Connection) -> int:
            with connection.begin():
                return connection.execute(statement, values).rowcount

        return await self._writes.run(write)

    def close(self) -> None:
        """Blocks for some milliseconds."""
        for lane in (self._reads, self._writes):
            lane.connection.close()


def towns_in(path: Path) -> tuple[str, ...]:
    """The ids of the towns in a file. Blocks; StoreError when it cannot be read, or holds no towns."""
    with usable(path), connect_to_read(path, mode="ro") as connection:
        return tuple(connection.scalars(_IDS))


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


def _prepared(path: Path) -> Connection:
    """The file, made and brought to our version where that is needed. Blocks; StoreError."""
    connection = connect(path)
    try:
        bring_up_to_date(connection, path)
        remove_leftovers(connection, path)
    except OSError as error:
        connection.close()
        raise StoreError(f"cannot use the snapshots beside {path}: {error.strerror}") from error
    except BaseException:
        connection.close()
        raise
    return connection


def _stored(value: object) -> object:
    """A setting of a town as its column holds it."""
    if isinstance(value, Secret):
        return value.reveal()
    if isinstance(value, GitAuth):
        return json.dumps(reveal_json(value, exclude_none=True))
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, dict):
        return json.dumps({name: _stored(item) for name, item in value.items()})
    return value


def _town_record(rows: Sequence[Row[Any]], of_this_run: dict[str, Any]) -> TownRecord:
    values: dict[str, Any] = dict(zip(_OF_A_TOWN, rows[0], strict=False)) | of_this_run  # the rest is its rig
    values["disable_ai_coauthor"] = bool(values["disable_ai_coauthor"])
    values["role_models"] = json.loads(values["role_models"])
    pat = values["github_cli_pat"]
    values["github_cli_pat"] = None if pat is None else Secret(pat)
    values["env_vars"] = {name: Secret(value) for name, value in json.loads(values["env_vars"]).items()}
    values["git_auth"] = GitAuth.model_validate_json(values["git_auth"])
    rigs = tuple(_rig_record(row) for row in rows if row.rig_id is not None)
    return TownRecord(**values, rigs=rigs)


def _rig_record(row: Row[Any]) -> RigRecord:
    config = json.loads(row.config)
    return RigRecord(
        rig_id=row.rig_id,
        git_url=row.git_url,
        default_branch=row.default_branch,
        model=config.get("model"),
        platform_integration_id=config.get("platform_integration_id"),
        folder=config.get("folder"),
    )
