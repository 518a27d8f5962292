"""A turn that was cut off goes on, and a prompt that waited behind it is not lost."""

from __future__ import annotations

from functools import partial

import pytest
import trio

from gastown.testing.kilo import Script
from gastown.testing.launchers import FakeLauncher

pytestmark = pytest.mark.virtual_time

LIGHT = {"role": "triage", "gitUrl": "", "branch": "", "defaultBranch": ""}


async def test_a_prompt_that_waits_for_its_turn_survives_a_restart(town_on_fakes) -> None:
    async with town_on_fakes(kilo=partial(FakeLauncher, script=Script(turn_seconds=100))) as town:
        await town.start("pole-1")
        await town.client.post("/agents/pole-1/message", json={"prompt": "and then?"})
        await town.client.post("/sync-config", headers={"X-Town-Config": '{"git_author_name": "Ada"}'})
        await trio.sleep(150)
        assert await town.condition("pole-1") == "busy"
        await trio.sleep(100)
        closes = [e for e in await town.events("pole-1") if e["event"] == "session.turn.close"]
        assert (len(closes), town.kilo.server("pole-1").spec.env["GIT_AUTHOR_NAME"]) == (2, "Ada")


async def test_a_prompt_that_was_never_answered_is_taken_up_at_the_next_boot(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        town.worker.registry = [town.entry("pole-1")]
        home = town.kilo.home("pole-1")
        session = home.session(town.entry("pole-1")["workdir"], "old")
        home.message(session, "user", {"providerID": "kilo", "modelID": "test/large"})
        await town.hydrated()
        assert await town.condition("pole-1") == "busy"


async def test_a_fresh_reasoner_does_not_wait_for_the_resume_of_another_one(town_on_fakes) -> None:
    async with town_on_fakes(gastown_spawn_slots=1) as town:
        town.worker.registry = [town.entry("tri-1", **LIGHT)] + [town.entry(f"pole-{n}") for n in range(4)]
        town.hydrate()
        await trio.sleep(0.5)
        start = town.start_soon("tri-2", **LIGHT)
        await start.result()
        assert start.seconds < 6
