"""A hall whose database another process holds: a bounded wait, and a sentence."""

from __future__ import annotations

import sqlite3
from argparse import ArgumentParser
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import httpx2
import pytest
import trio

from gastown.hall.cli.arguments import add_arguments
from gastown.hall.cli.up import run
from gastown.hall.hall import HallOptions, open_hall


@pytest.fixture(autouse=True)
def short_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gastown.hall.store.lane.BUSY_SECONDS", 0.2)


@contextmanager
def held(path: Path) -> Iterator[None]:
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        yield
        other.rollback()


async def test_what_writes_is_refused_in_time_and_what_reads_goes_on(tmp_path: Path) -> None:
    """Ten writes that wait together wait once; each answer names the file; after that all is as before."""
    path = tmp_path / "hall.db"
    async with open_hall(HallOptions(data_dir=tmp_path)) as hall:
        bearer = {"Authorization": f"Bearer {(await hall.container_token()).reveal()}"}
        base = f"{hall.url}/api/towns/town"
        async with httpx2.AsyncClient(base_url=base, headers=bearer, trust_env=False) as client:
            answers: list[httpx2.Response] = []

            async def write() -> None:
                answers.append(await client.post("/container-ready", json={}))

            with held(path):
                async with trio.open_nursery() as writes:
                    for _ in range(10):
                        writes.start_soon(write)
                    assert (await client.get("/container-registry")).status_code == 200
                    assert answers == []
            assert {answer.status_code for answer in answers} == {503}
            assert all(f"another process holds {path}" in answer.json()["error"] for answer in answers)
            assert (await client.post("/container-ready", json={})).status_code == 200


def test_a_town_whose_database_is_held_does_not_come_up_and_says_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "hall.db").touch()
    parser = ArgumentParser()
    add_arguments(parser)
    with held(tmp_path / "hall.db"):
        code = run(parser.parse_args(["--dir", str(tmp_path), "--port", "0"]), {})
    said = capsys.readouterr().err
    assert (code, said.count("\n")) == (2, 1)
    assert f"another process holds {tmp_path / 'hall.db'}" in said
