"""What the author of an orchestrator can do with `gastown.testing` and no name that it does not export."""

from __future__ import annotations

import pytest
import trio
from quart_trio import QuartTrio

from gastown.testing import Drainer, start_request
from gastown.testing.plugin import OpenTown

pytestmark = pytest.mark.virtual_time


def orchestrator(told: list[str]) -> QuartTrio:
    """One that says yes to every call, and keeps their paths."""
    app = QuartTrio(__name__)

    @app.route("/api/towns/oak/<path:call>", methods=["GET", "POST", "DELETE"])
    async def answer(call: str) -> dict[str, object]:
        told.append(call)
        return {"success": True, "data": []}

    return app


async def test_a_mayor_starts_by_http_alone(open_town: OpenTown) -> None:
    """Its directory is made without a process of git, for which a virtual clock would not wait."""
    async with open_town(orchestrator=orchestrator([]), base_env={"PATH": "/nowhere"}) as town:
        started = await town.client.post("/agents/start", json=start_request())
        assert (started.status_code, started.json().get("role")) == (201, "mayor")


async def test_an_orchestrator_drains_its_container(open_town: OpenTown) -> None:
    """The drain that it asks for is the real one: it is told of it, and the agent's receipt is complete."""
    told: list[str] = []
    async with open_town(orchestrator=orchestrator(told)) as town:
        drainer = Drainer(town)
        await town.client.post("/agents/start", json=start_request("pole-1"))
        town.kilo.script.turn_seconds = 20
        await trio.sleep(5)
        assert (await town.client.post("/drain", json={"budgetSeconds": 120})).status_code == 202
        receipt = (await drainer.left())["pole-1"]
    assert (receipt["step"], receipt["pushed"]) == ("done", True)
    assert "container-eviction" in told
