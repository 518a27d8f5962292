"""A process that writes through the store is killed at any moment: what was answered is there afterwards."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from random import Random, SystemRandom
from typing import IO, Any

import trio

from gastown.hall.store import beads
from gastown.hall.store.database import open_store
from tests.unit import store_writer
from tests.unit.store_writer import TOWN

ROUNDS = 12
LONGEST_SECONDS = 0.15
"""After this long at most a writer is killed: it has written some hundred times by then."""


@contextmanager
def program() -> Iterator[subprocess.Popen[str]]:
    """The program that forks the writers."""
    started = subprocess.Popen(
        [sys.executable, store_writer.__file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with started:
        yield started


def killed(writers: subprocess.Popen[str], folder: Path, seed: int, *, opened: bool, after: float) -> list[Any]:
    """What a writer said until it was killed, `after` so many seconds from its start or, `opened`, from then."""
    asked, said = writers.stdin, writers.stdout
    assert asked is not None
    assert said is not None
    asked.write(json.dumps([str(folder), seed]) + "\n")
    asked.flush()
    lines: list[Any] = []
    writer = until(said, "writer", lines)
    if opened:
        until(said, "opened", lines)
    time.sleep(after)
    os.kill(writer, signal.SIGKILL)
    until(said, "ended", lines)
    return lines


def until(said: IO[str], key: str, lines: list[Any]) -> Any:
    """The next line that has `key`; all go to `lines`."""
    for line in said:
        lines.append(json.loads(line))
        if key in lines[-1]:
            return lines[-1][key]
    raise AssertionError("the program that writes has ended")


class Kept:
    """What must be there: each event and each bead that was answered, of a snapshot the last, or the one begun."""

    def __init__(self) -> None:
        self.events: set[str] = set()
        self.beads: set[str] = set()
        self.may_be: dict[tuple[str, int], list[str | None]] = {}
        self.writes = 0

    def take(self, lines: list[Any]) -> None:
        for line in lines:
            place = (line.get("begun") or line.get("done"), line.get("by"))
            if "begun" in line:
                self.may_be.setdefault(place, [None]).append(line["name"])
            if "done" in line:
                self.writes += 1
                if line["done"] == "event":
                    self.events.add(line["name"])
                elif line["done"] == "bead":
                    self.beads.add(line["name"])
                else:
                    self.may_be[place] = [line["name"]]

    async def check(self, folder: Path) -> None:
        """Look into the store as the next hall opens it."""
        async with open_store(folder / "hall.db", lambda: datetime.now(UTC)) as store:
            assert self.events <= {event.event for event in await store.events(TOWN)}
            board = await store.transaction(TOWN, lambda at: beads.beads(at, "r"))
            assert self.beads <= {bead.title for bead in board}
            assert {bead.id for bead in board} == (await store.state(TOWN)).work.keys()
            files = {path.read_bytes() for path in (folder / "snapshots").glob("*")}
            found = [await store.snapshot(TOWN, "r", f"agent-{number}") for number in range(3)]
            assert files == {content for content in found if content is not None}
            registry = await store.registry(TOWN)
        is_now = {("snapshot", n): content and sha256(content).hexdigest() for n, content in enumerate(found)}
        is_now["registry", 0] = registry[0] if registry else None
        for place, may_be in self.may_be.items():
            assert is_now[place] in may_be, place
            self.may_be[place] = [is_now[place]]


async def test_what_was_answered_is_there_after_a_kill_at_any_moment(tmp_path: Path) -> None:
    """Events, beads with their work, registries and snapshots, of three writers at once, one town through all."""
    seed = SystemRandom().randrange(10**6)
    sys.stdout.write(f"seed {seed}\n")
    random, kept = Random(seed), Kept()
    with program() as writers:
        for _ in range(ROUNDS):
            after = random.random() * LONGEST_SECONDS
            lines = await trio.to_thread.run_sync(
                lambda after=after: killed(writers, tmp_path, random.randrange(10**6), opened=True, after=after)
            )
            kept.take(lines)
            await kept.check(tmp_path)
    assert kept.writes > ROUNDS


async def test_a_kill_while_a_new_file_is_made_leaves_one_that_opens(tmp_path: Path) -> None:
    """The steps are one transaction: the next opening begins again, or finds them all done."""
    seed = SystemRandom().randrange(10**6)
    sys.stdout.write(f"seed {seed}\n")
    random = Random(seed)
    with program() as writers:
        for number in range(ROUNDS):
            folder = tmp_path / str(number)
            folder.mkdir()
            after = random.random() * LONGEST_SECONDS
            await trio.to_thread.run_sync(
                lambda folder=folder, after=after: killed(writers, folder, 1, opened=False, after=after)
            )
            async with open_store(folder / "hall.db", lambda: datetime.now(UTC)) as store:
                assert await store.last_event_id(TOWN) >= 0
