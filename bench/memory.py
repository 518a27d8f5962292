"""`make bench-memory`: what the control process needs with no agent, with ten and with fifty, and one kilo server.

The control process is one of its own with a stand-in for kilo, since fifty real servers would need 30 GB; each
agent has said 100 events, which are kept and have been sent to the worker. Beside it, in the same run, an
interpreter that only imports the libraries.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import ExitStack
from pathlib import Path

import trio

from bench.boot import KILO, LIBRARIES, kilo_alone
from bench.processes import line, resident_mb, run
from bench.stand_ins import TownOfStandIns, open_town_of_stand_ins, post, start_request, wait_for_worker
from gastown.kilo.server import launch

EVENTS = 100
EVENTS_SECONDS = 30.0
"""How long one agent's events may take: they are there within some milliseconds."""
SETTLED_SECONDS = 5.0


def libraries_mb() -> float:
    code = f"import {LIBRARIES}; print(flush=True); input()"
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    line(process)
    found = resident_mb(process.pid)
    process.communicate("\n")
    return found


def control_mb(numbers: list[int]) -> dict[int, float]:
    """Resident megabytes of one control process, as agents are added to it."""
    found = {}
    with ExitStack() as stack:
        town = open_town_of_stand_ins(stack)
        there = 0
        for number in sorted(numbers):
            for each in range(there, number):
                post(f"{town.url}/agents/start", start_request(f"agent-{each}"))
                let_speak(town, f"agent-{each}")
            there = number
            wait_for_worker(town.worker, 1.0)
            with urllib.request.urlopen(f"{town.url}/health", timeout=60) as answer:
                assert json.load(answer)["agents"] == number
            found[number] = resident_mb(town.process.pid)
    return found


def let_speak(town: TownOfStandIns, agent_id: str) -> None:
    """Let the agent's server send its events, and wait until the agent's ring has them."""
    post(f"{town.kilo}/flood/{agent_id}", EVENTS)
    began = time.monotonic()
    while "flood.end" not in (said := events_of(town, agent_id)):
        if time.monotonic() - began > EVENTS_SECONDS:
            raise SystemExit(f"memory: {agent_id} has {len(said)} events after {EVENTS_SECONDS:g} s")
        time.sleep(0.01)


def events_of(town: TownOfStandIns, agent_id: str) -> list[str]:
    """The kinds of the events that are kept of an agent, the oldest first."""
    with urllib.request.urlopen(f"{town.url}/agents/{agent_id}/events", timeout=60) as answer:
        return [event["event"] for event in json.load(answer)["events"]]


async def kilo_mb(home: Path) -> float:
    """Resident megabytes of a kilo server that has listened for five seconds."""
    async with launch(kilo_alone(KILO, home)) as server:
        await trio.sleep(SETTLED_SECONDS)
        return resident_mb(server.pid)
    raise SystemExit("kilo serve did not start")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agents", type=int, nargs="*", default=[0, 10, 50], help="agents (0 10 50)")
    parser.add_argument("--json", type=Path, help="write the figures there, too")
    options = parser.parse_args()
    libraries = libraries_mb()
    control = control_mb(options.agents)
    with tempfile.TemporaryDirectory(prefix="gastown-bench-") as folder:
        kilo = run(kilo_mb, Path(folder) / "home")
    print(f"importing the libraries           {libraries:6.0f} MB")
    for number, found in control.items():
        print(f"control process, {number:3} agents      {found:6.0f} MB")
    print(f"one kilo server, {SETTLED_SECONDS:g} s after ready  {kilo:6.0f} MB")
    if options.json:
        found = {"libraries": libraries, "kilo": kilo, "control": {str(n): mb for n, mb in control.items()}}
        options.json.write_text(json.dumps(found, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
