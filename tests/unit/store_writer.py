"""A program for test_hall_crash: writes through a store until it is killed, and says before and after each write.

It loads everything once. Each line on its standard input, `FOLDER SEED`, makes it fork a process that writes; it
answers with that one's id. What the writers say goes to standard output too, a line at a time, each whole.
"""

from __future__ import annotations

import json
import os
import sys
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from random import Random

import trio

from gastown.contract.secret import Secret
from gastown.hall.domain.town import RigRecord
from gastown.hall.store import board
from gastown.hall.store.database import Store, open_store

TOWN = "oak"


def say(**what: object) -> None:
    os.write(1, json.dumps(what).encode() + b"\n")


def now() -> datetime:
    return datetime.now(UTC)


async def write(folder: Path, seed: int) -> None:
    random = Random(seed)
    async with open_store(folder / "hall.db", now) as store:
        await store.create_town(TOWN, name="Oak", jwt_secret=Secret("s3cret"), mayor_agent_id=None)
        await store.save_rig(TOWN, RigRecord(rig_id="r", git_url="https://x.test/r", default_branch="main"))
        say(opened=True)
        async with trio.open_nursery() as nursery:
            for number in range(3):
                nursery.start_soon(write_on, store, number, Random(random.random()))


async def write_on(store: Store, number: int, random: Random) -> None:
    while True:
        kind = random.choice(["event", "snapshot", "registry", "bead"])
        name = f"{number}-{random.randrange(10**9)}"
        if kind == "event":
            await store.add_event(TOWN, name, {})
        elif kind == "bead":
            made = await store.transaction(TOWN, lambda at, name=name: board.sling(at, "r", name))
            assert made.title == name
        elif kind == "snapshot":
            content = random.randbytes(random.randrange(1, 300_000))
            name = sha256(content).hexdigest()
            say(begun=kind, by=number, name=name)
            await store.save_snapshot(TOWN, "r", f"agent-{number}", content)
        elif number == 0:  # there is one registry, and its last writer is to be known
            say(begun=kind, by=number, name=name)
            await store.replace_registry(TOWN, [name])
        else:
            continue
        say(done=kind, by=number, name=name)


def main() -> None:
    for line in sys.stdin:
        folder, seed = json.loads(line)
        child = os.fork()
        if child == 0:
            trio.run(write, Path(folder), seed)
        say(writer=child)
        os.waitpid(child, 0)
        say(ended=child)


if __name__ == "__main__":
    main()
