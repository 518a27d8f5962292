"""The plugin of the system before this one, which knows of no broker: what it says, and that it works.

Its contract, word for word: its address and its token are those of its environment; identity headers on every
call but the refresh; after a 401 one refresh, whose token it keeps, and one retry.
"""

from __future__ import annotations

import json
from typing import Any

import httpx2
import pytest
import trio

from gastown.contract.secret import Secret
from gastown.testing.asgi import Answer, Asked, answer, app_of
from gastown.testing.town import FakeTown

pytestmark = pytest.mark.virtual_time


class OldPlugin:
    """Its client, in the environment of an agent's server."""

    def __init__(self, town: FakeTown, agent_id: str) -> None:
        self.env = dict(town.kilo.server(agent_id).spec.env)
        self._http = town.network.client()
        self._url = self.env["GASTOWN_API_URL"].rstrip("/")
        self.statuses: list[int] = []

    @property
    def mayor(self) -> str:
        return f"/api/mayor/{self.env['GASTOWN_TOWN_ID']}/tools"

    @property
    def rig(self) -> str:
        return f"/api/towns/{self.env['GASTOWN_TOWN_ID']}/rigs/{self.env['GASTOWN_RIG_ID']}"

    async def request(self, method: str, path: str, body: Any = None) -> Any:
        response = await self._fetch(method, path, body)
        if response.status_code == 401 and await self._refresh():
            response = await self._fetch(method, path, body)
        said = response.json()
        if not said["success"]:
            raise RuntimeError(said["error"])
        return said.get("data")

    async def _fetch(self, method: str, path: str, body: Any) -> httpx2.Response:
        headers = {
            "Content-Type": "application/json",
            "Authorization": f"Bearer {self.env['GASTOWN_CONTAINER_TOKEN']}",
            "X-Gastown-Agent-Id": self.env["GASTOWN_AGENT_ID"],
        }
        if self.env["GASTOWN_AGENT_ROLE"] != "mayor":
            headers["X-Gastown-Rig-Id"] = self.env["GASTOWN_RIG_ID"]
        content = None if body is None else json.dumps(body).encode()
        response = await self._http.request(method, self._url + path, headers=headers, content=content)
        self.statuses.append(response.status_code)
        return response

    async def _refresh(self) -> bool:
        response = await self._http.post(
            f"{self._url}/api/towns/{self.env['GASTOWN_TOWN_ID']}/refresh-container-token",
            headers={
                "Content-Type": "application/json",
                "Authorization": f"Bearer {self.env['GASTOWN_CONTAINER_TOKEN']}",
            },
            content="{}",
        )
        if response.status_code != 200:
            return False
        self.env["GASTOWN_CONTAINER_TOKEN"] = response.json()["data"]["token"]
        return True


class Orchestrator:
    """A worker that accepts `good` alone, and gives it to who refreshes, unless it is `stubborn`."""

    def __init__(self, town: FakeTown) -> None:
        self.good = "canary-fresh"
        self.stubborn = False
        self.refreshes = 0
        self.calls: list[tuple[str, str, str | None, str | None]] = []
        town.network.serve(app_of(self._answer), "worker")
        town.network.cut("worker")
        town.opened.town.services.credentials.replace_token(Secret("canary-stale"))

    async def _answer(self, asked: Asked) -> Answer:
        if asked.path.endswith("/refresh-container-token"):
            self.refreshes += 1
            await trio.sleep(1)
            return answer({"success": False}, 403) if self.stubborn else answer({"data": {"token": self.good}})
        if asked.headers.get("authorization") != f"Bearer {self.good}":
            return answer({"success": False, "error": "Token expired"}, 401)
        who = (asked.headers.get("x-gastown-agent-id"), asked.headers.get("x-gastown-rig-id"))
        if "/tools/" in asked.path or "/beads" in asked.path or asked.path.endswith("/prime"):
            self.calls.append((asked.method, asked.path, *who))
        return answer({"success": True, "data": {"said": asked.body.decode()}})


async def test_it_does_not_notice_that_the_towns_token_has_expired(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        await town.start("mayor-1")
        await town.start("pole-1")
        worker = Orchestrator(town)
        mayor, pole = OldPlugin(town, "mayor-1"), OldPlugin(town, "pole-1")
        bead = {"rig_id": "rig-1", "title": "Paint the barn"}
        said = await mayor.request("POST", f"{mayor.mayor}/sling", bead)
        await pole.request("GET", f"{pole.rig}/agents/pole-1/prime")
        await pole.request("POST", f"{pole.rig}/beads/b-1/close", {"agent_id": "pole-1"})
        assert json.loads(said["said"]) == bead
        assert (mayor.statuses, pole.statuses, worker.refreshes) == ([200], [200, 200], 1)
        assert worker.calls == [
            ("POST", "/api/mayor/oak/tools/sling", "mayor-1", "mayor-oak"),
            ("GET", "/api/towns/oak/rigs/rig-1/agents/pole-1/prime", "pole-1", "rig-1"),
            ("POST", "/api/towns/oak/rigs/rig-1/beads/b-1/close", "pole-1", "rig-1"),
        ]


async def test_its_own_refresh_and_retry_work_and_teach_it_nothing(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        await town.start("pole-1")
        worker = Orchestrator(town)
        worker.stubborn = True
        plugin = OldPlugin(town, "pole-1")
        bearer = plugin.env["GASTOWN_CONTAINER_TOKEN"]
        with pytest.raises(RuntimeError, match="Token expired"):
            await plugin.request("GET", f"{plugin.rig}/agents/pole-1/prime")
        assert plugin.statuses == [401, 401]
        worker.stubborn = False
        await plugin.request("GET", f"{plugin.rig}/agents/pole-1/prime")
        assert plugin.env["GASTOWN_CONTAINER_TOKEN"] == bearer


async def test_a_body_too_large_to_be_kept_gets_there_by_its_own_retry(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        await town.start("pole-1")
        worker = Orchestrator(town)
        plugin = OldPlugin(town, "pole-1")
        await plugin.request("POST", f"{plugin.rig}/agents/pole-1/checkpoint", {"data": "x" * 1_000_000})
        assert (plugin.statuses, worker.refreshes) == ([401, 200], 1)


async def test_calls_that_are_refused_together_refresh_once(town_on_fakes) -> None:
    async with town_on_fakes(gastown_spawn_slots=4) as town:
        names = [f"pole-{number}" for number in range(4)]
        for name in names:
            await town.start(name)
        worker = Orchestrator(town)
        plugins = [OldPlugin(town, name) for name in names]
        async with trio.open_nursery() as nursery:
            for plugin, name in zip(plugins, names, strict=True):
                nursery.start_soon(plugin.request, "GET", f"{plugin.rig}/agents/{name}/prime")
        assert [plugin.statuses for plugin in plugins] == [[200]] * 4
        assert worker.refreshes == 1


async def test_the_end_of_its_agent_ends_it_its_refresh_included(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        await town.start("pole-1")
        Orchestrator(town)
        plugin = OldPlugin(town, "pole-1")
        await town.client.post("/agents/pole-1/stop")
        with pytest.raises(RuntimeError, match="Not the bearer of an agent of this town"):
            await plugin.request("GET", f"{plugin.rig}/agents/pole-1/prime")
        assert plugin.statuses == [401]  # and no retry: the refresh was refused as well
