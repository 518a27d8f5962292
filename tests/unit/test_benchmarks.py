"""The benchmarks that need no kilo, in their smallest form: who breaks one sees it before its next use."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from argparse import Namespace
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import AsyncMock

import pytest
import trio

from bench import boot
from bench.drain import drained
from bench.events import Received, received
from bench.memory import control_mb, events_of, let_speak
from bench.processes import command_of_module, run
from bench.stand_ins import open_town_of_stand_ins, post, start_request
from gastown.contract.town import Hydration, RefreshAnswer
from gastown.control.routes.streams import _written
from tests.kilo.town import command_of, descendants

REPOSITORY = Path(__file__).parents[2]
SMALLEST = {
    "events": ["--events", "2000", "--clients", "0", "1"],
    "broker": ["--streams", "1", "--requests", "2", "--mb", "1"],
}


@pytest.mark.parametrize("part", SMALLEST)
def test_a_benchmark_runs_and_writes_its_figures(part: str, tmp_path: Path) -> None:
    report = tmp_path / "figures.json"
    command = [sys.executable, "-m", f"bench.{part}", *SMALLEST[part], "--json", str(report)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(report.read_text())


def test_the_memory_of_a_town_of_stand_ins_is_measured() -> None:
    found = control_mb([0, 1])
    assert found.keys() == {0, 1}
    assert min(found.values()) > 10


def test_each_agent_of_the_memory_benchmark_says_its_events_itself() -> None:
    agents = ["agent-0", "agent-1"]
    with ExitStack() as stack:
        town = open_town_of_stand_ins(stack)
        for agent_id in agents:
            post(f"{town.url}/agents/start", start_request(agent_id))
            let_speak(town, agent_id)
        assert [events_of(town, agent_id).count("message.part.delta") for agent_id in agents] == [100, 100]


def frames() -> list[bytes]:
    """What the control server writes to a client that has been overtaken."""
    told = [
        ("message.part.delta", {"delta": "word " * 40}),
        ("stream.gap", {"from": 8, "to": 119, "reason": "slow"}),
        ("message.part.delta", {}),
        ("flood.end", {}),
    ]
    return [_written("flood", None, event, data, datetime(2026, 1, 1, tzinfo=UTC)) for event, data in told]


def test_what_a_client_received_is_the_same_wherever_a_read_ends() -> None:
    data = b"".join([b"\x89\x00", *frames()])
    seen = set()
    for cut in range(len(data) + 1):
        client = Received()
        for part in (data[:cut], data[cut : cut + 1], data[cut + 1 :]):
            client.take(part)
        seen.add((client.got, client.lost, client.ended))
    assert seen == {(2, 112, True)}


def test_a_rate_is_of_what_was_received() -> None:
    found = {"seconds": 2.0, "clients": [(1000, 0), (400, 600)]}
    assert received(found, 1000) == {"each_per_second": 350.0, "told_lost": 300.0}


def test_what_is_neither_given_nor_told_as_lost_fails_the_benchmark() -> None:
    with pytest.raises(SystemExit, match="given 400, and told that 593 are lost"):
        received({"seconds": 2.0, "clients": [(1000, 0), (400, 593)]}, 1000)


async def test_agents_that_did_not_come_back_fail_the_boot(monkeypatch: pytest.MonkeyPatch) -> None:
    async def nothing(*_: object) -> None: ...

    async def settled(*_: object) -> Hydration:
        return Hydration(state="complete", gate="open", resumed=5, failed=3)

    monkeypatch.setattr(boot, "answered", nothing)
    monkeypatch.setattr(boot, "start_mayor", nothing)
    monkeypatch.setattr(boot, "resumes_settled", settled)
    with pytest.raises(SystemExit, match="only 5 of 8 agents were resumed, 3 have failed"):
        await boot.measure(boot.Figures(), Namespace(agents=8), None, None, None, 0.0)


async def test_agents_that_a_refresh_did_not_reach_fail_the_boot() -> None:
    results = [{"agentId": f"a{n}", "success": n > 0, "durationMs": 1} for n in range(9)]
    answer = RefreshAnswer.model_validate({"agentsRestarted": 0, "agentsFailed": 1, "results": results})
    hall = SimpleNamespace(container_token=AsyncMock(), town_id="oak")
    dispatch = SimpleNamespace(refresh_token=AsyncMock(return_value=answer))
    with pytest.raises(SystemExit, match="reached only 8 of 9 agents"):
        await boot.refresh(boot.Figures(), hall, dispatch)


@pytest.mark.parametrize(("code", "lost"), [(1, []), (0, ["the conversation"])])
async def test_a_container_that_leaves_badly_fails_the_drain(code: int, lost: list[str]) -> None:
    container = SimpleNamespace(terminate=lambda: None, wait=AsyncMock(return_value=code))
    town = SimpleNamespace(container=container, log=lambda _: [{"lost": lost}])
    with pytest.raises(
        SystemExit, match=f"left with {code} and lost: {'the conversation' if lost else 'nothing'}"
    ):
        await drained(town)


async def fails_inside_two_nurseries(error: BaseException) -> None:
    async with trio.open_nursery(), trio.open_nursery() as nursery:
        nursery.start_soon(trio.sleep_forever)
        raise error


def test_a_benchmark_that_gives_up_says_one_sentence() -> None:
    with pytest.raises(SystemExit, match=r"^only 5 of 8 came back$"):
        run(fails_inside_two_nurseries, SystemExit("only 5 of 8 came back"))
    with pytest.RaisesGroup(ValueError, flatten_subgroups=True):
        run(fails_inside_two_nurseries, ValueError("a bug"))


def processes_of_benchmarks(pid: int) -> list[int]:
    """Those below the process `pid`; an import may start others for a moment."""
    return [below for below in descendants(pid) if "bench.processes" in command_of(below)]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_nothing_of_a_benchmark_outlives_it(number: signal.Signals, tmp_path: Path) -> None:
    """The table's part, and the roles of the part."""
    command, environment = [sys.executable, "-m", "bench.table", "broker"], {**os.environ, "TMPDIR": str(tmp_path)}
    table = subprocess.Popen(command, cwd=REPOSITORY, env=environment, stdout=subprocess.DEVNULL)
    try:
        while len(below := processes_of_benchmarks(table.pid)) < 3:
            assert table.poll() is None
        watched = [os.pidfd_open(pid) for pid in below]
    finally:
        table.send_signal(number)
        table.wait()
    for descriptor in watched:
        with os.fdopen(descriptor):
            assert select.select([descriptor], [], [], 20)[0]


def test_a_process_whose_parent_is_gone_before_it_watches_ends_too() -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    command = command_of_module("bench.broker", "--role", "gateway")
    command[3] = str(gone.pid)
    assert subprocess.run(command, cwd=REPOSITORY, timeout=60, check=False, capture_output=True).returncode == 1
