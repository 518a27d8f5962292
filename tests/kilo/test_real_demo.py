"""The demo as a newcomer meets it: `gastown up` with nothing set, and the one command that it asks for."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
import trio

from gastown.hall.demo import ASKS_FOR, RIG
from gastown.hall.hall import ADDRESS, USER_TOKEN
from tests.kilo.test_real_folder import git
from tests.kilo.test_real_up import up
from tests.kilo.town import eventually

pytestmark = pytest.mark.kilo

PATIENCE = 240
"""Seconds that a part of it may take on two busy cores; a hang becomes a failure."""

Beads = Mapping[str, Any]


@dataclass
class People:
    """The user API of a town that is up."""

    client: httpx2.AsyncClient

    async def ask(self, path: str) -> Any:
        reply = await self.client.get(path)
        assert reply.status_code == 200, reply.text
        return reply.json()

    async def until(self, holds: Callable[[Beads], bool]) -> Beads:
        """Wait, without polling, until the beads by their titles are so; the beads."""
        beads: Beads = {}
        with trio.move_on_after(PATIENCE):
            async with self.client.stream("GET", "/events", timeout=None) as events:
                async for _ in events.aiter_lines():
                    beads = {one["title"]: one for one in await self.ask("/beads")}
                    if holds(beads):
                        return beads
        raise AssertionError(f"it did not come to that in {PATIENCE} s: {beads}")


@asynccontextmanager
async def people_of(data: Path) -> AsyncIterator[People]:
    """People who find the town as the commands do, once its hall is open."""
    await eventually(trio.Path(data / ADDRESS).exists)
    place = json.loads((data / ADDRESS).read_text())
    shown = {"Authorization": f"Bearer {(data / USER_TOKEN).read_text().strip()}"}
    url = f"{place['url']}/towns/{place['town']}"
    async with httpx2.AsyncClient(base_url=url, headers=shown, trust_env=False) as client:
        yield People(client)


def asks(beads: Beads) -> bool:
    waiting = beads[ASKS_FOR]["waiting"] if ASKS_FOR in beads else None
    return waiting is not None and waiting["for"] == "person"


async def test_the_demo_plays_to_its_question_and_to_its_end_once_that_is_answered(tmp_path: Path) -> None:
    """Two tasks land by themselves, one of them after a conflict; the third waits for the person, and lands."""
    data = tmp_path / "town"
    async with up(data), people_of(data) as people:
        before = await people.until(asks)
        last = before[ASKS_FOR]["id"]
        assert [one["status"] for title, one in before.items() if title != ASKS_FOR] == ["closed", "closed"]
        assert [one["bead"] for one in (await people.ask("/status"))["needsYou"]] == [last]
        approve = [sys.executable, "-m", "gastown", "review", "approve", last, "--dir", str(data)]
        await trio.run_process(approve, capture_stdout=True)
        after = await people.until(lambda beads: beads[ASKS_FOR]["commit"] is not None)
        details = [await people.ask(f"/beads/{one['id']}") for one in after.values()]
    handed_in = [
        [tried["cause"] for tried in one["attempts"] if tried["outcome"] == "handed_in"] for one in details
    ]
    assert sorted(map(len, handed_in)) == [1, 1, 2]
    assert ["conflict"] in [causes[1:] for causes in handed_in]
    on_main = git(data / RIG, "log", "--first-parent", "--format=%H", "main").split()
    assert {one["commit"] for one in after.values()} == {*on_main[:3]}
    assert sorted(git(data / RIG, "show", "main:LANGUAGES.txt").split("\n")) == [
        "", "de: Hallo", "en: Hello", "fr: Bonjour",
    ]  # fmt: skip
    assert git(data / RIG, "status", "--porcelain") == ""
    said = (tmp_path / "up.log").read_text()
    told = ("a script plays", "conflicts with what was merged", f"review approve {last[:11]}", "that was all")
    assert [words for words in told if words not in said] == []
