"""`make bench-store`: what the hall's store costs on a board of 1,000 beads, and the memory that it takes.

A store on a real file and nothing else: no hall, no container. A fact folded is what every event of an agent and
every call of a tool costs; the board read is what a page or `gastown beads` asks for. Times are of the processor,
of all threads. Beside them, in the same minutes, a transaction of one row by sqlite3 alone.
"""

from __future__ import annotations

import argparse
import json
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

import trio

from bench.processes import resident_mb
from gastown.contract.secret import Secret
from gastown.hall.domain.bead import BeadType
from gastown.hall.domain.town import RigRecord
from gastown.hall.reconcile import facts
from gastown.hall.store import beads, board
from gastown.hall.store.database import Store, open_store
from gastown.hall.store.town_state import take
from gastown.hall.store.transaction import Transaction
from gastown.hall.user_api.views import beads_shown

TOWN = "town"


def now() -> datetime:
    return datetime.now(UTC)


def fill(transaction: Transaction, count: int) -> None:
    """Work of one rig, each bead after the one before it."""
    made: list[beads.Bead] = []
    for number in range(count):
        one = beads.make_bead(transaction, "r", BeadType.ISSUE, f"task {number}", body="x" * 500)
        if made:
            beads.set_blockers(transaction, one.id, [made[-1].id])
        made.append(beads.bead(transaction, one.id))
    board.add_work(transaction, made)


async def filled(store: Store, count: int) -> str:
    """The id of a bead in the middle of the board."""
    await store.create_town(TOWN, name="Town", jwt_secret=Secret("s"), mayor_agent_id="mayor")
    await store.save_rig(TOWN, RigRecord(rig_id="r", git_url="https://x.test/r.git", default_branch="main"))
    await store.transaction(TOWN, lambda at: fill(at, count))
    return sorted((await store.state(TOWN)).work)[count // 2]


async def timed(rounds: int, work: Callable[[], Awaitable[object]]) -> float:
    """The median, in milliseconds."""
    taken = []
    for _ in range(rounds):
        began = time.process_time()
        await work()
        taken.append((time.process_time() - began) * 1000)
    return median(taken)


def fold(transaction: Transaction, bead_id: str, times: int) -> None:
    for _ in range(times):
        take(transaction, facts.Held(bead_id=bead_id, reason="a person stopped it"))
        take(transaction, facts.Retried(bead_id=bead_id))


def plain_ms(path: Path, rounds: int) -> float:
    """A transaction of one row by sqlite3 alone, on a file beside the store's."""
    with closing(sqlite3.connect(path.with_name("plain.db"), isolation_level=None)) as db:
        db.executescript("PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; CREATE TABLE rows (body TEXT);")
        taken = []
        for _ in range(rounds):
            began = time.process_time()
            db.execute("BEGIN IMMEDIATE")
            db.execute("INSERT INTO rows VALUES (?)", ("x" * 500,))
            db.execute("COMMIT")
            taken.append((time.process_time() - began) * 1000)
    return median(taken)


async def measure(path: Path, count: int, rounds: int) -> dict[str, float]:
    async with open_store(path, now) as store:
        began = time.process_time()
        bead_id = await filled(store, count)
        found = {"board made, ms": (time.process_time() - began) * 1000}
        held = facts.Held(bead_id=bead_id, reason="a person stopped it")
        retried = facts.Retried(bead_id=bead_id)

        async def told() -> None:
            await store.tell(TOWN, held)
            await store.tell(TOWN, retried)

        found["one fact told, ms"] = await timed(rounds, told) / 2
        many = 20
        folded = await timed(rounds // 10, lambda: store.transaction(TOWN, lambda at: fold(at, bead_id, many)))
        found["one fact folded, ms"] = folded / many / 2
        found["no work, ms"] = await timed(rounds, lambda: store.transaction(TOWN, lambda _: None))
        shown = await store.transaction(TOWN, lambda at: beads_shown(at, None, None))
        assert len(shown) == count
        read = await timed(rounds // 10, lambda: store.transaction(TOWN, lambda at: beads_shown(at, None, None)))
        found["board read, ms"] = read
        found["one bead read, ms"] = await timed(
            rounds, lambda: store.transaction(TOWN, lambda at: beads.bead(at, bead_id))
        )
        found["one container event kept, ms"] = await timed(
            rounds, lambda: store.add_event(TOWN, "beat", {"a": 1})
        )
    began = time.process_time()
    async with open_store(path, now) as store:
        found["opened, ms"] = (time.process_time() - began) * 1000
        await store.state(TOWN)
        found["state loaded, ms"] = (time.process_time() - began) * 1000
    found["plain sqlite3 transaction, ms"] = plain_ms(path, rounds)
    return found


def memory_mb(path: Path, *, state: bool) -> float:
    """Resident megabytes of a process with the store open, and with the town's state loaded."""
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.store", "--hold", str(path), *(["--state"] if state else [])],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    process.stdout.readline()
    found = resident_mb(process.pid)
    process.communicate("\n")
    return found


async def hold(path: Path, *, state: bool) -> None:
    async with open_store(path, now) as store:
        if state:
            await store.state(TOWN)
            await store.transaction(TOWN, lambda at: len(beads_shown(at, None, None)))
        print(flush=True)
        await trio.to_thread.run_sync(input)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--beads", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--hold", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--state", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.hold is not None:
        trio.run(lambda: hold(options.hold, state=options.state))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "hall.db"
        found = trio.run(measure, path, options.beads, options.rounds)
        found["memory with the store open, MB"] = memory_mb(path, state=False)
        found["memory with the board loaded, MB"] = memory_mb(path, state=True)
    print(json.dumps({name: round(value, 3) for name, value in found.items()}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
