"""`make bench-boot`: boots the real thing and times what its users wait for.

A hall on loopback, `gastown serve` as its own process, the real kilo, a registry of agents to bring back, and
a gateway stand-in whose turns take five seconds. Each figure stands beside the one that the system before
this was measured at, and beside a baseline of the same run: the time that importing the libraries takes.
"""

from __future__ import annotations

import argparse
import compileall
import json
import os
import platform
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import trio

import gastown
from bench.processes import cpu_seconds, resident_mb, run
from gastown.contract.agents import AgentState, StartAgentRequest
from gastown.contract.secret import reveal_json
from gastown.contract.town import Health, Hydration, RefreshAnswer
from gastown.contract.worker import RegistryEntry
from gastown.hall.control_client import ControlCallFailed, ControlClient, open_control_client
from gastown.hall.domain.town import town_config
from gastown.hall.drivers.process import (
    Container,
    ContainerOptions,
    base_environment,
    choose_port,
    container_environment,
    run_container,
)
from gastown.hall.hall import Hall, HallOptions, open_hall
from gastown.kilo.server import launch
from gastown.kilo.spec import ServerSpec
from tests.kilo.town import command_of, descendants

KILO = Path(__file__).parents[1] / ".tools" / "kilo" / "bin" / "kilo"
LIBRARIES = "trio, hypercorn.trio, quart_trio, pydantic_settings, httpx2, structlog"
OLD_SYSTEM = {
    "health": "0.05-0.1 s",
    "mayor": "78.9 s",
    "resumed": "78.5 s",
    "refreshed": "2 of 9 in 6.0 s",
}


@dataclass
class Figures:
    """Seconds since the container process was spawned, unless said otherwise; memory in MB."""

    libraries: float = 0.0
    kilo_ready: float = 0.0
    kilo_cpu: float = 0.0
    health: float = 0.0
    gate: float = 0.0
    mayor: float = 0.0
    resumed: float = 0.0
    resumed_of: str = ""
    resumed_cpu: float = 0.0
    refresh: float = 0.0
    refreshed_of: str = ""
    refresh_settled: float = 0.0
    refreshed_at_last: str = ""
    control_mb: float = 0.0
    children_mb: float = 0.0
    children: int = 0


async def boot(options: argparse.Namespace, data: Path) -> Figures:
    compileall.compile_dir(Path(gastown.__file__).parent, quiet=1)  # as an installed package is, by pip
    figures = Figures(libraries=import_seconds())
    figures.kilo_ready, figures.kilo_cpu = await one_kilo(options.kilo, data / "alone")
    hall_options = HallOptions(data_dir=data, turn_seconds=options.turn_seconds)
    async with open_hall(hall_options) as hall:
        await store_registry(hall, data, options.agents)
        port = choose_port("127.0.0.1", 0)
        environment = container_environment(
            {**base_environment(os.environ), "GASTOWN_KILO_BIN": str(options.kilo)},
            await hall.town(),
            await hall.container_token(),
            api_url=hall.url,
            stand_in=True,
            data_dir=data,
            port=port,
        )
        container_options = ContainerOptions(
            environment=environment, log=data / "serve.log", homes=data / "homes", drain_seconds=30
        )
        async with open_control_client(f"http://127.0.0.1:{port}") as dispatch:
            spawned = trio.current_time()
            async with run_container(container_options) as container:
                await measure(figures, options, hall, dispatch, container, spawned)
    return figures


async def measure(
    figures: Figures,
    options: argparse.Namespace,
    hall: Hall,
    dispatch: ControlClient,
    container: Container,
    spawned: float,
) -> None:
    await answered(dispatch)
    figures.health = trio.current_time() - spawned
    async with trio.open_nursery() as nursery:
        nursery.start_soon(start_mayor, figures, hall, dispatch)
        last = await resumes_settled(figures, dispatch, spawned)
    figures.resumed_of = f"{last.resumed} of {options.agents}"
    if last.resumed != options.agents:  # the time until then is of the others' failures
        raise SystemExit(f"boot: only {figures.resumed_of} agents were resumed, {last.failed} have failed")
    figures.control_mb = resident_mb(container.pid)
    children = [pid for pid in descendants(container.pid) if any("kilo" in word for word in command_of(pid))]
    figures.children, figures.children_mb = len(children), sum(resident_mb(pid) for pid in children)
    figures.resumed_cpu = sum(cpu_seconds(pid) for pid in children)
    if options.refresh:
        await refresh(figures, hall, dispatch)


async def start_mayor(figures: Figures, hall: Hall, dispatch: ControlClient) -> None:
    """As a user would: 0.3 s after the container answers for the first time."""
    await trio.sleep(0.3)
    sent = trio.current_time()
    agent = await hall.start_mayor(dispatch, "What is going on in this town?")
    figures.mayor = trio.current_time() - sent
    if agent.status is not AgentState.RUNNING:
        raise SystemExit(f"boot: the mayor is {agent.status}, not running")


async def resumes_settled(figures: Figures, dispatch: ControlClient, spawned: float) -> Hydration:
    """Wait until every agent of the registry is running or has failed."""
    with trio.fail_after(180):
        while True:
            hydration = (await dispatch.health()).hydration
            if hydration.gate == "open" and hydration.state != "idle" and not figures.gate:
                figures.gate = trio.current_time() - spawned
            if hydration.state in ("complete", "failed"):
                figures.resumed = trio.current_time() - spawned
                return hydration
            await trio.sleep(0.1)  # a poll costs CPU that the spawns need


async def refresh(figures: Figures, hall: Hall, dispatch: ControlClient) -> None:
    token = await hall.container_token()
    sent = trio.current_time()
    answer: RefreshAnswer = await dispatch.refresh_token(token, hall.town_id)
    figures.refresh = trio.current_time() - sent
    good = sum(result.success for result in answer.results)
    figures.refreshed_of = f"{good} of {len(answer.results)}"
    pending = {result.agent_id for result in answer.results if result.mode == "restart"}
    before = {name: await port_of(dispatch, name) for name in pending}
    with trio.move_on_after(60):
        while pending := {name for name in pending if await port_of(dispatch, name) == before[name]}:
            await trio.sleep(0.25)
    figures.refresh_settled = trio.current_time() - sent
    at_last = good - len(pending)
    figures.refreshed_at_last = f"{at_last} of {len(answer.results)}"
    if at_last != len(answer.results):
        raise SystemExit(f"boot: the refresh reached only {figures.refreshed_at_last} agents")


async def port_of(dispatch: ControlClient, agent_id: str) -> int | None:
    status = await dispatch.status(agent_id)
    return status.server_port if status else None


async def answered(dispatch: ControlClient) -> Health:
    with trio.fail_after(30):
        while True:
            try:
                return await dispatch.health()
            except ControlCallFailed:
                await trio.sleep(0.005)


async def store_registry(hall: Hall, data: Path, agents: int) -> None:
    """What the last container left: polecats, each with a worktree and a prompt."""
    town = await hall.town()
    config = town_config(town, hall.url)
    entries = []
    for number in range(agents):
        workdir = data / "rigs" / "rig" / "worktrees" / f"bead-{number}"
        workdir.mkdir(parents=True)
        subprocess.run(["git", "init", "--quiet", "."], cwd=workdir, check=True)
        request = StartAgentRequest(
            agent_id=f"polecat-{number}",
            rig_id="rig",
            town_id=hall.town_id,
            role="polecat",
            name=f"polecat-{number}",
            identity="a polecat of the benchmark",
            prompt=f"Do bead {number}.",
            model="anthropic/claude-sonnet-4.6",
            small_model="anthropic/claude-haiku-4.5",
            git_url="https://git.invalid/rig.git",
            branch=f"bead-{number}",
            default_branch="main",
        )
        entry = RegistryEntry(
            agent_id=request.agent_id,
            request=request,
            workdir=str(workdir),
            env={"KILOCODE_TOKEN": config.kilocode_token or ""},
        )
        entries.append(reveal_json(entry, by_alias=True))
    await hall.store.replace_registry(hall.town_id, entries)


def import_seconds() -> float:
    """The fastest of three fresh interpreters that only import the libraries: what no container can beat."""
    code = f"import time; t = time.perf_counter(); import {LIBRARIES}; print(time.perf_counter() - t)"
    return min(
        float(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)
        for _ in range(3)
    )


def kilo_alone(kilo: Path, home: Path) -> ServerSpec:
    """A kilo server with nothing but a home, which is made."""
    home.mkdir()
    environment = {"PATH": os.environ["PATH"], "HOME": str(home), "KILO_TEST_HOME": str(home)}
    environment |= {"XDG_DATA_HOME": f"{home}/.local/share", "KILO_TELEMETRY_LEVEL": "off"}
    environment |= {"KILO_PARENT_PID": str(os.getpid())}
    return ServerSpec((str(kilo), "serve", "--port=0"), cwd=str(home), home=str(home), env=environment)


async def one_kilo(kilo: Path, home: Path) -> tuple[float, float]:
    """Seconds until one `kilo serve` listens with the machine to itself, and the CPU seconds that it takes."""
    began = trio.current_time()
    async with launch(kilo_alone(kilo, home)) as server:
        return trio.current_time() - began, cpu_seconds(server.pid)
    raise SystemExit("kilo serve did not start")


def table(figures: Figures, options: argparse.Namespace) -> str:
    cores = len(os.sched_getaffinity(0))
    rows = [
        ("baseline: importing the libraries", f"{figures.libraries:.2f} s", ""),
        (
            "baseline: one kilo server, alone",
            f"{figures.kilo_ready:.2f} s ({figures.kilo_cpu:.1f} CPU s)",
            "",
        ),
        (
            "process start to /health",
            f"{figures.health:.2f} s ({figures.health / figures.libraries:.1f} x importing)",
            OLD_SYSTEM["health"],
        ),
        ("process start to an open gate", f"{figures.gate:.2f} s", ""),
        (
            "mayor start, sent 0.3 s after /health",
            f"{figures.mayor:.2f} s ({figures.mayor / figures.kilo_ready:.1f} x one kilo)",
            OLD_SYSTEM["mayor"],
        ),
        (
            f"all resumed ({figures.resumed_of})",
            f"{figures.resumed:.2f} s ({figures.resumed / figures.kilo_ready:.1f} x one kilo)",
            OLD_SYSTEM["resumed"],
        ),
        (
            "CPU seconds of the servers until then",
            f"{figures.resumed_cpu:.0f} ({figures.resumed_cpu / cores / figures.resumed:.0%} of all cores)",
            "",
        ),
        ("memory of the control process", f"{figures.control_mb:.0f} MB", ""),
        (f"memory of the {figures.children} kilo servers", f"{figures.children_mb:.0f} MB", ""),
    ]
    if options.refresh:
        rows[5:5] = [
            (
                "/refresh-token answered",
                f"{figures.refreshed_of} in {figures.refresh:.2f} s",
                OLD_SYSTEM["refreshed"],
            ),
            ("restarted in the end", f"{figures.refreshed_at_last} in {figures.refresh_settled:.2f} s", ""),
        ]
    width = max(len(row[0]) for row in rows)
    middle = max(len(row[1]) for row in rows)
    lines = [f"{'':{width}}  {'this run':{middle}}  old system"]
    lines += [f"{name:{width}}  {value:{middle}}  {old}".rstrip() for name, value, old in rows]
    machine = f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"
    lines += ["", f"{options.agents} agents, turns of {options.turn_seconds:g} s; {machine}"]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agents", type=int, default=8, help="agents in the registry (8)")
    parser.add_argument("--turn-seconds", type=float, default=5.0, help="length of an LLM turn (5)")
    parser.add_argument("--kilo", type=Path, default=KILO, help="executable that speaks `kilo serve`")
    parser.add_argument("--no-refresh", dest="refresh", action="store_false", help="leave the refresh out")
    parser.add_argument("--json", type=Path, help="write the figures there, too")
    parser.add_argument("--keep-log", type=Path, help="copy the container's log there")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="gastown-bench-") as folder:
        figures = run(boot, options, Path(folder))
        if options.keep_log:
            options.keep_log.write_bytes((Path(folder) / "serve.log").read_bytes())
    print(table(figures, options))
    if options.json:
        options.json.write_text(json.dumps(vars(figures), indent=2) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
