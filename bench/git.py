"""`make bench-git`: times the start of a polecat on a repository, and how much of it is git.

A hall on loopback, `gastown serve` as its own process, the real kilo, git's own http-backend behind a server that
sends as fast as a network would. Each start is timed three times: in a container that has never seen the
repository, with the clone there, and with the worktree there; once with partial clones and once without.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import subprocess
import tempfile
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx2
import trio

from bench.processes import run
from gastown.contract.agents import AgentState, StartAgentRequest
from gastown.contract.town import TownConfig
from gastown.hall.domain.town import town_config
from tests.git.server import GitServer, open_git_server
from tests.kilo.town import RealTown, real_town

GIT_PHASES = ("credentials", "clone", "git_queue", "fetch", "worktree")
CLONES = ("partial", "whole")
WORDS = [f"word{number}" for number in range(4000)]


def make_repository(server: GitServer, options: argparse.Namespace) -> None:
    """`files` files of about 4 KB in folders of 50, and `commits` commits that each change 1 % of them."""
    server.make("r")
    chance = random.Random(1)
    stream = []

    def commit(number: int, changed: list[int]) -> None:
        stream.append(
            f"commit refs/heads/main\ncommitter B <b@example.test> {1700000000 + number} +0000\ndata 1\nx"
        )
        for file in changed:
            content = " ".join(chance.choices(WORDS, k=520)) + "\n"
            stream.append(f"M 100644 inline src/{file // 50:03}/file{file}.txt\ndata {len(content)}\n{content}")

    commit(0, list(range(options.files)))
    for number in range(1, options.commits + 1):
        commit(number, chance.sample(range(options.files), max(1, options.files // 100)))
    server.git("r", "fast-import", "--quiet", stdin="\n".join(stream) + "\n")
    server.git("r", "gc", "--quiet")


async def polecat(town: RealTown, url: str, number: int) -> StartAgentRequest:
    config = town_config(await town.hall.town(), town.hall.url)
    return StartAgentRequest(
        agent_id=f"polecat-{number}",
        rig_id="rig",
        town_id=town.hall.town_id,
        role="polecat",
        name="Nux",
        identity="a polecat of the benchmark",
        prompt="Do it.",
        model="anthropic/claude-sonnet-4.6",
        git_url=url,
        branch=f"work/{number}",
        default_branch="main",
        env_vars={"KILOCODE_TOKEN": config.kilocode_token or ""},
    )


async def one_start(town: RealTown, url: str, number: int) -> dict[str, float]:
    """Start and stop a polecat; the seconds of the whole, and of each phase, from the container's log."""
    seen = len(town.log("agent.phase"))
    began = trio.current_time()
    agent = await town.dispatch.start(await polecat(town, url, number), TownConfig())
    whole = trio.current_time() - began
    if agent.status is not AgentState.RUNNING:
        raise SystemExit(f"the polecat is {agent.status}, not running")
    async with httpx2.AsyncClient(base_url=town.url, headers=town.bearer, timeout=30, trust_env=False) as client:
        (await client.post(f"/agents/{agent.agent_id}/stop")).raise_for_status()
    lines = town.log("agent.phase")[seen:]
    times = [datetime.fromisoformat(line["timestamp"]).timestamp() for line in lines]
    spans = {line["phase"]: end - start for line, start, end in zip(lines, times, times[1:], strict=False)}
    return {"whole": whole, **{f"{phase}_seconds": spans.get(phase, 0.0) for phase in GIT_PHASES}}


def plain(url: str, folder: Path) -> float:
    """Seconds of what git alone takes for the same: a partial clone and a worktree of a branch."""
    began = time.monotonic()
    for command in (
        ["clone", "--quiet", "--no-checkout", "--filter=blob:none", url, str(folder)],
        ["-C", str(folder), "worktree", "add", "--quiet", "-b", "work", str(folder / "tree"), "origin/main"],
    ):
        subprocess.run(["git", *command], check=True)
    return time.monotonic() - began


async def measure(options: argparse.Namespace, folder: Path) -> tuple[float, list[dict[str, Any]]]:
    """The seconds of plain git, and a row a start."""
    rows = []
    async with open_git_server(folder / "served") as server:
        await trio.to_thread.run_sync(make_repository, server, options)
        server.rate, server.latency = options.mbit * 125_000, options.latency / 1000
        server.git("r", "config", "uploadpack.allowFilter", "true")
        alone = await trio.to_thread.run_sync(plain, server.url("r"), folder / "plain")
        for clone in options.clones:
            partial = clone == "partial"
            server.git("r", "config", "uploadpack.allowFilter", "true" if partial else "false")
            town_folder = folder / f"town-{clone}"
            async with real_town(town_folder, {"turn_seconds": 0.1}, GASTOWN_KILO_BIN=str(options.kilo)) as town:
                for what, number in (("cold", 1), ("warm: clone there", 2), ("warm: worktree there", 2)):
                    server.sent = 0
                    spans = await one_start(town, server.url("r"), number)
                    mb = server.sent / 1e6
                    rows.append({"clone": clone, "start": what, "received_mb": mb, **spans})
    return alone, rows


def table(rows: list[dict[str, Any]], options: argparse.Namespace, size: str) -> str:
    columns = f"{'clone':>6} {'fetch':>6} {'files':>6} {'MB':>6}"
    lines = [f"{'clone':8} {'start':21} {'whole':>7} {'git':>7} {'share':>6}  {columns}"]
    for row in rows:
        git = sum(row[f"{phase}_seconds"] for phase in GIT_PHASES)
        lines.append(
            f"{row['clone']:8} {row['start']:21} {row['whole']:6.2f}s {git:6.2f}s {git / row['whole']:6.0%}"
            f"  {row['clone_seconds']:5.2f}s {row['fetch_seconds']:5.2f}s {row['worktree_seconds']:5.2f}s"
            f" {row['received_mb']:6.1f}"
        )
    machine = f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"
    network = f"{options.mbit} Mbit/s and {options.latency} ms a request"
    lines += ["", f"{options.files} files, {options.commits} commits, {size}; {network}; {machine}"]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=5000, help="files in the repository (5000)")
    parser.add_argument("--commits", type=int, default=400, help="commits that change 1 %% of them (400)")
    parser.add_argument("--mbit", type=int, default=200, help="what the network carries (200 Mbit/s)")
    parser.add_argument("--latency", type=int, default=30, help="milliseconds before each answer (30)")
    parser.add_argument(
        "--clones", nargs="*", choices=CLONES, default=CLONES, help=f"kinds of clones ({' '.join(CLONES)})"
    )
    parser.add_argument("--json", type=Path, help="write the figures there, too")
    parser.add_argument("--kilo", type=Path, default=Path(".tools/kilo/bin/kilo").absolute(), help="kilo to use")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="gastown-bench-git-") as folder:
        alone, rows = run(measure, options, Path(folder))
        packs = subprocess.check_output(["du", "-sm", f"{folder}/served/r.git/objects"], text=True).split()[0]
    print(table(rows, options, f"{packs} MB packed"))
    print(f"plain git, a partial clone and its worktree: {alone:.2f} s")
    if options.json:
        options.json.write_text(json.dumps({"plain": alone, "rows": rows}, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
