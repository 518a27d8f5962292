"""No secret is in a command line, a log line or an answer of a real container, from its boot to its end."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import httpx2
import pytest
import trio

from gastown.contract.secret import Secret, reveal_json
from gastown.contract.town import GitAuth, TownConfig
from gastown.hall.domain.town import RigRecord, town_config
from gastown.hall.hall import HallOptions, open_hall
from tests.git.server import open_git_server
from tests.kilo.town import command_of, descendants, eventually, real_town

pytestmark = pytest.mark.kilo

CANARY = "canary-7f3a9c51d2"
OURS = re.compile(r"(?:TOKEN|PASSWORD|SECRET|GASTOWN_GIT_KEY)\Z")
"""Variables of a child whose values may be in no command line."""


class Watch:
    """Every command line of the container and of what is below it, as often as the machine lets us look."""

    def __init__(self, root: int) -> None:
        self._root = root
        self.lines: set[str] = set()
        self.values: set[str] = set()
        self.looks = 0

    async def run(self) -> None:
        while True:
            with suppress(FileNotFoundError, ProcessLookupError):  # one that has ended meanwhile
                for pid in (self._root, *descendants(self._root)):
                    self.lines.add(" ".join(command_of(pid)))
                    self.values |= self._secrets_of(pid)
                self.looks += 1
            await trio.sleep(0.005)

    def found(self) -> list[str]:
        held = (CANARY, "gtb.", *self.values)
        return [line for line in self.lines if any(value in line for value in held)]

    @staticmethod
    def _secrets_of(pid: int) -> set[str]:
        try:
            variables = Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            return set()
        named = (variable.partition("=") for variable in variables)
        return {value for name, _, value in named if OURS.search(name) and len(value) > 8}


@asynccontextmanager
async def watching(pid: int) -> AsyncIterator[Watch]:
    watch = Watch(pid)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch.run)
        yield watch
        nursery.cancel_scope.cancel()


async def test_no_secret_is_in_a_command_line_a_log_line_or_an_answer(tmp_path):
    async with open_git_server(tmp_path / "served") as server:
        server.make("r", {"a.txt": "one\n"})
        server.tokens = {f"{CANARY}-github"}
        changes = {
            "git_auth": GitAuth(github_token=Secret(f"{CANARY}-github")),
            "github_cli_pat": Secret(f"{CANARY}-pat"),
            "env_vars": {"SHIP": Secret(f"{CANARY}-variable")},
        }
        async with open_hall(HallOptions(data_dir=tmp_path / "town")) as hall:
            await hall.store.change_town("town", changes)
            address = server.url("r").replace("http://", f"http://user:{CANARY}-github@")
            rig = RigRecord(rig_id="rig-1", git_url=address, default_branch="main")
            await hall.store.save_rig("town", rig)
        data = tmp_path / "town"
        given = {"kilocode_token": Secret(f"{CANARY}-gateway")}
        environment = {"KILO_API_URL": "http://127.0.0.1:9"}
        async with real_town(data, given, **environment) as town, watching(town.container.pid) as watch:
            said = [(await town.prewarmed()).model_dump_json()]
            agent = await town.hall.start_mayor(town.dispatch, "Hello.")
            said.append(agent.model_dump_json())
            await eventually(lambda: browsed(town))
            async with httpx2.AsyncClient(base_url=town.url, headers=town.bearer, timeout=60) as client:
                said.append((await client.post(f"/agents/{agent.agent_id}/pty")).text)
                paths = (f"/agents/{agent.agent_id}{what}" for what in ("", "/status", "/events", "/pty"))
                said += [(await client.get(path)).text for path in paths]
                said.append((await client.post("/agents/start", json={"envVars": {"A": f"{CANARY}-x"}})).text)
            renewed = await town.hall.container_token()
            said.append((await town.dispatch.refresh_token(renewed, "town")).model_dump_json())
            config: TownConfig = town_config(await town.hall.town(), town.hall.url)
            async with httpx2.AsyncClient(base_url=town.url, headers=town.bearer, timeout=60) as client:
                headers = {"X-Town-Config": json.dumps(reveal_json(config))}
                said.append((await client.post("/sync-config", headers=headers)).raise_for_status().text)
        log = (data / "serve.log").read_text()
        assert {None, f"{CANARY}-github"} <= set(server.passwords()), "git has asked, and was answered"
        assert watch.looks > 20
        assert any(" serve " in f"{line} " for line in watch.lines)
        assert any("attach" in line for line in watch.lines)
        assert watch.values, "there was something to look for"
        assert watch.found() == []
        assert CANARY not in log + "".join(said)
        assert renewed.reveal() not in log + "".join(said)
        assert "gtb." not in log + "".join(said)


async def browsed(town):
    rigs = (await town.dispatch.health()).rigs or ()
    return any(rig.state == "ready" for rig in rigs)
