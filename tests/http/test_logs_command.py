"""`gastown logs`: a town's log and an agent's, as lines for people and as JSON, once and as it happens."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import httpx2
import pytest
import trio

from gastown.hall.cli.commands.agent_log import AgentLog
from gastown.hall.domain.town import RigRecord
from gastown.hall.hall import Hall, HallOptions, open_hall
from gastown.hall.reconcile import facts
from gastown.hall.store import board

AT = "2030-05-01T12:00:00.000Z"


@dataclass
class Town:
    hall: Hall
    folder: Path

    def argv(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "gastown", "logs", *arguments, "--dir", str(self.folder)]

    async def logs(self, *arguments: str) -> tuple[int, str, str]:
        done = await trio.run_process(
            self.argv(*arguments), capture_stdout=True, capture_stderr=True, check=False, env=environment()
        )
        return done.returncode, done.stdout.decode(), done.stderr.decode()

    async def lost(self, *reasons: str) -> None:
        for reason in reasons:
            await self.hall.store.tell("oak", facts.ContainerLost(reason=reason))

    async def report(self, agent: str, *events: tuple[str, dict[str, Any]]) -> None:
        """What a container reports of an agent."""
        token = await self.hall.container_token()
        body = [{"agent_id": agent, "event_type": name, "data": data} for name, data in events]
        headers = {
            "Authorization": f"Bearer {token.reveal()}",
            "X-Gastown-Agent-Id": agent,
            "X-Gastown-Rig-Id": "r1",
        }
        async with httpx2.AsyncClient(base_url=self.hall.url, headers=headers, trust_env=False) as client:
            path = "/api/towns/oak/rigs/r1/agent-events/batch"
            assert (await client.post(path, json=body)).status_code == 200


def environment() -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "HOME": "/nonexistent"}


@pytest.fixture
async def town(tmp_path: Path) -> AsyncIterator[Town]:
    async with open_hall(HallOptions(data_dir=tmp_path, town_id="oak")) as hall:
        rig = RigRecord(rig_id="r1", git_url="https://x.test/r", default_branch="main")
        await hall.store.save_rig("oak", rig)
        yield Town(hall, tmp_path)


def part(name: str, **more: Any) -> tuple[str, dict[str, Any]]:
    return "message.part.updated", {"part": {"id": name, "messageID": "m1", **more}}


TURN = (
    ("session.turn.open", {}),
    ("message.updated", {"info": {"id": "m0", "role": "user"}}),
    ("message.part.updated", {"part": {"id": "p0", "messageID": "m0", "type": "text", "text": "Mend the door"}}),
    ("message.updated", {"info": {"id": "m1", "role": "assistant"}}),
    part("p1", type="reasoning", text="Hm."),
    part("p2", type="text", text=""),
    ("message.part.delta", {"partID": "p2", "field": "text", "delta": "I look"}),
    part("p2", type="text", text="I look\n\x1b[31mat it."),
    part("p3", type="tool", tool="bash", state={"status": "running", "input": {"command": "ls"}}),
    part(
        "p3", type="tool", tool="bash", state={"status": "completed", "input": {"command": "ls"}, "title": "List"}
    ),
    part("p2", type="text", text="I look\n\x1b[31mat it."),
    part("p4", type="tool", tool="edit", state={"status": "error", "error": "no such file"}),
    ("session.status", {"status": {"type": "retry", "message": "slow down"}}),
    ("session.status", {"status": {"type": "busy"}}),
    ("agent.usage", {"input": 1200, "output": 7, "cost": 0.0123}),
    ("session.error", {"error": {"name": "APIError", "data": {"message": "no credit"}}}),
    part("p5", type="text", text="Done.", time={"start": 1, "end": 2}),
    ("session.turn.close", {"reason": "completed"}),
    ("some.event", {"part": [1]}),
    ("message.part.updated", {"part": 3}),
    ("message.part.updated", {"omittedCharacters": 300_000}),
)
LINES = [
    "a turn began",
    "told: Mend the door",
    "says: I look [31mat it.",
    "bash: List",
    "edit failed: no such file",
    "retry: slow down",
    "used 1200 tokens in and 7 out, $0.0123",
    "error: APIError: no credit",
    "says: Done.",
    "the turn ended: completed",
]


def test_an_agents_events_are_readable_lines() -> None:
    """Each text and each call once, when it is whole; nothing that could steer a terminal."""
    log = AgentLog()
    told = [line for name, data in TURN for line in log.lines({"at": AT, "event": name, "data": data})]
    assert told == [f"{AT}  {line}" for line in LINES]


async def test_the_log_of_a_town_is_a_line_for_each_event(town: Town) -> None:
    await town.lost("one", "two", "three")
    code, out, err = await town.logs("--last", "2")
    assert (code, err) == (0, "")
    told = [line.partition("  ")[2] for line in out.splitlines()]
    assert told == ["town  the container is lost: two", "town  the container is lost: three"]
    code, out, _ = await town.logs("--json")
    assert [one["says"] for one in json.loads(out)][-1] == "the container is lost: three"


async def test_an_agents_log_is_found_by_id_and_by_name(town: Town) -> None:
    made = await town.hall.store.transaction("oak", lambda it: board.sling(it, "r1", "Mend"))
    await town.report(str(made.assignee), *TURN)
    for named in (str(made.assignee), str(made.assignee)[:10], "ash", "Ash"):
        code, out, err = await town.logs(named)
        assert (code, err) == (0, "")
        assert [line.partition("  ")[2] for line in out.splitlines()] == LINES
    assert await town.logs("mayor") == (0, "", "")
    code, out, err = await town.logs("birch")
    assert (code, out) == (3, "")
    assert err == "gastown logs: There is no agent birch; gastown status lists them\n"


@pytest.mark.parametrize("arguments", [(), ("--json",)], ids=["text", "json"])
async def test_what_happens_is_told_as_it_happens_until_ctrl_c(town: Town, arguments: tuple[str, ...]) -> None:
    """Nothing twice, nothing left out; the exit code of an interruption, and one line for it."""
    await town.lost("before")
    async with await spawned(town.argv("-f", *arguments)) as following:
        assert "before" in await following.line()
        for word in ("one", "two"):
            await town.lost(word)
            assert word in await following.line()
        following.process.send_signal(signal.SIGINT)
        assert await following.process.wait() == 130
        assert await following.rest() == ("", "gastown: interrupted\n")


async def test_an_agents_events_are_followed_too(town: Town) -> None:
    await town.report("polecat-1", ("session.turn.open", {}))
    async with await spawned(town.argv("-f", "polecat-1")) as following:
        assert "a turn began" in await following.line()
        await town.report("polecat-1", part("p", type="text", text="Hi", time={"end": 1}))
        assert "says: Hi" in await following.line()


async def test_following_ends_with_the_town(tmp_path: Path) -> None:
    async with open_hall(HallOptions(data_dir=tmp_path, town_id="oak")) as hall:
        town = Town(hall, tmp_path)
        await town.lost("before")
        following = await spawned(town.argv("-f"))
        assert "before" in await following.line()
        await town.lost("now")
        assert "now" in await following.line()
    async with following:
        assert await following.process.wait() == 0
        assert await following.rest() == ("", "")


async def test_a_reader_that_has_enough_is_no_failure(town: Town) -> None:
    """As below `| head`: no traceback, and no complaint."""
    await town.lost(*(f"{'x' * 250} {number}" for number in range(600)))
    command = " ".join(town.argv("--last", "10000"))
    script = f"set -o pipefail; {command} | head -1"
    done = await trio.run_process(
        ["bash", "-c", script], capture_stdout=True, capture_stderr=True, check=False, env=environment()
    )
    assert (done.returncode, done.stdout.count(b"\n"), done.stderr) == (0, 1, b"")


@dataclass
class Following:
    """A `logs -f` that runs; killed at the end of the block."""

    process: trio.Process
    _read: bytearray

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_exception: object) -> None:
        self.process.kill()
        with trio.move_on_after(10, shield=True):
            await self.process.wait()

    async def line(self) -> str:
        assert self.process.stdout is not None
        with trio.fail_after(30):
            while b"\n" not in self._read:
                self._read += await self.process.stdout.receive_some()
        line, _, rest = bytes(self._read).partition(b"\n")
        self._read[:] = rest
        return line.decode()

    async def rest(self) -> tuple[str, str]:
        """What else it printed, and what it complained of, once it has ended."""
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        out = bytes(self._read) + b"".join([piece async for piece in self.process.stdout])
        return out.decode(), b"".join([piece async for piece in self.process.stderr]).decode()


async def spawned(argv: list[str]) -> Following:
    process = await trio.lowlevel.open_process(
        argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()
    )
    return Following(process, bytearray())
