"""A town of two agents on real parts, the control server a process of its own, in which one agent attacks."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import trio

import gastown
from gastown.hall.drivers.process import choose_port
from gastown.testing.asgi import Answer, Asked, Frames, answer, app_of
from gastown.testing.town import start_request
from tests.git.server import GitServer, open_git_server
from tests.kilo.town import KILO, children, command_of, eventually
from tests.kilo.world import serving

__all__ = ["MARKS", "AttackedTown", "open_attacked_town"]

MODEL = "test/acts"
ATTACK = Path(__file__).with_name("attack.py")
MARKS = {
    name: f"mark-{name}-{secrets.token_hex(16)}"
    for name in ("container", "session", "gateway", "github", "gitlab", "rig", "control", "attach", "read")
}
"""A value that is nowhere else, for every secret of the town that no agent may have."""
PAT = "ghp-of-the-agents-own-shell"
"""GH_TOKEN is what `gh` in an agent's shell works with: the agent has it by design."""


@dataclass
class AttackedTown:
    """`attacker` and `victim` are agents' ids; both run. `report` is what the attacker got."""

    folder: Path
    port: int
    control: trio.Process
    client: httpx2.AsyncClient
    git: GitServer

    @property
    def servers(self) -> dict[str, int]:
        """The processes of the agents' servers, by agent."""
        found = {}
        for pid in children(self.control.pid):
            if command_of(pid)[1:2] == ["serve"]:
                pairs = Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace").split("\0")
                found[next(pair for pair in pairs if pair.startswith("GASTOWN_AGENT_ID=")).partition("=")[2]] = pid
        return found

    def environment(self, agent_id: str) -> dict[str, str]:
        text = Path(f"/proc/{self.servers[agent_id]}/environ").read_bytes().decode()
        return {name: value for name, _, value in (pair.partition("=") for pair in text.split("\0"))}

    async def start(self, agent_id: str, **changes: Any) -> dict[str, Any]:
        """Start an agent: a mayor for an id that begins so, else a polecat on the town's one repository."""
        variables = {"KILOCODE_TOKEN": MARKS["gateway"], "GIT_TOKEN": MARKS["rig"]}
        usual = {"model": MODEL, "smallModel": MODEL, "prompt": "Wait for orders.", "envVars": variables}
        if not agent_id.startswith("mayor"):
            usual |= {"rigId": "r", "gitUrl": self.git.url("r"), "branch": f"work/{agent_id}"}
        body = start_request(agent_id, **usual)
        town = {
            "kilocode_token": MARKS["gateway"],
            "git_auth": {"github_token": MARKS["github"], "gitlab_token": MARKS["gitlab"]},
            "github_cli_pat": PAT,
        }
        headers = {"X-Town-Config": json.dumps(town)}
        started = await self.client.post("/agents/start", json=body | changes, headers=headers)
        assert started.status_code == 201, (started.text, self.log()[-3000:])
        answer: dict[str, Any] = started.json()
        return answer

    async def turn_closed(self, agent_id: str) -> str:
        """How the agent's first turn ended."""

        async def look() -> str | None:
            events = (await self.client.get(f"/agents/{agent_id}/events")).json()["events"]
            return next((e["data"]["reason"] for e in events if e["event"] == "session.turn.close"), None)

        return str(await eventually(look, 90))

    async def browsed(self) -> str:
        """The browse worktree of the repository, once it is there."""

        async def look() -> str | None:
            rigs = (await self.client.get("/health")).json().get("rigs", [])
            return next((rig["browse"] for rig in rigs if rig.get("browse")), None)

        return str(await eventually(look, 60))

    async def attack(self, attacker: str, victim: dict[str, Any], *, kill: bool) -> dict[str, Any]:
        """Let the attacker's model run the attack, and return what it got."""
        homes = self.folder / "homes"
        status = (await self.client.get(f"/agents/{victim['agentId']}/status")).json()
        orders = {
            "skram": [mark[::-1] for mark in MARKS.values()],
            "places": [str(self.folder)],
            "since": self.began,
            "control": self.control.pid,
            "port": self.port,
            "git_port": self.git.port,
            "servers": [pid for name, pid in self.servers.items() if name != attacker],
            "server_ports": [status["serverPort"]],
            "clone": str(self.folder / "rigs" / "r" / "repo"),
            "victim": {
                "id": victim["agentId"],
                "workdir": victim["workdir"],
                "home": str(homes / f"agent-home-{victim['agentId']}"),
                "git_key": self.environment(victim["agentId"])["GASTOWN_GIT_KEY"],
            },
            "kill": kill,
        }
        (self.folder / "orders.json").write_text(json.dumps(orders))
        sent = await self.client.post(f"/agents/{attacker}/message", json={"prompt": f"ATTACK {self.folder}"})
        assert sent.status_code == 200, sent.text
        report = trio.Path(self.folder / "reports" / f"{attacker}.json")
        await eventually(report.exists, 90)
        found: dict[str, Any] = json.loads(await report.read_text())
        return found

    def homes(self) -> dict[str, os.stat_result]:
        """What is known of each agent's home, by its name."""
        return {path.name: path.stat() for path in (self.folder / "homes").glob("agent-home-*")}

    def log(self) -> str:
        return (self.folder.parent / f"{self.folder.name}.log").read_text()

    began: float = 0.0


async def at_worker(asked: Asked) -> Answer:
    if asked.method == "GET" and asked.path.endswith("/db-snapshot"):
        return answer({"error": "none"}, 404)
    if asked.path.endswith("/prime"):
        return answer({"success": True, "data": {}})
    return answer({"success": True, "data": []})


async def at_gateway(asked: Asked) -> Answer | Frames:
    if not asked.path.endswith("/chat/completions"):
        return answer({"data": []})
    body = asked.json()
    users = [message for message in body["messages"] if message["role"] == "user"]
    said = json.dumps(users[-1]["content"]) if users else ""
    if not body.get("tools") or "ATTACK " not in said or body["messages"][-1]["role"] == "tool":
        return Frames(_frames({"content": "done"}, "stop"))
    folder = said.partition("ATTACK ")[2].split('"')[0].split("\\")[0].split()[0]
    command = f"{python_for_all()} {folder}/attack.py {folder} 2>&1 | tail -5"
    call = {"name": "bash", "arguments": json.dumps({"command": command, "description": "Looks around"})}
    tool = {"index": 0, "id": "call_1", "type": "function", "function": call}
    return Frames(_frames({"tool_calls": [tool]}, "tool_calls"))


async def _frames(delta: dict[str, Any], finish: str) -> AsyncGenerator[str]:
    base = {"id": "c1", "object": "chat.completion.chunk", "created": 0, "model": MODEL}
    said = {"index": 0, "delta": {"role": "assistant", **delta}, "finish_reason": None}
    yield f"data: {json.dumps(base | {'choices': [said]})}\n\n"
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    end = {"index": 0, "delta": {}, "finish_reason": finish}
    yield f"data: {json.dumps(base | {'choices': [end], 'usage': usage})}\n\n"
    yield "data: [DONE]\n\n"


def python_for_all() -> str:
    """A Python of our version that every user may run."""
    name = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for candidate in (sys.executable, shutil.which(name, path=os.defpath)):
        if candidate and all(parent.stat().st_mode & stat.S_IXOTH for parent in Path(candidate).resolve().parents):
            return candidate
    raise AssertionError(f"no {name} that every user may run: install it below /usr")


@asynccontextmanager
async def open_attacked_town(
    run_as: int | None = None, capabilities: str | None = None, **environment: str
) -> AsyncIterator[AttackedTown]:
    """A town for the length of the block. Its control server is what we are, or the user `run_as`, or we with no
    more than `capabilities`.
    """
    # Other users must get in, which they may not below pytest's own folder.
    folder = Path(tempfile.mkdtemp(prefix="attacked-"))
    log = folder.parent / f"{folder.name}.log"
    _furnish(folder, run_as)
    try:
        async with (
            serving(app_of(at_worker)) as worker,
            serving(app_of(at_gateway)) as gateway,
            open_git_server(folder / "served") as git,
        ):
            git.make("r", {"a.txt": "one\n"})
            git.tokens = {MARKS["rig"]}
            port = choose_port("127.0.0.1", 0)
            told = _environment(folder, port, worker, gateway) | environment
            async with _control(told, log, run_as, capabilities) as control:
                bearer = {"Authorization": f"Bearer {MARKS['control']}"}
                async with httpx2.AsyncClient(
                    trust_env=False, base_url=f"http://127.0.0.1:{port}", timeout=90, headers=bearer
                ) as client:
                    town = AttackedTown(folder, port, control, client, git, began=time.time() - 5)
                    await eventually(lambda: _answers(client, control, log))
                    yield town
    finally:
        shutil.rmtree(folder)
        log.unlink(missing_ok=True)


def _furnish(folder: Path, run_as: int | None) -> None:
    folder.chmod(0o755)
    shutil.copy(ATTACK, folder / "attack.py")
    (folder / "reports").mkdir()
    (folder / "reports").chmod(0o1777)
    (folder / "served").mkdir(mode=0o700)
    for name in ("rigs", "homes", "home"):
        (folder / name).mkdir()
        if run_as is not None:
            os.chown(folder / name, run_as, run_as)


def _environment(folder: Path, port: int, worker: str, gateway: str) -> dict[str, str]:
    packages = Path(httpx2.__file__).parents[1]
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(folder / "home"),
        "PYTHONPATH": os.pathsep.join((str(Path(gastown.__file__).parents[1]), str(packages))),
        "PYTHONDONTWRITEBYTECODE": "1",
        "GASTOWN_KILO_BIN": str(KILO),
        "GASTOWN_TOWN_ID": "oak",
        "GASTOWN_API_URL": worker,
        "KILO_API_URL": gateway,
        "GASTOWN_CONTROL_HOST": "127.0.0.1",
        "GASTOWN_CONTROL_PORT": str(port),
        "GASTOWN_WORKSPACE_ROOT": str(folder / "rigs"),
        "GASTOWN_AGENT_HOME_ROOT": str(folder / "homes"),
        "GASTOWN_CONTAINER_TOKEN": MARKS["container"],
        "GASTOWN_SESSION_TOKEN": MARKS["session"],
        "KILOCODE_TOKEN": MARKS["gateway"],
        "GASTOWN_CONTROL_TOKEN": MARKS["control"],
        "GASTOWN_ATTACH_TOKEN": MARKS["attach"],
        "GASTOWN_READ_TOKEN": MARKS["read"],
    }


@asynccontextmanager
async def _control(
    environment: dict[str, str], log: Path, run_as: int | None, capabilities: str | None
) -> AsyncIterator[trio.Process]:
    command = [python_for_all(), "-m", "gastown", "serve"]
    if capabilities is not None:
        command = ["setpriv", "--bounding-set", capabilities, *command]
    who: dict[str, Any] = {} if run_as is None else {"user": run_as, "group": run_as, "extra_groups": []}
    with log.open("wb") as file:
        os.fchmod(file.fileno(), 0o600)
        process = await trio.lowlevel.open_process(
            command, env=environment, cwd="/", stdin=subprocess.DEVNULL, stdout=file, stderr=file, **who
        )
    try:
        yield process
    finally:
        with trio.move_on_after(60, shield=True):
            if process.poll() is None:
                process.terminate()
            await process.wait()


async def _answers(client: httpx2.AsyncClient, control: trio.Process, log: Path) -> bool:
    assert control.poll() is None, (await trio.Path(log).read_text())[-3000:]
    try:
        return (await client.get("/health")).status_code == 200
    except httpx2.HTTPError:
        return False
