"""What a server is started with is worked out once for a start, and once for a prewarm with its start."""

from __future__ import annotations

from typing import Any

import pytest

from gastown.agents.launch import plan

pytestmark = pytest.mark.virtual_time


@pytest.mark.parametrize("prewarmed", [False, True])
async def test_a_cold_start_derives_the_environment_once(town_on_fakes, monkeypatch, prewarmed: bool) -> None:
    derived: list[str] = []
    derive = plan.derive

    def counting(request: Any, *arguments: Any, **named: Any) -> Any:
        derived.append(request.agent_id)
        return derive(request, *arguments, **named)

    monkeypatch.setattr(plan, "derive", counting)
    async with town_on_fakes() as town:
        if prewarmed:
            town.mayor_known()
        await town.hydrated()
        assert (await town.start("mayor-1")).status_code == 201
        assert (derived, len(town.kilo.spawns)) == (["mayor-1"] * (2 if prewarmed else 1), 1)
