"""What was written by an earlier gastown, as its own SQL made it, is taken over; a later one's is refused."""

from __future__ import annotations

import importlib
import json
import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateTable
from sqlalchemy.sql import Executable

from gastown.contract.secret import Secret
from gastown.hall import store
from gastown.hall.domain.bead import BeadState
from gastown.hall.store import beads, board, migrations
from gastown.hall.store.database import StoreError, open_store
from gastown.hall.store.tables import METADATA

HALLS = Path(__file__).with_name("halls")
"""The SQL that made the files of earlier ones."""
EARLIER: dict[str, tuple[int, Sequence[str]]] = {
    "the first": (1, ["schema-1"]),
    "the first with a board": (1, ["schema-1", "board-1", "records"]),
    "without the gateway's token": (2, ["schema-2", "board-1", "records"]),
    "with reworks": (2, ["schema-2", "board-2", "records"]),
    "the first with a reconciler": (2, ["schema-2", "board-2", "records", "reconciler"]),
    "with budgets": (2, ["schema-2", "board-2", "records", "reconciler", "usage"]),
}
NOW = datetime(2030, 5, 1, 12, 0, tzinfo=UTC)
CANARY = "canary-token"


def now() -> datetime:
    return NOW


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "hall.db"


def write_earlier(path: Path, name: str, registry: Sequence[Any] = ()) -> None:
    """A file as that gastown left it: a town with a rig, what its container sent, and a bead where it had any."""
    version, scripts = EARLIER[name]
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA journal_mode = WAL")
        for script in scripts:
            db.executescript((HALLS / f"{script}.sql").read_text())
        db.execute("INSERT INTO towns (id, name, created_at, jwt_secret) VALUES ('oak', 'Oak', '2029', 's3cret')")
        db.execute("INSERT INTO rigs VALUES ('oak', 'r', 'https://x.test/r', 'main', '{\"model\": \"m\"}')")
        db.execute("INSERT INTO registry VALUES ('oak', ?, '2029')", [json.dumps(registry)])
        db.execute("INSERT INTO snapshots VALUES ('oak', 'r', 'a', '2029', x'00ff')")
        db.execute("INSERT INTO container_events VALUES (7, 'oak', '2029', 'ready', '{}')")
        if version == 1:
            db.execute("UPDATE towns SET kilocode_token = ?, organization_id = 'org'", [CANARY])
        if len(scripts) > 1:
            db.execute(
                "INSERT INTO beads (number, town_id, id, rig_id, type, title, created_at, updated_at)"
                " VALUES (5, 'oak', 'bead-1', 'r', 'issue', 'Mend', '2029', '2029')"
            )
        db.execute(f"PRAGMA user_version = {version}")
        db.commit()


def files_with_the_token(folder: Path) -> list[str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return [path.name for path in files if CANARY.encode() in path.read_bytes()]


def shape(path: Path) -> dict[str, object]:
    """What the file is made of, whatever words made it."""
    with closing(sqlite3.connect(path)) as db:
        tables = [row for row in db.execute("PRAGMA table_list") if not row[1].startswith("sqlite_")]
        found: dict[str, object] = {str(row[1]): row[2:] for row in tables}
        for _, name, *_ in tables:
            columns = db.execute('SELECT name, type, "notnull", dflt_value, pk FROM pragma_table_info(?)', [name])
            found[f"{name}'s columns"] = {row[0]: without_quotes(row) for row in columns}
            keys = db.execute('SELECT "from", "table", "to", on_delete FROM pragma_foreign_key_list(?)', [name])
            found[f"{name}'s owners"] = sorted(keys)
            indexes = db.execute("SELECT name, \"unique\" FROM pragma_index_list(?) WHERE origin = 'c'", [name])
            found[f"{name}'s indexes"] = sorted(
                (*index, *(row[2] for row in db.execute(f"PRAGMA index_info('{index[0]}')"))) for index in indexes
            )
        return found


def without_quotes(row: Sequence[Any]) -> tuple[Any, ...]:
    """`DEFAULT 0` and `DEFAULT '0'` of a number are the same; a part of a key is never NULL, said or not."""
    _, kind, not_null, default, part_of_key = row
    return kind, bool(not_null or part_of_key), None if default is None else default.strip("'"), part_of_key


@pytest.mark.parametrize("name", EARLIER)
async def test_a_file_of_an_earlier_one_has_all_that_it_had_and_the_tables_of_a_new_one(
    path: Path, name: str
) -> None:
    """Its town, its rig, its container's events, its agents' conversations, its board."""
    write_earlier(path, name)
    async with open_store(path, now) as opened:
        town = await opened.town("oak")
        assert town is not None
        assert (town.name, town.kilocode_token, [(rig.rig_id, rig.model) for rig in town.rigs]) == (
            *("Oak", None),
            [("r", "m")],
        )
        assert await opened.jwt_secret("oak") == Secret("s3cret")
        assert await opened.snapshot("oak", "r", "a") == b"\x00\xff"
        assert [(one.id, one.event) for one in await opened.events("oak")] == [(7, "ready")]
        slung = await opened.transaction("oak", lambda at: board.sling(at, "r", "Begin"))
        before = ["bead-1"] if len(EARLIER[name][1]) > 1 else []
        listed = await opened.transaction("oak", lambda at: beads.beads(at, "r"))
        assert [one.id for one in listed] == [*before, slung.id]
        work = (await opened.state("oak")).work
        assert [(one.bead_id, one.state) for one in work.values()] == [
            (bead_id, BeadState.OPEN) for bead_id in [*before, slung.id]
        ]
    new = path.with_name("new.db")
    async with open_store(new, now):
        pass
    assert shape(path) == shape(new)


async def test_a_file_of_version_1_loses_what_was_for_one_run_only(path: Path) -> None:
    variables = {"KILOCODE_TOKEN": CANARY, "A": "1"}
    entry = {"agentId": "a", "request": {"envVars": variables, "x": "\ud800"}, "env": variables}
    write_earlier(path, "the first", [entry, "no object"])
    async with open_store(path, now) as opened:
        assert await opened.registry("oak") == [
            {"agentId": "a", "request": {"envVars": {"A": "1"}, "x": "\ud800"}, "env": {"A": "1"}},
            "no object",
        ]
    assert [
        file.name for file in path.parent.iterdir() if file.is_file() and CANARY.encode() in file.read_bytes()
    ] == []


async def test_what_a_step_drops_is_overwritten_in_every_page(path: Path) -> None:
    """The tokens of a registry that fills many pages are gone from the file too, not only from the tables."""
    variables = {"KILOCODE_TOKEN": CANARY, "A": "x" * 500}
    write_earlier(path, "the first", [{"agentId": f"a{n}", "request": {}, "env": variables} for n in range(500)])
    async with open_store(path, now):
        pass
    assert [
        file.name for file in path.parent.iterdir() if file.is_file() and CANARY.encode() in file.read_bytes()
    ] == []


@pytest.mark.parametrize(
    "later",
    [
        "UPDATE alembic_version SET version_num = '99'",
        "UPDATE alembic_version SET version_num = 'ae10'",
        "PRAGMA user_version = 99",
    ],
)
async def test_a_file_of_a_later_one_is_refused_in_one_sentence(path: Path, later: str) -> None:
    async with open_store(path, now):
        pass
    with closing(sqlite3.connect(path)) as db, db:
        db.execute(later)
    with pytest.raises(StoreError, match=r"^\S+ was written by a newer gastown \(version \w+, .*\)$"):
        async with open_store(path, now):
            pass


async def test_one_that_knew_only_its_own_marks_refuses_our_file(path: Path) -> None:
    """It reads a number that is greater than its own, 1 or 2."""
    async with open_store(path, now):
        pass
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA user_version").fetchone()[0] > 2


async def test_a_step_that_fails_leaves_the_file_as_it_was(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All steps are one transaction."""
    write_earlier(path, "with reworks")
    before = shape(path)
    monkeypatch.setattr("alembic.op.create_index", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        async with open_store(path, now):
            pass
    assert shape(path) == before
    monkeypatch.undo()
    async with open_store(path, now) as opened:
        assert await opened.town("oak") is not None


async def test_the_steps_lead_to_the_tables_that_are_declared(path: Path) -> None:
    async with open_store(path, now):
        pass
    engine = create_engine(f"sqlite:///{path}")
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), METADATA) == []
    engine.dispose()


def test_the_newest_step_is_the_one_that_is_looked_for() -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    assert ScriptDirectory.from_config(config).get_heads() == [migrations.NEWEST]


@pytest.mark.parametrize("loaded", ["gastown.main", "gastown.cli, gastown.settings, gastown.assembly"])
def test_the_container_loads_nothing_of_the_database(loaded: str) -> None:
    """`gastown serve` keeps no town: it needs neither the memory nor the time."""
    seen = f"import sys, {loaded}; print({{'sqlalchemy', 'alembic', 'gastown.hall'}} & sys.modules.keys())"
    told = subprocess.run([sys.executable, "-c", seen], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "set()"


def test_a_file_that_is_up_to_date_opens_without_alembic(path: Path) -> None:
    """It takes a tenth of a second to load, and some megabytes."""
    code = (
        "import sys, datetime, pathlib; from gastown.hall.store.database import Store;"
        f"Store(pathlib.Path({str(path)!r}), datetime.datetime.now).close(); print('alembic' in sys.modules)"
    )
    told = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
        for _ in ("new", "as it was left")
    ]
    assert told == ["True", "False"]


def test_every_table_and_statement_is_one_of_postgresqls_too() -> None:
    """No second set of queries: what the modules of the store declare compiles for it as it is."""
    names = [module.name for module in iter_modules(store.__path__, f"{store.__name__}.")]
    modules = [importlib.import_module(name) for name in [*names, f"{store.__name__}.snapshots.rows"]]
    statements = [one for module in modules for one in vars(module).values() if isinstance(one, Executable)]
    tables = [CreateTable(table) for table in METADATA.sorted_tables]
    assert len(statements) > 30
    for one in (*statements, *tables):
        assert str(one.compile(dialect=postgresql.dialect()))
